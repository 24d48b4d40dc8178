"""The search behind the K-quants' encoders: scales (and mins) of least squared error.

    scales_and_mins    w ≈ d · scale · q - dmin · min      Q2_K Q4_K Q5_K
    signed_scales      w ≈ d · scale · q                   Q3_K Q6_K

A super-block's 256 weights are J sub-blocks of G. The unknowns are integers (a code a weight, a
scale and a min a sub-block) and one or two float16 (d, dmin). In turn:

    1  every sub-block alone, real scale and min: round to codes with each of a few ranges, fit
       scale and min to the codes by least squares, keep the best
    2  d among values that bring the largest scale near its limit: the one at which all scales,
       rounded, cost least by the parabola through step 1's optimum; then dmin likewise, for the
       mins that fit the rounded scales
    3  every sub-block alone: its scale and min a step up or down, codes rounded anew; keep the best
    4  d and dmin by least squares for those integers, on the best of the neighbouring float16
    5  3 and 4 again; codes rounded last

Steps 3 and 4 cannot raise the error. Every array holds weights as [G, J, b], b super-blocks: sums
run over the first axes, in order, so that a block's bytes do not depend on its neighbours. All is
float32 but for the small systems of step 4. Weights are scaled to 1 … 2 by a power of two first.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .base import Array
from .floats import Bytes, Float32

__all__ = ["Mins", "Scales", "scales_and_mins", "signed_scales"]

Float64 = NDArray[np.float64]
Half = NDArray[np.float16]

#: super-blocks searched at a time: the arrays of 32 · 8 · 64 float32 stay in the nearer caches
_PIECE = 64

#: largest float16
_LARGEST = np.float16(65504)


class Mins(NamedTuple):
    """codes uint8 [b, 256]; scales, mins uint8 [b, J]; d, dmin float16 [b]."""

    codes: Bytes
    scales: Bytes
    mins: Bytes
    d: Half
    dmin: Half


class Scales(NamedTuple):
    """codes int8 [b, 256]; scales int8 [b, J]; d float16 [b]."""

    codes: NDArray[np.int8]
    scales: NDArray[np.int8]
    d: Half


class _Lanes(NamedTuple):
    """A piece's weights, ready to be searched.

    x: float32 [G, J, b], scaled by 2^-power of each super-block.
    w: float32, as x: the importance, its mean over a super-block 1; or None for all ones.
    total: float32 [J, b], the sum of w over a sub-block.
    power: int32 [b].
    """

    x: Float32
    w: Float32 | None
    total: Float32
    power: NDArray[np.int32]


def scales_and_mins(
    blocks: Float32, importance: Float32 | None, *, size: int, top: int, steps: int
) -> Mins:
    """Encode blocks whose codes are 0 … top and whose scales and mins are 0 … steps.

    Args:
        blocks: float32 [b, 256], finite.
        importance: float32 [b, 256] or None.
        size: weights of a sub-block.
        top: the largest code.
        steps: the largest scale and min.
    """
    pieces = [
        _search_mins(_lanes(*piece, size), top, steps) for piece in _pieces(blocks, importance)
    ]
    return Mins(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def signed_scales(
    blocks: Float32, importance: Float32 | None, *, size: int, half: int, steps: int
) -> Scales:
    """Encode blocks whose codes are -half … half - 1 and whose scales are -steps … steps - 1.

    Args: as `scales_and_mins`.
    """
    pieces = [
        _search_scales(_lanes(*piece, size), half, steps) for piece in _pieces(blocks, importance)
    ]
    return Scales(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))


def _pieces(blocks: Float32, importance: Float32 | None) -> list[tuple[Float32, Float32 | None]]:
    starts = range(0, max(1, len(blocks)), _PIECE)
    return [
        (blocks[i : i + _PIECE], None if importance is None else importance[i : i + _PIECE])
        for i in starts
    ]


def _lanes(blocks: Float32, importance: Float32 | None, size: int) -> _Lanes:
    b, k = blocks.shape
    # below 2^-25 every float16 is zero; the floor keeps 2^-power in range
    power = np.maximum(np.frexp(np.abs(blocks).max(axis=1))[1] - 1, -40)
    scaled = np.ldexp(blocks, -power[:, None])
    x = np.ascontiguousarray(scaled.reshape(b, k // size, size).transpose(2, 1, 0))
    if importance is None:
        return _Lanes(x, None, np.full(x.shape[1:], size, np.float32), power)
    mean = importance.mean(axis=1, dtype=np.float64)[:, None]
    relative = importance / np.where(mean > 0, mean, 1)
    # unimportant weights still follow where nothing else is at stake
    relative = np.maximum(relative, 1e-6)
    w = np.empty_like(x)
    w[...] = relative.reshape(b, k // size, size).transpose(2, 1, 0)
    return _Lanes(x, w, _sum(w), power)


def _sum(lanes: Float32) -> Float32:
    """[G, J, b] → [J, b], added in order."""
    summed: Float32 = np.add.reduce(lanes, axis=0)
    return summed


def _over_sub_blocks(values: Array) -> Array:
    """[J, b] → [b], added in order whatever b is."""
    return reduce(np.add, values)


def _weigh(lanes: Float32, w: Float32 | None) -> Float32:
    return lanes if w is None else lanes * w


def _inverse(values: Float32) -> Float32:
    """1 / values, and 0 where that is no number to multiply by."""
    ok = np.abs(values) > 1e-37
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=ok)


def _half(values: Array, power: NDArray[np.int32]) -> Half:
    """The nearest float16 to values · 2^power, kept finite; any leading axes."""
    with np.errstate(over="ignore", under="ignore"):
        halves = np.ldexp(values.astype(np.float64), power).astype(np.float16)
    return np.clip(halves, -_LARGEST, _LARGEST)


def _scaled(halves: Half, power: NDArray[np.int32]) -> Float32:
    """What a float16 is among weights scaled by 2^-power; exact."""
    return np.ldexp(halves.astype(np.float32), -power)


def _back(codes: Array) -> Array:
    """[G, J, b] → [b, J · G]."""
    g, j, b = codes.shape
    return np.ascontiguousarray(codes.transpose(2, 1, 0)).reshape(b, j * g)


# ── scales and mins ──────────────────────────────────────────────────────────────────────────────


def _codes(x: Float32, scale: Float32, low: Float32, top: int) -> Float32:
    """The nearest codes at scale and min [J, b]."""
    q = x + low
    q *= _inverse(scale)
    np.rint(q, out=q)
    np.maximum(q, np.float32(0), out=q)
    np.minimum(q, np.float32(top), out=q)
    return q


def _cost(lanes: _Lanes, scale: Float32, low: Float32, top: int) -> Float32:
    """The squared error [J, b] at the nearest codes."""
    shifted = lanes.x + low
    q = shifted * _inverse(scale)
    np.rint(q, out=q)
    np.maximum(q, np.float32(0), out=q)
    np.minimum(q, np.float32(top), out=q)
    q *= scale
    shifted -= q
    shifted *= shifted
    if lanes.w is not None:
        shifted *= lanes.w
    return _sum(shifted)


class _Fit(NamedTuple):
    """Of each sub-block, [J, b]: real scale and min, error, the codes' spread and mean."""

    scale: Float32
    low: Float32
    cost: Float32
    spread: Float32
    mean: Float32


