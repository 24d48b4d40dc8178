"""The Swift package as its users have it: `swift` itself, and what it built."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from support import REPOSITORY, unchecked

__all__ = ["program", "run_swift", "swift", "swift_tests"]

_ELSEWHERE = ("/opt/swift/usr/bin", "/usr/share/swift/usr/bin", "/usr/libexec/swift/bin")


def swift() -> str:
    """The path of `swift`, 6.0 or newer; ends the test where there is none."""
    found = _swift()
    if found is None:
        unchecked("swift 6", "the Swift package: that it builds, and decodes what Python decodes")
    return found


@cache
def _swift() -> str | None:
    path = os.pathsep.join((os.environ.get("PATH", ""), *_ELSEWHERE))
    found = shutil.which("swift", path=path)
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = said.partition("Swift version ")[2].split(".")[0]
    return found if version.isdigit() and int(version) >= 6 else None


def run_swift(
    *args: str | Path, cwd: Path = REPOSITORY, timeout: float = 1500
) -> subprocess.CompletedProcess[str]:
    """`swift ARGS…`; its errors are in what it says."""
    return subprocess.run(
        [swift(), *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=timeout,
        check=False,
    )


@cache
def swift_tests() -> subprocess.CompletedProcess[str]:
    """`swift test`, optimized as apps are; it builds the executables too."""
    return run_swift("test", "-c", "release", "-j", "2")


def program(name: str) -> Path:
    """An executable of the package."""
    assert swift_tests().returncode == 0, swift_tests().stdout[-4000:]
    return REPOSITORY / ".build/release" / name
