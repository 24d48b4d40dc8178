"""The search for w ≈ d · scale · q with signed scales and codes, as k_search describes it.

The sign of a scale says on which side of zero a sub-block has the one code more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .floats import Float32
from .k_search import (
    Half,
    Lanes,
    in_lanes,
    in_order,
    inverse,
    nearest_half,
    neighbours,
    over_sub_blocks,
    over_weights,
    scaled,
    shared_scale,
)

__all__ = ["Scales", "signed_scales"]


class Scales(NamedTuple):
    """codes int8 [b, 256]; scales int8 [b, J]; d float16 [b]."""

    codes: NDArray[np.int8]
    scales: NDArray[np.int8]
    d: Half


class _Fit(NamedTuple):
    """Of each sub-block, float32 [J, b]: real scale, what it spares of the sum of squares, and the
    sum of w · q², what a squared unit of scale costs."""

    scale: Float32
    gain: Float32
    square: Float32


def signed_scales(
    blocks: Float32, importance: Float32 | None, *, size: int, half: int, steps: int
) -> Scales:
    """Encode blocks whose codes are -half … half - 1 and whose scales are -steps … steps - 1.

    Args:
        blocks: float32 [b, 256], finite.
        importance: float32 [b, 256] or None.
        size: weights of a sub-block.
        half: 4 or 32.
        steps: beyond the largest scale.
    """
    pieces = [_search(lanes, half, steps) for lanes in in_lanes(blocks, importance, size)]
    return Scales(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def _search(lanes: Lanes, half: int, steps: int) -> Scales:
    fit = _fit_sub_blocks(lanes, half)
    d = shared_scale(fit.scale, fit.square, -steps, steps - 1, lanes.power)
    scales = np.rint(fit.scale * inverse(scaled(d, lanes.power)))
    np.clip(scales, np.float32(-steps), np.float32(steps - 1), out=scales)
    for _ in range(2):
        scales = _step(lanes, d, scales, half, steps)
        d = _refit(lanes, d, scales, half)
    scales = _step(lanes, d, scales, half, steps)
    codes = _codes(lanes.x, inverse(scaled(d, lanes.power) * scales), half)
    return Scales(in_order(codes.astype(np.int8)), in_order(scales.astype(np.int8)), d)


def _codes(x: Float32, inverse_scale: Float32, half: int) -> Float32:
    """The nearest codes [G, J, b]."""
    q: Float32 = x * inverse_scale
    np.rint(q, out=q)
    np.maximum(q, np.float32(-half), out=q)
    np.minimum(q, np.float32(half - 1), out=q)
    return q


def _levels(half: int) -> list[float]:
    """The real code of a sub-block's largest weight, before rounding and limits, in each try."""
    if half == 4:
        return [*(-5 + 0.2 * i for i in range(13)), *(2.3 + 0.2 * i for i in range(10))]
    return [*(-33.6 + 0.1 * i for i in range(45)), 30.4, 30.8, 31.2]


def _fit_sub_blocks(lanes: Lanes, half: int) -> _Fit:
    """Step 1."""
    x = lanes.x
    weighed = lanes.weigh(x)

    def fitted(inverse_scale: Float32) -> _Fit:
        codes = _codes(x, inverse_scale, half)
        along = over_weights(weighed * codes)
        square = over_weights(lanes.weigh(codes) * codes)
        scale = along * inverse(square)
        return _Fit(scale, along * scale, square)

    low, high = x.min(axis=0), x.max(axis=0)
    one = inverse(np.where(-low > high, low, high))
    fits = (fitted(np.float32(level) * one) for level in _levels(half))
    best = next(fits)
    for fit in fits:
        best = _better(fit, best)
    for _ in range(2):
        best = _better(fitted(inverse(best.scale)), best)
    return best


def _better(new: _Fit, old: _Fit) -> _Fit:
    won = new.gain > old.gain
    return _Fit(*(np.where(won, a, b) for a, b in zip(new, old, strict=True)))


def _step(lanes: Lanes, d: Half, scales: Float32, half: int, steps: int) -> Float32:
    """Step 3."""
    real = scaled(d, lanes.power)
    best, least = scales, np.full_like(scales, np.inf)
    for up in (0, -1, 1, -2, 2):
        near = np.clip(scales + np.float32(up), np.float32(-steps), np.float32(steps - 1))
        scale = real * near
        left = _codes(lanes.x, inverse(scale), half)
        left *= scale
        left -= lanes.x
        left *= left
        if lanes.w is not None:
            left *= lanes.w
        cost = over_weights(left)
        won = cost < least
        least, best = np.where(won, cost, least), np.where(won, near, best)
    return best


def _refit(lanes: Lanes, d: Half, scales: Float32, half: int) -> Half:
    """Step 4: the change of d that fits what is left best, then the nearest float16."""
    real = scaled(d, lanes.power)
    scale = real * scales
    codes = _codes(lanes.x, inverse(scale), half)
    left = lanes.weigh(lanes.x - codes * scale)
    s = scales.astype(np.float64)
    ss = over_sub_blocks(s * s * over_weights(lanes.weigh(codes) * codes))
    rs = over_sub_blocks(s * over_weights(codes * left))
    up = rs / np.where(ss > 0, ss, 1)
    best, least = d, np.zeros(len(d))
    for near in neighbours(nearest_half(real + up, lanes.power)):
        change = scaled(near, lanes.power).astype(np.float64) - real
        cost = change * change * ss - 2 * change * rs
        won = cost < least
        least, best = np.where(won, cost, least), np.where(won, near, best)
    return best
