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
from hostile.imatrix_cases import DAT, GGUF, HEAD, dat, entry, tensors
from support import REPOSITORY, unchecked

RUNS = 20_000
FOLDER = REPOSITORY / "tests" / "fuzz"

#: what is fuzzed → whole files, and the broken ones
SEEDS = {
    "gguf": (
        [gguf(), gguf(MODEL, []), gguf({}, []), gguf(version=2), part(1)],
        (FILES, MODELS, VOCABULARIES),
    ),
    "imatrix": ([dat(entry()), dat(entry(), entry(b"a")), gguf(HEAD, tensors())], (DAT, GGUF)),
}


def corpus(folder: Path, target: str) -> Path:
    """Whole files, and small broken ones."""
    folder.mkdir()
    whole, cases = SEEDS[target]
    broken = (build() for each in cases for build, _ in each.values())
    for number, data in enumerate([*whole, *(data for data in broken if len(data) < 4096)]):
        (folder / f"{number:03d}").write_bytes(data)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("target", SEEDS)
def test_nothing_but_format_errors(tmp_path: Path, target: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        unchecked("atheris", f"no coverage-guided fuzzing of what reads {target} files")
    done = subprocess.run(
        [
            sys.executable,
            str(FOLDER / f"fuzz_{target}.py"),
            f"-runs={RUNS}",
            "-seed=1",
            "-max_len=4096",
            f"-artifact_prefix={tmp_path}/",
            str(corpus(tmp_path / "corpus", target)),
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
