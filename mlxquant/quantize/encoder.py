"""A method of choosing codes, as what calibration calls for each matrix (`calibrate.Encode`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats.base import Array, Format
from .encode import encoded
from .gptq import encode
from .hessian import Hessian, factorize, tied
from .statistics import Statistics

__all__ = ["Encoder"]


class Encoder:
    """A method as `calibrate.Encode`; factorizes the moments of each input once, and takes them."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._of: Statistics | None = None
        self._factors: Hessian | None = None

    def __call__(
        self, fmt: Format, rows: NDArray[np.float32], statistics: Statistics | None
    ) -> tuple[Array, ...]:
        """Rows [n, k] as the format's wire arrays."""
        importance = statistics.importance if statistics else None
        known = self._factorized(statistics) if self._method == "gptq" else None
        if known is not None:
            return encode(fmt, rows, known, importance)
        return encoded(fmt, rows, importance)

    def _factorized(self, statistics: Statistics | None) -> Hessian | None:
        if self._of is statistics and statistics is not None:
            return self._factors
        self._of = self._factors = None  # before the next ones are made
        moments: Any = statistics.take() if statistics else None
        if statistics is None or moments is None:
            return None
        if statistics.looked_up:
            moments = tied(moments)
        self._of, self._factors = statistics, factorize(moments)
        return self._factors
