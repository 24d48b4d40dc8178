"""Where in a kernel's source a failure is: addresses of code to lines, and lines to text."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from .signature import BODY

__all__ = ["described", "line"]


def line(clang: str, library: Path, offset: int) -> int | None:
    """The line of the instruction before an offset in a library, the innermost function's.

    Asks llvm-symbolizer, beside the compiler or on PATH, or addr2line; None where there is neither.
    """
    for program in (str(Path(clang).resolve().with_name("llvm-symbolizer")), "llvm-symbolizer"):
        if shutil.which(program):
            said = _asked(program, f"--obj={library}", "--no-inlines", hex(offset - 1))
            return _line_in(said)
    if shutil.which("addr2line"):
        return _line_in(_asked("addr2line", "-e", str(library), hex(offset - 1)))
    return None


def described(number: int, header: str, body: str) -> str:
    """` at line 3 of the body: "out[0] = sum;"`, with a space before it; empty for no line."""
    if number <= 0:
        return ""
    where, text, at = (
        ("body", body, number - BODY) if number >= BODY else ("header", header, number - 1)
    )
    lines = text.splitlines()
    if not 0 <= at < len(lines):
        return ""
    return f' at line {at + 1} of the {where}: "{lines[at].strip()}"'


@cache
def _asked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


def _line_in(said: str) -> int | None:
    found = re.search(r"(?:^|/)(header|body):(\d+)", said, re.MULTILINE)
    return int(found[2]) if found else None
