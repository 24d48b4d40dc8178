"""What is for mlx-swift: built and tested against modules with its signatures, without a Mac."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY
from swift_package import configs, launches
from swift_package.test_generated import differ
from swift_package.toolchain import MARKS, stand_in_tests, swift

pytestmark = MARKS


def test_swift_test_passes_on_stand_ins() -> None:
    swift()
    done = stand_in_tests()
    assert done.returncode == 0, done.stdout[-6000:]
    ran = re.search(r"Test run with (\d+) tests? in (\d+) suites? passed", done.stdout)
    assert ran is not None and int(ran[1]) >= 35, done.stdout[-2000:]
    assert "warning:" not in done.stdout, done.stdout[-6000:]


def test_metal_sources_are_fresh() -> None:
    """Swift has the text of kernels/*.metal, word for word."""
    script = REPOSITORY / "swift-bridge/scripts/kernel_sources.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_stale_metal_sources_are_noticed(tmp_path: Path) -> None:
    """The check is of the text: of a copy with one changed character it says so."""
    script = REPOSITORY / "swift-bridge/scripts/kernel_sources.py"
    target = "Sources/MLXQuantMLX/Kernels/KernelSources+Generated.swift"
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/kernel_sources.py").write_bytes(script.read_bytes())
    (tmp_path / target).parent.mkdir(parents=True)
    text = (REPOSITORY / "swift-bridge" / target).read_text(encoding="utf-8")
    run = [sys.executable, tmp_path / "scripts/kernel_sources.py"]
    for content, status in ((text, 0), (text.replace("simd_sum", "simd_min", 1), 1)):
        (tmp_path / target).write_text(content, encoding="utf-8")
        done = subprocess.run([*run, "--check"], capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert ("is stale" in done.stderr) == (status == 1)
    assert subprocess.run(run, check=False).returncode == 0
    assert (tmp_path / target).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "script", [launches, configs], ids=["launches of kernels", "configurations"]
)
def test_what_python_wrote_is_fresh(script: object) -> None:
    target, wanted = script.TARGET, script.content()  # type: ignore[attr-defined]
    found = differ(target.read_bytes(), wanted.encode())
    name = Path(str(script.__file__)).name  # type: ignore[attr-defined]
    assert not found, f"{target.name}: {found}; python tests/swift_package/{name} --regenerate"
