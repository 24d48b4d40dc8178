"""ggml's formats against ggml's frozen bytes, here and where neither mlx nor ggml can be had."""

import subprocess
import sys
from pathlib import Path

import pytest
from formats import ggml_golden

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ggml_golden.FROZEN)
def test_frozen_bytes(name: str) -> None:
    ggml_golden.check(name)


def test_nothing_else_is_frozen() -> None:
    assert {path.stem for path in ggml_golden.FOLDER.iterdir()} == {"rows", *ggml_golden.FROZEN}


def test_frozen_bytes_are_not_written_unasked() -> None:
    before = {path: path.read_bytes() for path in ggml_golden.FOLDER.iterdir()}
    ran = subprocess.run([sys.executable, ggml_golden.__file__], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "--regenerate" in ran.stderr
    assert {path: path.read_bytes() for path in ggml_golden.FOLDER.iterdir()} == before


ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx", "mlx_lm", "transformers", "llama_cpp", "gguf", "interop"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Absent())
try:
    import mlx.core
except ImportError:
    pass
else:
    sys.exit("mlx could be imported")

from formats import ggml_golden

for name in ggml_golden.FROZEN:
    ggml_golden.check(name)
print(len(ggml_golden.FROZEN))
"""


def test_the_formats_need_numpy_alone() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        env={"PYTHONPATH": str(TESTS), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == len(ggml_golden.FROZEN) == 21
