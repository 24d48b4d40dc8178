"""Asking the operating system: what its commands and files say, or nothing. Nothing here raises."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["read_text", "said_by"]

#: seconds after which a command is given up; system_profiler takes two or three
_PATIENCE = 20.0


def said_by(*command: str) -> str:
    """What a command prints; empty if it is missing, fails or hangs."""
    try:
        ran = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return ran.stdout.decode(errors="replace") if ran.returncode == 0 else ""


def read_text(path: str | Path) -> str:
    """What a file of the kernel says; empty if it is missing or may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
