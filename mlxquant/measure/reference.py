"""A reference's predictions in a file, so that a large model runs once and small machines compare.

The file, numbers little-endian:

    magic                   8   "MLXQREF" 0x01
    bytes of the header     4   uint32
    header                  …   JSON: what the windows are, and what made the file
    tokens                  …   int32 [windows, length], as the model saw them
    record                      for every `rows` scored tokens of a window (its last: for the rest)
        bytes               4   uint32
        CRC-32              4   uint32
        predictions         …   condense.py

Written to PATH.partial, which becomes PATH when it is complete and synced. An interrupted run goes
on behind the last window that is whole. In memory is a window's logits and some records.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, OutputError, RequestError
from ..files.atomic import sync_folder, write_at
from ..save.partial import write_error
from .condense import Condensed, condense, decode, encode
from .divergence import ReferenceWindow
from .perplexity import Progress
from .scoring import Blame, Logits, each_window
from .windows import Windows

__all__ = ["TAIL", "ReferenceFile", "open_reference", "write_reference"]

#: probability that is left out of each prediction: costs about 0.15% of the divergence
TAIL = 1e-3

MAGIC = b"MLXQREF\x01"

#: version of the header
SCHEMA = 1

_HEADER_LIMIT = 1 << 20

_WHOLE_NUMBERS = ("vocabulary", "windows", "length", "first", "stride", "given", "rows")


@dataclass(frozen=True)
class ReferenceFile:
    """A file of predictions, opened: its tokens and places are read, its predictions are not.

    Attributes:
        path: the file.
        windows: what was scored.
        vocabulary: tokens that are predicted among.
        rows: scored tokens of a record.
        tail: probability that was left out of each prediction at most.
        origin: what made the file, as `write_reference` was told.
        offsets: of every record, and of the end of the last.
    """

    path: Path
    windows: Windows
    vocabulary: int
    rows: int
    tail: float
    origin: dict[str, str]
    offsets: tuple[int, ...]

    def __iter__(self) -> Iterator[ReferenceWindow]:
        """Its windows, in order."""
        return (_FileWindow(self, i) for i in range(self.windows.count))

    def read(self, window: int, begin: int) -> Condensed:
        """The record of a window that begins with scored token `begin`.

        Raises:
            FileFormatError: it is damaged, or cannot be read.
        """
        place = window * _records(self.windows.scored, self.rows) + begin // self.rows
        offset, end = self.offsets[place], self.offsets[place + 1]
        try:
            with self.path.open("rb") as opened:
                record = os.pread(opened.fileno(), end - offset, offset)
        except OSError as problem:
            raise FileFormatError(
                self.path, "record", f"cannot be read: {problem.strerror}"
            ) from problem
        count = min(self.rows, self.windows.scored - begin)
        try:
            return decode(_payload(record, end - offset), count, self.vocabulary)
        except ValueError as problem:
            raise FileFormatError(
                self.path, f"record {place}", f"{problem}; make the file again", offset
            ) from problem


@dataclass(frozen=True)
class _FileWindow:
    file: ReferenceFile
    index: int

    @property
    def vocabulary(self) -> int:
        return self.file.vocabulary

    @property
    def rows(self) -> int:
        return self.file.rows

    def part(self, begin: int, end: int) -> Condensed:
        return self.file.read(self.index, begin)


def write_reference(
    path: str | PathLike[str],
    model: Any,
    windows: Windows,
    origin: dict[str, str],
    *,
    tail: float = TAIL,
    batch: int | None = None,
    blame: Blame | None = None,
    progress: Progress | None = None,
) -> ReferenceFile:
    """Run a reference over windows and keep its predictions in a file.

    An interrupted run of the same is continued; any other file of that name is replaced.

    Args:
        path: the file.
        model, windows, batch, blame: as of `scoring.each_window`.
        origin: what a reader should know: the model, fingerprints of its vocabulary and the text.
        tail: probability that may be left out of each prediction.
        progress: called with (windows done, windows in all).

    Raises:
        RequestError: `tail` is no such probability.
        OutputError: another run is writing the file.
        WriteError: the disk is full, or failed; the same call continues.
        ModelError: logits that are not finite, or not a language model's.
    """
    if not 0 <= tail < 1:
        raise RequestError(f"tail {tail}: a probability from 0 to below 1 is possible")
    final = Path(path)
    partial = final.with_name(final.name + ".partial")
    head = {
        "schema": SCHEMA,
        "windows": windows.count,
        "length": windows.length,
        "first": windows.first,
        "stride": windows.stride,
        "bos": windows.bos,
        "given": windows.given,
        "tail": tail,
        "origin": origin,
    }
    try:
        handle = _open_locked(partial)
        try:
            done, offset = _finished(partial, handle, head, windows)
            os.ftruncate(handle, offset)
            scored = each_window(
                model, windows, start=done, batch=batch, blame=blame, name="the reference"
            )
            for i, logits in enumerate(scored, done):
                if not offset:
                    made = {**head, "vocabulary": logits.vocabulary, "rows": logits.step}
                    data = _head(made) + np.ascontiguousarray(windows.tokens, "<i4").tobytes()
                    offset = _append(handle, data, offset)
                for payload in _payloads(logits, windows.targets[i], tail):
                    offset = _append(handle, _record(payload), offset)
                if progress:
                    progress(i + 1, windows.count)
            os.fsync(handle)
            partial.replace(final)
            sync_folder(final.absolute().parent)
        finally:
            os.close(handle)
    except OSError as problem:
        raise write_error(final, problem) from problem
    return open_reference(final)


def open_reference(path: str | PathLike[str]) -> ReferenceFile:
    """Open a file of predictions; its header, its tokens and the sizes of its records are read.

    Raises:
        FileFormatError: it is not such a file, is cut short, or is a newer mlxquant's.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            found = _scan(file, opened.fileno())
    except OSError as problem:
        raise FileFormatError(file, "file", f"cannot be read: {problem.strerror}") from problem
    need = found.windows.count * _records(found.windows.scored, found.rows)
    if len(found.offsets) != need + 1:
        raise FileFormatError(
            file,
            "records",
            f"{len(found.offsets) - 1} of {need} are there; make the file again",
            found.offsets[-1],
        )
    return found


