"""JSON files from outside: bounded in size and depth, each key once, text that is text.

`json.loads` alone recurses on nesting, keeps the last of two equal keys, reads NaN, and dies of
`int` limits with errors of its own; here each of these is a FileFormatError with its place.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from ..errors import FileFormatError
from .quote import quote
from .sniff import PREFIX, open_regular, sniff

__all__ = [
    "CONFIG_LIMIT",
    "DEPTH_LIMIT",
    "INDEX_LIMIT",
    "TOKENIZER_LIMIT",
    "check_json_ends",
    "read_json_object",
]

#: the largest files of each kind that are read, in bytes; several times what any model needs
CONFIG_LIMIT = 16 << 20
INDEX_LIMIT = 64 << 20
TOKENIZER_LIMIT = 192 << 20

#: how deep objects and lists may nest
DEPTH_LIMIT = 64

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json_object(
    path: str | os.PathLike[str], *, limit: int = CONFIG_LIMIT, depth: int = DEPTH_LIMIT
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Tagged floats of transformers (`{"__float__": "Infinity"}`) are left as they are.

    Args:
        path: the file.
        limit: the largest file that is read, bytes.
        depth: how deep objects and lists may nest.

    Raises:
        FileFormatError: missing or not a regular file; larger than `limit`; not UTF-8, or with a
            byte-order mark; not JSON; nested deeper than `depth`; a key twice in one object; NaN
            or Infinity as a bare word; text with lone surrogates; not an object. With the byte
            offset where one is known.
    """
    file = Path(path)
    data = _read(file, limit)
    if data.startswith(b"\xef\xbb\xbf"):
        raise FileFormatError(file, "encoding", "a byte-order mark; save it as plain UTF-8", 0)
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        what = sniff(data[:PREFIX])
        reason = f"this is {what}" if what else f"not UTF-8: {problem.reason}"
        raise FileFormatError(file, "encoding", reason, problem.start) from problem
    _check_depth(file, data, depth)
    reader = _Reader(file)
    try:
        value = json.loads(text, object_pairs_hook=reader.object, parse_constant=reader.constant)
        if _ESCAPED_SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as problem:
        what = sniff(data[:PREFIX])
        reason = f"this is {what}" if what else f"invalid JSON: {problem.msg}"
        offset = len(text[: problem.pos].encode())
        raise FileFormatError(file, f"line {problem.lineno}", reason, offset) from problem
    except UnicodeEncodeError as problem:
        raise FileFormatError(file, "text", "a lone surrogate (\\ud800 to \\udfff)") from problem
    except ValueError as problem:
        raise FileFormatError(file, "number", "has more digits than can be read") from problem
    if not isinstance(value, dict):
        reason = f"an object {{…}} expected, found {_TYPES.get(type(value), 'null')}"
        raise FileFormatError(file, "content", reason, 0)
    return value


def check_json_ends(path: str | os.PathLike[str], *, limit: int = CONFIG_LIMIT) -> None:
    """Refuse a file that cannot be a JSON object, by its size and its first and last bytes.

    Finds files that are something else or were cut short; `read_json_object` finds the rest.

    Raises:
        FileFormatError: missing, not a regular file, larger than `limit`, or not from { to }.
    """
    file = Path(path)
    with open_regular(file) as (handle, size):
        _check_size(file, handle, size, limit)
        prefix = _pread(file, handle, PREFIX, 0)
        suffix = _pread(file, handle, PREFIX, max(0, size - PREFIX))
    for part, sign, offset in ((prefix.lstrip()[:1], b"{", 0), (suffix.rstrip()[-1:], b"}", size)):
        if part != sign:
            what = sniff(prefix)
            reason = f"this is {what}" if what else f"{sign.decode()!r} expected; is it cut short?"
            raise FileFormatError(file, "content", reason, offset)


_TYPES = {list: "a list", str: "text", int: "a number", float: "a number", bool: "a truth value"}


def _read(file: Path, limit: int) -> bytes:
    """The file's bytes; refused unread if there are more than `limit`."""
    with open_regular(file) as (handle, size):
        _check_size(file, handle, size, limit)
        data = b""
        while len(data) < size and (more := _pread(file, handle, size - len(data), len(data))):
            data += more
    return data


def _check_size(file: Path, handle: int, size: int, limit: int) -> None:
    """Refuse an empty file, and one of more than `limit` bytes."""
    if size == 0:
        raise FileFormatError(file, "content", f"this is {sniff(b'')}", 0)
    if size > limit:
        what = sniff(_pread(file, handle, PREFIX, 0))
        reason = f"this is {what}" if what else f"{size} bytes, at most {limit} expected"
        raise FileFormatError(file, "size", reason)


def _pread(file: Path, handle: int, count: int, offset: int) -> bytes:
    try:
        return os.pread(handle, count, offset)
    except OSError as problem:
        raise FileFormatError(file, "file", f"cannot be read: {problem.strerror}") from problem


def _check_depth(file: Path, data: bytes, depth: int) -> None:
    """Refuse nesting deeper than `depth` before a recursive parser sees it.

    What is left of JSON without its strings and scalars is brackets (one kind will do here). Each
    round takes away the innermost pairs, so `depth` rounds must leave nothing. Every step runs at
    the speed of C.
    """
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(data.translate(_AS_SQUARE, _NOT_STRUCTURE).split(b'"')[::2])
    for _ in range(depth):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            break
        brackets = inner
    # A few unpaired brackets (a file cut short) are the parser's to report: it knows the place.
    if b"[]" in brackets or len(brackets) > 2 * depth:
        what = sniff(data[:PREFIX])
        reason = f"this is {what}" if what else f"nested deeper than {depth}, or brackets unpaired"
        raise FileFormatError(file, "content", reason)


class _Reader:
    """Hooks of the parser that know the file to blame."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """A dictionary of unique keys."""
        value = dict(pairs)
        if len(value) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = counts.most_common(1)[0][0]
            raise FileFormatError(self.file, f"key {quote(twice)}", "stands twice in one object")
        return value

    def constant(self, name: str) -> NoReturn:
        """NaN and the infinities are not JSON."""
        raise FileFormatError(self.file, "number", f"{name} is not JSON")
