"""What calibration knows of one module: the second moments of what it multiplies.

    moments = Σ x·xᵀ over the tokens seen      [k, k], of a linear module's input x [k]
    squares = its diagonal                     [k]

moments / count is, up to a factor of two, the Hessian of the squared error of the module's output
in any row of its weight: ‖(w - ŵ)·X‖² = (w - ŵ)·moments·(w - ŵ)ᵀ. Its diagonal alone is what
llama.cpp calls an importance matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistics", "blended"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass
class Statistics:
    """Of the input of one module, or of one expert of it.

    Attributes:
        count: tokens seen.
        squares: float64 [k], Σ x² of each column.
        moments: float32 [k, k], Σ x·xᵀ; None where only the squares are kept.
        looked_up: the weight is an embedding too, whose rows are used as they are.
    """

    count: int
    squares: Float64
    moments: Float32 | None = field(default=None, repr=False)
    looked_up: bool = False

    @property
    def importance(self) -> Float32 | None:
        """Mean square of each column, float32 [k]; None where no token was seen."""
        if not self.count:
            return None
        return (self.squares / self.count).astype(np.float32)

    @property
    def hessian(self) -> Float32 | None:
        """Mean of x·xᵀ, float32 [k, k]; None where no token was seen or moments were not kept."""
        if not self.count or self.moments is None:
            return None
        hessian: Float32 = self.moments / np.float32(self.count)
        return hessian

    def take(self) -> Float32 | None:
        """The moments, which are forgotten here: of a wide layer they are hundreds of megabytes."""
        moments, self.moments = self.moments, None
        return moments if self.count else None

    @property
    def is_finite(self) -> bool:
        """Whether no input was NaN, infinite, or so large that its square is."""
        return bool(np.isfinite(self.squares).all())

    def __add__(self, other: Statistics) -> Statistics:
        """Of both's tokens together."""
        both = self.moments is not None and other.moments is not None
        moments: Any = self.moments + other.moments if both else None  # type: ignore[operator]
        return Statistics(self.count + other.count, self.squares + other.squares, moments)


def blended(own: Statistics, everyone: Statistics, tokens: int) -> Statistics:
    """An expert's statistics, filled up with those of all experts together.

    An expert that saw few tokens has a Hessian of low rank, by which all directions that it did not
    see are free. So the average input stands in for as many tokens as are missing.

    Args:
        own: of the expert; everyone: the sum over all experts.
        tokens: how many an expert should have seen.
    """
    missing = tokens - own.count
    if missing <= 0 or not everyone.count:
        return own
    share = np.float32(missing / everyone.count)
    moments = None
    if own.moments is not None and everyone.moments is not None:
        moments = own.moments + share * everyone.moments
    return Statistics(tokens, own.squares + share * everyone.squares, moments)
