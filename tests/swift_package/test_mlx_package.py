"""What is for mlx-swift: built and tested against modules with its signatures, without a Mac."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support import REPOSITORY
from swift_package import configs, launches
from swift_package.test_generated import differ
from swift_package.toolchain import run_swift, swift

pytestmark = pytest.mark.xdist_group("swift")

#: apart from the package's own build: another set of targets would have it planned anew each time
SCRATCH = REPOSITORY / ".build/stand-in"


@cache
def tested() -> subprocess.CompletedProcess[str]:
    """What `swift test` says of the package on its stand-ins."""
    return subprocess.run(
        [swift(), "test", "-j", "2", "--scratch-path", SCRATCH],
        cwd=REPOSITORY,
        env={**os.environ, "MLXQUANT_MLX": "stand-in"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=900,
        check=False,
    )


def test_swift_test_passes_on_stand_ins() -> None:
    done = tested()
    assert done.returncode == 0, done.stdout[-6000:]
    ran = re.search(r"Test run with (\d+) tests? in (\d+) suites? passed", done.stdout)
    assert ran is not None and int(ran[1]) >= 35, done.stdout[-2000:]
    assert "warning:" not in done.stdout, done.stdout[-6000:]


def test_every_public_symbol_is_documented(tmp_path: Path) -> None:
    assert tested().returncode == 0
    built = SCRATCH / "debug/Modules"
    target = json.loads(run_swift("-print-target-info").stdout)["target"]["triple"]
    done = run_swift(
        "symbolgraph-extract",
        *("-module-name", "MLXQuantMLX", "-I", built, "-output-dir", tmp_path, "-target", target),
        *("-minimum-access-level", "public", "-skip-synthesized-members"),
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found = json.loads((tmp_path / "MLXQuantMLX.symbols.json").read_text(encoding="utf-8"))
    paths = {".".join(each["pathComponents"]): "docComment" in each for each in found["symbols"]}
    assert {"PackedSwitchLinear", "SwitchLayer", "MLXModelWeights"} <= set(paths)
    assert all(paths.values()), [path for path, documented in paths.items() if not documented]


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
