"""Whether a product with packed weights is right, whoever multiplies.

Every product is made twice. Of x that is -1, 0 or 1 and weights whose sums are exact, it has one
right value, bit for bit (kernels/answers.py). Of normal x, it is off by no more than float32 sums
in any order may be, and the rounding of the result:

    |out - x·w| <= 2 · (k + 64) · 2^-24 · Σ |x·w|, rounded to the type

Twice and 64, since codes, biases and scales may be summed up apart (kernels/matvec.metal).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..formats.base import Array
from ..formats.floats import Float32, from_float32, round_to, to_float32
from ..formats.ggml_format import GgmlFormat
from ..kernels.answers import difference, exact_blocks

__all__ = ["MATRICES", "Gather", "Multiply", "gathered", "ids_of", "multiplied", "wrong"]

#: x STORAGE[dtype] [m, k] and wire uint8 [n, bytes] → [m, n]
Multiply = Callable[[Array, Array], Array]
#: x STORAGE[dtype] [p, k], ids uint32 [p], wire uint8 [e, n, bytes] → [p, n]
Gather = Callable[[Array, Array, Array], Array]

#: of which there is a choice
MATRICES = 3
#: half a step of a type, as a share of the number, and where numbers are subnormal
_HALF_STEP = {"F32": (2**-24, 2**-126), "F16": (2**-11, 2**-14), "BF16": (2**-8, 2**-126)}


def multiplied(
    multiply: Multiply, fmt: GgmlFormat, m: int, n: int, k: int, dtype: str, rounded: bool
) -> str:
    """Empty, or how the product of x [m, k] and packed weights [n, k] is wrong.

    Args:
        rounded: whether weights are rounded to the type of x before they are multiplied.
    """
    w = _weights(fmt, n, k)
    w = round_to(w, dtype) if rounded else w
    for x in _rows(m, k, dtype):
        found = wrong(multiply(from_float32(x, dtype), exact_blocks(fmt, n, k)), x, w, dtype)
        if found:
            return found
    return ""


def gathered(
    gather: Gather, fmt: GgmlFormat, ids: Array, n: int, k: int, dtype: str, rounded: bool
) -> str:
    """The same of matrix ids[i] of MATRICES for row i; where there is none, of NaN."""
    wire = exact_blocks(fmt, MATRICES * n, k).reshape(MATRICES, n, -1)
    w = _weights(fmt, MATRICES * n, k).reshape(MATRICES, n, k)
    w = round_to(w, dtype) if rounded else w
    for x in _rows(len(ids), k, dtype):
        out = gather(from_float32(x, dtype), ids, wire)
        if not np.isnan(to_float32(out[ids >= MATRICES], dtype)).all():
            return "a matrix that is not there gave numbers"
        for matrix in range(MATRICES):
            chosen = ids == matrix
            found = wrong(out[chosen], x[chosen], w[matrix], dtype) if chosen.any() else ""
            if found:
                return f"matrix {matrix}: {found}"
    return ""


def ids_of(p: int, absent: bool) -> Array:
    """Numbers of matrices, uint32 [p], ascending; if `absent` the last of one that is not there."""
    ids = np.sort(np.random.default_rng(p).integers(0, MATRICES, p)).astype(np.uint32)
    ids[-1] = MATRICES if absent else ids[-1]
    return ids


def wrong(out: Array, x: Float32, w: Float32, dtype: str) -> str:
    """Empty, or how the product [m, n] of x and w, float32, is further off than it may be."""
    wide = x.astype(np.float64)
    wanted = wide @ w.T.astype(np.float64)
    if np.abs(x).max(initial=0) <= 1 and (x == np.rint(x)).all():
        return str(difference(out, from_float32(wanted.astype(np.float32), dtype), dtype))
    depth = 2 * (x.shape[1] + 64)
    allowed = depth * 2.0**-24 * (np.abs(wide) @ np.abs(w.T.astype(np.float64)))
    share, least = _HALF_STEP[dtype]
    allowed += share * (np.abs(wanted) + allowed) + least
    off = np.abs(to_float32(out, dtype).astype(np.float64) - wanted)
    places = np.argwhere(~(off <= allowed))
    if not len(places):
        return ""
    row, column = (int(i) for i in places[0])
    value = float(to_float32(out[row : row + 1, column], dtype)[0])
    return (
        f"[{row}, {column}] is {value:.6g}, not {wanted[row, column]:.6g} ± "
        f"{allowed[row, column]:.2g}; {len(places)} of {off.size} are wrong"
    )


def _rows(m: int, k: int, dtype: str) -> tuple[Float32, Float32]:
    """x of -1, 0 and 1, then normal x, float32 [m, k] that the type holds."""
    random = np.random.default_rng((m, k))
    exact = random.integers(-1, 2, (m, k)).astype(np.float32)
    return exact, round_to(random.standard_normal((m, k), dtype=np.float32), dtype)


@lru_cache(maxsize=4)
def _weights(fmt: GgmlFormat, n: int, k: int) -> Float32:
    """The weights of `exact_blocks`, float32 [n, k]."""
    return fmt.decode((exact_blocks(fmt, n, k),))
