"""The search for the best scales and points of a super-block, for every codebook format.

A super-block has 256 values, S sub-blocks, one scale d in float16, and a sub-block's values are

    a ≈ s · g        s = d · unit · (2 l + 1),  l = 0 … steps - 1,  g a point for each G values

What is minimized is Σ w (a - s g)². For a given s the best point of a group is the one with the
smallest  s · Σ w g² - 2 Σ w a g,  a product of a matrix of groups with a matrix of points: the
search over the whole codebook is exact. For given points the best s is Σ w a g / Σ w g². So:

    1  each sub-block alone: points at several scales, the scale refitted for each; the best of
       them; points again
    2  d from a range about (largest scale) / (largest step), judged by how far it puts the scales
    3  points at the scales that d allows, d refitted
    4  the scale code next to the one chosen, on the side to which the points chosen would rather
       go, and points for it; the better of the two; d refitted
    5  d a little larger (stretch.py)

Nothing here depends on more than one super-block at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .stretch import FINEST, factor

__all__ = ["Found", "Shape", "Target", "fit"]

#: of groups by points, compared at a time: 1 MB of float32
_TILE = 1 << 18

#: scales that step 1 tries, by the number of levels, in units of (root mean square of the values) /
#: (root mean square of all coordinates): more of them where there are more levels
_TRIALS = {
    8: tuple(0.4 * 1.13**i for i in range(16)),
    6: (0.65, 0.95, 1.4, 2.1),
    3: (0.45, 0.65, 0.85, 1.05, 1.3, 1.7, 2.5),
}

#: scales d that step 2 tries, in units of (largest scale) / (largest step)
_SUPER_TRIALS = np.linspace(0.8, 1.25, 46, dtype=np.float32)


@dataclass(frozen=True)
class Shape:
    """How a super-block is divided.

    Attributes:
        sub_blocks: S.
        unit: a power of two; see the formula above.
        steps: the number of scale codes.
        books: equal parts of the codebook; all groups of a sub-block take points of one of them.
    """

    sub_blocks: int
    unit: float
    steps: int
    books: int = 1


@dataclass(frozen=True)
class Found:
    """The codes of b super-blocks: d float16 [b], scales int64 [b, S], index int64 [b, 256 / G]."""

    d: Array
    scales: Array
    index: Array


@dataclass(frozen=True)
class _Points:
    """A choice of points for every sub-block: index int64 [m, groups], and with g the points
    chosen, product = Σ w a g and square = Σ w g², both float32 [m]."""

    index: Array
    product: Float32
    square: Float32

    def cost(self, scale: Float32) -> Float32:
        """Σ w (a - s g)² - Σ w a² of each sub-block at its scale, [m]."""
        return scale * (scale * self.square - 2 * self.product)

    def scale(self) -> Float32:
        """The scale at which the cost is smallest, [m]; at least 0."""
        wide: Float32 = np.maximum(self.square, np.float32(1e-30))
        best: Float32 = np.maximum(self.product, np.float32(0))
        best /= wide
        return best

    def where(self, better: Array, other: _Points) -> _Points:
        """`other` where `better` [m], else this."""
        return _Points(
            np.where(better[:, None], other.index, self.index),
            np.where(better, other.product, self.product),
            np.where(better, other.square, self.square),
        )


@dataclass(frozen=True)
class Target:
    """What b super-blocks are to be, in a range where products of three cannot overflow float32.

    Attributes:
        values: float32 [b, 256], at most 1 in magnitude; the weights divided by 2^exponent.
        importance: float32 [b, 256], above 0 and at most 1; None for ones.
        exponent: integers [b].
    """

    values: Float32
    importance: Float32 | None
    exponent: Array

    @classmethod
    def of(cls, blocks: Float32, importance: Float32 | None) -> Target:
        """Weights and their importance, float32 [b, 256], finite, importance at least 0.

        A super-block of no importance is one of even importance.
        """
        exponent = np.frexp(np.abs(blocks).max(axis=1))[1]
        values = np.ldexp(blocks, -exponent[:, None])
        if importance is None:
            return cls(values, None, exponent)
        most = importance.max(axis=1, keepdims=True)
        some = most > 0
        relative = np.where(some, importance / np.where(some, most, np.float32(1)), np.float32(1))
        # 0 would leave a sub-block without a scale
        return cls(values, np.maximum(relative, np.float32(1e-7)), exponent)


def fit(target: Target, points: Float32, shape: Shape) -> Found:
    """The codes that bring Σ importance · (value - decoded)² close to its minimum.

    Args:
        target: magnitudes where signs are stored beside the points; see Target.
        points: float32 [N, G].
        shape: see Shape.
    """
    count, groups = len(target.values), 256 // points.shape[1]
    if not count:
        empty = np.zeros((0, groups), np.int64)
        return Found(np.zeros(0, np.float16), empty[:, : shape.sub_blocks], empty)
    search = _Search(target.values, target.importance, points, shape)
    scale, chosen = search.alone()
    return search.together(scale, chosen, target.exponent)


class _Search:
    """Finds points for all sub-blocks at once: m = b · S of them, each of `width` values."""

    def __init__(
        self, values: Float32, weights: Float32 | None, points: Float32, shape: Shape
    ) -> None:
        self.shape = shape
        self.points = points
        self.size = points.shape[1]
        self.width = values.shape[1] // shape.sub_blocks
        self.values = values.reshape(-1, self.width)
        groups = values.reshape(-1, self.size)
        squares = points * points
        if weights is None:
            self.weighted = groups
            self.weights = np.ones((1, self.size), dtype=np.float32)
            self.row_weights = np.ones((len(groups), 1), dtype=np.float32)
            table = np.concatenate([squares.sum(axis=1, keepdims=True), points], axis=1)
        else:
            self.weights = self.row_weights = weights.reshape(-1, self.size)
            self.weighted = groups * self.weights
            table = np.concatenate([squares, points], axis=1)
        parts = np.split(table, shape.books)
        self.tables = [np.ascontiguousarray(part.T) for part in parts]

    def nearest(self, scale: Float32) -> _Points:
        """The best points for every sub-block at its scale, [m]."""
        per_group = np.repeat(scale, self.width // self.size)[:, None]
        rows = np.concatenate([self.row_weights * per_group, -2 * self.weighted], axis=1)
        best = self._measured(_argmin(rows, self.tables[0]))
        for number in range(1, len(self.tables)):
            index = _argmin(rows, self.tables[number])
            index += number * self.tables[number].shape[1]
            other = self._measured(index)
            best = best.where(_below(other.cost(scale), best.cost(scale)), other)
        return best

    def _measured(self, index: Array) -> _Points:
        chosen = self.points[index]
        count = len(self.values)
        product = np.einsum("ij,ij->i", self.weighted, chosen).reshape(count, -1).sum(axis=1)
        chosen *= chosen
        chosen *= self.weights
        square = chosen.reshape(count, -1).sum(axis=1)
        return _Points(index.reshape(count, -1), product, square)

    def alone(self) -> tuple[Float32, _Points]:
        """Step 1: each sub-block's own best scale, [m], and its points there."""
        top = np.abs(self.values).max(axis=1) / np.float32(np.abs(self.points).max())
        size = self._mean_square() / np.float32(np.square(self.points).mean())
        size = np.sqrt(size, out=size)
        best = self.nearest(top)
        for trial in _TRIALS[len(np.unique(self.points))]:
            other = self.nearest(size * np.float32(trial))
            better = _below(other.cost(other.scale()), best.cost(best.scale()))
            best = best.where(better, other)
        other = self.nearest(best.scale())
        better = other.cost(other.scale()) < best.cost(best.scale())
        best = best.where(better, other)
        return best.scale(), best

    def _mean_square(self) -> Float32:
        """Σ w a² / Σ w of each sub-block, [m]."""
        groups = self.values.reshape(-1, self.size)
        count = len(self.values)
        squares: Float32 = (self.weighted * groups).reshape(count, -1).sum(axis=1)
        squares /= np.broadcast_to(self.weights, groups.shape).reshape(count, -1).sum(axis=1)
        return squares

    def together(self, scale: Float32, alone: _Points, exponent: Array) -> Found:
        """Steps 2 to 4."""
        shape, count = self.shape, len(exponent)
        rows = (count, -1)
        wanted, bend = scale.reshape(rows), alone.square.reshape(rows)
        unit = np.float32(shape.unit)
        top = wanted.max(axis=1) / (unit * (2 * shape.steps - 1))
        d, least = top, np.full(count, np.inf, dtype=np.float32)
        for trial in _SUPER_TRIALS:
            tried = self._storable(top * trial, exponent)
            codes = self._codes(wanted, tried)
            gap = wanted - tried[:, None] * unit * (2 * codes + 1)
            cost = (bend * gap * gap).sum(axis=1)
            better = cost < least
            d, least = np.where(better, tried, d), np.where(better, cost, least)
        codes = self._codes(wanted, d)

        best = self.nearest(self._scales(d, codes))
        d = self._refit(best, codes, exponent)
        now = self._scales(d, codes)
        towards = np.where(best.scale() > now, 1, -1).reshape(codes.shape)
        moved = np.clip(codes + towards, 0, shape.steps - 1).astype(np.float32)
        other = self.nearest(self._scales(d, moved))
        better = other.cost(self._scales(d, moved)) < best.cost(now)
        best = best.where(better, other)
        codes = np.where(better.reshape(codes.shape), moved, codes)
        d = self._stretched(self._refit(best, codes, exponent), best, codes, exponent)
        with np.errstate(over="ignore"):
            stored = np.ldexp(d, exponent).astype(np.float16)
        return Found(stored, codes.astype(np.int64), best.index.reshape(count, -1))

    def _scales(self, d: Float32, codes: Float32) -> Float32:
        scales: Float32 = d[:, None] * np.float32(self.shape.unit) * (2 * codes + 1)
        return scales.reshape(-1)

    def _codes(self, wanted: Float32, d: Float32) -> Float32:
        """The scale codes, as whole floats [b, S], nearest to the wanted scales."""
        step = np.maximum(d * np.float32(self.shape.unit), np.float32(1e-30))[:, None]
        codes: Float32 = np.rint((wanted / step - 1) / 2)
        return np.clip(codes, 0, self.shape.steps - 1, out=codes)

    def _refit(self, chosen: _Points, codes: Float32, exponent: Array) -> Float32:
        """The best d for these points and codes that float16 can hold, [b]."""
        steps = (2 * codes + 1) * np.float32(self.shape.unit)
        product = (chosen.product.reshape(steps.shape) * steps).sum(axis=1)
        square = (chosen.square.reshape(steps.shape) * steps * steps).sum(axis=1)
        d = np.maximum(product, np.float32(0)) / np.maximum(square, np.float32(1e-30))
        return self._storable(d, exponent)

    def _stretched(self, d: Float32, chosen: _Points, codes: Float32, exponent: Array) -> Float32:
        """Step 5: d as it is stored, [b]."""
        scale, rows = self._scales(d, codes).astype(np.float64), codes.shape
        product = (chosen.product * scale).reshape(rows).sum(axis=1)
        square = (chosen.square * scale * scale).reshape(rows).sum(axis=1)
        weighed = self.weighted * self.values.reshape(self.weighted.shape)
        size = weighed.reshape(len(d), -1).sum(axis=1, dtype=np.float64)
        by = factor(product, square, size)
        # a weight that is most of its block has no direction beside its own
        alone = 2 * weighed.reshape(len(d), -1).max(axis=1) > size
        by = np.where(alone | (by < 1 + FINEST), 1, by)
        return self._storable((d * by).astype(np.float32), exponent)

    @staticmethod
    def _storable(d: Float32, exponent: Array) -> Float32:
        """d, before its block's power of two is taken out, as float16 would hold it."""
        stored = np.minimum(np.ldexp(d, exponent), np.float32(65504)).astype(np.float16)
        as_held: Float32 = np.ldexp(stored.astype(np.float32), -exponent)
        return as_held


