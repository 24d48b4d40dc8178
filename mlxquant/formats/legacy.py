"""What ggml's oldest block types share: a float16 scale, codes rounded plainly, nibbles in planes.

Every step is ggml's own, in float32 and in its order, so that the bytes are its own too:

    symmetric   d = extreme / -half         q = trunc(w / d + half + 0.5), at most 2·half - 1
    affine      d = (max - min) / top       q = trunc((w - min) / d + 0.5), at most top

where `extreme` is the weight of largest magnitude, the first of several, and w / d is w · (1 / d)
(0 where d is 0). The codes know the unrounded d; what is stored is its float16, which is infinite
beyond 65,504. Where 1 / d overflows, below 2^-128, ggml's codes are 0: d is stored as 0 there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .floats import Bytes, Float32
from .k_layout import to_halves

__all__ = [
    "as_half",
    "half_bytes",
    "inverse",
    "largest_magnitude",
    "overflows",
    "round_affine",
    "round_half_away",
    "round_symmetric",
]

#: the float32 below one half: added to a value, it carries all that rounds up, and no more
_BELOW_HALF = np.float32(0.5) - np.float32(2**-25)


def as_half(values: Float32) -> Float32:
    """float32 → what is left of it as float16; beyond 65,504 infinite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(np.float16).astype(np.float32)


def half_bytes(values: Float32) -> Bytes:
    """float32 [b, 1] → float16 bytes, uint8 [b, 2]; beyond 65,504 infinite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return to_halves(values[:, 0].astype(np.float16))


def inverse(scale: Float32) -> Float32:
    """1 / scale, and 0 where it is 0 or where the quotient overflows."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        quotient = np.float32(1) / scale
    quotient[np.isinf(quotient)] = 0
    return quotient


def overflows(scale: Float32) -> NDArray[np.bool_]:
    """Which blocks' scales [b, 1] have no finite inverse, though not 0, or are infinite; [b]."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        lost: NDArray[np.bool_] = np.isinf(np.float32(1) / scale) & (scale != 0) | np.isinf(scale)
    return lost[:, 0]


def largest_magnitude(blocks: Float32) -> Float32:
    """float32 [b, n] → the largest |w| of each block, [b, 1]; never -0."""
    high, low = blocks.max(axis=1, keepdims=True), blocks.min(axis=1, keepdims=True)
    largest: Float32 = np.maximum(high, -low) + np.float32(0)
    return largest


def extreme_of(blocks: Float32) -> Float32:
    """float32 [b, n] → each block's first weight of largest magnitude, [b, 1]; never -0."""
    high, low = blocks.max(axis=1), blocks.min(axis=1)
    extreme = np.where(-low > high, low, high)
    tied = (-low == high) & (high != 0)
    if tied.any():
        some = blocks[tied]
        first = np.abs(some).argmax(axis=1)
        extreme[tied] = np.take_along_axis(some, first[:, None], axis=1)[:, 0]
    found: Float32 = extreme[:, None] + np.float32(0)
    return found


def round_half_away(values: Float32) -> NDArray[np.int8]:
    """float32, |value| < 127.5 → nearest integers, half away from zero, as C's roundf."""
    return (values + np.copysign(_BELOW_HALF, values)).astype(np.int8)


def round_symmetric(blocks: Float32, half: int) -> tuple[Bytes, Float32]:
    """Codes and scale as ggml rounds.

    Args:
        blocks: float32 [b, n].
        half: 8 or 16, the code of zero.

    Returns: codes uint8 [b, n] below 2·half, and d float32 [b, 1], unrounded.
    """
    with np.errstate(under="ignore"):
        scale = extreme_of(blocks) / np.float32(-half)
        steps = blocks * inverse(scale)
    steps += np.float32(half + 0.5)
    codes = steps.astype(np.uint8)
    np.minimum(codes, 2 * half - 1, out=codes)
    lost = overflows(scale)
    if lost.any():
        codes[lost] = 0
    return codes, scale


def round_affine(blocks: Float32, top: int) -> tuple[Bytes, Float32, Float32]:
    """Codes, scale and offset as ggml rounds.

    Args:
        blocks: float32 [b, n].
        top: the largest code, 15 or 31.

    Returns: codes uint8 [b, n], then d and m, float32 [b, 1], unrounded.
    """
    high, low = blocks.max(axis=1, keepdims=True), blocks.min(axis=1, keepdims=True)
    at_zero = low[:, 0] == 0
    if at_zero.any():
        # of zeros of both signs the first counts; NumPy's minimum takes either
        some = blocks[at_zero]
        first = (some == 0).argmax(axis=1)
        low[at_zero] = np.take_along_axis(some, first[:, None], axis=1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale = (high - low + np.float32(0)) / np.float32(top)  # 0, not -0, for zeros
        steps = (blocks - low) * inverse(scale)
        steps += np.float32(0.5)
        codes = steps.astype(np.uint8)
    np.minimum(codes, top, out=codes)
    lost = overflows(scale)
    if lost.any():
        codes[lost] = 0
    return codes, scale, low
