"""What a file that is not what it should be is instead: said in the error, so that it can be fixed.

The first bytes decide; nothing is parsed or opened beyond them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FileFormatError

__all__ = ["PREFIX", "describe", "open_regular", "sniff"]

#: bytes of a file's beginning that `sniff` looks at
PREFIX = 512

_LFS = b"version https://git-lfs.github.com/spec/"

#: (first bytes, what it is): pickle protocols 2 to 5 begin with 0x80 and their number, then an
#: opcode; old `torch.save` files begin with a pickled magic number
_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive (PyTorch's .bin and .pt files are ZIP archives of a pickle)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x80\x02", "a pickle; pickles can run code and are never opened"),
    (b"\x80\x03", "a pickle; pickles can run code and are never opened"),
    (b"\x80\x04", "a pickle; pickles can run code and are never opened"),
    (b"\x80\x05", "a pickle; pickles can run code and are never opened"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF-", "a PDF document"),
    (b"GGUF", "a GGUF file"),
    (b"FUGG", "a byte-swapped GGUF file"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"SQLite format 3\x00", "an SQLite database"),
)


def sniff(prefix: bytes) -> str | None:
    """What a file is whose first bytes (up to `PREFIX`) are these; None where they tell nothing.

    The answer completes the sentence "this is …".
    """
    if not prefix:
        return "an empty file: download it again"
    if prefix.startswith(_LFS):
        return "a Git LFS pointer: run git lfs pull"
    for magic, what in _MAGIC:
        if prefix.startswith(magic):
            return what
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page (a login or an error page?): download the file itself"
    if text.startswith(b"<?xml"):
        return "an XML document (an error page?): download the file itself"
    if len(prefix) >= 16 and not any(prefix):
        return "zero bytes from its start (an unfinished download?): download it again"
    return None


def describe(path: str | os.PathLike[str]) -> str | None:
    """`sniff` for a path; names directories and special files too. None where nothing is known."""
    target = Path(path)
    try:
        status = target.stat()
        if not stat.S_ISREG(status.st_mode):
            return _kind(status.st_mode)
        with open_regular(target) as (handle, _):
            return sniff(os.pread(handle, PREFIX, 0))
    except (OSError, ValueError, FileFormatError):
        return None


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """`(file descriptor, size in bytes)` of a regular file, open for reading within the context.

    Directories, pipes, sockets and devices are refused without waiting on them.

    Raises:
        FileFormatError: missing, not a regular file, or not readable.
    """
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer. No effect on regular files.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise FileFormatError(path, "file", f"cannot be opened: {reason}") from problem
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(path, "file", f"this is {_kind(status.st_mode)}")
        yield handle, status.st_size
    finally:
        os.close(handle)


def _kind(mode: int) -> str:
    return "a directory, not a file" if stat.S_ISDIR(mode) else "not a regular file"
