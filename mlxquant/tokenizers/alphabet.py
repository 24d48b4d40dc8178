r"""The characters that BPE begins with, and expressions for those that a vocabulary lacks.

A byte is written as a character: the printable ones of Latin-1 as themselves, the others as those
from U+0100 on, in order.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

__all__ = ["ALPHABET", "byte_tokens", "closed", "missing_bytes", "missing_characters"]

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))

#: the characters that stand for the 256 bytes, in no particular order
ALPHABET = tuple(map(chr, (*_PRINTABLE, *range(0x100, 0x200 - len(_PRINTABLE)))))


def byte_tokens() -> Iterable[str]:
    """`<0x00>` to `<0xFF>`, what a character that is no token falls back to."""
    return (f"<0x{byte:02X}>" for byte in range(256))


def missing_bytes(tokens: Container[str]) -> str:
    """An expression for the bytes' characters that are no tokens; empty where all are."""
    missing = [c for c in ALPHABET if c not in tokens]
    return f"[{_ranges(missing)}]" if missing else ""


def missing_characters(tokens: Iterable[str]) -> str:
    """An expression for every character that is no token."""
    return f"[^{_ranges(token for token in tokens if len(token) == 1)}]"


def closed(tokens: Iterable[str], known: Iterable[str]) -> bool:
    """Whether every character of `tokens` is itself one of the `known` ones."""
    characters = {text for text in known if len(text) == 1}
    return all(map(characters.issuperset, tokens))


def _ranges(characters: Iterable[str]) -> str:
    """Characters as the inside of a class."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(
        rf"\x{{{first:X}}}" + (rf"-\x{{{last:X}}}" if last > first else "") for first, last in runs
    )
