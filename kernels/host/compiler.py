"""Finding a clang, and what its output depends on.

The first of these that is a clang of MINIMUM or newer:

    MLXQUANT_CLANG       a path or a name; nothing else is tried then, and empty turns kernels off
    PATH                 clang, clang-<version>
    xcrun                on macOS, where the command line tools are installed
    elsewhere            the usual places of Swift's toolchains and of LLVM
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..switch import OFF, off

__all__ = ["MINIMUM", "Compiler", "Unavailable", "cpu", "find"]

#: the first clang with _Float16 and __bf16 on every processor
MINIMUM = 15

_PLACES = (
    "/opt/swift/usr/bin/clang",
    "/usr/share/swift/usr/bin/clang",
    "/usr/libexec/swift/bin/clang",
    "~/.local/share/swiftly/toolchains/*/usr/bin/clang",
    "~/.swiftly/toolchains/*/usr/bin/clang",
    "/usr/lib/llvm-*/bin/clang",
    "/opt/homebrew/opt/llvm/bin/clang",
    "/usr/local/opt/llvm/bin/clang",
)
_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O3", "-w"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fsigned-char", "-fvisibility=hidden"),
    *("-shared", "-fPIC"),
)
_VERSION = re.compile(r"clang version (\d+)")


class Unavailable(Exception):
    """There is no kernel, and this is why, in one line."""


@dataclass(frozen=True)
class Compiler:
    """A clang.

    Attributes:
        path: the program.
        version: what `--version` prints.
    """

    path: str
    version: str

    @property
    def flags(self) -> tuple[str, ...]:
        """Options of every compilation: products are not contracted into fused operations, and no
        name of a temporary file gets into the output."""
        arm = platform.machine() in ("arm64", "aarch64")
        named: tuple[str, ...] = ("-Wl,-install_name,mlxquant",)
        if sys.platform != "darwin":
            named = ("-Wl,-soname,mlxquant", "-s")
        return (*_FLAGS, *named, "-mcpu=native" if arm else "-march=native")

    def compile(self, text: str, output: Path) -> None:
        """Make the shared library of a translation unit.

        Raises:
            Unavailable: the compiler failed; its first error.
        """
        command = [self.path, *self.flags, "-o", str(output), "-"]
        try:
            done = subprocess.run(
                command, input=text.encode(), capture_output=True, timeout=300, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{self.path}: {error}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").splitlines()
            first = next((line for line in said if "error" in line), f"status {done.returncode}")
            raise Unavailable(f"{self.path} failed: {first.strip()}")


def find() -> Compiler:
    """The compiler for this process's environment.

    Raises:
        Unavailable: there is none, MLXQUANT_CLANG names none, or kernels are off.
    """
    if off():
        raise Unavailable(OFF)
    found = _find(os.environ.get("MLXQUANT_CLANG"), os.environ.get("PATH", ""))
    if isinstance(found, str):
        raise Unavailable(found)
    return found


@cache
def cpu() -> str:
    """What `native` stands for on this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        known = [line for line in lines if line.startswith(wanted)]
    except OSError:
        known = [_output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()]
    return "\n".join((platform.system(), platform.machine(), *known))


@cache
def _find(named: str | None, path: str) -> Compiler | str:
    """The compiler, or why there is none."""
    if named is not None:
        if not named:
            return "MLXQUANT_CLANG is empty, which turns kernels on this processor off"
        found = _inspect(shutil.which(named, path=path) or named)
        return found if isinstance(found, Compiler) else f"MLXQUANT_CLANG: {found}"
    refused = []
    for candidate in _candidates(path):
        found = _inspect(candidate)
        if isinstance(found, Compiler):
            return found
        refused.append(found)
    too_old = f" ({'; '.join(refused)})" if refused else ""
    return f"no clang {MINIMUM} or newer found{too_old}; install one, or name it: MLXQUANT_CLANG"


def _candidates(path: str) -> Iterator[str]:
    """Paths of programs that may be a clang, the best first."""
    # on a Mac without its tools, /usr/bin/clang and xcrun open a window that offers to install them
    if sys.platform == "darwin" and _output("xcode-select", "-p"):
        yield _output("xcrun", "--find", "clang") or "/usr/bin/clang"
    versions = (f"clang-{version}" for version in range(30, MINIMUM - 1, -1))
    for name in ("clang", *versions):
        program = shutil.which(name, path=path)
        if program and not (sys.platform == "darwin" and program == "/usr/bin/clang"):
            yield program
    for place in _PLACES:
        try:
            pattern = Path(place).expanduser()
        except RuntimeError:  # there is no home folder
            continue
        yield from sorted((str(p) for p in Path("/").glob(str(pattern)[1:])), reverse=True)


def _inspect(program: str) -> Compiler | str:
    """The compiler, or what is wrong with it."""
    version = _output(program, "--version")
    if version is None:
        return f"{program} does not run"
    major = _VERSION.search(version)
    if major is None:
        return f"{program} is not clang"
    if int(major[1]) < MINIMUM:
        return f"{program} is clang {major[1]}; {MINIMUM} or newer is needed"
    return Compiler(program, version)


def _output(*command: str) -> str | None:
    """What a program prints, without the last newline; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