def _scan(file: Path, handle: int) -> ReferenceFile:
    """What there is of a file, complete or not: its records end where a size leads past the end."""
    size = os.fstat(handle).st_size
    start = os.pread(handle, len(MAGIC) + 4, 0)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 4:
        raise FileFormatError(file, "magic", "is no file of reference predictions", 0)
    (length,) = struct.unpack_from("<I", start, len(MAGIC))
    offset = len(start) + length
    if length > _HEADER_LIMIT or offset > size:
        raise FileFormatError(file, "header", f"{length} bytes in a file of {size}", len(MAGIC))
    head = _read_head(file, os.pread(handle, length, len(start)))
    shape = (head["windows"], head["length"])
    if 4 * shape[0] * shape[1] > size - offset:
        raise FileFormatError(file, "tokens", f"{shape[0]} windows in a file of {size}", offset)
    tokens = np.frombuffer(os.pread(handle, 4 * shape[0] * shape[1], offset), "<i4")
    if tokens.min() < 0 or tokens.max() >= head["vocabulary"]:
        raise FileFormatError(file, "tokens", "an id that is outside the vocabulary", offset)
    offset += tokens.nbytes
    windows = Windows(
        tokens.reshape(shape).astype(np.int32),
        head["first"],
        head["stride"],
        head["bos"],
        head["given"],
    )
    offsets = [offset]
    most = windows.count * _records(windows.scored, head["rows"])
    while len(offsets) <= most:
        field = os.pread(handle, 4, offset)
        if len(field) < 4:
            break
        offset += 8 + int(struct.unpack("<I", field)[0])
        if offset > size:
            break
        offsets.append(offset)
    return ReferenceFile(
        file,
        windows,
        head["vocabulary"],
        head["rows"],
        head["tail"],
        head["origin"],
        tuple(offsets),
    )


