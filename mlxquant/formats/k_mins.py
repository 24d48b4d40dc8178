"""The search for w ≈ d · scale · q - dmin · min, as k_search describes it.

A scale is never negative, nor is d. A min is never negative either, but dmin may be, where all of a
super-block lies above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .floats import Bytes, Float32
from .k_search import (
    LARGEST,
    STARTS,
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
    stretched,
)

__all__ = ["RANGES", "Mins", "scales_and_mins"]

_ZERO, _ONE = np.float32(0), np.float32(1)

#: largest code → how many steps of scale, up and down, step 3 tries at first
_FIRST_STEPS = {3: 1, 15: 2, 31: 3}


def _ranges(top: int) -> tuple[tuple[np.float32, np.float32], ...]:
    """Of RANGES, with cuts of both ends of a sub-block's range, as parts of it."""
    if top == 3:
        cuts = [-0.02, 0.06, 0.14, 0.24]
        wider = [(-0.1, -0.1), (-0.1, 0.06), (0.06, -0.1)]
    else:
        cuts, wider = [0.35 * i / top for i in (-1, 0, 1, 2, 3)], []
    pairs = [(below, above) for below in cuts for above in cuts] + wider
    return tuple(
        (np.float32((1 - below - above) / top), np.float32(below)) for below, above in pairs
    )


#: largest code → ranges that are worth rounding in: the step between two codes, and what is cut off
#: below, as parts of the sub-block's range
RANGES = {top: _ranges(top) for top in (3, 15, 31)}
#: the range of step 2 for mins
_MINS = (0.66, 1.04)


class Mins(NamedTuple):
    """codes uint8 [b, 256]; scales, mins uint8 [b, J]; d, dmin float16 [b]."""

    codes: Bytes
    scales: Bytes
    mins: Bytes
    d: Half
    dmin: Half


class _Fit(NamedTuple):
    """Of each sub-block, float32 [J, b]: real scale and min, error, the codes' spread and mean.

    The min is subtracted. The error is less the sum of squares about the sub-block's mean; the
    spread is the sum of w · (q - mean)², what a squared unit of scale costs.
    """

    scale: Float32
    low: Float32
    cost: Float32
    spread: Float32
    mean: Float32


class _State(NamedTuple):
    """d, dmin float16 [b]; scales, mins float32 [J, b], whole numbers."""

    d: Half
    dmin: Half
    scales: Float32
    mins: Float32

    def real(self, lanes: Lanes) -> tuple[Float32, Float32]:
        """Scale and min of each sub-block, [J, b]."""
        d, dmin = scaled(self.d, lanes.unit), scaled(self.dmin, lanes.unit)
        return d * self.scales, dmin * self.mins

    def where(self, won: NDArray[np.bool], other: _State) -> _State:
        """The other where it won [b]."""
        return _State(
            np.where(won, other.d, self.d),
            np.where(won, other.dmin, self.dmin),
            np.where(won, other.scales, self.scales),
            np.where(won, other.mins, self.mins),
        )


