"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["sync_folder", "write_file", "write_at"]


def write_file(path: Path, data: bytes) -> None:
    """Write and sync a file; the caller's folder is still a partial one."""
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """All of `data` at `offset` of an open file, whatever the kernel takes at a time."""
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], offset + done)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
