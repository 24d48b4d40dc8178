"""The search for w ≈ d · scale · q with signed scales and codes, as k_search describes it.

The sign of a scale says on which side of zero a sub-block has the one code more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .floats import Float32
from .k_search import (
    STARTS,
    Half,
    Lanes,
    in_lanes,
    in_order,
    inverse,
    nearest_half,
    over_sub_blocks,
    over_weights,
    scaled,
    shared_scale,
    stretched,
)

__all__ = ["LEVELS", "Scales", "signed_scales"]


def _run(first: float, apart: float, count: int) -> list[np.float32]:
    return [np.float32(first + apart * i) for i in range(count)]


#: the lowest code, negated → how many steps of scale, up and down, step 3 tries at first: many,
#: where codes are few, since the error then has many minima along the scale
_FIRST_STEPS = {4: 12, 32: 2}
#: … → the real code of a sub-block's largest weight, before rounding and limits, in each try of
#: step 1
LEVELS = {
    4: (*_run(-5.4, 0.2, 5), *_run(-4.5, 0.1, 11), *_run(-3.3, 0.2, 5), *_run(2.2, 0.2, 12)),
    32: (*_run(-33.6, 0.1, 45), *_run(30.4, 0.4, 3)),
}
#: … → the ranges of step 2
_STARTS = {4: ((0.64, 1.04),), 32: STARTS}


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
    first, *others = _STARTS[half]
    d, scales, cost = _climb(lanes, fit, half, steps, first)
    for between in others:
        other_d, other_scales, other_cost = _climb(lanes, fit, half, steps, between)
        won = other_cost < cost
        cost = np.where(won, other_cost, cost)
        d, scales = np.where(won, other_d, d), np.where(won, other_scales, scales)
    same = (lanes.x == lanes.x[0, 0]).all(axis=(0, 1))
    if same.any():
        d[same], scales[:, same] = _constant(lanes.x[0, 0, same], lanes.unit[same], half, steps)
    codes = _codes(lanes.x, inverse(scaled(d, lanes.unit) * scales), half)
    (d,) = stretched(lanes, lambda halves: codes * (scaled(halves[0], lanes.unit) * scales), [d])
    return Scales(in_order(codes.astype(np.int8)), in_order(scales.astype(np.int8)), d)


def _climb(
    lanes: Lanes, fit: _Fit, half: int, steps: int, between: tuple[float, float]
) -> tuple[Half, Float32, Float32]:
    """Steps 2 to 4: d [b], scales [J, b] and the error [b]."""
    d = shared_scale(fit.scale, fit.square, -steps, steps - 1, lanes.unit, between)
    scales = np.rint(fit.scale * inverse(scaled(d, lanes.unit)))
    np.clip(scales, np.float32(-steps), np.float32(steps - 1), out=scales)
    for reach in (_FIRST_STEPS[half], 2):
        scales, _ = _step(lanes, d, scales, half, steps, reach)
        d = _refit(lanes, d, scales, half)
    scales, cost = _step(lanes, d, scales, half, steps, 2)
    return d, scales, over_sub_blocks(cost)


def _codes(x: Float32, inverse_scale: Float32, half: int) -> Float32:
    """The nearest codes [G, J, b]."""
    q: Float32 = x * inverse_scale
    np.rint(q, out=q)
    np.maximum(q, np.float32(-half), out=q)
    np.minimum(q, np.float32(half - 1), out=q)
    return q


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
    fits = (fitted(level * one) for level in LEVELS[half])
    best = next(fits)
    for fit in fits:
        best = _better(fit, best)
    for _ in range(2):
        best = _better(fitted(inverse(best.scale)), best)
    return best


def _better(new: _Fit, old: _Fit) -> _Fit:
    won = new.gain > old.gain
    return _Fit(*(np.where(won, a, b) for a, b in zip(new, old, strict=True)))


def _step(
    lanes: Lanes, d: Half, scales: Float32, half: int, steps: int, reach: int
) -> tuple[Float32, Float32]:
    """Step 3: scales and the error, [J, b]."""
    real = scaled(d, lanes.unit)
    best, least = scales, np.full_like(scales, np.inf)
    for up in sorted(range(-reach, reach + 1), key=abs):
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
    return best, least


def _refit(lanes: Lanes, d: Half, scales: Float32, half: int) -> Half:
    """Step 4: the change of d that fits what is left best, then the nearest float16."""
    real = scaled(d, lanes.unit)
    scale = real * scales
    codes = _codes(lanes.x, inverse(scale), half)
    left = lanes.weigh(lanes.x - codes * scale)
    ss = over_sub_blocks(scales * scales * over_weights(lanes.weigh(codes) * codes))
    rs: Float32 = over_sub_blocks(scales * over_weights(codes * left))
    near = nearest_half(real + rs * inverse(ss), lanes.unit)
    change = scaled(near, lanes.unit) - real
    return np.where(change * (change * ss - (rs + rs)) < 0, near, d)


def _constant(weight: Float32, unit: Float32, half: int, steps: int) -> tuple[Half, Float32]:
    """For super-blocks of one weight [b] over and over: of all products of scale and code the first
    by which the weight comes nearest to a float16; that d [b], and the scale [b]."""
    scale, code = np.mgrid[1 : steps + 1, 1 : half + 1].reshape(2, -1).astype(np.float32)
    product: Float32 = (scale * code)[:, None]
    halves = nearest_half(weight / product, unit)
    best = np.abs(scaled(halves, unit) * product - weight).argmin(axis=0)
    d: Half = np.take_along_axis(halves, best[None], axis=0)[0]
    return d, -scale[best]