def _below(cost: Float32, other: Float32) -> Array:
    """Where `cost` is less than `other` by more than rounding: of equals the first is kept, so that
    sub-blocks that are alike get scales that are."""
    less: Array = cost + np.abs(other) * np.float32(4e-6) < other
    return less


def _argmin(rows: Float32, table: Float32) -> Array:
    """For each row of `rows` [n, f], the column of rows @ table [f, N] that is smallest; int64.

    A matrix product's last bits depend on the row's place in the matrix and on the machine. So
    where a second column comes within rounding of the smallest, those near it are summed again, in
    float64 and one by one: a row's result depends on that row alone.
    """
    features, points = table.shape
    tile = max(16, _TILE // points)
    bound = np.abs(table).max(axis=1) * np.float32(4 * features * 2.0**-24)
    index = np.empty(len(rows), dtype=np.int64)
    buffer = np.empty((tile, points), dtype=np.float32)
    for begin in range(0, len(rows), tile):
        part = rows[begin : begin + tile]
        costs = np.matmul(part, table, out=buffer[: len(part)])
        each = np.arange(len(part))
        best = costs.argmin(axis=1)
        doubt = (np.abs(part) * bound).sum(axis=1)
        limit = costs[each, best] + doubt
        costs[each, best] = np.inf
        # where every feature is 0 so is every cost, and the first column as good as any
        unclear = np.flatnonzero((costs.min(axis=1) <= limit) & (doubt > 0))
        if len(unclear):
            near = costs[unclear] <= limit[unclear, None]
            near[np.arange(len(unclear)), best[unclear]] = True
            best[unclear] = _argmin_of(near, part[unclear], table)
        index[begin : begin + tile] = best
    return index


def _argmin_of(near: Array, rows: Float32, table: Float32) -> Array:
    """As `_argmin`, among the columns marked in `near`, bool [n, N]; the first of equals."""
    row, column = np.nonzero(near)
    cost = np.zeros(len(row))
    for feature, values in zip(rows.T.astype(np.float64), table.astype(np.float64), strict=True):
        cost += feature[row] * values[column]
    order = np.lexsort((column, cost, row))
    first = np.flatnonzero(np.diff(row, prepend=-1))
    return column[order[first]]
