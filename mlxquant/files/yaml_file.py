"""YAML files from outside: a small, plain part of YAML, bounded in size and depth, with lines.

Mappings, lists and scalars, as people write them by hand. No anchors and aliases (ten lines of
which can stand for gigabytes), no tags (which can name Python objects), one document, each key
once. PyYAML's parser finds the structure; nothing of its constructors is used. Plain scalars are
read as in JSON, and everything else is text, so that `no` is not false and `1:30` not ninety.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import FileFormatError, one_line
from .quote import quote
from .sniff import PREFIX, open_regular, sniff

__all__ = ["DEPTH_LIMIT", "NODE_LIMIT", "SIZE_LIMIT", "Node", "parse_yaml", "read_yaml", "scalar"]

#: the largest file that is read, bytes
SIZE_LIMIT = 2 << 20

#: how deep mappings and lists may nest
DEPTH_LIMIT = 8

#: mappings, lists and scalars of a file at most
NODE_LIMIT = 100_000

Scalar = str | int | float | bool | None

#: libyaml's parser where PyYAML was built with it; both give the same events
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,4})?")
_WORDS: dict[str, Scalar] = {"": None, "~": None, "null": None, "true": True, "false": False}

#: text that needs no quotes anywhere, whichever version of YAML reads it
_PLAIN = re.compile(r"[A-Za-z](?:[A-Za-z0-9_./ -]*[A-Za-z0-9_])?")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "nan"}


@dataclass(frozen=True)
class Node:
    """A part of a file.

    Attributes:
        line: where it begins, from 1.
        value: text, a number, a truth value or None; a dict of Nodes; or a list of Nodes.
    """

    line: int
    value: Any

    @property
    def kind(self) -> str:
        """What it is, for messages."""
        kinds = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value"}
        value = self.value
        if value is None:
            return "nothing"
        return kinds.get(type(value), "a number")


def read_yaml(path: str | os.PathLike[str], *, limit: int = SIZE_LIMIT) -> Node:
    """The document in a file.

    Raises:
        FileFormatError: missing or not a regular file; larger than `limit`; not UTF-8; not YAML,
            or of YAML what is not read here. With the line.
    """
    file = Path(path)
    with open_regular(file) as (handle, size):
        if size > limit:
            what = sniff(os.pread(handle, PREFIX, 0))
            reason = f"this is {what}" if what else f"{size:,} bytes, at most {limit:,} are read"
            raise FileFormatError(file, "size", reason)
        try:
            with open(handle, "rb", closefd=False) as stream:
                data = stream.read(limit + 1)
        except OSError as problem:
            raise FileFormatError(file, "file", f"cannot be read: {problem.strerror}") from problem
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        what = sniff(data[:PREFIX])
        reason = f"this is {what}" if what else f"not UTF-8: {problem.reason}"
        raise FileFormatError(file, "encoding", reason, problem.start) from problem
    if (what := sniff(data[:PREFIX])) is not None:
        raise FileFormatError(file, "content", f"this is {what}")
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str | os.PathLike[str]) -> Node:
    """The document in a text; `file` is who to blame.

    Raises: as `read_yaml`.
    """
    try:
        return _Builder(file).build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = f"line {mark.line + 1}" if mark is not None else "content"
        reason = f"not YAML: {problem.problem or problem.context}"
        raise FileFormatError(file, line, reason) from problem
    except yaml.YAMLError as problem:  # of the reader: a character that no text has
        position = getattr(problem, "position", 0)
        line = f"line {text.count(chr(10), 0, position) + 1}"
        reason = f"not YAML: {getattr(problem, 'reason', problem)}"
        raise FileFormatError(file, line, reason) from problem


class _Builder:
    """Nodes from events, without recursion."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self.file = file
        self.root: Node | None = None
        #: open containers, and of each open mapping the key that waits for its value
        self.open: list[Node] = []
        self.keys: list[str | None] = []
        self.count = 0
        self.ended = False

    def build(self, events: Iterator[Any]) -> Node:
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise self._wrong(line, f"alias *{event.anchor}: write the value out")
            if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
                raise self._wrong(line, "a second document; one is read")
            if isinstance(event, yaml.NodeEvent):
                self._check(event, line)
            if isinstance(event, yaml.ScalarEvent):
                plain = event.implicit[0] and event.style in (None, "")
                self._put(Node(line, _resolved(event.value) if plain else event.value), event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._open(Node(line, {} if isinstance(event, yaml.MappingStartEvent) else []))
            elif isinstance(event, yaml.CollectionEndEvent):
                self.open.pop()
                self.keys.pop()
        if self.root is None:
            raise FileFormatError(self.file, "content", "nothing is in it")
        return self.root

    def _check(self, event: Any, line: int) -> None:
        self.count += 1
        if self.count > NODE_LIMIT:
            raise self._wrong(line, f"more than {NODE_LIMIT:,} values")
        if event.anchor is not None:
            raise self._wrong(line, f"anchor &{event.anchor}: write the value out where it is used")
        if event.tag is not None:
            raise self._wrong(line, f"tag {event.tag}: values have no tags here")

    def _open(self, node: Node) -> None:
        if len(self.open) >= DEPTH_LIMIT:
            raise self._wrong(node.line, f"nested deeper than {DEPTH_LIMIT}")
        self._put(node, None)
        self.open.append(node)
        self.keys.append(None)

    def _put(self, node: Node, event: Any) -> None:
        """A node in its place: the root, a list's next, a mapping's key or its value."""
        if not self.open:
            self.root = node
            return
        parent, key = self.open[-1].value, self.keys[-1]
        if isinstance(parent, list):
            parent.append(node)
        elif key is not None:
            parent[key] = node
            self.keys[-1] = None
        elif event is None:
            raise self._wrong(node.line, f"{node.kind} as a key; keys are words")
        elif event.value in parent:
            raise self._wrong(node.line, f"key {quote(event.value)} stands twice")
        else:
            self.keys[-1] = event.value

    def _wrong(self, line: int, reason: str) -> FileFormatError:
        return FileFormatError(self.file, f"line {line}", one_line(reason))


def _resolved(text: str) -> Scalar:
    """What a scalar without quotes is."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def scalar(value: Scalar) -> str:
    """A scalar as it is written, on one line, so that `read_yaml` and other readers give it back.

    Args:
        value: finite, where it is a number.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        assert math.isfinite(value)
        digits = repr(value)  # the shortest that is this number
        # YAML 1.1 takes 1e-05 for text
        return digits if "." in digits else digits.replace("e", ".0e")
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if character.isprintable() and (code < 0x7F or 0xA0 < code < 0xFFFE):
        return character
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
