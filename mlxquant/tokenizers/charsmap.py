"""The precompiled normalization of a SentencePiece model: which texts it replaces, and by what.

    4 bytes   length of the trie
    trie      a double array of 32-bit units: in bits 0-7 and 31 the byte that leads to the unit, in
              bit 8 whether a text ends here; the rest, bits 10-30, shifted left by 8 where bit 9 is
              set, is what is combined (xor) with the unit's index and a byte to find the next unit.
              Where a text ends, the unit at no byte holds the offset of its replacement
    texts     the replacements, each ended by a zero byte

Source: Darts-clone, which SentencePiece uses; `llm_tokenizer_ugm` in llama.cpp reads the same.
"""

from __future__ import annotations

import struct

__all__ = ["replacement"]

_LABEL = 1 << 31 | 0xFF
_OFFSET = (1 << 31) - 1


def replacement(charsmap: bytes, text: str) -> str | None:
    """What the beginning of `text` becomes; None where it stays as it is.

    The longest beginning that the map knows counts.
    """
    (size,) = struct.unpack_from("<I", charsmap)
    units = struct.unpack_from(f"<{min(size, len(charsmap) - 4) // 4}I", charsmap, 4)
    if not units:
        return None
    found = -1
    below = _below(units[0])
    for byte in text.encode():
        at = below ^ byte
        if at >= len(units) or units[at] & _LABEL != byte:
            break
        below = at ^ _below(units[at])
        if units[at] >> 8 & 1 and below < len(units):
            found = units[below] & _OFFSET
    end = charsmap.find(b"\0", 4 + size + found) if found >= 0 else -1
    return charsmap[4 + size + found : end].decode(errors="replace") if end >= 0 else None


def _below(unit: int) -> int:
    """What the units that follow a unit are found by."""
    return unit >> 10 << (unit >> 6 & 8)
