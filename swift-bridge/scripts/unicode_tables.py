"""Writes Unicode's general categories as a Swift table, as the `tokenizers` library sees them.

The Swift runtime cuts text into words by character classes. The categories of the platform's own
Swift library change with the operating system; the tokenizer's ids must not. So they are asked from
the `tokenizers` library's expressions once, and kept.

    python swift-bridge/scripts/unicode_tables.py            write the table
    python swift-bridge/scripts/unicode_tables.py --check    exit 1 unless it is what is there
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

from tokenizers import Regex, normalizers
from tokenizers.pre_tokenizers import Split

OUTPUT = (
    Path(__file__).resolve().parent.parent
    / "Sources/MLXQuantRuntime/Tokenizer/UnicodeTables+Generated.swift"
)

_NAMES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co"
#: the two-letter categories in the order of their numbers in the table; Cn, unassigned, is 0
CATEGORIES = tuple(_NAMES.split())

_ALL = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))


def matches(expression: str, text: str) -> list[tuple[int, int]]:
    """Ranges of places in a text, last one excluded, of what an expression matches."""
    kept = Split(Regex(expression), "removed").pre_tokenize_str(text)
    found, at = [], 0
    for _, (first, last) in kept:
        if first > at:
            found.append((at, first))
        at = last
    if at < len(text):
        found.append((at, len(text)))
    return found


def categories() -> list[tuple[int, int]]:
    """(first code point, category's number) of each run of one category.

    A character has one category: those that have theirs are not asked about again. With the three
    that have nearly all characters first, that is a small part of the work.
    """
    of = bytearray([CATEGORIES.index("Cs")]) * 0x110000  # surrogates, which are no scalars
    left = _ALL
    for name in sorted(CATEGORIES, key=("Cn", "Co", "Lo", *CATEGORIES).index):
        if name == "Cs":
            continue
        rest, at = [], 0
        for first, last in matches(rf"\p{{{name}}}", left):
            for character in left[first:last]:
                of[ord(character)] = CATEGORIES.index(name)
            rest.append(left[at:first])
            at = last
        left = "".join(rest) + left[at:]
    assert not left, "every character has a category"
    return [(code, of[code]) for code in range(0x110000) if code == 0 or of[code] != of[code - 1]]


def word_characters() -> list[tuple[int, int]]:
    """First and last code point of each range of `\\w`."""
    found = matches(r"\w", _ALL)
    return [(ord(_ALL[first]), ord(_ALL[last - 1])) for first, last in found]


def decompositions() -> dict[str, str]:
    """Every character with a canonical decomposition but Hangul's, and that in full."""
    nfd = normalizers.NFD()
    return {c: text for c in _ALL if not "가" <= c <= "힣" and (text := nfd.normalize_str(c)) != c}


def compositions(known: dict[str, str]) -> list[tuple[int, int, int]]:
    """First, second and composed code point of each pair that composition joins."""
    nfc = normalizers.NFC()
    pairs = []
    for composed, parts in known.items():
        first = nfc.normalize_str(parts[:-1])
        if len(first) == 1 and nfc.normalize_str(first + parts[-1]) == composed:
            pairs.append((ord(first), ord(parts[-1]), ord(composed)))
    return sorted(pairs)


def combining_classes() -> list[tuple[int, int]]:
    """(first code point, combining class) of each run of one class.

    Normalization puts marks in the order of their classes, so a mark's class is found by how it is
    ordered beside one mark of each class. Which classes there are never changes.
    """
    nfd = normalizers.NFD()
    known: dict[int, str] = {}
    for code in range(0x300, 0x3100):
        if unicodedata.decomposition(chr(code)) == "":
            known.setdefault(unicodedata.combining(chr(code)), chr(code))
    del known[0]
    ordered = sorted(known.items())
    (_, least), (_, most) = ordered[0], ordered[-1]

    def moves(first: str, second: str) -> bool:
        return nfd.normalize_str(first + second) == second + first

    runs: list[tuple[int, int]] = [(0, 0)]
    for code, character in zip(map(ord, _ALL), _ALL, strict=True):
        ccc = 0
        if code >= 0x300 and (moves(character, least) or moves(most, character)):
            # of the classes that do not go behind it, the last
            ccc = next(c for c, mark in reversed(ordered) if not moves(mark, character))
        if runs[-1][1] != ccc:
            runs.append((code, ccc))
    return runs


def _table(name: str, comment: str, values: list[int]) -> str:
    lines = [f"  /// {comment}", f"  static let {name}: [UInt32] = ["]
    line = "   "
    for value in values:
        word = f" 0x{value:X},"
        if len(line) + len(word) > 100:
            lines.append(line)
            line = "   "
        line += word
    return "\n".join([*lines, line, "  ]"])


def source() -> str:
    """The Swift file."""
    words = [value for pair in word_characters() for value in pair]
    known = decompositions()
    flat = [value for c, parts in known.items() for value in (ord(c), len(parts), *map(ord, parts))]
    tables = [
        _table(
            "categories",
            "First code point << 5 | number of its category, for each run of one category.",
            [first << 5 | number for first, number in categories()],
        ),
        _table("wordCharacters", "First and last code points of the ranges of `\\w`.", words),
        _table(
            "decompositions",
            "Code point, length and scalars of each canonical decomposition.",
            flat,
        ),
        _table(
            "combiningClasses",
            "First code point << 8 | combining class, for each run of one class.",
            [first << 8 | ccc for first, ccc in combining_classes()],
        ),
        _table(
            "compositions",
            "First, second and composed scalar of each canonical composition but Hangul's.",
            [value for pair in compositions(known) for value in pair],
        ),
    ]
    return "\n".join(
        [
            "// Generated by swift-bridge/scripts/unicode_tables.py; not to be edited.",
            "// swift-format-ignore-file",
            "",
            "/// Unicode's data as the `tokenizers` library has them.",
            "enum UnicodeTables {",
            "\n\n".join(tables),
            "}",
            "",
        ]
    )


def main() -> None:
    """Write the table, or check it."""
    text = source()
    if "--check" in sys.argv[1:]:
        if OUTPUT.read_text(encoding="utf-8") != text:
            sys.exit(f"{OUTPUT} is stale: run python {Path(__file__).name}")
    else:
        OUTPUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
