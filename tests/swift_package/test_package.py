"""The Swift package builds, its tests pass, and it is written as swift-format writes it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from support import REPOSITORY
from swift_package.toolchain import program, run_swift, swift, swift_tests

pytestmark = pytest.mark.xdist_group("swift")

CONSUMER = """\
// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "consumer",
    platforms: [.macOS(.v14)],
    dependencies: [.package(name: "mlxquant", path: "{path}")],
    targets: [
        .executableTarget(
            name: "consumer",
            dependencies: [.product(name: "MLXQuantFormats", package: "mlxquant")]
        )
    ]
)
"""
MAIN = """\
import MLXQuantFormats

let model = try Model(CommandLine.arguments[1])
print(model.weights.count, model.weights.map(\\.count).reduce(0, +))
"""


def test_swift_test_passes() -> None:
    swift()
    done = swift_tests()
    assert done.returncode == 0, done.stdout[-6000:]
    ran = re.search(r"Test run with (\d+) tests? in (\d+) suites? passed", done.stdout)
    assert ran is not None and int(ran[1]) >= 11, done.stdout[-2000:]
    assert "warning:" not in done.stdout, done.stdout[-6000:]


def test_format_and_lint() -> None:
    done = run_swift("format", "lint", "--strict", "--recursive", "Package.swift", "swift-bridge")
    assert done.returncode == 0, done.stdout[-6000:]


def test_it_depends_on_nothing() -> None:
    """Resolving needs no network: there is nothing to fetch for who does not ask for MLX."""
    shown = run_swift("package", "show-dependencies", "--format", "json")
    assert json.loads(shown.stdout[shown.stdout.index("{") :])["dependencies"] == []
    described = run_swift("package", "dump-package")
    package = json.loads(described.stdout[described.stdout.index("{") :])
    assert package["toolsVersion"]["_version"] == "6.1.0"
    assert {product["name"] for product in package["products"]} >= {
        "MLXQuantFormats",
        "MLXQuantRuntime",
        "mlxquant-swift",
    }
    executables = [
        target["name"] for target in package["targets"] if target["type"] == "executable"
    ]
    assert executables == ["mlxquant-swift"]


def test_the_benchmark_compiles() -> None:
    """Its package is not built here: that would compile the library again."""
    main = REPOSITORY / "swift-bridge/Benchmarks/Sources/formats-benchmark/main.swift"
    modules = program("mlxquant-swift").parent / "Modules"
    compiler = Path(swift()).resolve().with_name("swiftc")
    command = [compiler, "-typecheck", "-swift-version", "6", "-I", modules, main]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_formats_and_their_files_are_the_same_as_here() -> None:
    """A format is a file and a line: every file of a format is in the registry."""
    folder = REPOSITORY / "swift-bridge/Sources/MLXQuantFormats/Formats"
    registry = (folder / "Registry.swift").read_text(encoding="utf-8")
    declared = {
        found[1]
        for file in (folder / "GGML").glob("*.swift")
        if (found := re.search(r"^enum (\w+): BlockFormat", file.read_text("utf-8"), re.M))
    }
    assert declared == set(re.findall(r"WeightFormat\((\w+)\.self\)", registry))
    assert len(declared) == 26


def test_every_public_symbol_is_documented(tmp_path: Path) -> None:
    modules = program("mlxquant-swift").parent / "Modules"
    target = json.loads(run_swift("-print-target-info").stdout)["target"]["triple"]
    for module, least in (("MLXQuantFormats", 200), ("MLXQuantRuntime", 60)):
        done = run_swift(
            "symbolgraph-extract",
            *("-module-name", module, "-I", modules, "-output-dir", tmp_path, "-target", target),
            *("-minimum-access-level", "public", "-skip-synthesized-members"),
        )
        assert done.returncode == 0, done.stdout[-3000:]
        graph = tmp_path / f"{module}.symbols.json"
        symbols = json.loads(graph.read_text(encoding="utf-8"))["symbols"]
        bare = [".".join(s["pathComponents"]) for s in symbols if "docComment" not in s]
        assert len(symbols) > least
        assert not bare


@pytest.mark.slow
def test_another_package_can_use_it(tmp_path: Path) -> None:
    """By its path, unoptimized, and with what is public only."""
    (tmp_path / "Package.swift").write_text(CONSUMER.format(path=REPOSITORY), encoding="utf-8")
    (tmp_path / "Sources/consumer").mkdir(parents=True)
    (tmp_path / "Sources/consumer/main.swift").write_text(MAIN, encoding="utf-8")
    model = REPOSITORY / "mlxquant/assets/books-7m"
    done = run_swift("run", "-j", "2", "consumer", model, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.splitlines()[-1] == "74 7344384"
