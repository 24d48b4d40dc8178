"""llama.cpp's importance matrices in their first layout, `.dat`, read and trusted in nothing.

    count i32 │ entry, count times                          │ chunks i32 │ length i32 │ dataset
               name length i32 │ name │ calls i32 │ values i32 │ f32, values times

All little-endian. A value is the mean square of a column's inputs times `calls`; the columns of all
experts of a stacked matrix follow each other, and the file does not say how many those are. `calls`
and `chunks` count chunks of text. What follows the entries may be missing, from `chunks` on or from
the length on, as older files have it.

Format: common/imatrix-loader.cpp and tools/imatrix of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError
from .gguf_cursor import is_bad
from .quote import quote
from .sniff import PREFIX, open_regular, sniff

__all__ = ["DatEntry", "DatFile", "build_dat", "first_wrong", "read_dat"]

_I32 = struct.Struct("<i")
_MAX_NAME = 255  # bytes; llama.cpp itself takes 63
_MAX_DATASET = 65_535
_LEAST_ENTRY = 4 + 1 + 4 + 4 + 4  # bytes of the shortest entry
_AGAIN = "download it again, or collect it anew"


@dataclass(frozen=True)
class DatEntry:
    """One matrix: its name in GGUF, values as stored, float32 [columns · experts], and calls."""

    name: str
    values: NDArray[np.float32]
    calls: int


@dataclass(frozen=True)
class DatFile:
    """The whole file; `chunks` is 0 and `dataset` empty where it does not say."""

    entries: tuple[DatEntry, ...]
    chunks: int = 0
    dataset: str = ""


def read_dat(path: str | os.PathLike[str]) -> DatFile:
    """Read a file of importance data.

    Raises:
        FileFormatError: the file is missing, is something else, or lies. The message names the
            entry, the byte offset, the value and the limit.
    """
    file = Path(path)
    with open_regular(file) as (handle, size):
        return _Reader(file, handle, size).read()


def build_dat(entries: Iterable[DatEntry], chunks: int, dataset: str) -> bytes:
    """The bytes of a file; every count is to fit an int32."""
    listed = list(entries)
    parts = [_I32.pack(len(listed))]
    for entry in listed:
        name = entry.name.encode()
        values = np.ascontiguousarray(entry.values, "<f4").tobytes()
        parts += (_I32.pack(len(name)), name, _I32.pack(entry.calls))
        parts += (_I32.pack(entry.values.size), values)
    text = dataset.encode("utf-8", "surrogateescape")
    parts += (_I32.pack(chunks), _I32.pack(len(text)), text)
    return b"".join(parts)


def first_wrong(values: NDArray[np.float32]) -> tuple[int, float] | None:
    """(index, value) of the first that is no sum of squares: negative, infinite or NaN."""
    flat = values.reshape(-1)
    wrong = ~(np.isfinite(flat) & (flat >= 0))
    if not wrong.any():
        return None
    index = int(wrong.argmax())
    return index, float(flat[index])


class _Reader:
    """A file, read from its first byte to its last."""

    def __init__(self, file: Path, handle: int, size: int) -> None:
        self.file = file
        self.handle = handle
        self.size = size
        self.at = 0

    def read(self) -> DatFile:
        count = self.count()
        entries: dict[str, DatEntry] = {}
        for index in range(count):
            start = self.at
            entry = self.entry(index)
            if entry.name in entries:
                self.fail(f"entry {quote(entry.name)}", "bad name: it is there twice", start)
            entries[entry.name] = entry
        chunks, dataset = 0, ""
        if self.at < self.size:
            start = self.at
            chunks = self.i32("chunk count")
            if chunks < 0:
                self.fail("chunk count", f"{chunks} is negative", start)
        if self.at < self.size:
            start = self.at
            length = self.i32("dataset")
            if not 0 <= length <= _MAX_DATASET:
                reason = f"bad length: {length} bytes, 0 to {_MAX_DATASET} expected"
                self.fail("dataset", reason, start)
            dataset = self.take(length, "dataset").decode("utf-8", "surrogateescape")
        if self.at < self.size:
            self.fail("end", f"{self.size - self.at} bytes follow the last field")
        return DatFile(tuple(entries.values()), chunks, dataset)

    def count(self) -> int:
        """The number of entries. Other kinds of files end here, and are named."""
        if self.size < 4:
            self.foreign(f"truncated: {self.size} bytes, at least 4 expected")
        count = self.i32("entry count")
        if count < 1:
            self.foreign(f"{count} entries, at least 1 expected")
        if count * _LEAST_ENTRY > self.size - 4:
            self.foreign(
                f"{count} exceeds the file, which has {self.size} bytes and would need "
                f"{4 + count * _LEAST_ENTRY} or more: no importance matrix, or truncated"
            )
        return count

    def entry(self, index: int) -> DatEntry:
        """The next entry, its values checked."""
        field, start = f"entry {index}", self.at
        length = self.i32(field)
        if not 0 < length <= _MAX_NAME:
            self.fail(field, f"bad name: {length} bytes, 1 to {_MAX_NAME} expected", start)
        raw = self.take(length, field)
        try:
            name = raw.decode()
        except UnicodeDecodeError as problem:
            self.fail(field, f"bad name: not UTF-8: {problem.reason}", start + 4 + problem.start)
        field = f"entry {quote(name)}"
        if is_bad(name):
            self.fail(field, "bad name: characters that cannot be printed, or '../'", start)
        at = self.at
        calls = self.i32(field)
        if calls < 0:
            self.fail(field, f"{calls} calls; 0 or more expected", at)
        at = self.at
        values = self.i32(field)
        left = self.size - self.at
        if values < 1 or values * 4 > left:
            reason = f"{values} values need {4 * values} bytes, the file has {left} left"
            if values < 1:
                reason = f"{values} values, at least 1 expected"
            self.fail(field, f"{reason}; {_AGAIN}", at)
        begin = self.at
        found = np.frombuffer(self.take(4 * values, field), "<f4")
        wrong = first_wrong(found)
        if wrong is not None:
            reason = f"value {wrong[0]} is {wrong[1]:g}, no sum of squares; collect it anew"
            self.fail(field, reason, begin + 4 * wrong[0])
        return DatEntry(name, found.astype(np.float32, copy=False), calls)

    def i32(self, field: str) -> int:
        """The next four bytes."""
        return int(_I32.unpack(self.take(4, field))[0])

    def take(self, count: int, field: str) -> bytes:
        """The next `count` bytes."""
        left = self.size - self.at
        if count > left:
            self.fail(field, f"truncated: {count} bytes expected, {left} left; {_AGAIN}")
        data = b""
        while len(data) < count:
            try:
                more = os.pread(self.handle, count - len(data), self.at + len(data))
            except OSError as problem:
                reason = f"cannot be read: {problem.strerror}"
                raise FileFormatError(self.file, "file", reason) from problem
            if not more:
                self.fail(field, f"{count} bytes expected, {len(data)} read: did the file change?")
            data += more
        self.at += count
        return data

    def foreign(self, otherwise: str) -> NoReturn:
        """Raise, saying what the file is where its first bytes tell."""
        what = sniff(os.pread(self.handle, PREFIX, 0))
        reason = f"this is {what}, no importance matrix" if what else otherwise
        self.fail("entry count", reason, 0)

    def fail(self, field: str, reason: str, at: int | None = None) -> NoReturn:
        """Raise, blaming the byte at `at` or the current one."""
        raise FileFormatError(self.file, field, reason, self.at if at is None else at)