def _ranges(top: int) -> list[tuple[float, float]]:
    """(cut below, cut above) of a sub-block's range, as parts of it, that are worth rounding in."""
    if top == 3:
        return [(a, b) for a in (-0.02, 0.06, 0.14, 0.24) for b in (-0.02, 0.06, 0.14, 0.24)] + [
            (-0.1, -0.1),
            (-0.1, 0.06),
            (0.06, -0.1),
        ]
    step = 0.35 / top
    return [(a * step, b * step) for a in (-1, 0, 1, 2, 3) for b in (-1, 0, 1, 2, 3)]


def _least_squares(
    lanes: _Lanes, codes: Float32, centred: Float32, mean_x: Float32, sign: Float32
) -> _Fit:
    """The scale and min that fit codes best, [J, b] each; the min of the sign allowed.

    Args:
        centred: w · (x - mean_x), so that sums do not cancel where weights are far from zero.
    """
    weighed = _weigh(codes, lanes.w)
    mean = _sum(weighed) / lanes.total
    square = _sum(weighed * codes)
    spread = square - lanes.total * mean * mean
    along = _sum(codes * centred)
    inverse = _inverse(np.maximum(spread, np.float32(1e-6) * square))
    scale = np.maximum(along * inverse, np.float32(0))
    low = scale * mean - mean_x
    cost = -scale * along
    # a min on the wrong side of zero is zero, and the scale fits through the origin
    wrong = low * sign < 0
    if wrong.any():
        through = along + lanes.total * mean * mean_x
        alone = np.maximum(through * _inverse(square), np.float32(0))
        scale = np.where(wrong, alone, scale)
        low = np.where(wrong, np.float32(0), low)
        clamped = lanes.total * mean_x * mean_x - alone * through
        cost = np.where(wrong, clamped, cost)
    return _Fit(scale, low, cost, spread, mean)


