"""Estimates with what sampling leaves open: bootstrap intervals over windows.

The tokens of one window depend on each other, so windows are resampled, not tokens. DRAWS times, as
many windows as were measured are drawn from them with replacement, and the statistic is computed of
the tokens of those. The interval is what lies between the 2.5th and the 97.5th percentile of the
results (Efron's percentile interval). Draws come from a fixed seed, the same wherever the number of
windows is the same, so that figures repeat to the last digit.

The interval says how far another choice of windows from the same text would move the figure; it
knows nothing of other texts. Windows next to each other are taken as independent. With fewer than
two windows there is no interval. A maximum has none either: no resample exceeds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "DRAWS", "Estimate", "largest", "mean", "quantiles"]

Values = NDArray[np.float64]

#: resamples behind an interval
DRAWS = 1000

#: share of resamples inside an interval
CONFIDENCE = 0.95

_SEED = 20240229

#: counts of drawn windows that are held at a time
_COUNTS = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; `low` and `high` are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of an increasing function of the figure."""
        low = None if self.low is None else function(self.low)
        high = None if self.high is None else function(self.high)
        return Estimate(function(self.value), low, high)


def mean(values: Values) -> Estimate:
    """The mean of all tokens.

    Args:
        values: [windows, tokens].
    """
    windows, tokens = values.shape
    sums = values.sum(axis=1)
    value = math.fsum(sums) / values.size
    resampled = [counts @ sums / values.size for counts in _draws(windows)]
    return _estimate(value, np.concatenate(resampled) if resampled else None)


def quantiles(values: Values, which: Sequence[float]) -> list[Estimate]:
    """Quantiles over all tokens: the smallest value that so large a share does not exceed.

    Args:
        values: [windows, tokens].
        which: shares, above 0 and up to 1.
    """
    windows, tokens = values.shape
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    window = (order // tokens).astype(np.int32)
    # a weight of `counts[window]` a token, summed along the sorted values, reaches the share there
    need = [max(1, math.ceil(share * flat.size - 1e-9)) for share in which]
    resampled: list[list[int]] = [[] for _ in which]
    for counts in _draws(windows):
        for count in counts:
            places = np.searchsorted(np.cumsum(count[window]), need)
            for found, place in zip(resampled, places, strict=True):
                found.append(int(place))
    return [
        _estimate(float(flat[order[n - 1]]), flat[order[found]] if found else None)
        for n, found in zip(need, resampled, strict=True)
    ]


def largest(values: Values) -> Estimate:
    """The largest value; without an interval."""
    return Estimate(float(values.max()))


def _draws(windows: int) -> Iterator[NDArray[np.int64]]:
    """How often each window is drawn, int64 [some, windows], in all DRAWS rows."""
    if windows < 2:
        return
    generator = np.random.default_rng(_SEED)
    step = max(1, _COUNTS // windows)
    for begin in range(0, DRAWS, step):
        rows = min(step, DRAWS - begin)
        yield generator.multinomial(windows, np.full(windows, 1 / windows), size=rows)


def _estimate(value: float, resampled: Values | None) -> Estimate:
    if resampled is None:
        return Estimate(value)
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [outside, 1 - outside])
    return Estimate(value, float(low), float(high))
