"""The scales and biases of least squared error, and the codes for them as they are stored.

    error of a group = Σ v · (w - (s·q + b))²,  s·q + b in float32, v the importance of w, or 1

For codes q the best s and b are a weighted least-squares line; for s and b the best codes are the
nearest ones (Lloyd, Least Squares Quantization in PCM, 1982). What is left is where to start, for
going back and forth between the two ends in the nearest dip only:

    ranges    the group's own, with up to 0.9 steps given up or 0.3 added at either end: twelve
              sets of codes, a line through each, the best line kept, and drawn anew through the
              codes nearest to it. The extremes at both ends together (both added, both given up)
              or opposite are left out: with them, errors are 0.04 % less up to 4 bits, 0.1 % at 6
    1 bit     no search: of all ways to cut the sorted weights in two, the best (Fisher, On Grouping
              for Maximum Homogeneity, 1958, for two groups)
    rounding  the line's scale is not a number of the file's type. Both neighbours are tried, each
              with the bias that is best for it, and codes are chosen for the rounded pair; then a
              line is drawn through those codes, and so on
    never worse   plain rounding's own scale and bias are tried first; another pair has to beat it

mx.quantize chooses codes for the scale before it is rounded. From 6 bits on that alone costs more
than the width of the range does.

Groups are handled as lanes: float32 [g, m], one group a column, so that every step is arithmetic
between rows of lanes, and sums are added up in a fixed tree. A group's bytes depend on nothing but
its own weights: not on its neighbours, the chunk it came in or the thread. Plain NumPy, which
releases Python's lock inside such steps; work is cut to pieces large enough for that.
kernels/affine_search.metal does the same operations in the same order, and gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..formats.affine import Affine, plain_scales
from ..formats.base import Array
from ..formats.floats import Bytes, Float32, from_float32, round_to
from ..formats.mlx_format import refuse_nonfinite
from ..formats.packing import pack

__all__ = ["search_affine"]

#: weights handled at a time
LANES = 1 << 17

#: steps given up at the lower and the upper end of a group's range
_ENDS = (-0.3, 0.1, 0.5, 0.9)
_TRIMS = tuple(
    (below, above)
    for below in _ENDS
    for above in _ENDS
    if not {below, above} <= {_ENDS[0], _ENDS[-1]}
)

#: how often the best line is drawn anew before anything is rounded, and after it
_LINES, _ROUNDS = 1, 2

_ZERO, _ONE = np.float32(0), np.float32(1)

#: a pair has to beat the one before by this factor: more than float32 sums may be off
_CLEARLY = np.float32(1 - 2.0**-16)


def search_affine(target: Affine, groups: Float32, weights: Float32 | None) -> tuple[Array, ...]:
    """Quantize groups with the scales of least error, in NumPy.

    Args:
        target: an affine format.
        groups: float32 [n, b, g].
        weights: importance, float32 [b, g] whose largest in each group is 1, or None.

    Returns: the arrays of `target.encode`.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    n, b, g = groups.shape
    high, low = groups.max(axis=-1), groups.min(axis=-1)
    refuse_nonfinite(groups, high, low)
    plain = plain_scales(target, groups, high, low)
    flat = groups.reshape(n * b, g)
    pairs = [round_to(part, target.dtype).reshape(n * b) for part in plain]
    codes = np.empty((n * b, g), np.uint8)
    with np.errstate(all="ignore"):
        for begin, end in _pieces(n * b, g):
            here = slice(begin, end)
            lanes = _Lanes(
                target,
                flat[here].T.copy(),  # a copy also of a single group
                None if weights is None else weights[np.arange(begin, end) % b],
                pairs[0][here],
                pairs[1][here],
            )
            lanes.run()
            codes[here] = lanes.codes().T
            pairs[0][here], pairs[1][here] = lanes.stored()
    stored = (from_float32(part.reshape(n, b), target.dtype) for part in pairs)
    return (pack(codes.reshape(n, b * g), target.bits), *stored)