def _better(new: _Fit, old: _Fit) -> _Fit:
    won = new.cost < old.cost
    return _Fit(*(np.where(won, a, b) for a, b in zip(new, old, strict=True)))


def _fit_sub_blocks(lanes: _Lanes, sign: Float32, top: int) -> _Fit:
    """Step 1."""
    x = lanes.x
    mean_x = _sum(_weigh(x, lanes.w)) / lanes.total
    centred = _weigh(x - mean_x, lanes.w)
    zero = np.float32(0)
    low, high = x.min(axis=0), x.max(axis=0)
    low = np.where(sign > 0, np.minimum(low, zero), np.maximum(low, zero))
    span = np.maximum(high, low) - low
    best: _Fit | None = None
    for below, above in _ranges(top):
        scale = span * np.float32((1 - below - above) / top)
        fit = _least_squares(
            lanes, _codes(x, scale, -low - np.float32(below) * span, top), centred, mean_x, sign
        )
        best = fit if best is None else _better(fit, best)
    assert best is not None
    for _ in range(2):
        codes = _codes(x, best.scale, best.low, top)
        best = _better(_least_squares(lanes, codes, centred, mean_x, sign), best)
    return best


def _sign_of_mins(x: Float32, top: int) -> Float32:
    """1 or -1 [b]: whether mins are subtracted, as they must be where weights reach below zero.

    Added, they spare all-positive sub-blocks the range from zero to their smallest weight, and cost
    the others what lies below zero.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    above, below = np.maximum(low, np.float32(0)), np.minimum(low, np.float32(0))
    step = np.float32(1 / (12 * top * top))
    gain = (high * high - (high - above) ** 2) * step * np.float32(len(x))
    loss = below * below
    added = _over_sub_blocks(gain) > _over_sub_blocks(loss)
    return np.where(added, np.float32(-1), np.float32(1))


def _shared(values: Float32, weight: Float32, steps: int, power: NDArray[np.int32]) -> Half:
    """Step 2: float16 d [b] so that d · (0 … steps) comes nearest to values [J, b] ≥ 0."""
    largest = values.max(axis=0)
    tries = np.linspace(steps * 1.03, steps * 0.66, 40)[:, None]
    halves = _half(largest / tries, power)
    d = _scaled(halves, power)[:, None, :]
    rounded = np.rint(values * _inverse(d))
    np.minimum(rounded, np.float32(steps), out=rounded)
    error = rounded * d - values
    cost = np.add.reduce(np.swapaxes(error * error * weight, 0, 1), axis=0)
    best: Half = np.take_along_axis(halves, cost.argmin(axis=0)[None], axis=0)[0]
    return best


class _State(NamedTuple):
    """d, dmin float16 [b]; scales, mins float32 [J, b]."""

    d: Half
    dmin: Half
    scales: Float32
    mins: Float32


def _search_mins(lanes: _Lanes, top: int, steps: int) -> Mins:
    sign = _sign_of_mins(lanes.x, top)
    fit = _fit_sub_blocks(lanes, sign, top)
    d = _shared(fit.scale, fit.spread, steps, lanes.power)
    real = _scaled(d, lanes.power)
    scales = np.minimum(np.rint(fit.scale * _inverse(real)), np.float32(steps))
    # the min that fits the rounded scale
    low = np.maximum(sign * (fit.low + (real * scales - fit.scale) * fit.mean), np.float32(0))
    dmin = _shared(low, lanes.total, steps, lanes.power)
    mins = np.minimum(np.rint(low * _inverse(_scaled(dmin, lanes.power))), np.float32(steps))
    state = _State(d, np.where(sign > 0, dmin, -dmin), scales, mins)
    for _ in range(2):
        state = _step_mins(lanes, state, top, steps)
        state = _refit_mins(lanes, state, top)
    state = _step_mins(lanes, state, top, steps)
    scale, low = _real(lanes, state)
    codes = _codes(lanes.x, scale, low, top)
    return Mins(
        _back(codes.astype(np.uint8)),
        np.ascontiguousarray(state.scales.astype(np.uint8).T),
        np.ascontiguousarray(state.mins.astype(np.uint8).T),
        state.d,
        state.dmin,
    )


def _real(lanes: _Lanes, state: _State) -> tuple[Float32, Float32]:
    d, dmin = _scaled(state.d, lanes.power), _scaled(state.dmin, lanes.power)
    return d * state.scales, dmin * state.mins


def _step_mins(lanes: _Lanes, state: _State, top: int, steps: int) -> _State:
    """Step 3."""
    d, dmin = _scaled(state.d, lanes.power), _scaled(state.dmin, lanes.power)
    scales, mins, least = state.scales, state.mins, np.full_like(state.scales, np.inf)
    limit = np.float32(steps)
    for up in (0, -1, 1):
        scale = np.clip(state.scales + np.float32(up), np.float32(0), limit)
        for more in (0, -1, 1):
            low = np.clip(state.mins + np.float32(more), np.float32(0), limit)
            cost = _cost(lanes, d * scale, dmin * low, top)
            won = cost < least
            least = np.where(won, cost, least)
            scales, mins = np.where(won, scale, scales), np.where(won, low, mins)
    return state._replace(scales=scales, mins=mins)


def _refit_mins(lanes: _Lanes, state: _State, top: int) -> _State:
    """Step 4: the change of d and dmin that fits what is left best, then the nearest float16."""
    scale, low = _real(lanes, state)
    codes = _codes(lanes.x, scale, low, top)
    left = _weigh(lanes.x + low - codes * scale, lanes.w)
    weighed = _weigh(codes, lanes.w)
    s, m = state.scales.astype(np.float64), state.mins.astype(np.float64)
    ss = _over_sub_blocks(s * s * _sum(weighed * codes))
    sm = _over_sub_blocks(-s * m * _sum(weighed))
    mm = _over_sub_blocks(m * m * lanes.total)
    rs = _over_sub_blocks(s * _sum(codes * left))
    rm = _over_sub_blocks(-m * _sum(left))
    det = ss * mm - sm * sm
    solvable = det > 1e-9 * ss * mm
    det = np.where(solvable, det, 1)
    only = np.where(ss > 0, rs / np.where(ss > 0, ss, 1), 0)
    up = np.where(solvable, (rs * mm - rm * sm) / det, only)
    down = np.where(solvable, (rm * ss - rs * sm) / det, 0)
    d, dmin = _scaled(state.d, lanes.power), _scaled(state.dmin, lanes.power)
    best_d, best_dmin, least = state.d, state.dmin, np.zeros(len(state.d))
    negative = state.dmin < 0
    for d_near in _neighbours(_half(d + up, lanes.power)):
        d_near = np.maximum(d_near, np.float16(0))
        for dmin_near in _neighbours(_half(dmin + down, lanes.power)):
            dmin_near = np.where(
                negative, np.minimum(dmin_near, np.float16(0)), np.maximum(dmin_near, np.float16(0))
            )
            a = _scaled(d_near, lanes.power).astype(np.float64) - d
            c = _scaled(dmin_near, lanes.power).astype(np.float64) - dmin
            cost = a * a * ss + 2 * a * c * sm + c * c * mm - 2 * (a * rs + c * rm)
            won = cost < least
            least = np.where(won, cost, least)
            best_d, best_dmin = np.where(won, d_near, best_d), np.where(won, dmin_near, best_dmin)
    return state._replace(d=best_d, dmin=best_dmin)


def _neighbours(halves: Half) -> tuple[Half, Half, Half]:
    below = np.nextafter(halves, -_LARGEST)
    return halves, below, np.nextafter(halves, _LARGEST)


# ── signed scales ────────────────────────────────────────────────────────────────────────────────


def _signed_codes(x: Float32, scale: Float32, half: int) -> Float32:
    q = x * _inverse(scale)
    np.rint(q, out=q)
    np.maximum(q, np.float32(-half), out=q)
    np.minimum(q, np.float32(half - 1), out=q)
    return q


def _signed_cost(lanes: _Lanes, scale: Float32, half: int) -> Float32:
    q = _signed_codes(lanes.x, scale, half)
    q *= scale
    q -= lanes.x
    q *= q
    if lanes.w is not None:
        q *= lanes.w
    return _sum(q)


def _levels(half: int) -> list[float]:
    """Which level, of either sign, the largest weight of a sub-block may be rounded near."""
    if half == 4:
        down = np.arange(-5.0, -2.4, 0.2)
        up = np.arange(2.3, 4.2, 0.2)
        return [*down.tolist(), *up.tolist()]
    return [*(-half + 0.12 * i for i in range(-9, 12)), half - 1.3, half - 1, half - 0.7]


def _fit_signed(lanes: _Lanes, half: int) -> tuple[Float32, Float32]:
    """Step 1: real scales [J, b], and the parabola's second coefficient."""
    x = lanes.x
    xw = _weigh(x, lanes.w)
    low, high = x.min(axis=0), x.max(axis=0)
    edge = np.where(-low > high, low, high)
    best = np.zeros_like(edge)
    scale, curve = np.zeros_like(edge), np.zeros_like(edge)

    def consider(codes: Float32) -> None:
        nonlocal best, scale, curve
        along, square = _sum(xw * codes), _sum(_weigh(codes, lanes.w) * codes)
        fitted = along * _inverse(square)
        gain = along * fitted
        won = gain > best
        best, scale, curve = (
            np.where(won, a, b) for a, b in ((gain, best), (fitted, scale), (square, curve))
        )

    inverse = _inverse(edge)
    for level in _levels(half):
        q = x * (np.float32(level) * inverse)
        np.rint(q, out=q)
        np.maximum(q, np.float32(-half), out=q)
        np.minimum(q, np.float32(half - 1), out=q)
        consider(q)
    for _ in range(2):
        consider(_signed_codes(x, scale, half))
    return scale, curve


