"""Headers of safetensors files: a reader that trusts nothing, and the layout for a writer.

    0          8                      8 + n                                     size
    ┌──────────┬──────────────────────┬──────────┬──────────┬───────────────────┐
    │ n, u64le │ JSON, n bytes        │ tensor 0 │ tensor 1 │ …  no hole, no    │
    │          │ (padded with spaces) │          │          │    trailing byte  │
    └──────────┴──────────────────────┴──────────┴──────────┴───────────────────┘

    {"__metadata__": {"key": "text", …},
     "name": {"dtype": "BF16", "shape": [4096, 256], "data_offsets": [begin, end]}, …}

`data_offsets` count from the end of the header; `Entry` gives absolute offsets. The header is read
entry by entry and the first lie ends it, so that neither nesting nor a list of a hundred million
zeros costs more than its bytes. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FileFormatError
from .quote import quote, show
from .sniff import PREFIX, open_regular, sniff

__all__ = ["HEADER_LIMIT", "ITEM_BITS", "Entry", "Header", "build_header", "read_header"]

#: bits of one element; safetensors 0.8 knows these and no others
ITEM_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

#: the longest header, in bytes, that the safetensors library reads
HEADER_LIMIT = 100_000_000

# Bounds beyond any model's, so that a hostile header of 100 MB is refused in about a second.
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 32
_MAX_INTEGER = 2**63 - 1
_MAX_NAME = 4096  # bytes of a name, and of a tensor's description
_MAX_METADATA = 16 << 20  # bytes of all metadata
_MAX_METADATA_NAMES = 10_000

_AGAIN = "download it again"
_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"([^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"'
_OPENING = re.compile(_SPACE + rb"\{" + _SPACE)
_KEY = re.compile(_STRING + _SPACE + rb":" + _SPACE)
_TEXT = re.compile(_STRING)
_BODY = re.compile(rb"\{[^{}]*+\}")
_NEXT = re.compile(_SPACE + rb"([,}])" + _SPACE)

_KEYS = {"dtype", "shape", "data_offsets"}
_PAIRS = json.JSONDecoder(object_pairs_hook=list)  # keeps duplicate keys, for us to refuse

#: an entry before its range is absolute: begin, end, offset of its name in the file, then
#: name, dtype, shape
_Raw = tuple[int, int, int, str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Entry:
    """One tensor: `start` and `stop` are absolute byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself, checked against its size.

    Attributes:
        path: the file.
        size: of the file, bytes.
        data_start: absolute offset of the first tensor's first byte.
        metadata: the `__metadata__` entry, text to text; empty if there is none.
        entries: by name, in the order of their bytes.
    """

    path: Path
    size: int
    data_start: int
    metadata: dict[str, str]
    entries: dict[str, Entry]


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file; the tensors' bytes are not touched.

    Raises:
        FileFormatError: the file is missing or not a safetensors file, its header lies, or its
            length is not what the header says. The message names the tensor, the byte offset,
            the value and the limit.
    """
    file = Path(path)
    with open_regular(file) as (handle, size):
        prefix = _pread(file, handle, PREFIX, 0)
        if len(prefix) < 9:
            what = sniff(prefix)
            _fail(
                file,
                "header length",
                what,
                f"truncated: {size} bytes, at least 10 expected; {_AGAIN}",
                0,
            )
        length = int.from_bytes(prefix[:8], "little")
        if length == 0:
            _fail(file, "header length", sniff(prefix), "0, at least 2 expected", 0)
        if length > HEADER_LIMIT:
            reason = f"{length} bytes, the limit is {HEADER_LIMIT}; this is no safetensors file"
            _fail(file, "header length", sniff(prefix), reason, 0)
        if prefix[8:9] not in b"{ \t\n\r":
            reason = f"begins with byte 0x{prefix[8]:02x}, '{{' expected"
            _fail(file, "header", sniff(prefix), reason, 8)
        if 8 + length > size:
            reason = f"truncated: it ends at byte {8 + length}, the file has {size}; {_AGAIN}"
            _fail(file, "header length", None, reason, 0)
        text = prefix[8:] if len(prefix) >= 8 + length else _pread(file, handle, length, 8)
        text = text[:length]
        if len(text) < length:
            _fail(file, "header", None, f"{length} bytes expected, {len(text)} read", 8)
    metadata, entries = _Parser(file, text).parse()
    return Header(file, size, 8 + length, metadata, _in_order(file, size, 8 + length, entries))


