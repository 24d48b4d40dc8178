"""The search for the best scales and points of a super-block, for every codebook format.

A super-block has 256 values, S sub-blocks, one scale d in float16, and a sub-block's values are

    a ≈ s · g        s = d · unit · (2 l + 1),  l = 0 … steps - 1,  g a point for each G values

What is minimized is Σ w (a - s g)². For a given s the best point of a group is the one with the
smallest  s · Σ w g² - 2 Σ w a g,  a product of a matrix of groups with a matrix of points: the
search over the whole codebook is exact. For given points the best s is Σ w a g / Σ w g². So:

    1  each sub-block alone: points at several scales, the best scale refitted, points again
    2  d from a range about (largest scale) / (largest step), judged by how far it puts the scales
    3  points at the scales that d allows, d refitted, twice
    4  the scale codes next to those chosen, points for them, d refitted

Steps 3 and 4 keep what they find only where it is better. Nothing here depends on more than one
super-block at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32

__all__ = ["Found", "Shape", "fit"]

#: of groups by points, compared at a time: 1 MB of float32
_TILE = 1 << 18

#: scales that step 1 tries, in units of (largest value) / (largest coordinate); the second for
#: codebooks of more than _MANY points, where a trial takes longest and a miss costs least
_TRIALS = tuple(1.1 * 0.86**i for i in range(8))
_FEWER_TRIALS = tuple(1.05 * 0.8**i for i in range(5))
_MANY = 1024

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


def fit(values: Float32, weights: Float32 | None, points: Float32, shape: Shape) -> Found:
    """The codes that bring Σ w (value - decoded)² close to its minimum.

    Args:
        values: float32 [b, 256]; magnitudes where signs are stored beside the points.
        weights: float32 [b, 256], at least 0; None for ones.
        points: float32 [N, G].
        shape: see Shape.
    """
    count = len(values)
    largest = np.abs(values).max(axis=1)
    # the exponents of weights and values would overflow float32 in the sums of products
    exponent = np.frexp(largest)[1]
    scaled = np.ldexp(values, -exponent[:, None])
    if weights is not None:
        most = weights.max(axis=1, keepdims=True)
        weights = np.where(most > 0, weights / np.where(most > 0, most, 1), np.float32(1))
        # a weight of 0 would leave its sub-block without a scale
        weights = np.maximum(weights, np.float32(1e-7))
    search = _Search(scaled, weights, points, shape)
    scale, chosen = search.alone()
    return search.together(scale, chosen, exponent, count)


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
            best = best.where(other.cost(scale) < best.cost(scale), other)
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
        trials = _TRIALS if len(self.points) <= _MANY else _FEWER_TRIALS
        best = self.nearest(top * np.float32(trials[0]))
        for trial in trials[1:]:
            other = self.nearest(top * np.float32(trial))
            better = other.cost(other.scale()) < best.cost(best.scale())
            best = best.where(better, other)
        for _ in range(2):
            other = self.nearest(best.scale())
            better = other.cost(other.scale()) < best.cost(best.scale())
            best = best.where(better, other)
        return best.scale(), best

    def together(self, scale: Float32, alone: _Points, exponent: Array, count: int) -> Found:
        """Steps 2 to 4."""
        shape, rows = self.shape, (count, -1)
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

        best: _Points | None = None
        for _ in range(2):
            new = self.nearest(self._scales(d, codes))
            new_d = self._refit(new, codes, exponent)
            cost = new.cost(self._scales(new_d, codes)).reshape(rows).sum(axis=1)
            if best is None:
                best, d, least = new, new_d, cost
            else:
                better = cost < least
                best = best.where(np.repeat(better, shape.sub_blocks), new)
                d, least = np.where(better, new_d, d), np.where(better, cost, least)
        assert best is not None
        kept = codes
        for step in (-1, 1):
            moved = np.clip(codes + step, 0, shape.steps - 1)
            new = self.nearest(self._scales(d, moved))
            now = best.cost(self._scales(d, kept))
            better = new.cost(self._scales(d, moved)) < now
            best = best.where(better, new)
            kept = np.where(better.reshape(codes.shape), moved, kept)
        d = self._refit(best, kept, exponent)
        with np.errstate(over="ignore"):
            stored = np.ldexp(d, exponent).astype(np.float16)
        return Found(stored, kept.astype(np.int64), best.index.reshape(count, -1))

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

    @staticmethod
    def _storable(d: Float32, exponent: Array) -> Float32:
        """d, before its block's power of two is taken out, as float16 would hold it."""
        stored = np.minimum(np.ldexp(d, exponent), np.float32(65504)).astype(np.float16)
        as_held: Float32 = np.ldexp(stored.astype(np.float32), -exponent)
        return as_held


def _argmin(rows: Float32, table: Float32) -> Array:
    """For each row of `rows` [n, f], the column of rows @ table [f, N] that is smallest; int64.

    All products have the same number of rows, whatever n is, so that a row's result does not
    depend on how many come with it.
    """
    count, tile = len(rows), max(16, _TILE // table.shape[1])
    index = np.empty(count, dtype=np.int64)
    costs = np.empty((tile, table.shape[1]), dtype=np.float32)
    for begin in range(0, count, tile):
        part = rows[begin : begin + tile]
        if len(part) < tile:
            part = np.concatenate([part, np.zeros((tile - len(part), rows.shape[1]), rows.dtype)])
        np.matmul(part, table, out=costs)
        end = min(begin + tile, count)
        index[begin:end] = costs[: end - begin].argmin(axis=1)
    return index