def _search_scales(lanes: _Lanes, half: int, steps: int) -> Scales:
    real, curve = _fit_signed(lanes, half)
    d = _shared_signed(real, curve, steps, lanes.power)
    scales = np.rint(real * _inverse(_scaled(d, lanes.power)))
    scales = np.clip(scales, np.float32(-steps), np.float32(steps - 1))
    for _ in range(2):
        scales = _step_scales(lanes, d, scales, half, steps)
        d = _refit_scale(lanes, d, scales, half)
    scales = _step_scales(lanes, d, scales, half, steps)
    codes = _signed_codes(lanes.x, _scaled(d, lanes.power) * scales, half)
    return Scales(_back(codes.astype(np.int8)), np.ascontiguousarray(scales.astype(np.int8).T), d)


def _shared_signed(values: Float32, weight: Float32, steps: int, power: NDArray[np.int32]) -> Half:
    """Step 2: float16 d [b] so that d · (-steps … steps - 1) comes nearest to values [J, b]."""
    low, high = values.min(axis=0), values.max(axis=0)
    edge = np.where(-low > high, low, high)
    tries = np.linspace(steps * 1.03, steps * 0.66, 40)
    halves = _half(edge / np.concatenate((-tries, tries))[:, None], power)
    d = _scaled(halves, power)[:, None, :]
    rounded = np.rint(values * _inverse(d))
    np.clip(rounded, np.float32(-steps), np.float32(steps - 1), out=rounded)
    error = rounded * d - values
    cost = np.add.reduce(np.swapaxes(error * error * weight, 0, 1), axis=0)
    best: Half = np.take_along_axis(halves, cost.argmin(axis=0)[None], axis=0)[0]
    return best


