"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["sync_file", "sync_folder", "write_at", "write_file"]

#: some network and removable file systems cannot sync a folder, and not every folder may be opened
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)


def write_file(path: Path, data: bytes) -> None:
    """Write and sync a file; the caller's folder is still a partial one."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_at(handle, memoryview(data), 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """All of `data` at `offset` of an open file, whatever the kernel takes at a time."""
    done = 0
    while done < len(data):
        done += os.pwrite(handle, data[done:], offset + done)


def sync_file(path: Path) -> None:
    """Make the bytes of a file that somebody else wrote durable."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the file system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as problem:
        if problem.errno not in _NO_FOLDER_SYNC:
            raise
