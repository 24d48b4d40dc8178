"""What a JSON document may hold, said once: for checking it, and for the tables that document it.

A kind checks one value and says in `words` what it accepts. Objects have exactly their fields: one
that is missing and one that is not known are both refused, so that a misspelt name is found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

__all__ = [
    "Check",
    "Choice",
    "Field",
    "Integer",
    "Items",
    "Kind",
    "Nullable",
    "Number",
    "Object",
    "Text",
    "Truth",
    "Wrong",
    "found",
]


class Wrong(Exception):
    """A value that its kind refuses; on the way out every container adds the name of the part.

    Attributes:
        path: names of fields and places in lists, from the outside.
        reason: what is expected and what was found.
    """

    def __init__(self, reason: str, *path: str | int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str | int] = list(path)

    @property
    def field(self) -> str:
        """The place as it is written in the errors: `records[3].kl.mean.low`."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return text.removeprefix(".") or "content"


class Kind(Protocol):
    """One kind of value."""

    @property
    def words(self) -> str:
        """What is accepted, for documents and errors."""
        ...

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is of this kind."""
        ...


def found(value: Any, limit: int = 60) -> str:
    """A value in an error: its kind for containers, itself for the rest, never long."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = repr(value[:limit])
        return text if len(value) <= limit else f"{text}…"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int):
        # the digits of a huge one cannot be had in reasonable time
        return str(value) if value.bit_length() < 128 else f"{value.bit_length()} bits of integer"
    if isinstance(value, float):
        return repr(float(value))
    return f"a {type(value).__name__}, which JSON has no word for"


def _refuse(words: str, value: Any) -> NoReturn:
    raise Wrong(f"{words} expected, found {found(value)}")


@dataclass(frozen=True)
class Number:
    """A finite number.

    Attributes:
        least: the smallest that is accepted. above: whether `least` itself is not.
        most: the largest that is accepted.
    """

    least: float = 0
    above: bool = False
    most: float = 1e18

    @property
    def words(self) -> str:
        """What is accepted."""
        if self.most == 1:
            return f"a number from {self.least:g} to 1"
        return f"a number {'above' if self.above else 'from'} {self.least:g}"

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is such a number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse(self.words, value)
        if isinstance(value, float) and not math.isfinite(value):
            _refuse(self.words, value)
        if value < self.least or (self.above and value == self.least):
            _refuse(self.words, value)
        if value > self.most:
            raise Wrong(f"at most {self.most:g} expected, found {found(value)}")


@dataclass(frozen=True)
class Integer:
    """A whole number from `least` to 2^63 - 1."""

    least: int = 0

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"an integer from {self.least}"

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is such an integer."""
        if isinstance(value, bool) or not isinstance(value, int) or value < self.least:
            _refuse(self.words, value)
        if value >= 1 << 63:
            raise Wrong(f"at most 2^63 - 1 expected, found {found(value)}")


@dataclass(frozen=True)
class Text:
    """Text of 1 to `longest` characters, of a certain form where `form` is given."""

    form: str = ""
    called: str = "text"
    longest: int = 500

    @property
    def words(self) -> str:
        """What is accepted."""
        return self.called

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is such text."""
        if not isinstance(value, str) or not value:
            _refuse(self.called, value)
        if len(value) > self.longest:
            raise Wrong(f"at most {self.longest} characters expected, found {len(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Wrong("a lone surrogate (\\ud800 to \\udfff) in it") from None
        if self.form and not re.fullmatch(self.form, value):
            _refuse(self.called, value)


@dataclass(frozen=True)
class Truth:
    """true or false."""

    @property
    def words(self) -> str:
        """What is accepted."""
        return "true or false"

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is a truth value."""
        if not isinstance(value, bool):
            _refuse(self.words, value)


class Choice:
    """One of some texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    @property
    def words(self) -> str:
        """What is accepted."""
        return " or ".join(f'"{text}"' for text in self.texts)

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is one of the texts."""
        if not isinstance(value, str) or value not in self.texts:
            _refuse(self.words, value)


@dataclass(frozen=True)
class Nullable:
    """A kind, or null where the value is not known or there is none."""

    kind: Kind

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"{self.kind.words} or null"

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is null or of the kind."""
        if value is not None:
            self.kind.check(value)


@dataclass(frozen=True)
class Items:
    """A list of at most `most` values of one kind."""

    kind: Kind
    most: int = 1000
    least: int = 0

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"a list, each {self.kind.words}"

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is such a list."""
        if not isinstance(value, list):
            _refuse(self.words, value)
        if not self.least <= len(value) <= self.most:
            raise Wrong(f"{self.least} to {self.most} items expected, found {len(value)}")
        for index, item in enumerate(value):
            try:
                self.kind.check(item)
            except Wrong as problem:
                problem.path.insert(0, index)
                raise


class Field(NamedTuple):
    """A field of an object: its kind, and what it says, in a line."""

    kind: Kind
    meaning: str


#: looks at an object whose fields are sound by themselves; raises Wrong
Check = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Object:
    """An object with exactly these fields.

    Attributes:
        name: in documents, with its article: `an estimate`.
        fields: by name.
        together: what must hold between fields.
    """

    name: str
    fields: Mapping[str, Field]
    together: Check | None = None

    @property
    def words(self) -> str:
        """What is accepted."""
        return self.name

    def check(self, value: Any) -> None:
        """Raise Wrong unless the value is such an object."""
        if not isinstance(value, dict):
            _refuse(f"{self.name} {{…}}", value)
        for name, field in self.fields.items():
            if name not in value:
                raise Wrong(f"missing; {field.kind.words} expected", name)
            try:
                field.kind.check(value[name])
            except Wrong as problem:
                problem.path.insert(0, name)
                raise
        if len(value) > len(self.fields):
            odd = next(name for name in value if name not in self.fields)
            known = ", ".join(self.fields)
            raise Wrong(f"unknown field {found(odd)}; the fields are {known}")
        if self.together is not None:
            self.together(value)