def _step_scales(lanes: _Lanes, d: Half, scales: Float32, half: int, steps: int) -> Float32:
    """Step 3."""
    real = _scaled(d, lanes.power)
    best, least = scales, np.full_like(scales, np.inf)
    for up in (0, -1, 1, -2, 2):
        near = np.clip(scales + np.float32(up), np.float32(-steps), np.float32(steps - 1))
        cost = _signed_cost(lanes, real * near, half)
        won = cost < least
        least, best = np.where(won, cost, least), np.where(won, near, best)
    return best


def _refit_scale(lanes: _Lanes, d: Half, scales: Float32, half: int) -> Half:
    """Step 4."""
    real = _scaled(d, lanes.power)
    codes = _signed_codes(lanes.x, real * scales, half)
    left = _weigh(lanes.x - codes * (real * scales), lanes.w)
    s = scales.astype(np.float64)
    ss = _over_sub_blocks(s * s * _sum(_weigh(codes, lanes.w) * codes))
    rs = _over_sub_blocks(s * _sum(codes * left))
    up = np.where(ss > 0, rs / np.where(ss > 0, ss, 1), 0)
    best, least = d, np.zeros(len(d))
    for near in _neighbours(_half(real + up, lanes.power)):
        a = _scaled(near, lanes.power).astype(np.float64) - real
        cost = a * a * ss - 2 * a * rs
        won = cost < least
        least, best = np.where(won, cost, least), np.where(won, near, best)
    return best