def _read_head(file: Path, data: bytes) -> dict[str, Any]:
    def bad(what: str) -> FileFormatError:
        return FileFormatError(file, "header", f"{what}; make the file again", len(MAGIC) + 4)

    try:
        head = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise bad("is no JSON") from problem
    if not isinstance(head, dict) or type(head.get("schema")) is not int:
        raise bad("has no schema")
    if head["schema"] > SCHEMA:
        raise FileFormatError(
            file,
            "header",
            f"schema {head['schema']}, {SCHEMA} is known; a newer mlxquant reads it",
            len(MAGIC) + 4,
        )
    for key in _WHOLE_NUMBERS:
        if type(head.get(key)) is not int or not 0 < head[key] < 1 << 31:
            raise bad(f"{key} is no number that can be")
    bos, tail, origin = (head.get(key) for key in ("bos", "tail", "origin"))
    if head["first"] >= head["length"]:
        raise bad(f"first scored token {head['first']} in windows of {head['length']}")
    if bos is not None and type(bos) is not int:
        raise bad("bos is no token")
    if not isinstance(tail, (int, float)) or not 0 <= tail < 1:
        raise bad("tail is no probability")
    if not isinstance(origin, dict) or not all(isinstance(v, str) for v in origin.values()):
        raise bad("origin is no table of strings")
    return head


def _finished(
    partial: Path, handle: int, head: dict[str, Any], windows: Windows
) -> tuple[int, int]:
    """Windows that an interrupted run of the same has finished, and where its file goes on."""
    try:
        found = _scan(partial, handle)
    except FileFormatError:
        return 0, 0
    start = os.pread(handle, len(MAGIC) + 4, 0)
    (length,) = struct.unpack_from("<I", start, len(MAGIC))
    theirs = json.loads(os.pread(handle, length, len(start)))
    if {**head, "vocabulary": found.vocabulary, "rows": found.rows} != theirs:
        return 0, 0
    if found.windows.fingerprint != windows.fingerprint:
        return 0, 0
    records, whole = _records(windows.scored, found.rows), 0
    for i in range((len(found.offsets) - 1) // records):
        try:
            for begin in range(0, windows.scored, found.rows):
                found.read(i, begin)
        except FileFormatError:
            break
        whole = i + 1
    return whole, found.offsets[whole * records]


def _payloads(logits: Logits, targets: NDArray[np.int32], tail: float) -> Iterator[bytes]:
    """The predictions of a window, as many together as `Logits.each` works on."""

    def work(begin: int, end: int, rows: NDArray[np.float64]) -> bytes:
        return encode(condense(rows, targets[begin:end], tail))

    return logits.each(work)


def _records(scored: int, rows: int) -> int:
    """Records of a window."""
    return -(-scored // rows)


def _head(head: dict[str, Any]) -> bytes:
    data = json.dumps(head, sort_keys=True).encode()
    return MAGIC + struct.pack("<I", len(data)) + data


def _record(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def _payload(record: bytes, size: int) -> bytes:
    """The payload of a record of `size` bytes; ValueError if it is not what was written."""
    payload = record[8:]
    if len(record) != size or zlib.crc32(payload) != struct.unpack_from("<I", record, 4)[0]:
        raise ValueError("is damaged")
    return payload


def _append(handle: int, data: bytes, offset: int) -> int:
    """Write at the end; the new end."""
    write_at(handle, memoryview(data), offset)
    return offset + len(data)


def _open_locked(partial: Path) -> int:
    """The partial file, locked for this process."""
    handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        os.close(handle)
        raise OutputError(f"{partial}: another run is writing it") from problem
    return handle
