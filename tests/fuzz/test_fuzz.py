"""The fuzz targets, each for a bounded number of inputs and from a fixed seed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile.gguf_building import MODEL, gguf
from hostile.gguf_cases import FILES, MODELS, VOCABULARIES, part
from support import REPOSITORY, unchecked

RUNS = 20_000
TARGET = REPOSITORY / "tests" / "fuzz" / "fuzz_gguf.py"


def corpus(folder: Path) -> Path:
    """Whole files, and small broken ones."""
    folder.mkdir()
    seeds = [gguf(), gguf(MODEL, []), gguf({}, []), gguf(version=2), part(1)]
    broken = (build() for cases in (FILES, MODELS, VOCABULARIES) for build, _ in cases.values())
    seeds += (data for data in broken if len(data) < 4096)
    for number, data in enumerate(seeds):
        (folder / f"{number:03d}").write_bytes(data)
    return folder


@pytest.mark.slow
def test_gguf(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        unchecked("atheris", "no coverage-guided fuzzing of the GGUF reader")
    done = subprocess.run(
        [
            sys.executable,
            str(TARGET),
            f"-runs={RUNS}",
            "-seed=1",
            "-max_len=4096",
            f"-artifact_prefix={tmp_path}/",
            str(corpus(tmp_path / "corpus")),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    ran = re.search(r"Done (\d+) ", said)
    assert ran is not None and int(ran[1]) >= RUNS, said[-3000:]
    assert not list(tmp_path.glob("crash-*"))