def build_header(
    entries: Sequence[tuple[str, str, tuple[int, ...]]],
    metadata: dict[str, str],
    align: int = 8,
) -> tuple[bytes, list[tuple[int, int]]]:
    """Lay out a safetensors file before any of its tensors exists.

    Args:
        entries: (name, dtype, shape) of each tensor in the order of their bytes.
        metadata: text to text; left out of the header if empty.
        align: the header is padded with spaces so that the data begin at a multiple of this; the
            safetensors library aligns to 8.

    Returns: the file's first bytes, header length included, and each tensor's absolute byte range,
        back to back in the given order.

    Raises:
        ValueError: a name twice or reserved, an unknown dtype, a size that is no whole number of
            bytes, or a header beyond `HEADER_LIMIT`.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    ranges, offset = [], 0
    for name, dtype, shape in entries:
        if name in header or name == "__metadata__":
            raise ValueError(f"tensor name {name!r} is used twice or reserved")
        size, rest = divmod(prod(shape) * ITEM_BITS[dtype], 8) if dtype in ITEM_BITS else (0, 1)
        if rest:
            raise ValueError(f"tensor {name!r}: {dtype} {list(shape)} is no whole number of bytes")
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        ranges.append((offset, offset + size))
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % align)
    if len(text) > HEADER_LIMIT:
        raise ValueError(f"header of {len(text)} bytes, the limit is {HEADER_LIMIT}")
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, [(start + a, start + b) for a, b in ranges]


class _Parser:
    """The header's JSON, read one entry at a time. `at` counts from the file's first byte + 8."""

    def __init__(self, file: Path, text: bytes) -> None:
        self.file = file
        self.text = text.rstrip(b" \t\n\r")
        self.at = 0

    def fail(self, field: str, reason: str, at: int | None = None) -> NoReturn:
        """Raise, blaming the byte at `at` (in the header) or the current one."""
        _fail(self.file, field, None, reason, 8 + (self.at if at is None else at))

    def match(
        self, pattern: re.Pattern[bytes], field: str, expected: str, within: int = _MAX_NAME
    ) -> re.Match[bytes]:
        """Match at the current byte, looking at `within` bytes, and move behind; or raise."""
        found = pattern.match(self.text, self.at, self.at + within)
        if found is None:
            seen = self.text[self.at : self.at + 20]
            shown = repr(seen)[1:] if seen else "its end"
            reason = f"{expected} expected within {within} bytes, found {shown}"
            self.fail(field, f"invalid JSON: {reason}")
        self.at = found.end()
        return found

    def parse(self) -> tuple[dict[str, str], list[_Raw]]:
        """The metadata and the entries, in the header's order."""
        metadata: dict[str, str] | None = None
        entries: list[_Raw] = []
        names: set[str] = set()
        if self.text.count(b'"data_offsets"') > _MAX_TENSORS:
            self.fail("header", f"describes more than {_MAX_TENSORS} tensors")
        for at, name in self.members("header"):
            if name == "__metadata__":
                if metadata is not None:
                    self.fail("__metadata__", "duplicate name", at)
                metadata = self.metadata()
                continue
            if name in names:
                self.fail(f"tensor {quote(name)}", "duplicate name", at)
            if not name or not name.isprintable():
                self.fail(f"tensor {quote(name)}", "bad name: empty or not printable", at)
            if len(names) == _MAX_TENSORS:
                self.fail("header", f"describes more than {_MAX_TENSORS} tensors", at)
            names.add(name)
            entries.append(self.entry(name, 8 + at))
        if self.at != len(self.text):
            self.fail("header", "invalid JSON: bytes behind its end")
        return metadata or {}, entries

    def members(self, field: str) -> Iterator[tuple[int, str]]:
        """Walk over an object: yields (offset, key) with the current byte at the key's value."""
        self.match(_OPENING, field, "'{'")
        if self.text[self.at : self.at + 1] == b"}":
            self.match(_NEXT, field, "'}'")
            return
        while True:
            at = self.at
            found = self.match(_KEY, field, "a name in double quotes and ':'")
            yield at, self.string(found[1], at)
            if self.match(_NEXT, field, "',' or '}'")[1] == b"}":
                return

    def string(self, raw: bytes, at: int) -> str:
        """The text of a JSON string without its quotes."""
        try:
            text = raw.decode() if b"\\" not in raw else json.loads(b'"%s"' % raw)
            text.encode()  # an escaped lone surrogate decodes, but is no text
        except ValueError as problem:
            self.fail("header", f"invalid text: {problem}", at)
        return str(text)

    def metadata(self) -> dict[str, str]:
        """The `__metadata__` object: a flat one, text to text."""
        if self.text.startswith(b"null", self.at):
            self.at += 4
            return {}
        metadata: dict[str, str] = {}
        start = self.at
        for at, key in self.members("__metadata__"):
            if key in metadata:
                self.fail(f"__metadata__ {quote(key)}", "duplicate name", at)
            left = max(start + _MAX_METADATA - self.at, 0)
            found = self.match(_TEXT, f"__metadata__ {quote(key)}", "text", left)
            metadata[key] = self.string(found[1], at)
            if len(metadata) > _MAX_METADATA_NAMES:
                self.fail("__metadata__", f"more than {_MAX_METADATA_NAMES} names", at)
        return metadata

    def entry(self, name: str, offset: int) -> _Raw:
        """A tensor's `{"dtype", "shape", "data_offsets"}`; its name stands at `offset`."""
        field, at = f"tensor {quote(name)}", self.at
        body = self.match(_BODY, field, "an object of dtype, shape and data_offsets")[0]
        if body.count(b"[") != 2:
            self.fail(field, "shape and data_offsets must be lists of integers", at)
        try:
            pairs = _PAIRS.raw_decode(body.decode())[0]
        except ValueError as problem:
            self.fail(field, f"invalid JSON: {problem}", at)
        values = dict(pairs)
        if len(pairs) != 3 or values.keys() != _KEYS:
            keys = show([key for key, _ in pairs])
            self.fail(field, f"has {keys}; dtype, shape and data_offsets expected, each once", at)
        dtype, shape, offsets = values["dtype"], values["shape"], values["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BITS:
            self.fail(field, f"unknown dtype {show(dtype)}; known: {', '.join(ITEM_BITS)}", at)
        if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
            reason = f"shape {show(shape)}: at most {_MAX_DIMENSIONS} integers from 0 to 2^63-1"
            self.fail(field, f"{reason} expected", at)
        if not _naturals(offsets) or len(offsets) != 2:
            reason = f"data_offsets {show(offsets)}: two integers from 0 to 2^63-1 expected"
            self.fail(field, reason, at)
        begin, end = offsets
        if begin > end:
            self.fail(field, f"data_offsets [{begin}, {end}] are reversed", at)
        bits = prod(shape) * ITEM_BITS[dtype]
        if bits != 8 * (end - begin):
            need = f"{bits // 8} bytes" if bits % 8 == 0 else f"{bits} bits"
            reason = f"{dtype} {show(shape)} needs {need}, data_offsets [{begin}, {end}] hold"
            self.fail(field, f"{reason} {end - begin}", at)
        return begin, end, offset, name, dtype, tuple(shape)


def _in_order(file: Path, size: int, data_start: int, entries: list[_Raw]) -> dict[str, Entry]:
    """The entries in the order of their bytes, absolute, checked to fill the file exactly."""
    ordered: dict[str, Entry] = {}
    end, last = 0, ""
    room = size - data_start
    for begin, stop, at, name, dtype, shape in sorted(entries):
        if begin == end and stop <= room:
            ordered[name] = Entry(name, dtype, shape, data_start + begin, data_start + stop)
            end, last = stop, name
            continue
        field = f"tensor {quote(name)}"
        before = f"tensor {quote(last)}" if last else "the header"
        reason = f"begins at data byte {begin}, but {before} ends at {end}"
        if begin < end:
            _fail(file, field, None, f"{reason}: they overlap", at)
        if stop > room:
            total = data_start + max(entry[1] for entry in entries)
            reason = f"ends at byte {data_start + stop}, past the file's end: truncated"
            _fail(
                file, field, None, f"{reason} ({total} bytes expected, {size} found); {_AGAIN}", at
            )
        _fail(file, field, None, f"{reason}: a hole of {begin - end} bytes", at)
    if end != room:
        reason = f"{room - end} trailing bytes: {data_start + end} bytes expected"
        _fail(file, "end of data", None, f"{reason}, {size} found", data_start + end)
    return ordered


def _naturals(value: Any) -> bool:
    """Whether a JSON value is a list of integers from 0 to 2^63-1 (true and 1.0 are none)."""
    return isinstance(value, list) and all(
        type(item) is int and 0 <= item <= _MAX_INTEGER for item in value
    )


def _pread(file: Path, handle: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes at `offset`; fewer at the end of the file."""
    try:
        return os.pread(handle, count, offset)
    except OSError as problem:
        raise FileFormatError(file, "file", f"cannot be read: {problem.strerror}") from problem


def _fail(file: Path, field: str, what: str | None, reason: str, at: int) -> NoReturn:
    """Raise; `what` (of `sniff`) is the better reason where it is known."""
    raise FileFormatError(file, field, f"this is {what}" if what else reason, at)
