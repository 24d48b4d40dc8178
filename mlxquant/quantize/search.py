"""The search for the scales of least squared error, for any format of MLX.

    search_affine.py   affine formats; by a compiled kernel where there is one
    search_levels.py   mxfp4, mxfp8, nvfp4

The bytes are the same with a kernel and without.
"""

from __future__ import annotations

import numpy as np

from ..errors import RequestError
from ..formats.affine import Affine
from ..formats.base import Array
from ..formats.floats import Float32
from ..formats.mlx_format import MlxFormat, groups_of
from .search_affine import search_affine
from .search_levels import search_levels

__all__ = ["search"]

#: fewer weights than this are not worth a compiler's start
_WORTH_A_KERNEL = 1 << 16
#: formats whose kernel has been started
_started: set[MlxFormat] = set()


def search(
    target: MlxFormat, rows: Float32, importance: Float32 | None = None
) -> tuple[Array, ...]:
    """Quantize rows with the scales of least weighted squared error.

    In no group is the error above that of `target.encode`, beyond float32's own rounding. Callers
    share work between threads; each call stays on its own.

    Args:
        target: any format of MLX.
        rows: float32 [n, k], finite, exact in `target.dtype`; k a multiple of the group size.
        importance: float32 [k] or None; how much the square of an error in a column counts, e.g.
            the column's mean squared activation. A group where all are 0 is searched without.

    Returns: the arrays of `target.encode`.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
        RequestError: k is no multiple of the group size, or importance is not k numbers ≥ 0.
    """
    groups = groups_of(rows, target.block_size)
    weights = _weights(importance, rows.shape[1], target.block_size)
    if not isinstance(target, Affine):
        return search_levels(target, groups, weights)
    if groups.size >= _WORTH_A_KERNEL or target in _started:
        # here, so that what quantizes nothing never loads it
        from ..kernels.search import search_affine as by_kernel

        found: tuple[Array, ...] | None = by_kernel(target, groups, weights, threads=1)
        if found is not None:
            _started.add(target)
            return found
    return search_affine(target, groups, weights)


def _weights(importance: Float32 | None, k: int, group_size: int) -> Float32 | None:
    """Importance as float32 [k / group_size, group_size], each group's largest made 1.

    Raises:
        RequestError: another shape, or a number that is negative or not finite.
    """
    if importance is None:
        return None
    if importance.shape != (k,):
        raise RequestError(f"importance has shape {list(importance.shape)}; rows need {[k]}")
    if not (np.isfinite(importance).all() and (importance >= 0).all()):
        column = int((~(np.isfinite(importance) & (importance >= 0))).argmax())
        raise RequestError(
            f"importance is {importance[column]} in column {column}; it is at least 0 and finite"
        )
    groups = importance.astype(np.float64).reshape(-1, group_size)
    largest = groups.max(axis=1, keepdims=True)
    with np.errstate(under="ignore"):
        shares = np.where(largest > 0, groups / np.where(largest > 0, largest, 1), 1)
        return shares.astype(np.float32)
