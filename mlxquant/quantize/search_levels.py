"""The search for the scales of MLX's formats of floats: mxfp4, mxfp8, nvfp4.

    error of a group = Σ v · (w - s·level)²,  s·level in float32, v the importance of w, or 1

There is no bias, and a scale is a byte: so few come into question that each is tried.

    mxfp4, mxfp8   powers of two. Plain rounding takes the smallest that cuts nothing off; the one
                   below cuts, and makes every step half as wide. With importance, further ones:
                   a large weight may count for nothing.
    nvfp4          E4M3. Plain rounding puts the largest weight at 6. At 4 it has finer levels next
                   to it (Cook et al., Four Over Six, 2025), and what lies between and beyond is
                   tried as well.

Plain rounding's own byte is tried first and kept where no other is better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..formats.base import Array
from ..formats.floats import (
    Bytes,
    Float32,
    e2m1_to_f32,
    e4m3_to_f32,
    e8m0_to_f32,
    f32_to_e2m1,
    f32_to_e4m3,
)
from ..formats.mlx_format import MlxFormat
from ..formats.mxfp4 import Mxfp4
from ..formats.mxfp8 import Mxfp8
from ..formats.nvfp4 import Nvfp4
from ..formats.packing import pack

__all__ = ["search_levels"]

#: weights handled at a time
LANES = 1 << 15

#: a byte has to beat the one before by this factor: more than float32 sums may be off
_CLEARLY = np.float32(1 - 2.0**-16)

#: bytes that are tried, from plain rounding's: without importance, and with it
_TRIED = {
    "mxfp4": ((-1, 1), (-1, 1, -2, -3, -4)),
    "mxfp8": ((-1, 1), (-1, 1, -2, -3, -4)),
    "nvfp4": ((-2, -1, 1, 2, 3, 4, 5, 6), (-8, -6, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6)),
}

#: the largest scale byte that is a finite number
_LAST = {"mxfp4": 254, "mxfp8": 254, "nvfp4": 0x7E}

#: far above where the scale bytes of mxfp4 and mxfp8 end
_TINY = np.float32(2.0**-100)


def search_levels(target: MlxFormat, groups: Float32, weights: Float32 | None) -> tuple[Array, ...]:
    """The best scales, and the nearest codes.

    Args:
        target: Mxfp4, Mxfp8 or Nvfp4.
        groups: float32 [n, b, g], contiguous.
        weights: importance, float32 [b, g], each group's largest 1; or None.

    Returns: the arrays of `target.encode`.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    assert isinstance(target, Mxfp4 | Mxfp8 | Nvfp4)
    n, b, g = groups.shape
    plain = target.encode(groups.reshape(n, b * g))[1].reshape(n * b)
    flat = groups.reshape(n * b, g)
    codes, scales = np.empty((n * b, g), np.uint8), np.empty(n * b, np.uint8)
    step = max(1, LANES // g)
    with np.errstate(all="ignore"):
        for begin in range(0, n * b, step):
            here = slice(begin, begin + step)
            count = len(flat[here])
            v = None if weights is None else weights[np.arange(begin, begin + count) % b]
            codes[here], scales[here] = _search(target, flat[here], v, plain[here])
    return pack(codes.reshape(n, b * g), target.bits), scales.reshape(n, b)


def _search(target: MlxFormat, x: Float32, v: Float32 | None, plain: Bytes) -> tuple[Bytes, Bytes]:
    """Codes uint8 [m, g] and scale bytes [m] for groups x [m, g]; v [m, g] or None."""
    # By a power of two, so that squares of any finite weight are finite; which one makes no
    # difference to the codes.
    largest = np.abs(x).max(axis=1)
    down = np.ldexp(np.float32(1), -np.clip(np.frexp(largest)[1], -100, 126)).astype(np.float32)
    floor, last = (1 if target.mode == "nvfp4" else 0), _LAST[target.mode]
    # where even byte 0 is too large, plain rounding's wraps around (formats/mlx_format.py)
    plain = np.where((plain > 128) & (largest < _TINY), np.uint8(0), plain)
    best = np.clip(plain, 0, last)
    codes, error = _coded(target, x, v, best, down)
    for offset in _TRIED[target.mode][v is not None]:
        scale = np.clip(plain.astype(np.int16) + offset, floor, last).astype(np.uint8)
        other, reached = _coded(target, x, v, scale, down)
        better = reached < error * _CLEARLY
        np.copyto(error, reached, where=better)
        np.copyto(best, scale, where=better)
        np.copyto(codes, other, where=better[:, None])
    return codes, best


def _coded(
    target: MlxFormat, x: Float32, v: Float32 | None, scale: Bytes, down: Float32
) -> tuple[Bytes, Float32]:
    """The nearest codes under a scale, and their error [m] in squares of 1 / down."""
    to_codes, to_levels, to_scale = _ARITHMETIC[target.mode]
    step = to_scale(scale)
    # a scale of 0 (nvfp4 has one) makes all weights 0, whatever the code
    codes = to_codes(np.divide(x, np.where(step > 0, step, np.float32(np.inf))[:, None]))
    levels = to_levels(codes)
    np.multiply(levels, step[:, None], out=levels)
    np.subtract(x, levels, out=levels)
    np.multiply(levels, down[:, None], out=levels)
    np.multiply(levels, levels, out=levels)
    if v is not None:
        np.multiply(levels, v, out=levels)
    width = levels.shape[1]
    while width > 1:  # halves on halves, so that the order never depends on m
        width //= 2
        np.add(levels[:, :width], levels[:, width : 2 * width], out=levels[:, :width])
    return codes, levels[:, 0].copy()


#: mode → the nearest codes, the levels of codes, the numbers of scale bytes
_ARITHMETIC: dict[
    str,
    tuple[Callable[[Float32], Bytes], Callable[[Array], Float32], Callable[[Array], Float32]],
] = {
    "mxfp4": (f32_to_e2m1, e2m1_to_f32, e8m0_to_f32),
    "mxfp8": (f32_to_e4m3, e4m3_to_f32, e8m0_to_f32),
    "nvfp4": (f32_to_e2m1, e2m1_to_f32, e4m3_to_f32),
}
