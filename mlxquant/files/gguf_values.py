"""The metadata of a GGUF file: values that keep their type and their bytes.

    str      length u64 │ UTF-8, no terminator
    arr      item type u32 │ count u64 │ items, one after the other
    others   little-endian

A value holds its bytes as they are in the file and is decoded when it is asked for: a file written
back is the same, NaN payloads included, and a vocabulary that nobody looks at costs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .gguf_types import VALUE_NAMES, VALUE_TYPES

__all__ = ["Value"]

_ARRAY = struct.Struct("<IQ")
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Value:
    """A value of the metadata; equal to another of the same type and bytes.

    Attributes:
        type: `u8` `i8` `u16` `i16` `u32` `i32` `u64` `i64` `f32` `f64` `bool` `str` or `arr`.
        wire: its bytes in the file, behind the number of its type.
        offset: of `wire` in the file it was read from.
    """

    type: str
    wire: bytes = field(repr=False)
    offset: int | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, type: str, value: Any) -> Value:
        """A scalar or text.

        Raises:
            ValueError: no such type, or the value does not fit it.
        """
        return cls(type, _encode(type, [value]))

    @classmethod
    def array(cls, item: str, values: Sequence[Any]) -> Value:
        """An array of scalars or texts.

        Raises:
            ValueError: as `of`.
        """
        wire = _encode(item, values)
        return cls("arr", _ARRAY.pack(VALUE_TYPES[item][0], len(values)) + wire)

    @cached_property
    def value(self) -> Any:
        """A bool, int, float or str; a list of them for an array.

        Bytes of an array's texts that are not UTF-8 become lone surrogates (`surrogateescape`); a
        single text was checked when the file was opened.
        """
        if self.type == "arr":
            return _array(self.wire, 0)[0]
        if self.type == "str":
            return self.wire[8:].decode("utf-8", "surrogateescape")
        return struct.unpack("<" + VALUE_TYPES[self.type][1], self.wire)[0]

    @property
    def item(self) -> str:
        """An array's type of items; empty for what is none."""
        return VALUE_NAMES[_ARRAY.unpack_from(self.wire)[0]] if self.type == "arr" else ""

    @property
    def count(self) -> int:
        """An array's number of items; 1 for what is none."""
        return int(_ARRAY.unpack_from(self.wire)[1]) if self.type == "arr" else 1

    @property
    def kind(self) -> str:
        """The type in one word: `u32`, or `[str]` for an array of texts."""
        return f"[{self.item}]" if self.type == "arr" else self.type

    @property
    def data(self) -> memoryview:
        """An array's items as bytes: for numbers, `numpy.frombuffer` reads them as they are."""
        return memoryview(self.wire)[_ARRAY.size :]

    def texts(self, limit: int | None = None) -> list[bytes]:
        """The first `limit` texts of an array of them, as bytes."""
        count = self.count if limit is None else min(limit, self.count)
        return _texts(self.wire, _ARRAY.size, count)[0] if self.item == "str" else []

    def head(self, limit: int) -> list[Any]:
        """The first `limit` items of an array, decoded without the rest."""
        if self.item == "str":
            return _decode(self.texts(limit))
        if self.item == "arr":
            return list(self.value[:limit])
        count = min(limit, self.count)
        code = VALUE_TYPES[self.item][1]
        return list(struct.unpack_from(f"<{count}{code}", self.wire, _ARRAY.size))


def _encode(type: str, values: Iterable[Any]) -> bytes:
    """The bytes of values of one type, back to back."""
    if type not in VALUE_TYPES or type == "arr":
        raise ValueError(f"metadata type {type!r}: choose one of {', '.join(VALUE_TYPES)}")
    if type == "str":
        parts: list[bytes] = []
        for text in values:
            raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
            parts += (_LENGTH.pack(len(raw)), raw)
        return b"".join(parts)
    values = list(values)
    try:
        return struct.pack(f"<{len(values)}{VALUE_TYPES[type][1]}", *values)
    except (struct.error, OverflowError) as problem:
        raise ValueError(f"metadata type {type}: {problem}") from problem


def _texts(wire: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """`count` texts from `at`, and where they end."""
    unpack = _LENGTH.unpack_from
    # Each slice begins behind a length and ends where that says, which is the next one's `at`.
    found = [
        wire[(begin := at + 8) : (at := begin + unpack(wire, at)[0])]  # noqa: F841
        for _ in range(count)
    ]
    return found, at


def _decode(texts: list[bytes]) -> list[str]:
    """Texts, their bytes that are no UTF-8 as lone surrogates."""
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError:
        return [text.decode("utf-8", "surrogateescape") for text in texts]


def _array(wire: bytes, at: int) -> tuple[list[Any], int]:
    """The array at `at`, and where it ends; its nesting was bounded when it was read."""
    number, count = _ARRAY.unpack_from(wire, at)
    at += _ARRAY.size
    item = VALUE_NAMES[number]
    if item == "str":
        texts, at = _texts(wire, at, count)
        return _decode(texts), at
    if item == "arr":
        found = []
        for _ in range(count):
            inner, at = _array(wire, at)
            found.append(inner)
        return found, at
    layout = struct.Struct(f"<{count}{VALUE_TYPES[item][1]}")
    return list(layout.unpack_from(wire, at)), at + layout.size
