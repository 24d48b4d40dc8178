"""The benchmarks run as they are called; what they measure is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(
    path.name for path in BENCHMARKS.glob("*.py") if "argparse" in path.read_text(encoding="utf-8")
)


def test_metadata_is_read_by_both_programs(tmp_path: Path) -> None:
    """`benchmarks/gguf.py` beside it has the name of the package that it imports."""
    out = tmp_path / "found.json"
    command = [sys.executable, BENCHMARKS / "gguf_metadata.py", "--tokens", "200", "--repeat", "1"]
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr  # 1 is a limit exceeded, which is no matter here
    found = json.loads(out.read_text())
    assert found["seconds"].keys() == {"open", "values", "GGUFReader"}
    assert found["tokens"] == 200


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_what_it_does(script: str) -> None:
    command = [sys.executable, BENCHMARKS / script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")
