"""Walking through the header of a GGUF file: nothing is believed before the file's size allows it.

Bytes are read in pieces that double, so that a header costs about twice its length whatever comes
behind it. Texts in arrays are stepped over, not made: a vocabulary is decoded when it is asked for.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NoReturn

from ..errors import FileFormatError
from .gguf_types import VALUE_NAMES, VALUE_TYPES
from .gguf_values import Value
from .quote import quote

__all__ = ["HEADER_LIMIT", "Cursor", "is_bad"]

#: the longest header that is read, bytes
HEADER_LIMIT = 1 << 28

# Bounds beyond any model's, so that a hostile header is refused in about a second.
_MAX_ITEMS = 1 << 22
_MAX_DEPTH = 4  # of arrays in arrays

_FIRST = 1 << 20  # bytes that are read at first
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
#: number of a fixed-size metadata type → its bytes
_SIZES = {number: struct.calcsize(code) for number, code in VALUE_TYPES.values() if code}
_TEXT, _ARRAY, _BOOL = (VALUE_TYPES[name][0] for name in ("str", "arr", "bool"))


class Cursor:
    """A file's beginning, walked through from its first byte.

    Attributes:
        file, handle, size: the open file, and its size in bytes.
        data: as much of its beginning as was needed so far; at: the current byte.
        items: texts and arrays inside of arrays so far.
    """

    def __init__(self, file: Path, handle: int, size: int) -> None:
        self.file = file
        self.handle = handle
        self.size = size
        self.data = b""
        self.at = 0
        self.items = 0

    def fail(self, field: str, reason: str, at: int | None = None) -> NoReturn:
        """Raise, blaming the byte at `at` or the current one."""
        raise FileFormatError(self.file, field, reason, self.at if at is None else at)

    def load(self, stop: int, field: str) -> None:
        """Have the file's first `stop` bytes."""
        if stop <= len(self.data):
            return
        if stop > self.size:
            reason = f"truncated header: it goes on to byte {stop}, the file has {self.size}"
            self.fail(field, f"{reason}; download it again")
        if stop > HEADER_LIMIT:
            self.fail(field, f"header of more than {HEADER_LIMIT} bytes, which is the limit")
        stop = min(max(stop, 2 * len(self.data), _FIRST), self.size, HEADER_LIMIT)
        try:
            more = os.pread(self.handle, stop - len(self.data), len(self.data))
        except OSError as problem:
            reason = f"cannot be read: {problem.strerror}"
            raise FileFormatError(self.file, "file", reason) from problem
        self.data += more
        if len(self.data) < stop:
            self.fail(field, f"{stop} bytes expected, {len(self.data)} read: did the file change?")

    def u32(self, field: str) -> int:
        """The next four bytes."""
        self.load(self.at + 4, field)
        (value,) = _U32.unpack_from(self.data, self.at)
        self.at += 4
        return int(value)

    def u64(self, field: str) -> int:
        """The next eight bytes."""
        self.load(self.at + 8, field)
        (value,) = _U64.unpack_from(self.data, self.at)
        self.at += 8
        return int(value)

    def text(self, field: str, limit: int = HEADER_LIMIT) -> str:
        """A text of at most `limit` bytes."""
        start = self.at
        length = self.u64(field)
        left = self.size - self.at
        if length > left:
            self.fail(field, f"bad length: {length} bytes, but the file has {left} left", start)
        if length > limit:
            self.fail(field, f"bad length: {length} bytes, the limit is {limit}", start)
        self.load(self.at + length, field)
        raw = self.data[self.at : self.at + length]
        try:
            text = raw.decode()
        except UnicodeDecodeError as problem:
            self.fail(field, f"not UTF-8: {problem.reason}", self.at + problem.start)
        self.at += length
        return text

    def name(self, field: str, limit: int) -> str:
        """A key, or a tensor's name."""
        start = self.at
        name = self.text(field, limit)
        if not name:
            self.fail(field, "bad name: empty", start)
        if is_bad(name):
            reason = "bad name: characters that cannot be printed, or '../'"
            self.fail(f"{field} {quote(name)}", reason, start)
        return name

    def value(self, field: str) -> Value:
        """A type and a value of it."""
        start = self.at
        number = self.u32(field)
        if number not in VALUE_NAMES:
            self.fail(field, f"bad value type {number}, at most {max(VALUE_NAMES)} is known", start)
        start = self.at
        if number == _TEXT:
            self.text(field)
        elif number == _ARRAY:
            self.array(field, 1)
        else:
            self.numbers(field, number, 1)
        return Value(VALUE_NAMES[number], self.data[start : self.at], start)

    def numbers(self, field: str, number: int, count: int) -> None:
        """Move behind `count` values of a type of fixed size."""
        stop = self.at + count * _SIZES[number]
        self.load(stop, field)
        if number == _BOOL and self.data[self.at : stop].translate(None, b"\0\1"):
            self.fail(field, "bad bool: a byte that is neither 0 nor 1")
        self.at = stop

    def array(self, field: str, depth: int) -> None:
        """Move behind an array's item type, count and items."""
        start = self.at
        number, count = self.u32(field), self.u64(field)
        if number not in VALUE_NAMES:
            self.fail(field, f"bad array: unknown item type {number}", start)
        if depth > _MAX_DEPTH:
            self.fail(field, f"bad array: nested more than {_MAX_DEPTH} deep", start)
        least = count * _SIZES.get(number, 12 if number == _ARRAY else 8)
        left = self.size - self.at
        if least > left:
            reason = f"{count} items need {least} bytes or more, the file has {left} left"
            self.fail(field, f"bad array: {reason}", start)
        if number in _SIZES:
            self.numbers(field, number, count)
            return
        self.items += count
        if self.items > _MAX_ITEMS:
            reason = f"bad array: more than {_MAX_ITEMS} texts and arrays in arrays"
            self.fail(field, reason, start)
        if number == _TEXT:
            self.texts(field, count)
            return
        for _ in range(count):
            self.array(field, depth + 1)

    def texts(self, field: str, count: int) -> None:
        """Move behind `count` texts; most of a header's time goes here."""
        unpack = _U64.unpack_from
        at, done, left = self.at, 0, count
        while left:
            data = self.data
            try:
                for done in range(left):  # noqa: B007
                    at += 8 + unpack(data, at)[0]
                left = 0
            except (struct.error, OverflowError):  # behind the last byte that was read
                left -= done
                if at + 8 > self.size:
                    break
                self.load(at + 8, field)
        if left or at > self.size:
            self.blame(field, count)
        self.load(at, field)
        self.at = at

    def blame(self, field: str, count: int) -> NoReturn:
        """Raise for the first of these texts that does not lie in the file."""
        for index in range(count):
            start = self.at
            if self.size - start < 8:
                reason = f"truncated header: text {index} of {count} begins behind its end"
                self.fail(field, f"{reason}; download it again")
            length = self.u64(field)
            if length > self.size - self.at:
                reason = f"bad length: {length} bytes in text {index} of {count}"
                self.fail(field, f"{reason}, but the file has {self.size - self.at} left", start)
            self.at += length
        raise AssertionError("every text lies in the file")


def is_bad(name: str) -> bool:
    """Whether a name could do harm where it is printed or used as part of a path."""
    return not name.isprintable() or "../" in name
