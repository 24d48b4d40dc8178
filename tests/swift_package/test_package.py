"""The Swift package builds, its tests pass, and it is written as swift-format writes it."""

from __future__ import annotations

import json
import re
import subprocess

from support import REPOSITORY
from swift_package.toolchain import MARKS, modules, run_swift, swift, swift_tests, tool

pytestmark = MARKS


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
    seen = modules(of="MLXQuantFormats")
    command = [tool("swiftc"), "-typecheck", "-swift-version", "6", "-I", seen, main]
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


def test_the_order_of_files_does_not_matter() -> None:
    """Xcode has one of its own, and what compiles in SwiftPM's need not compile in another.

    SwiftPM names a package by its folder, and so must who is to see what is `package`."""
    name = re.sub(r"\W", "_", REPOSITORY.name.lower())
    for module in ("MLXQuantFormats", "MLXQuantRuntime"):
        folder = REPOSITORY / "swift-bridge/Sources" / module
        files = sorted(folder.rglob("*.swift"), reverse=True)
        options = ["-parse-as-library", "-swift-version", "6", "-warnings-as-errors"]
        options += ["-module-name", module, "-package-name", name, "-I"]
        command = [tool("swiftc"), "-typecheck", *options, modules(of=module), *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]


def test_a_system_of_32_bits_is_refused_by_name() -> None:
    file = REPOSITORY / "swift-bridge/Sources/MLXQuantFormats/Files/Platform.swift"
    bare = ["-disable-implicit-concurrency-module-import", "-parse-as-library", "-parse-stdlib"]
    bare += ["-disable-implicit-string-processing-module-import", "-typecheck", "-target"]
    for target, refused in (("arm64_32-apple-watchos10", True), ("arm64-apple-ios17", False)):
        command = [tool("swiftc"), "-frontend", *bare, target, file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ("takes a 64-bit system" in done.stderr) == refused
