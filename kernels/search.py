"""The search for scales of least error, by a compiled kernel; see mlxquant/quantize/search.py."""

from __future__ import annotations

import numpy as np

from mlxquant.formats.affine import Affine
from mlxquant.formats.base import Array
from mlxquant.formats.floats import Float32, from_float32

from .host.affine import kernel_for, reason_for

__all__ = ["available", "reason", "search_affine"]


def search_affine(
    target: Affine, groups: Float32, weights: Float32 | None, threads: int | None = None
) -> tuple[Array, ...] | None:
    """Quantize groups with the scales of least error.

    Args:
        target: an affine format.
        groups: float32 [n, b, g].
        weights: importance, float32 [b, g] whose largest in each group is 1, or None.
        threads: at most so many; None for one a core.

    Returns: the arrays of `target.encode`, as mlxquant/quantize/search_affine.py makes them; None
        where there is no kernel, or a weight is NaN or infinite: NumPy says which.
    """
    kernel = kernel_for(target) if groups.size else None
    if kernel is None:
        return None
    codes, scales, biases = kernel.search(groups, weights, target.dtype, threads)
    if np.isnan(biases).any():
        return None
    return (codes, from_float32(scales, target.dtype), from_float32(biases, target.dtype))


def available(target: Affine) -> bool:
    """Whether a compiled and checked kernel searches here; the first call compiles it."""
    return reason(target) is None


def reason(target: Affine) -> str | None:
    """Why no kernel searches for the format here, in one line; None where one does."""
    return reason_for(target)
