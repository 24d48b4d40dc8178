"""Metal source of the codebooks, written from the arrays of mlxquant/formats: nothing typed twice.

<book>_GRID        a point's coordinates in a byte each, the first one lowest: words of four,
                   one a point (IQ3) or two (IQ2)
IQ1_S_GRID         coordinate + 1 in 2 bits each, the first one lowest: a uint16 a point
IQ4_NL_LEVELS      float, by code
E2M1_LEVELS        the same of MXFP4 and NVFP4, twice the levels

What encoders try, as float:

<format>_EDGES     where the extreme weight is put, in levels
IQ4_NL_CHANGES     half-units from -128 on, at which the next code begins
IQ4_XS_DIVISORS    what takes the largest scale of a sub-block to the super-block's
AFFINE_TRIMS       steps given up at the lower and the upper end of a range, in pairs
AFFINE_BESIDE      and besides
<K-quant>_LEVELS   the real code of a sub-block's largest weight
<K-quant>_RANGES   a step and what is cut off below, as parts of a sub-block's range, in pairs
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.ggml_mxfp4 import TWICE_E2M1
from mlxquant.formats.grids import grid
from mlxquant.formats.iq4_nl import CHANGES, EDGES, LEVELS
from mlxquant.formats.iq4_xs import DIVISORS
from mlxquant.formats.k_mins import RANGES
from mlxquant.formats.k_scales import LEVELS as K_LEVELS
from mlxquant.formats.scale_search import BESIDE, TRIMS, edges_of

__all__ = ["NAMES", "table"]

_FLOATS: dict[str, Iterable[Any]] = {
    "IQ4_NL_LEVELS": LEVELS,
    "E2M1_LEVELS": TWICE_E2M1,
    "Q4_0_EDGES": edges_of(8),
    "Q5_0_EDGES": edges_of(16),
    "IQ4_NL_EDGES": EDGES,
    "IQ4_NL_CHANGES": CHANGES,
    "IQ4_XS_DIVISORS": DIVISORS,
    "AFFINE_TRIMS": np.ravel(TRIMS),
    "AFFINE_BESIDE": np.ravel(BESIDE),
    "Q2_K_RANGES": np.ravel(RANGES[3]),
    "Q3_K_LEVELS": K_LEVELS[4],
    "Q4_K_RANGES": np.ravel(RANGES[15]),
    "Q5_K_RANGES": np.ravel(RANGES[31]),
    "Q6_K_LEVELS": K_LEVELS[32],
}
_BOOKS = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")

#: every table there is
NAMES = (*_FLOATS, *(f"{book}_GRID" for book in _BOOKS))


def table(name: str) -> str:
    """The definition of one of NAMES in Metal."""
    if name in _FLOATS:
        return _array("float", name, (f"{np.float32(value)!s}f" for value in _FLOATS[name]))
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
