"""Why a block is stored a little larger than the least squared error has it.

Codes that are nearest to their weights, at the scale that fits them best, lie in the middle of what
they stand for: the error e = ŵ - w is orthogonal to ŵ, so that Σ e·w = -Σ e². Weights come back
shorter than they were, and a matrix's output with them. That part of the error is the same in all
rows and for all inputs, and it costs more than its share in Σ e²: rows of a trained matrix are sums
of inputs that it saw, so inputs x are large along w, and (e·x)² is larger for an e along w than for
one across. Without the covariance of the inputs, from their mean squares v alone, a block's loss is
taken as

    Σ v e² + (Σ v e w)² / Σ v w²

an error along the weights costing twice as much as one across them, and the codes as they are; the
best factor for ŵ is then 2 P / (Q + P² / X), where P = Σ v ŵ w, Q = Σ v ŵ², X = Σ v w². It is
between 1 and X / P, at which no length is lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FINEST", "factor", "loss"]

#: of float32 or of float64, as the arguments are
_Floats = NDArray[np.floating[Any]]

#: half a step of float16 beside 1: to stretch by less would be to round
FINEST = 2.0**-11


def factor(product: _Floats, square: _Floats, size: _Floats) -> _Floats:
    """The best factor for the decoded weights of each block, [b]; 1 where nothing is decoded.

    Args:
        product: Σ v ŵ w; square: Σ v ŵ²; size: Σ v w², all [b].
    """
    one = np.ones_like(product)
    below = square + product * product / np.where(size > 0, size, one)
    fits = (product > 0) & (below > 0)
    by: _Floats = np.where(fits, (product + product) / np.where(fits, below, one), one)
    return by


def loss(error: _Floats, along: _Floats, size: _Floats) -> _Floats:
    """A block's loss, [b].

    Args:
        error: Σ v e²; along: Σ v e w; size: Σ v w², all [b].
    """
    lost: _Floats = error + along * along / np.where(size > 0, size, np.ones_like(size))
    return lost