def scales_and_mins(
    blocks: Float32, importance: Float32 | None, *, size: int, top: int, steps: int
) -> Mins:
    """Encode blocks whose codes are 0 … top and whose scales and mins are 0 … steps.

    Args:
        blocks: float32 [b, 256], finite.
        importance: float32 [b, 256] or None.
        size: weights of a sub-block.
        top: 3, 15 or 31.
        steps: the largest scale and min.
    """
    pieces = [_search(lanes, top, steps) for lanes in in_lanes(blocks, importance, size)]
    return Mins(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def _search(lanes: Lanes, top: int, steps: int) -> Mins:
    sign = _sign_of_mins(lanes.x, top)
    fit = _fit_sub_blocks(lanes, sign, top)
    state, cost = _climb(lanes, _start(lanes, fit, sign, steps, STARTS[0]), top, steps)
    for between in STARTS[1:]:
        other, other_cost = _climb(lanes, _start(lanes, fit, sign, steps, between), top, steps)
        won = other_cost < cost
        cost = np.where(won, other_cost, cost)
        state = state.where(won, other)
    same = (lanes.x == lanes.x[0, 0]).all(axis=(0, 1))
    if same.any():
        size = np.abs(lanes.x[0, 0])
        fits = (size > 0) & (size <= scaled(LARGEST, lanes.unit))
        state = state.where(same & fits, _constant(lanes))
    codes = _codes(lanes.x, *state.real(lanes), top)

    def decode(halves: Sequence[Half]) -> Float32:
        scale, low = state._replace(d=halves[0], dmin=halves[1]).real(lanes)
        return codes * scale - low

    d, dmin = stretched(lanes, decode, [state.d, state.dmin])
    scales, mins = state.scales.astype(np.uint8), state.mins.astype(np.uint8)
    return Mins(in_order(codes.astype(np.uint8)), in_order(scales), in_order(mins), d, dmin)


def _climb(lanes: Lanes, state: _State, top: int, steps: int) -> tuple[_State, Float32]:
    """Steps 3 and 4; the state reached and its error [b]."""
    for reach in (_FIRST_STEPS[top], 1):
        state, _ = _step(lanes, state, top, steps, reach)
        state = _refit(lanes, state, top)
    state, cost = _step(lanes, state, top, steps, 1)
    return state, over_sub_blocks(cost)


def _codes(x: Float32, scale: Float32, low: Float32, top: int) -> Float32:
    """The nearest codes [G, J, b] at scale and min [J, b]."""
    return _round(x + low, scale, top)


def _round(shifted: Float32, scale: Float32, top: int) -> Float32:
    q: Float32 = shifted * inverse(scale)
    np.rint(q, out=q)
    np.maximum(q, _ZERO, out=q)
    np.minimum(q, np.float32(top), out=q)
    return q


def _cost(lanes: Lanes, scale: Float32, low: Float32, top: int) -> Float32:
    """The squared error [J, b] at the nearest codes."""
    left = lanes.x + low
    q = _round(left, scale, top)
    q *= scale
    left -= q
    left *= left
    if lanes.w is not None:
        left *= lanes.w
    return over_weights(left)


def _sign_of_mins(x: Float32, top: int) -> Float32:
    """1 or -1 [b]: whether mins are subtracted, as they must be where weights reach below zero.

    Added, they spare all-positive sub-blocks the range from zero to their smallest weight, and cost
    the others what lies below zero.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    above, below = np.maximum(low, _ZERO), np.minimum(low, _ZERO)
    step = np.float32(len(x) / (12 * top * top))
    spared = high - above
    gain = over_sub_blocks((high * high - spared * spared) * step)
    added = gain > over_sub_blocks(below * below)
    return np.where(added, -_ONE, _ONE)


def _fit_sub_blocks(lanes: Lanes, sign: Float32, top: int) -> _Fit:
    """Step 1."""
    x = lanes.x
    mean_x = over_weights(lanes.weigh(x)) * lanes.per_total
    centred = lanes.weigh(x - mean_x)
    low, high = x.min(axis=0), x.max(axis=0)
    low = np.where(sign > 0, np.minimum(low, _ZERO), np.maximum(low, _ZERO))
    span = np.maximum(high, low) - low

    def fitted(scale: Float32, low: Float32) -> _Fit:
        return _least_squares(lanes, _codes(x, scale, low, top), centred, mean_x, sign)

    fits = (fitted(span * step, -low - below * span) for step, below in RANGES[top])
    best = next(fits)
    for fit in fits:
        best = _better(fit, best)
    for _ in range(2):
        best = _better(fitted(best.scale, best.low), best)
    return best


def _least_squares(
    lanes: Lanes, codes: Float32, centred: Float32, mean_x: Float32, sign: Float32
) -> _Fit:
    """The scale and min that fit codes best, the min of the sign allowed.

    Args:
        centred: w · (x - mean_x), so that sums do not cancel where weights are far from zero.
    """
    weighed = lanes.weigh(codes)
    mean = over_weights(weighed) * lanes.per_total
    square = over_weights(weighed * codes)
    spread = np.maximum(square - lanes.total * mean * mean, np.float32(1e-6) * square)
    along = over_weights(codes * centred)
    scale = np.maximum(along * inverse(spread), _ZERO)
    low = scale * mean - mean_x
    cost = -scale * along
    # a min on the wrong side of zero is zero, and the scale fits through the origin
    wrong = low * sign < 0
    if wrong.any():
        through = along + lanes.total * mean * mean_x
        alone = np.maximum(through * inverse(square), _ZERO)
        scale, low = np.where(wrong, alone, scale), np.where(wrong, _ZERO, low)
        cost = np.where(wrong, lanes.total * mean_x * mean_x - alone * through, cost)
    return _Fit(scale, low, cost, spread, mean)


def _better(new: _Fit, old: _Fit) -> _Fit:
    won = new.cost < old.cost
    return _Fit(*(np.where(won, a, b) for a, b in zip(new, old, strict=True)))


def _start(
    lanes: Lanes, fit: _Fit, sign: Float32, steps: int, between: tuple[float, float]
) -> _State:
    """Step 2."""
    limit = np.float32(steps)
    d = shared_scale(fit.scale, fit.spread, 0, steps, lanes.unit, between)
    real = scaled(d, lanes.unit)
    scales = np.minimum(np.rint(fit.scale * inverse(real)), limit)
    # the min that fits the rounded scale
    low = np.maximum(sign * (fit.low + (real * scales - fit.scale) * fit.mean), _ZERO)
    dmin = shared_scale(low, lanes.total, 0, steps, lanes.unit, _MINS)
    mins = np.minimum(np.rint(low * inverse(scaled(dmin, lanes.unit))), limit)
    return _State(d, np.where(sign > 0, dmin, -dmin), scales, mins)


def _step(lanes: Lanes, state: _State, top: int, steps: int, reach: int) -> tuple[_State, Float32]:
    """Step 3, and the error [J, b].

    A larger scale comes with the larger min that keeps the middle code in its place.
    """
    d, dmin = scaled(state.d, lanes.unit), scaled(state.dmin, lanes.unit)
    along = d * inverse(dmin) * np.float32(top / 2)
    scales, mins, least = state.scales, state.mins, np.full_like(state.scales, np.inf)
    limit = np.float32(steps)
    for up in sorted(range(-reach, reach + 1), key=abs):
        scale = np.clip(state.scales + np.float32(up), _ZERO, limit)
        middle = state.mins + np.rint(np.float32(up) * along)
        for more in (0, -1, 1):
            low = np.clip(middle + np.float32(more), _ZERO, limit)
            cost = _cost(lanes, d * scale, dmin * low, top)
            won = cost < least
            least = np.where(won, cost, least)
            scales, mins = np.where(won, scale, scales), np.where(won, low, mins)
    return state._replace(scales=scales, mins=mins), least


def _refit(lanes: Lanes, state: _State, top: int) -> _State:
    """Step 4: the change of d and dmin that fits what is left best, then the nearest float16."""
    scale, low = state.real(lanes)
    codes = _codes(lanes.x, scale, low, top)
    left = lanes.weigh(lanes.x + low - codes * scale)
    weighed = lanes.weigh(codes)
    s, m = state.scales, state.mins
    ss = over_sub_blocks(s * s * over_weights(weighed * codes))
    sm = over_sub_blocks(-s * m * over_weights(weighed))
    mm = over_sub_blocks(m * m * lanes.total)
    rs = over_sub_blocks(s * over_weights(codes * left))
    rm = over_sub_blocks(-m * over_weights(left))
    det = ss * mm - sm * sm
    both = det > np.float32(1e-5) * (ss * mm)
    det = inverse(np.where(both, det, ss))
    up = np.where(both, rs * mm - rm * sm, rs) * det
    down = np.where(both, (rm * ss - rs * sm) * det, _ZERO)
    d, dmin = scaled(state.d, lanes.unit), scaled(state.dmin, lanes.unit)
    best_d, best_dmin, least = state.d, state.dmin, np.zeros_like(d)
    for near in neighbours(nearest_half(d + up, lanes.unit)):
        near_d = np.where(near > 0, near, np.float16(0))
        a = scaled(near_d, lanes.unit) - d
        for near_dmin in neighbours(nearest_half(dmin + down, lanes.unit)):
            c = scaled(near_dmin, lanes.unit) - dmin
            own = a * (a * ss - (rs + rs)) + c * (c * mm - (rm + rm))
            cost = own + (a + a) * c * sm
            won = cost < least
            least = np.where(won, cost, least)
            best_d, best_dmin = np.where(won, near_d, best_d), np.where(won, near_dmin, best_dmin)
    return state._replace(d=best_d, dmin=best_dmin)


def _constant(lanes: Lanes) -> _State:
    """For super-blocks of one weight over and over: the one of d and dmin that has its sign is that
    weight, and the other what rounding it to float16 left. Every scale and min is 1."""
    weight, unit = lanes.x[0, 0], lanes.unit
    first = nearest_half(np.abs(weight), unit)
    # d is not to be negative
    low = (weight < 0) & (scaled(first, unit) < -weight)
    first = np.where(low, neighbours(first)[2], first)
    left = nearest_half(scaled(first, unit) - np.abs(weight), unit)
    one = np.ones_like(lanes.total)
    return _State(np.where(weight > 0, first, left), np.where(weight > 0, left, first), one, one)
