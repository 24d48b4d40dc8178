"""Every format against frozen bytes, here and where mlx cannot be imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from formats import golden

from mlxquant import formats
from mlxquant.formats.floats import FLOATS

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("name", formats.mlx_names())
def test_golden_bytes(name: str) -> None:
    for dtype in FLOATS:
        golden.check(name, dtype)


def test_every_format_has_golden_bytes_and_nothing_else_does() -> None:
    frozen = {path.stem for path in golden.FOLDER.iterdir()}
    assert frozen == {"rows", *formats.mlx_names()}


def test_golden_files_are_not_written_unasked() -> None:
    before = {path: path.read_bytes() for path in golden.FOLDER.iterdir()}
    ran = subprocess.run([sys.executable, golden.__file__], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "--regenerate" in ran.stderr
    assert {path: path.read_bytes() for path in golden.FOLDER.iterdir()} == before


WITHOUT_MLX = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlx", "mlx_lm", "transformers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Absent())
try:
    import mlx.core
except ImportError:
    pass
else:
    sys.exit("mlx could be imported")

from formats import golden
from mlxquant import formats
from mlxquant.formats.floats import FLOATS

checked = 0
for name in formats.mlx_names():
    for dtype in FLOATS:
        golden.check(name, dtype)
        checked += 1
print(checked)
"""


def test_the_reference_needs_no_mlx() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_MLX],
        env={"PYTHONPATH": str(TESTS), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == 3 * len(formats.mlx_names()) == 72
