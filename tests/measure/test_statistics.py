"""Intervals: their coverage, their form, and where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mlxquant.measure.statistics import DRAWS, Estimate, largest, mean, quantiles


def test_against_scipy_on_window_means() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(40, 30))
    found = mean(values)
    theirs = stats.bootstrap(
        (values.mean(axis=1),),
        np.mean,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.08 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.08 * width)


def test_dependence_within_windows_widens_the_interval() -> None:
    """All tokens of a window equal: as uncertain as one token a window, not as many."""
    one = np.random.default_rng(2).standard_normal((60, 1))
    alone, repeated = mean(one), mean(np.repeat(one, 50, axis=1))
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))


def test_coverage() -> None:
    """Of 200 samples the interval holds the true mean in about 95 of 100."""
    generator = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        shared = generator.standard_normal((50, 1))
        found = mean(shared + generator.standard_normal((50, 10)))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert 0.89 <= held / 200 <= 0.99


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_the_smallest_that_reach_the_share(share: float) -> None:
    values = np.random.default_rng(4).standard_normal((20, 25)).round(1)
    (found,) = quantiles(values, [share])
    assert found.value == np.quantile(values, share, method="inverted_cdf")
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high


def test_quantile_resamples_one_by_one() -> None:
    values = np.random.default_rng(5).standard_normal((7, 11))
    (found,) = quantiles(values, [0.9])
    generator = np.random.default_rng(20240229)
    resampled = []
    for count in generator.multinomial(7, np.full(7, 1 / 7), size=DRAWS):
        drawn = np.repeat(values, count, axis=0)
        resampled.append(np.quantile(drawn, 0.9, method="inverted_cdf"))
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))


def test_where_there_is_no_interval() -> None:
    one = np.arange(5.0)[None]
    assert mean(one) == Estimate(2.0)
    assert quantiles(one, [0.5]) == [Estimate(2.0)]
    assert largest(np.arange(10.0).reshape(5, 2)) == Estimate(9.0)
    assert Estimate(1.0).map(math.exp) == Estimate(math.e)


def test_figures_repeat() -> None:
    values = np.random.default_rng(6).standard_normal((9, 4))
    assert mean(values) == mean(values.copy())
    assert quantiles(values, [0.3]) == quantiles(values.copy(), [0.3])
