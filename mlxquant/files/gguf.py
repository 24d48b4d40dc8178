"""Headers of GGUF files, read and trusted in nothing; gguf_writer.py lays them out.

    0      4         8              16          24
    ┌──────┬─────────┬──────────────┬───────────┬──────────┬─────────┬─────┬──────────┬─────┬───
    │ GGUF │ version │ tensor count │ key count │ metadata │ tensors │ pad │ tensor 0 │ pad │ …
    │      │ u32     │ u64          │ u64       │          │         │     │          │     │
    └──────┴─────────┴──────────────┴───────────┴──────────┴─────────┴─────┴──────────┴─────┴───
                                                                     data_start, aligned

    metadata   key str │ type u32 │ value         (values and str: gguf_values.py)
    tensors    name str │ n_dims u32 │ dims u64 each, a row's first │ type u32 │ offset u64

All little-endian; offsets count from `data_start` and are multiples of `general.alignment`, 32
where it is not given. Versions 2 and 3 differ in nothing else than their number. Only the header is
read, and every count and length is held against the file's size before it is believed.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from .gguf_cursor import HEADER_LIMIT, Cursor
from .gguf_types import (
    ALIGNMENT,
    MAX_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_KEY,
    RETIRED,
    TENSOR_TYPES,
    GgmlType,
    padded,
)
from .gguf_values import Value
from .gguf_writer import build_gguf
from .quote import quote
from .sniff import PREFIX, open_regular, sniff

__all__ = [
    "ALIGNMENT",
    "HEADER_LIMIT",
    "GgufEntry",
    "GgufHeader",
    "Value",
    "build_gguf",
    "read_gguf",
]

# Bounds beyond any model's, so that a hostile header is refused in about a second.
_MAX_TENSORS = 100_000
_MAX_KEYS = 100_000
_MAX_NAME = 255  # bytes; llama.cpp itself takes 63
_MAX_BYTES = 2**63 - 1

_LEAST_KEY = 8 + 1 + 4 + 1  # bytes of the shortest key and value
_LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_AGAIN = "download it again"

#: a tensor before its range is absolute: offset in the data, bytes, type, shape
_Raw = tuple[int, int, GgmlType, tuple[int, ...]]


@dataclass(frozen=True)
class GgufEntry:
    """One tensor.

    Attributes:
        name: in the file, e.g. `blk.0.attn_q.weight`.
        type: number of the ggml type; type_name: its name, e.g. `Q4_K`.
        shape: as NumPy has it, rows last (the file's dims reversed); in weights, not bytes.
        start, stop: absolute byte offsets in the file.
    """

    name: str
    type: int
    type_name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself, checked against its size.

    Attributes:
        path: the file; size: of it, bytes.
        version: 2 or 3.
        alignment: of the tensors, bytes.
        metadata: by key, in the file's order.
        entries: by name, in the order of their bytes.
        data_start: absolute offset of the first tensor; where there is none, of the header's end.
    """

    path: Path
    size: int
    version: int
    alignment: int
    metadata: Mapping[str, Value]
    entries: dict[str, GgufEntry]
    data_start: int

    def get(self, key: str, default: Any = None) -> Any:
        """The Python value of a key, or `default`."""
        found = self.metadata.get(key)
        return default if found is None else found.value

    @property
    def stop(self) -> int:
        """Where the last tensor ends; the file may go on with padding."""
        return max((entry.stop for entry in self.entries.values()), default=self.data_start)


def read_gguf(path: str | os.PathLike[str]) -> GgufHeader:
    """Read and check the header of a GGUF file; the tensors' bytes are not touched.

    Raises:
        FileFormatError: the file is missing or no GGUF file, its header lies, or it is cut short.
            The message names the key or tensor, the byte offset, the value and the limit.
    """
    file = Path(path)
    with open_regular(file) as (handle, size):
        return _Reader(file, handle, size).read()


class _Reader(Cursor):
    """A header, read from its first byte to its last."""

    def read(self) -> GgufHeader:
        """The whole header."""
        version, tensors, keys = self.preamble()
        metadata: dict[str, Value] = {}
        for index in range(keys):
            start = self.at
            key = self.name(f"key {index}", MAX_KEY)
            if key in metadata:
                self.fail(f"key {quote(key)}", "bad name: duplicate key", start)
            metadata[key] = self.value(f"key {quote(key)}")
        alignment = self.alignment(metadata)
        found: dict[str, _Raw] = {}
        for index in range(tensors):
            start = self.at
            name = self.name(f"tensor {index}", _MAX_NAME)
            if name in found:
                self.fail(f"tensor {quote(name)}", "bad name: duplicate name", start)
            found[name] = self.tensor(f"tensor {quote(name)}", alignment)
        data_start = padded(self.at, alignment)
        if data_start > self.size:
            if found:
                reason = f"truncated: data begin at byte {data_start}, the file has {self.size}"
                self.fail("tensors", f"{reason}; {_AGAIN}")
            data_start = self.size  # no tensor, and no padding for it
        entries = self.in_order(found, data_start, alignment)
        return GgufHeader(self.file, self.size, version, alignment, metadata, entries, data_start)

    def preamble(self) -> tuple[int, int, int]:
        """Magic and version; the number of tensors and of keys."""
        self.load(min(self.size, PREFIX), "header")
        magic = self.data[:4]
        if magic != b"GGUF":
            what = sniff(self.data[:PREFIX])
            if what and magic == b"FUGG":
                what += ", of an unsupported version"
            if what:
                self.fail("magic", f"this is {what}")
        if self.size < 24:
            reason = f"truncated header: {self.size} bytes, at least 24 expected; {_AGAIN}"
            self.fail("header", reason)
        if magic != b"GGUF":
            self.fail("magic", f"this is no GGUF file: it begins with {magic!r}, b'GGUF' expected")
        self.at = 4
        version = self.u32("version")
        if version not in (2, 3):
            reason = f"unsupported version {version}, 2 and 3 are read"
            if version == 1:
                reason += ": convert the model anew"
            elif version & 0xFFFF == 0 and version:
                reason += ": this file is big-endian (byte-swapped); get the little-endian one"
            self.fail("version", reason, 4)
        counts = []
        for what, least, limit in (
            ("tensor", _LEAST_TENSOR, _MAX_TENSORS),
            ("key", _LEAST_KEY, _MAX_KEYS),
        ):
            start = self.at
            count = self.u64(f"{what} count")
            if count * least > self.size - 24:
                reason = f"{count} exceeds the file, which has {self.size} bytes and would need"
                reason += f" {count * least} or more: truncated, or a lie"
                self.fail(f"{what} count", reason, start)
            if count > limit:
                self.fail(f"{what} count", f"{count}, the limit is {limit}", start)
            counts.append(count)
        return version, counts[0], counts[1]

    def alignment(self, metadata: Mapping[str, Value]) -> int:
        """What `general.alignment` says."""
        found = metadata.get("general.alignment")
        if found is None:
            return ALIGNMENT
        if found.type != "u32":
            reason = f"bad alignment: of type {found.kind}, u32 expected"
            self.fail("general.alignment", reason, found.offset)
        value = int(found.value)
        if not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            reason = f"bad alignment: {value} is no power of two up to {MAX_ALIGNMENT}"
            self.fail("general.alignment", reason, found.offset)
        return value

    def tensor(self, field: str, alignment: int) -> _Raw:
        """What stands behind a tensor's name: (offset in the data, bytes, type, shape)."""
        start = self.at
        n_dims = self.u32(field)
        if not 0 < n_dims <= MAX_DIMENSIONS:
            reason = f"size overflow: {n_dims} dimensions, 1 to {MAX_DIMENSIONS} expected"
            self.fail(field, reason, start)
        dims = [self.u64(field) for _ in range(n_dims)]
        if 0 in dims:
            self.fail(field, f"size overflow: a dimension is 0 in {dims[::-1]}", start)
        type_at = self.at
        number, offset_at = self.u32(field), self.at
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            known = RETIRED.get(number)
            what = f"({known}) is no longer used: convert the model anew" if known else "is unknown"
            self.fail(field, f"unsupported tensor: type {number} {what}", type_at)
        row = dims[0]
        if row % kind.block_size:
            reason = f"unsupported tensor: rows of {row} weights are no multiple of {kind.name}'s"
            self.fail(field, f"{reason} block of {kind.block_size}", start)
        nbytes = kind.nbytes((prod(dims),))
        if nbytes > self.size:
            reason = f"size overflow: {kind.name} {dims[::-1]} needs {nbytes} bytes"
            if nbytes <= _MAX_BYTES:
                reason += f"; truncated, or a lie: the whole file has {self.size}"
            self.fail(field, reason, start)
        offset = self.u64(field)
        if offset % alignment:
            reason = f"out of range: offset {offset} is no multiple of the alignment, {alignment}"
            self.fail(field, reason, offset_at)
        if offset > self.size:
            reason = f"out of range: offset {offset} in a file of {self.size} bytes; {_AGAIN}"
            self.fail(field, reason, offset_at)
        return offset, nbytes, kind, tuple(reversed(dims))

    def in_order(
        self,
        found: Mapping[str, _Raw],
        data_start: int,
        alignment: int,
    ) -> dict[str, GgufEntry]:
        """The tensors in the order of their bytes, checked to follow each other in the file."""
        entries: dict[str, GgufEntry] = {}
        end, last = 0, "the header"
        for name, (offset, nbytes, kind, shape) in sorted(
            found.items(), key=lambda item: item[1][:2]
        ):
            field = f"tensor {quote(name)}"
            start, stop = data_start + offset, data_start + offset + nbytes
            if offset != end:
                what = "they overlap" if offset < end else f"a hole of {offset - end} bytes"
                reason = f"out of range: begins at data byte {offset}, but {last} ends at {end}"
                self.fail(field, f"{reason}: {what}", start)
            if stop > self.size:
                reason = f"out of range: ends at byte {stop}, the file has {self.size}: truncated"
                self.fail(field, f"{reason}; {_AGAIN}", start)
            entries[name] = GgufEntry(name, kind.number, kind.name, shape, start, stop)
            end, last = padded(offset + nbytes, alignment), field
        return entries
