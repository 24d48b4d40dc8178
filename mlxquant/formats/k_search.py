"""The search behind the K-quants' encoders: scales (and mins) of least squared error.

    k_mins     w ≈ d · scale · q - dmin · min      Q2_K Q4_K Q5_K
    k_scales   w ≈ d · scale · q                   Q3_K Q6_K

A super-block's 256 weights are J sub-blocks of G. The unknowns are integers (a code a weight, a
scale and a min a sub-block) and one or two float16 (d, dmin). In turn:

    1  every sub-block alone, real scale and min: round to codes with each of a few ranges, fit
       scale and min to the codes by least squares, keep the best
    2  d among values that bring the largest scale near its limit: the one at which all scales,
       rounded, cost least by the parabola through step 1's optimum; then dmin likewise, for the
       mins that fit the rounded scales; all this twice, with d in two ranges
    3  every sub-block alone: its scale and min a few steps up or down, codes rounded anew; keep
       the best
    4  d and dmin by least squares for those integers, on the best of the neighbouring float16
    5  3 and 4 again; of the two starts the better; codes rounded last
    6  d and dmin a little larger, by `stretch`

Steps 3 and 4 cannot raise the error but by float32's rounding. Arrays of weights are [G, J, b],
b super-blocks: sums run over the first axes, in order, so that a block's bytes do not depend on its
neighbours. All is float32, in an order that the kernels repeat (encode_k.metal and those that
include it), bit for bit. Weights are scaled to 1 … 2 by a power of two first, so that their squares
are numbers.

This module holds what the two searches share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .base import Array
from .floats import Float32
from .stretch import FINEST, factor, loss

__all__ = [
    "Half",
    "LARGEST",
    "STARTS",
    "Lanes",
    "in_lanes",
    "in_order",
    "inverse",
    "nearest_half",
    "neighbours",
    "over_sub_blocks",
    "over_weights",
    "scaled",
    "shared_scale",
    "stretched",
]

Half = NDArray[np.float16]
#: super-blocks searched at a time: few enough for the caches, many enough for NumPy
_PIECE = 512

#: the ranges of step 2: where the largest scale comes to lie, as parts of its limit
STARTS = ((0.84, 1.04), (0.64, 0.84))

#: the extremes of float16
LARGEST, _SMALLEST = np.float16(65504), np.float16(2.0**-24)
_ZERO, _ONE = np.float32(0), np.float32(1)


class Lanes(NamedTuple):
    """Super-blocks, ready to be searched.

    x: float32 [G, J, b], divided by the unit of each super-block.
    w: float32, as x: the importance, its mean over a super-block 1; or None for all ones.
    total, per_total: float32 [J, b], the sum of w over a sub-block, and its inverse.
    unit: float32 [b], powers of two.
    """

    x: Float32
    w: Float32 | None
    total: Float32
    per_total: Float32
    unit: Float32

    def weigh(self, values: Float32) -> Float32:
        """values · w."""
        return values if self.w is None else values * self.w


def in_lanes(blocks: Float32, importance: Float32 | None, size: int) -> Iterator[Lanes]:
    """Cut blocks into pieces.

    Args:
        blocks: float32 [b, 256], finite.
        importance: float32 [b, 256] or None.
        size: G, weights of a sub-block.
    """
    for begin in range(0, max(1, len(blocks)), _PIECE):
        end = begin + _PIECE
        yield _lanes(blocks[begin:end], None if importance is None else importance[begin:end], size)


def _lanes(blocks: Float32, importance: Float32 | None, size: int) -> Lanes:
    b, k = blocks.shape
    # below 2^-25 every float16 is zero
    unit = _power_below(blocks, -40)
    x = np.empty((size, k // size, b), np.float32)
    # a zero of either sign becomes 0
    x[...] = (blocks / unit[:, None] + _ZERO).reshape(b, k // size, size).transpose(2, 1, 0)
    if importance is None:
        total = np.full(x.shape[1:], size, np.float32)
        return Lanes(x, None, total, inverse(total), unit)
    w = np.empty_like(x)
    parts = importance / _power_below(importance, -126)[:, None]
    w[...] = parts.reshape(b, k // size, size).transpose(2, 1, 0)
    all_of_it = over_sub_blocks(over_weights(w))
    some = all_of_it > 0
    w *= np.divide(np.float32(k), all_of_it, out=np.zeros_like(all_of_it), where=some)
    # unimportant weights still follow where nothing else is at stake
    w = np.where(some, np.maximum(w, np.float32(1e-6)), _ONE)
    total = over_weights(w)
    return Lanes(x, w, total, inverse(total), unit)


def _power_below(values: Float32, lowest: int) -> Float32:
    """Of each row of [b, k] the power of two at or below its largest magnitude: [b], from 2^lowest
    to 2^126, whose inverse is a number too."""
    power = np.frexp(np.abs(values).max(axis=1))[1] - 1
    powers: Float32 = np.ldexp(_ONE, np.clip(power, lowest, 126))
    return powers


def in_order(lanes: Array) -> Array:
    """[G, J, b] → [b, J · G]; or [J, b] → [b, J]."""
    *inner, b = lanes.shape
    return np.ascontiguousarray(lanes.T).reshape(b, math.prod(inner))


def over_weights(lanes: Float32) -> Float32:
    """[G, J, b] → [J, b], added in order."""
    summed: Float32 = np.add.reduce(lanes, axis=0)
    return summed


def over_sub_blocks(values: Array) -> Array:
    """[J, ...] → [...], added in order whatever the shape."""
    return reduce(np.add, values)


def inverse(values: Float32) -> Float32:
    """1 / values, and 0 where that is no number to multiply by."""
    ok = np.abs(values) > np.float32(1e-37)
    return np.divide(_ONE, values, out=np.zeros_like(values), where=ok)


def nearest_half(values: Float32, unit: Float32) -> Half:
    """The float16 nearest to values · unit, kept finite; [..., b]."""
    with np.errstate(over="ignore", under="ignore"):
        halves = (values * unit).astype(np.float16)
    return np.clip(halves, -LARGEST, LARGEST)


def scaled(halves: Half | np.float16, unit: Float32) -> Float32:
    """What a float16 is among weights divided by `unit`; [..., b]."""
    with np.errstate(under="ignore"):
        values: Float32 = np.float32(halves) / unit
    return values


def neighbours(halves: Half) -> tuple[Half, Half, Half]:
    """Each number, the float16 below and the one above, all finite; none is -0."""
    zero = np.float16(0)
    below, above = np.nextafter(halves, -LARGEST), np.nextafter(halves, LARGEST)
    return halves + zero, below + zero, above + zero


def shared_scale(
    values: Float32,
    weight: Float32,
    lowest: int,
    highest: int,
    unit: Float32,
    between: tuple[float, float],
) -> Half:
    """Step 2: the float16 d [b] that brings d · (lowest … highest) nearest to values [J, b].

    Args:
        weight: float32 [J, b], what a squared unit of deviation costs.
        lowest: 0 for values ≥ 0, which makes d ≥ 0; or -highest - 1.
        between: where the largest value may come to lie, as parts of `highest`.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    edge = np.where(-low > high, low, high)
    # whole numbers among them, since they can hold the largest value exactly
    apart = 1 if highest > 31 else 0.5 if highest > 15 else 0.25
    tries = np.arange(math.floor(between[1] * highest), between[0] * highest, -apart)
    if lowest:
        tries = np.concatenate((-tries, tries))
    wanted = edge * (_ONE / tries.astype(np.float32))[:, None]
    halves = nearest_half(wanted, unit)
    # a step too small for float16 is the smallest there is: some scale of 1 may still serve
    smallest = np.where(wanted == 0, _ZERO, np.copysign(np.float32(_SMALLEST), wanted))
    halves = np.where(halves == 0, smallest.astype(np.float16), halves)
    # [J, tries, b]
    d = scaled(halves, unit)
    rounded = np.rint(values[:, None] * inverse(d))
    np.clip(rounded, np.float32(lowest), np.float32(highest), out=rounded)
    error = rounded * d - values[:, None]
    cost = over_sub_blocks(error * error * weight[:, None])
    best: Half = np.take_along_axis(halves, cost.argmin(axis=0)[None], axis=0)[0]
    return best