def _pieces(groups: int, group_size: int) -> Iterator[tuple[int, int]]:
    """Ranges of groups that are handled at a time."""
    step = max(1, LANES // group_size)
    for begin in range(0, groups, step):
        yield begin, min(begin + step, groups)


@dataclass
class _Line:
    """s·q + b through the lanes' weights: scale and bias float32 [m], and what it takes off the
    error of the best constant, `gain` float32 [m]."""

    scale: Float32
    bias: Float32
    gain: Float32

    def take(self, other: _Line, where: NDArray[np.bool_]) -> None:
        """Become another line in some lanes."""
        for name in ("scale", "bias", "gain"):
            np.copyto(getattr(self, name), getattr(other, name), where=where)


@dataclass
class _Lanes:
    """Some groups side by side, each scaled by a power of two to a largest weight of about 1.

    The power is exact, and keeps squares of any finite weight finite. Weights so small that it
    would not be (2^-100) are scaled by what is; their squares may vanish, and rounding stays.

    Attributes:
        target: the format.
        x: float32 [g, m], one group a column; changed.
        weights: importance, float32 [m, g] or None.
        scale, bias: float32 [m], plain rounding's as stored; then the best found, in units of the
            lanes.
        plain: float32 [m] twice, plain rounding's as they were: next to a large weight a small one
            may have no number in the lanes' units.
    """

    target: Affine
    x: Float32
    weights: Float32 | None
    scale: Float32
    bias: Float32
    plain: tuple[Float32, Float32] = field(init=False)
    error: Float32 = field(init=False)

    def __post_init__(self) -> None:
        self.top = np.float32((1 << self.target.bits) - 1)
        largest = np.maximum(self.x.max(axis=0), -self.x.min(axis=0))
        exponent = np.clip(np.frexp(largest)[1], -100, 126)
        self.up = np.ldexp(_ONE, exponent).astype(np.float32)
        down = np.ldexp(_ONE, -exponent).astype(np.float32)
        self.x *= down
        self.plain, self.down = (self.scale, self.bias), down
        self.scale, self.bias = self.scale * down, self.bias * down
        self.replaced = np.zeros(len(down), np.bool_)
        self.v = None if self.weights is None else np.ascontiguousarray(self.weights.T)
        self.q, self.work = np.empty_like(self.x), np.empty_like(self.x)
        self.total = np.full_like(down, len(self.x)) if self.v is None else _sum(self.v, self.work)
        self.middle = self._weighted_sum(self.x) / self.total
        self.centred = self.x - self.middle
        self.wanted = self.centred if self.v is None else self.centred * self.v

    def run(self) -> None:
        """Find the best scale and bias, rounded as they are stored."""
        self.error = self._error(self.scale, self.bias)
        # a range that overflows is stored as infinity: anything finite is better
        np.copyto(self.error, np.inf, where=np.isnan(self.error))
        line = self._split() if self.target.bits == 1 else self._best_range()
        for _ in range(_LINES):
            self._round(line.scale, line.bias, self.q)
            other = self._line(self.q)
            line.take(other, other.gain > line.gain)
        for number in range(_ROUNDS):
            if number:
                self._round(self.scale, self.bias, self.q)
                line = self._line(self.q)
            self._try(line)

    def codes(self) -> Bytes:
        """uint8 [g, m]: the nearest for the best scale and bias."""
        self._round(self.scale, self.bias, self.q)
        return self.q.astype(np.uint8)

    def stored(self) -> tuple[Float32, Float32]:
        """The best scale and bias, float32 [m] each, exact in the file's type."""
        found = (self.scale * self.up, self.bias * self.up)
        scale, bias = (
            np.where(self.replaced, new, old) for new, old in zip(found, self.plain, strict=True)
        )
        return scale, bias

    def _best_range(self) -> _Line:
        """The best line through the codes of a few ranges."""
        # where a weight counts for nothing the range need not reach it
        counted = self.x if self.v is None else np.where(self.v > 0, self.x, self.middle)
        start = counted.min(axis=0)
        step = (counted.max(axis=0) - start) / self.top
        best = _Line(step.copy(), start.copy(), np.zeros_like(step))
        per_step = np.where(step > 0, _ONE / step, _ZERO)
        steps = (self.x - start) * per_step
        for below, above in _TRIMS:
            share = self.top - np.float32(below) - np.float32(above)
            if share <= 0:
                continue
            np.subtract(steps, np.float32(below), out=self.q)
            np.multiply(self.q, self.top / share, out=self.q)
            self._whole(self.q)
            line = self._line(self.q)
            best.take(line, line.gain > best.gain)
        return best

    def _split(self) -> _Line:
        """The best two levels: the sorted weights cut where that takes most off the error."""
        if self.v is None:
            ordered, share = np.sort(self.centred.T, axis=1).T, None
        else:
            order = np.argsort(self.centred.T, axis=1, kind="stable")
            ordered = np.take_along_axis(self.wanted.T, order, axis=1).T
            share = np.take_along_axis(self.v.T, order, axis=1).T
        # what lies below the cut: its sum and its weight. The sum over all is 0, or nearly so.
        total = _sum(np.ascontiguousarray(ordered), self.work)
        below, weight = np.zeros_like(total), np.zeros_like(total)
        best = _Line(np.zeros_like(total), self.middle.copy(), np.zeros_like(total))
        for number in range(len(ordered) - 1):
            below += ordered[number]
            weight += _ONE if share is None else share[number]
            rest = self.total - weight
            low, high = below / weight, (total - below) / rest
            gap = high - low
            gain = gap * gap * weight * (rest / self.total)
            best.take(_Line(gap, low + self.middle, gain), gain > best.gain)
        return best

    def _line(self, q: Float32) -> _Line:
        """The line of least error through codes [g, m]; where it is none, its gain is not > 0."""
        np.multiply(q, self.wanted, out=self.work)
        product = _sum(self.work, self.work)
        total, square = self._moments(q)
        mean = total / self.total
        slope: Float32 = np.divide(product, square - mean * mean * self.total)
        return _Line(slope, self.middle - slope * mean, slope * product)

    def _moments(self, q: Float32) -> tuple[Float32, Float32]:
        """Σ v·q and Σ v·q² [m]; without importance and up to 4 bits in one sum of whole numbers,
        which float32 holds exactly: 2^e·q + q², the second sum below 2^e."""
        largest = len(q) * int(self.top) ** 2
        high = np.float32(1 << largest.bit_length())
        if self.v is None and len(q) * int(self.top) * int(high) + largest < 1 << 24:
            np.add(q, high, out=self.work)
            np.multiply(self.work, q, out=self.work)
            both = _sum(self.work, self.work)
            total: Float32 = np.floor(both / high)
            return total, both - total * high
        np.multiply(q, q, out=self.work)
        square = self._weighted_sum(self.work)
        return self._weighted_sum(q), square

    def _try(self, line: _Line) -> None:
        """Both neighbours of a line's scale in the file's type, each with its best bias."""
        # the line's mean is the weights' own: that is what a bias has to restore
        mean = (self.middle - line.bias) / line.scale
        near = self._as_stored(line.scale)
        for scale in (near, self._neighbour(near, line.scale)):
            bias = self._as_stored(self.middle - scale * mean)
            error = self._error(scale, bias)
            # neither s·q nor the weight may overflow where they are multiplied out
            reach = np.abs(scale * self.top) * self.up + np.abs(bias) * self.up
            better = (error < self.error * _CLEARLY) & (reach <= _LARGEST[self.target.dtype])
            for kept, new in ((self.scale, scale), (self.bias, bias), (self.error, error)):
                np.copyto(kept, new, where=better)
            self.replaced |= better

    def _as_stored(self, values: Float32) -> Float32:
        """float32 [m] rounded to the file's type, which is finite, in the lanes' units."""
        largest = _LARGEST[self.target.dtype]
        clipped = np.clip(values * self.up, -largest, largest)
        rounded: Float32 = round_to(clipped, self.target.dtype) * self.down
        return rounded

    def _neighbour(self, near: Float32, exact: Float32) -> Float32:
        """The number of the file's type on the other side of `exact` from `near`."""
        away = np.float32(_STEP[self.target.dtype]) * np.abs(near)
        return self._as_stored(np.where(near > exact, near - away, near + away))

    def _error(self, scale: Float32, bias: Float32) -> Float32:
        """Σ v·(x - (s·q + b))² [m] with the nearest codes, which are left in `q`."""
        self._round(scale, bias, self.q)
        np.multiply(self.q, scale, out=self.work)
        np.add(self.work, bias, out=self.work)
        np.subtract(self.x, self.work, out=self.work)
        np.multiply(self.work, self.work, out=self.work)
        return self._weighted_sum(self.work)

    def _round(self, scale: Float32, bias: Float32, out: Float32) -> None:
        """The codes nearest to the weights; 0 where there is no scale to speak of."""
        inverse = np.where(np.abs(scale) > _NO_SCALE, _ONE / scale, _ZERO)
        np.subtract(self.x, bias, out=out)
        np.multiply(out, inverse, out=out)
        self._whole(out)

    def _whole(self, q: Float32) -> None:
        np.rint(q, out=q)
        np.clip(q, _ZERO, self.top, out=q)

    def _weighted_sum(self, values: Float32) -> Float32:
        """Σ v·values over the group: [g, m] → [m]. What is in `work` is lost."""
        if self.v is None:
            return _sum(values, self.work)
        np.multiply(values, self.v, out=self.work)
        return _sum(self.work, self.work)


#: below this a scale, in units of the group's largest weight, moves nothing in float32
_NO_SCALE = np.float32(2.0**-100)

#: the largest finite number of each type
_LARGEST = {
    "F32": np.finfo(np.float32).max,
    "F16": np.float32(65504),
    "BF16": np.float32((2 - 2.0**-7) * 2.0**127),
}

#: a share of a number that takes it to the next one of its type, when added to it and rounded:
#: between half a step and one and a half, wherever in its binade the number is
_STEP = {"F32": 2.0**-23 * 0.7, "F16": 2.0**-10 * 0.7, "BF16": 2.0**-7 * 0.7}


def _sum(values: Float32, work: Float32) -> Float32:
    """Σ over the first axis: [g, m] → [m], g a power of two; in `work`, which may be `values`.

    Halves are added to halves, so that the order never depends on m.
    """
    half = len(values) // 2
    np.add(values[:half], values[half:], out=work[:half])
    while half > 1:
        half //= 2
        np.add(work[:half], work[half : 2 * half], out=work[:half])
    total: Float32 = work[0].copy()
    return total
