"""Swift source from names that anybody may have chosen: literals and identifiers.

>>> text("say \\"hi\\"\\n")
'"say \\\\"hi\\\\"\\\\n"'
>>> identifiers(["<|im_end|>", "</s>", "<s>", "class", "</S>", "<|0|>"])
['imEnd', 's', 's2', '`class`', 's3', '_0']
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import RequestError

__all__ = ["check_type_name", "comment", "identifiers", "number", "text"]

#: words that are no identifiers without backticks (The Swift Programming Language, "Keywords and
#: Punctuation": declarations, statements, expressions and types)
_WORDS = (
    "associatedtype borrowing class consuming deinit enum extension fileprivate func import init "
    "inout internal let nonisolated open operator precedencegroup private protocol public rethrows "
    "static struct subscript typealias var break case catch continue default defer do else "
    "fallthrough for guard if in repeat return switch throw where while Any as await false is nil "
    "self Self super throws true try"
)
KEYWORDS = frozenset(_WORDS.split())

#: names that an enum of constants cannot give to one of them, backticks or not
_TAKEN = frozenset({"init", "self", "Self", "Type", "Protocol"})

_TYPE_NAME = re.compile(r"[A-Z][A-Za-z0-9_]{0,99}")
_WORD = re.compile(r"[A-Za-z0-9]+")


def text(value: str) -> str:
    """A string literal in printable ASCII: whatever is in it ends no line and no literal."""
    shown = []
    for char in value:
        code = ord(char)
        if char in '"\\':
            shown.append("\\" + char)
        elif char == "\n":
            shown.append("\\n")
        elif " " <= char <= "~":
            shown.append(char)
        else:
            # lone surrogates are no scalars, and no Swift string holds one
            shown.append(f"\\u{{{0xFFFD if 0xD800 <= code < 0xE000 else code:X}}}")
    return f'"{"".join(shown)}"'


def comment(value: str) -> str:
    """Printable ASCII for a line comment, cut at 80 characters."""
    shown = "".join(char if " " <= char <= "~" else "?" for char in value)
    return shown if len(shown) <= 80 else shown[:79] + "~"


def number(value: int) -> str:
    """An integer literal, in groups of three digits."""
    return f"{value:_}"


def identifiers(names: Iterable[str]) -> list[str]:
    """An identifier for each name, in lowerCamelCase: no two are the same.

    Of a name its ASCII letters and digits count; one without is `token`. What a keyword has is in
    backticks, what begins with a digit gets an underscore, and what is there already a number.
    """
    used: set[str] = set()
    found = []
    for name in names:
        words = _WORD.findall(name)
        joined = "".join(
            word[:1].lower() + word[1:] if i == 0 else word[:1].upper() + word[1:]
            for i, word in enumerate(_lower_if_shouted(words))
        )
        base = joined or "token"
        if base[0].isdigit():
            base = "_" + base
        if base in _TAKEN:
            base += "Token"
        chosen, count = base, 1
        while chosen in used:
            count += 1
            chosen = f"{base}{count}" if not base[-1].isdigit() else f"{base}_{count}"
        used.add(chosen)
        found.append(f"`{chosen}`" if chosen in KEYWORDS else chosen)
    return found


def _lower_if_shouted(words: list[str]) -> list[str]:
    """Words in lower case where all of them are in capitals."""
    if all(word.upper() == word for word in words):
        return [word.lower() for word in words]
    return words


def check_type_name(name: str) -> str:
    """The name, if a type may have it.

    Raises:
        RequestError: it may not.
    """
    if not _TYPE_NAME.fullmatch(name) or name in KEYWORDS or name in _TAKEN:
        raise RequestError(
            f"--type-name {name!r}: a name for a Swift type begins with a capital and has letters, "
            "digits and underscores, as ModelInfo"
        )
    return name
