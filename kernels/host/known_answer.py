"""Whether a compiled kernel gives what NumPy gives, on a few blocks: asked once per library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.floats import from_float32
from mlxquant.formats.ggml_format import GgmlFormat

from .entries import DTYPES

if TYPE_CHECKING:
    from .library import Library

__all__ = ["blocks", "check", "same"]

_ROWS = 66


def blocks(fmt: GgmlFormat) -> Array:
    """Any bytes, and two rows of all bits set and all clear: uint8 [66, 4 · block_bytes].

    Every byte of a block takes every value, so that every code and every scale occurs, those that
    are subnormal, infinite or NaN among them.
    """
    random = np.random.default_rng(1)
    values = np.repeat(np.arange(256)[:, None], fmt.block_bytes, axis=1)
    whole = random.permuted(values, axis=0).astype(np.uint8).reshape(_ROWS - 2, -1)
    ends = np.zeros((2, whole.shape[1]), np.uint8)
    ends[0] = 255
    return np.concatenate((whole, ends))


def same(ours: Array, wanted: Array, dtype: str) -> bool:
    """The same bits of `dtype`, but that a NaN may be another NaN."""
    if dtype == "BF16":
        nan = [(array & 0x7FFF) > 0x7F80 for array in (ours, wanted)]
        return bool(((ours == wanted) | (nan[0] & nan[1])).all())
    bits = np.uint16 if dtype == "F16" else np.uint32
    equal = ours.view(bits) == wanted.view(bits)
    return bool((equal | (np.isnan(ours) & np.isnan(wanted))).all())


def check(fmt: GgmlFormat, kernels: Library) -> str:
    """Empty, or which kernel is wrong: `dequantize of Q4_K to F16 is wrong on this machine`."""
    wire = blocks(fmt)
    ids = np.array([65, 0, 64, 7, 7])
    with np.errstate(all="ignore"):
        decoded = fmt.decode((wire,))
    for dtype in DTYPES:
        wanted = from_float32(decoded, dtype)
        whole, rows = np.empty_like(wanted), np.empty_like(wanted[ids])
        kernels.dequantize(wire, dtype, whole)
        kernels.dequantize_rows(wire, ids, dtype, rows)
        found = {"dequantize": (whole, wanted), "dequantize_rows": (rows, wanted[ids])}
        for name, (ours, theirs) in found.items():
            if not same(ours, theirs, dtype):
                return f"{name} of {fmt.name} to {dtype} is wrong on this machine"
    return ""
