"""Better codes and better scales for rows that are rounded already, on the exact objective.

    objective = tr((W - Q) H (W - Q)^T),    G = (Q - W) H, half of its gradient

Codes: with everything else fixed, the best number for one weight is the one on the grid nearest to
q_j - G_j / H_jj. Going through the columns again and again (coordinate descent), the objective only
falls. Scales: with the codes fixed the objective is quadratic in a group's scale and offset; the
best pair is rounded to what the file can hold, the scale first, the offset to fit it, and kept
where the objective falls. The two alternate, group by group, for all rows at once.

Sources: coordinate descent on codes as in QuantEase (Behdin et al. 2023, arXiv:2309.01885); scales
by weighted least squares as in llama.cpp's quantizers, here with all of H.
"""

from __future__ import annotations

import numpy as np

from ..errors import RequestError
from ..formats.base import Array
from ..formats.floats import Float32
from .grid import Grid
from .hessian import Hessian, factorize

__all__ = ["polish", "refit"]

#: columns between matrix products over all columns
_BLOCK = 64

#: columns that matter less than this, in parts of the mean, keep their codes
_DEAD = np.float32(1e-9)

#: a change is worth making that takes more than this off the objective, in parts of its terms
_LEAST_GAIN = np.float32(1e-5)


def polish(
    grid: Grid,
    values: Float32,
    rows: Float32,
    hessian: Array | Hessian,
    *,
    sweeps: int = 2,
    codes: bool = True,
    scales: bool = True,
) -> tuple[Grid, Float32]:
    """Improve values and the scales behind them, coordinate by coordinate.

    Args:
        grid: that `values` lie on.
        values: float32 [n, k], as `gptq` returns them.
        rows: float32 [n, k], what they stand for.
        hessian: second moments of the input, float [k, k], or factorized.
        sweeps: how often all columns are gone through.
        codes, scales: which of the two may change.

    Returns: a grid and values on it; in no row is the objective larger than before.

    Raises:
        RequestError: as `hessian.factorize`, or shapes that do not match.
    """
    known = hessian if isinstance(hessian, Hessian) else factorize(hessian)
    if values.shape != rows.shape or rows.shape != grid.shape:
        raise RequestError(
            f"values of shape {list(values.shape)} for rows of {list(rows.shape)} on a grid of "
            f"{list(grid.shape)}; all must match"
        )
    state = _State(grid, np.ascontiguousarray(values.T), rows, known.matrix)
    scales = scales and not grid.storage.fixed
    for _ in range(sweeps):
        state.sweep(codes, scales)
    low = None if grid.low is None else state.low
    return grid.with_scales(state.scale, low), np.ascontiguousarray(state.value.T)


def refit(
    grid: Grid, values: Float32, rows: Float32, hessian: Array | Hessian, *, sweeps: int = 1
) -> tuple[Grid, Float32]:
    """New scales and offsets for the codes that `values` have; as `polish` with codes kept."""
    return polish(grid, values, rows, hessian, sweeps=sweeps, codes=False)


class _State:
    """Values, scales and the gradient of some rows, all in lanes."""

    def __init__(self, grid: Grid, value: Float32, rows: Float32, matrix: Float32) -> None:
        self.grid, self.storage, self.matrix = grid, grid.storage, matrix
        self.value = value
        self.scale = grid.scale.copy()
        self.low = np.zeros_like(self.scale) if grid.low is None else grid.low.copy()
        self.gradient = matrix @ (value - rows.T)

    def sweep(self, codes: bool, scales: bool) -> None:
        """Go through all columns once."""
        k, size = len(self.value), self.storage.group
        step = max(_BLOCK // size, 1) * size
        for begin in range(0, k, step):
            end = min(begin + step, k)
            change = np.zeros((end - begin, self.value.shape[1]), np.float32)
            for first in range(begin, end, size):
                if codes:
                    self._codes(first, first + size, begin, end, change)
                if scales:
                    self._scales(first, first + size, begin, end, change)
            self.gradient += self.matrix[:, begin:end] @ change

    def _codes(self, first: int, last: int, begin: int, end: int, change: Float32) -> None:
        group = first // self.storage.group
        grid = self.grid.with_scales(
            self.scale[group : group + 1],
            None if self.grid.low is None else self.low[group : group + 1],
        )
        for j in range(first, last):
            weight = self.matrix[j, j]
            if weight <= _DEAD:
                continue
            gradient = self.matrix[j, begin:end] @ change
            gradient += self.gradient[j]
            gradient /= weight
            np.subtract(self.value[j], gradient, out=gradient)
            better = grid.nearest_lane(gradient, 0)
            change[j - begin] += better - self.value[j]
            self.value[j] = better

    def _scales(self, first: int, last: int, begin: int, end: int, change: Float32) -> None:
        group = first // self.storage.group
        value, block = self.value[first:last], self.matrix[first:last, first:last]
        scale, low = self.scale[group], self.low[group]
        gradient = self.matrix[first:last, begin:end] @ change
        gradient += self.gradient[first:last]
        with np.errstate(all="ignore"):
            quotient = (value - low) / scale
            levels = self.storage.levels.snap(
                np.where(np.isfinite(quotient), quotient, np.float32(0))
            )
            new_scale, new_low = self._best(levels, gradient, block, scale, low, group)
            new_value = levels * new_scale + new_low
            moved = new_value - value
            linear = 2 * np.einsum("cn,cn->n", moved, gradient)
            square = np.einsum("cn,cn->n", moved, block @ moved)
            won = linear + square < -_LEAST_GAIN * square
        if won.any():
            moved[:, ~won] = 0
            change[first - begin : last - begin] += moved
            self.value[first:last] = np.where(won, new_value, value)
            self.scale[group] = np.where(won, new_scale, scale)
            self.low[group] = np.where(won, new_low, low)

    def _best(
        self,
        levels: Float32,
        gradient: Float32,
        block: Float32,
        scale: Float32,
        low: Float32,
        group: int,
    ) -> tuple[Float32, Float32]:
        """The scale and offset, as stored, that fit levels [c, n] best; each float32 [n]."""
        along = np.einsum("cn,cn->n", levels, gradient)
        square = np.einsum("cn,cn->n", levels, block @ levels)
        if self.grid.low is None:
            return self._round(scale - along / square, scale, group), low
        weights = block.sum(axis=1)
        total, cross, slope = weights.sum(), weights @ levels, gradient.sum(axis=0)
        determinant = square * total - cross * cross
        turn = (cross * slope - along * total) / determinant
        turn = np.where(determinant > np.float32(1e-5) * square * total, turn, np.float32(0))
        new_scale = self._round(scale + turn, scale, group)
        wanted = low - (slope + cross * (new_scale - scale)) / total
        wanted = np.where(np.isfinite(wanted), wanted, low)
        return new_scale, self.storage.round_low(wanted[None], group)[0]

    def _round(self, wanted: Float32, scale: Float32, group: int) -> Float32:
        wanted = np.where(np.isfinite(wanted), wanted, scale)
        rounded: Float32 = self.storage.round_scale(wanted[None], group)[0]
        return rounded
