"""Why a block is stored a little larger than the least squared error has it.

Codes that are nearest to their weights, at the scale that fits them best, lie in the middle of what
they stand for: the error e = ŵ - w is orthogonal to ŵ, so that Σ e·w = -Σ e². Weights come back
shorter than they were, and a matrix's output with them. That part of the error is the same in all
rows and for all inputs, and it costs more than its share in Σ e²: rows of a trained matrix are sums
of inputs that it saw, so inputs x are large along w, and (e·x)² is larger for an e along w than for
one across. Without the covariance of the inputs, from their mean squares v alone, a block's loss is
taken as

    Σ v e² + λ (Σ v e w)² / Σ v w²        λ = 1

and the codes as they are; then the best factor for ŵ is (1 + λ) P / (Q + λ P² / X), where
P = Σ v ŵ w, Q = Σ v ŵ², X = Σ v w². It is between 1 and X / P, at which no length is lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FINEST", "factor", "loss"]

_Float64 = NDArray[np.float64]

#: half a step of float16 beside 1: to stretch by less would be to round
FINEST = 2.0**-11

#: λ: how much more an error along the weights costs than one across them
_ALONG = 1.0


def factor(product: _Float64, square: _Float64, size: _Float64) -> _Float64:
    """The best factor for the decoded weights of each block, [b]; 1 where nothing is decoded.

    Args:
        product: Σ v ŵ w; square: Σ v ŵ²; size: Σ v w², all [b].
    """
    fits = (product > 0) & (size > 0)
    safe = np.where(fits, size, 1)
    below = np.where(fits, square + _ALONG * product * product / safe, 1)
    return np.where(fits, (1 + _ALONG) * product / below, 1.0)


def loss(error: _Float64, along: _Float64, size: _Float64) -> _Float64:
    """A block's loss, [b].

    Args:
        error: Σ v e²; along: Σ v e w; size: Σ v w², all [b].
    """
    return error + _ALONG * along * along / np.where(size > 0, size, 1)
