"""Metal source of the codebooks, written from the arrays of mlxquant/formats: nothing typed twice.

<book>_GRID        a point's coordinates in a byte each, the first one lowest: words of four,
                   one a point (IQ3) or two (IQ2)
IQ1_S_GRID         coordinate + 1 in 2 bits each, the first one lowest: a uint16 a point
IQ4_NL_LEVELS      float, by code
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.grids import grid
from mlxquant.formats.iq4_nl import LEVELS

__all__ = ["NAMES", "table"]

_LEVELS = {"IQ4_NL_LEVELS": LEVELS}
_BOOKS = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")

#: every table there is
NAMES = (*_LEVELS, *(f"{book}_GRID" for book in _BOOKS))


def table(name: str) -> str:
    """The definition of one of NAMES in Metal."""
    if name in _LEVELS:
        return _array("float", name, (f"{value:.1f}f" for value in _LEVELS[name]))
    words, of = _packed(name.removesuffix("_GRID"))
    return _array(of, name, (f"0x{word:X}" for word in words))


def _packed(book: str) -> tuple[Array, str]:
    """The points of a codebook as words, and their type in Metal."""
    points = grid(book)
    if book == "IQ1_S":
        digits = (points + 1).astype(np.uint32)
        return (digits << np.arange(0, 16, 2, dtype=np.uint32)).sum(axis=1), "ushort"
    return np.ascontiguousarray(points.astype(np.uint8)).view("<u4").reshape(-1), "uint"


def _array(of: str, name: str, values: Iterable[str]) -> str:
    """A table in constant memory, eight values a line."""
    written = list(values)
    lines = [", ".join(written[i : i + 8]) for i in range(0, len(written), 8)]
    body = ",\n    ".join(lines)
    return f"constant {of} {name}[{len(written)}] = {{\n    {body}\n}};\n"
