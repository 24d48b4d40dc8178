"""The search for scales of columns that a quantizer then rounds with less error: pure arrays.

    error(s) = Σ ‖x Wᵀ - (x / s) Ŵᵀ‖² / Σ ‖x Wᵀ‖²,   Ŵ = quantizer(W diag(s))

over matrices W that share an input x, of which the second moments are known. What scales are tried,
and the source, stand in `awq.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["column_sizes", "search_scales"]

Float32 = NDArray[np.float32]

#: scales are no further from one than this
_LARGEST = 1e4


def column_sizes(rows: Float32) -> Float32:
    """Mean size of each column, every row taken relative to its largest weight; float32 [k]."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    relative = np.divide(np.abs(rows), largest, out=np.zeros_like(rows), where=largest > 0)
    sizes: Float32 = relative.mean(axis=0)
    return sizes


def search_scales(
    weights: Sequence[Float32],
    moments: Sequence[Float32],
    quantizers: Sequence[Callable[[Float32, Float32], Float32]],
    sizes: Float32,
    columns: Float32,
    *,
    grid: int = 20,
) -> tuple[Float32, float, float, float]:
    """Scales of matrices that share an input; pure.

    Args:
        weights: float32 [n, k] each.
        moments: of each one's input, float32 [k, k] (mean of x xᵀ) or [k] (its diagonal).
        quantizers: of each, (W diag(s) [n, k], s [k]) → the same as stored.
        sizes: m, float32 [k] ≥ 0. columns: c, float32 [k] ≥ 0.
        grid: exponents tried between 0 and 1.

    Returns:
        (scales float32 [k], exponent, error with them, error without): errors are squared errors
        of outputs over squared outputs, summed over the matrices. Scales are ones where no others
        are better.
    """
    ones = np.ones(len(sizes), dtype=np.float32)
    norms = [max(_squared(w, h), 1e-30) for w, h in zip(weights, moments, strict=True)]

    def error(scales: Float32) -> float:
        total = 0.0
        for w, h, quantizer, norm in zip(weights, moments, quantizers, norms, strict=True):
            total += _squared(quantizer(w * scales, scales) / scales - w, h) / norm
        return total

    before = error(ones)
    best = (ones, 0.0, before)
    for step in range(1, grid + 1):
        alpha = step / grid
        for wanted in (_power(sizes, alpha), _power(sizes, alpha) / _power(columns, 1 - alpha)):
            scales = _normalised(wanted)
            now = error(scales)
            if now < best[2]:
                best = (scales, alpha, now)
            if alpha == 1:
                break  # both are the same
    return (*best, before)


def _power(values: Float32, exponent: float) -> Float32:
    """Values, those of channels that are never used a ten-thousandth of the largest, to a power."""
    largest = float(values.max(initial=0.0))
    if not largest > 0 or not np.isfinite(largest):
        return np.ones_like(values)
    powers: Float32 = np.maximum(values / largest, 1e-4) ** np.float32(exponent)
    return powers


def _normalised(scales: Float32) -> Float32:
    """Scales with the geometric middle of their range at one."""
    middle = np.sqrt(scales.max() * scales.min())
    clipped: Float32 = np.clip(scales / middle, 1 / _LARGEST, _LARGEST).astype(np.float32)
    return clipped


def _squared(weights: Float32, moments: Float32) -> float:
    """Mean of ‖x Wᵀ‖², for W [n, k]."""
    if moments.ndim == 1:
        return float(np.square(weights).sum(axis=0) @ moments)
    return float(np.vdot(weights @ moments, weights))
