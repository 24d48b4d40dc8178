"""Quantizes on a disk that is too small, fills up, or is read-only; prints what came of it.

Runs as a program of its own, in a mount namespace, where it may mount what it likes:

    PYTHONPATH=tests unshare -m python tests/save/small_disk.py MODEL FOLDER
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from save.faulty import tree

from mlxquant import WriteError, quantize
from mlxquant.save import work

__all__ = ["main"]

#: share of the shards' bytes when the disk fills up, and how many bytes it leaves free then
FULL = ((0.0, 0), (0.3, 9_000), (0.6, 1_000_000), (1.0, 0), (1.0, 100_000))


def main() -> None:
    """Say what happened, as JSON."""
    model, folder = (Path(argument) for argument in sys.argv[1:])
    _mount("-t", "tmpfs", "-o", "size=8m", "none", folder)
    report: dict[str, Any] = {"too small": _command(model, folder / "out")}
    report["left by that"] = _names(folder)
    _mount("-o", "remount,size=120m", folder)
    disk = work.write_at = _Disk(folder / "filler")
    report["expected"] = _files(model, folder / "expected")
    disk.total = disk.written
    report["full"] = [_fill(disk, model, folder, *case) for case in FULL]
    _mount("-o", "remount,ro", folder)
    report["read-only"] = _command(model, folder / "out")
    report["left at last"] = _names(folder)
    sys.stdout.write(json.dumps(report))


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _command(model: Path, output: Path, *options: str) -> tuple[int, str]:
    """Status and standard error of the command."""
    done = subprocess.run(
        [sys.executable, "-m", "mlxquant", "quantize", model, "-o", output, *options],
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


def _files(model: Path, output: Path, **options: Any) -> dict[str, str]:
    """SHA-256 of every file of an output that is made and deleted again."""
    quantize(model, output, **options)
    files = tree(output)
    assert files is not None
    for name in files:
        (output / name).unlink()
    output.rmdir()
    return files


class _Disk:
    """Everything that workers write goes through here, so that the disk fills up at a known byte.

    Attributes:
        written: bytes so far. total: of all writes, which is when the disk is never filled.
    """

    def __init__(self, filler: Path) -> None:
        self._filler, self._lock, self._write = filler, threading.Lock(), work.write_at
        self._when, self._leave = math.inf, 0
        self.written = self.total = 0

    def __call__(self, handle: int, data: memoryview, offset: int) -> None:
        with self._lock:
            self._write(handle, data, offset)
            self.written += data.nbytes
            if self.written >= self._when and not self._filler.exists():
                self._fill()

    def fill_at(self, share: float, leave: int) -> None:
        """From this share of the bytes on, so many are free."""
        self.written, self._when, self._leave = 0, share * self.total, leave

    def _fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        os.truncate(self._filler, self._filler.stat().st_size - self._leave)


def _fill(disk: _Disk, model: Path, folder: Path, when: float, leave: int) -> dict[str, Any]:
    """A run whose disk fills up, and one that goes on when there is room again."""
    output = folder / "out"
    disk.fill_at(when, leave)
    try:
        quantize(model, output, threads=2)
        error = None
    except WriteError as problem:
        error = str(problem)
    left = _names(folder)
    disk.fill_at(math.inf, 0)
    (folder / "filler").unlink()
    return {"error": error, "left": left, "files": _files(model, output, resume=True, threads=3)}


if __name__ == "__main__":
    main()
