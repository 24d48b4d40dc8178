"""The Swift package as its users have it: `swift` itself, and what it built."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from support import REPOSITORY, unchecked

__all__ = ["MARKS", "modules", "program", "run_swift", "stand_in_tests", "swift"]
__all__ += ["swift_tests", "tool"]

#: of every test that needs what `swift` builds: they run in one process, which builds once, and
#: whichever is first waits for all of it, on a machine that may be busy
MARKS = [pytest.mark.xdist_group("swift"), pytest.mark.timeout(1800)]

#: apart from the package's own build: another set of targets would have it planned anew each time,
#: and a module MLX beside it would be found
_STAND_IN = REPOSITORY / ".build/stand-in"

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


def tool(name: str) -> Path:
    """A program that comes with `swift`, such as `swiftc`."""
    return Path(swift()).resolve().with_name(name)


def run_swift(
    *args: str | Path, cwd: Path = REPOSITORY, timeout: float = 1500, mlx: str = ""
) -> subprocess.CompletedProcess[str]:
    """`swift ARGS…`; its errors are in what it says.

    Args:
        mlx: what the package's manifest finds in MLXQUANT_MLX.
    """
    with subprocess.Popen(
        [swift(), *map(str, args)],
        cwd=cwd,
        env={**os.environ, "MLXQUANT_MLX": mlx},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=timeout)
        except BaseException:
            # with its compilers, which would go on to write into the next build
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, said)


@cache
def swift_tests() -> subprocess.CompletedProcess[str]:
    """`swift test`, optimized as apps are; it builds the executables too."""
    return run_swift("test", "-c", "release", "-j", "2")


@cache
def stand_in_tests() -> subprocess.CompletedProcess[str]:
    """`swift test` of what is for mlx-swift, against modules with its signatures."""
    return run_swift("test", "-j", "2", "--scratch-path", _STAND_IN, mlx="stand-in")


def modules(of: str) -> Path:
    """The folder of what a module's users see of it, once it is built."""
    if of == "MLXQuantMLX":
        assert stand_in_tests().returncode == 0, stand_in_tests().stdout[-4000:]
        return _STAND_IN / "debug/Modules"
    return program("mlxquant-swift").parent / "Modules"


def program(name: str) -> Path:
    """An executable of the package."""
    assert swift_tests().returncode == 0, swift_tests().stdout[-4000:]
    return REPOSITORY / ".build/release" / name
