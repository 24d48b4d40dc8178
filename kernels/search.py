"""The search for scales of least error, by a kernel; see mlxquant/quantize/search.py.

On a Mac by one of its GPU's (metal.py), elsewhere by one that clang compiled (host/affine.py). Both
gave the known answers before they are used, and the bytes are NumPy's.
"""

from __future__ import annotations

import numpy as np

from mlxquant.formats.affine import Affine
from mlxquant.formats.base import Array
from mlxquant.formats.floats import Float32, from_float32

from .answers import largest_is_normal
from .gpu import NONE, TURN, there_is_one
from .host.affine import kernel_for, reason_for
from .source import SEARCHED_BITS

__all__ = ["available", "on_gpu", "reason", "search_affine"]

#: sizes that a kernel counts in 32 bits
_LIMIT = 2**31


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
    if not groups.size:
        return None
    found = _by_gpu(target, groups, weights)
    if found is None:
        kernel = kernel_for(target)
        if kernel is None:
            return None
        found = kernel.search(groups, weights, target.dtype, threads)
    codes, scales, biases = found
    if np.isnan(biases).any():
        return None
    return (codes, from_float32(scales, target.dtype), from_float32(biases, target.dtype))


def available(target: Affine) -> bool:
    """Whether a checked kernel searches here; the first call compiles it."""
    return reason(target) is None


def reason(target: Affine) -> str | None:
    """Why no kernel searches for the format here, in one line; None where one does."""
    return None if on_gpu(target) is None else reason_for(target)


def on_gpu(target: Affine) -> str | None:
    """Why no kernel of a GPU searches for the format here; None where one does."""
    if target.bits not in SEARCHED_BITS:
        return f"search of {target.name} has no kernel"
    if not there_is_one():
        return NONE
    from . import launch, metal

    return metal.KNOWN.reason(launch.affine_search(target, 1, 1, False))


def _by_gpu(
    target: Affine, groups: Float32, weights: Float32 | None
) -> tuple[Array, Float32, Float32] | None:
    """Codes, scales and biases as `AffineSearch.search` gives them; None where no GPU does."""
    if target.bits not in SEARCHED_BITS or not there_is_one() or groups.size >= _LIMIT:
        return None
    from . import launch, metal

    if not largest_is_normal(groups).all():
        return None
    n, b, size = groups.shape
    started = launch.affine_search(target, n, b, weights is not None)
    inputs = [groups.reshape(-1, size), *(() if weights is None else (weights,))]
    with TURN:
        if metal.KNOWN.reason(started) is not None:
            return None
        words = metal.on_arrays(started, [np.ascontiguousarray(array) for array in inputs])
    codes, pairs = words[: -2 * n * b], words[-2 * n * b :].view(np.float32).reshape(2, n, b)
    return codes.reshape(n, -1), pairs[0], pairs[1]