def stretched(
    lanes: Lanes, decode: Callable[[Sequence[Half]], Float32], halves: Sequence[Half]
) -> list[Half]:
    """Step 6: the scales d and dmin, or d alone, stretched where that lowers the loss.

    Args:
        decode: what the weights become with these in place of `halves`, [G, J, b].
    """

    def summed(values: Float32) -> Float32:
        total: Float32 = over_sub_blocks(over_weights(values))
        return total

    def lost(decoded: Float32) -> Float32:
        error = decoded - lanes.x
        weighed = lanes.weigh(error)
        return loss(summed(weighed * error), summed(weighed * lanes.x), size)

    shares = lanes.weigh(lanes.x) * lanes.x
    size = summed(shares)
    before = decode(halves)
    weighed = lanes.weigh(before)
    best = factor(summed(weighed * lanes.x), summed(weighed * before), size)
    # a weight that is most of its block has no direction beside its own
    alone = shares.max(axis=(0, 1)) > size / np.float32(2)
    by: Float32 = np.where(alone | (best < np.float32(1 + FINEST)), _ONE, best)
    longer = [nearest_half(scaled(each, lanes.unit) * by, lanes.unit) for each in halves]
    won = lost(decode(longer)) < lost(before)
    return [np.where(won, new, old) for new, old in zip(longer, halves, strict=True)]
