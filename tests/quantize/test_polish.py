from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize.grids import inputs, real, second_moments, weights
from quantize.test_gptq import FORMATS, coarse, everything

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.quantize.gptq import gptq, objective
from mlxquant.quantize.grid import Grid, grid_of_wire, make_grid
from mlxquant.quantize.polish import polish, refit

#: what the objective may rise by, for it is followed in float32
SLACK = 1 + 1e-4


def grid_for(name: str, rows: np.ndarray) -> Grid:
    grid = make_grid(formats.get(name), rows)
    assert grid is not None
    return grid


@pytest.mark.parametrize("name", FORMATS)
def test_every_sweep_takes_something_off(name: str) -> None:
    fmt, rows, moments = formats.get(name), weights(1, 24, 256), second_moments(inputs(2, 256))
    grid = grid_for(name, rows)
    values = gptq(grid, rows, moments)
    before = objective(rows, values, moments)
    for _ in range(3):
        grid, values = polish(grid, values, rows, moments, sweeps=1)
        after = objective(rows, values, moments)
        assert (after <= before * SLACK).all()
        assert after.sum() < before.sum()
        before = after
    wire = grid.wire(values)
    np.testing.assert_array_equal(real(fmt, wire), values)
    again = grid_of_wire(fmt, wire)
    assert again is not None
    np.testing.assert_array_equal(again.scale, grid.scale)


@pytest.mark.parametrize("name", ["affine2-g64", "affine4-g32", "Q4_K", "nvfp4"])
def test_no_single_code_can_be_bettered_in_the_end(name: str) -> None:
    rows, moments = weights(3, 6, 256), second_moments(inputs(4, 256))
    grid = grid_for(name, rows)
    values = gptq(grid, rows, moments)
    same, values = polish(grid, values, rows, moments, sweeps=60, scales=False)
    np.testing.assert_array_equal(same.scale, grid.scale)
    gradient = (values - rows.astype(np.float64)) @ moments
    wanted = (values - gradient / np.diagonal(moments)).astype(np.float32)
    moved = grid.nearest(wanted, np.arange(256)) - values
    gain = -(2 * moved * gradient + moved**2 * np.diagonal(moments))
    assert gain.max() < 1e-4 * objective(rows, values, moments).mean()


@pytest.mark.parametrize(("k", "top"), [(5, 3), (8, 2), (10, 1)])
def test_the_optimum_is_often_reached(k: int, top: int) -> None:
    rows, moments = weights(5, 60, k), second_moments(inputs(6, k, tokens=500))
    grid = coarse(rows, top)
    best = everything(grid, rows, moments, top)
    values = gptq(grid, rows, moments)
    _, polished = polish(grid, values, rows, moments, sweeps=8)
    before, after = (objective(rows, q, moments) for q in (values, polished))
    assert (after >= best * (1 - 1e-5)).all()
    assert (after <= before * SLACK).all()
    # a single code at a time does not leave every dip, but few rows stay far from the best
    assert (after <= best * (1 + 1e-5)).mean() >= 0.5
    assert after.sum() - best.sum() < 0.85 * (before.sum() - best.sum())


@pytest.mark.parametrize("name", [n for n in FORMATS if n != "mxfp8"])
def test_scales_are_found_again(name: str) -> None:
    """Values on a grid, looked at through one whose scales are a little off: the same codes, and
    the scales come back."""
    fmt, rows, moments = formats.get(name), weights(7, 12, 256), second_moments(inputs(8, 256))
    right = grid_for(name, rows)
    wanted = right.nearest(rows, np.arange(256))
    levels = right.levels_of(wanted)
    storage, size = right.storage, right.storage.group
    factor = 2.0 if name.startswith("mxfp") else 1.12
    scale = storage.round_scale(right.scale * np.float32(factor), 0)
    low = None if right.low is None else storage.round_low(right.low * np.float32(1.1), 0)
    wrong = right.with_scales(scale, low)
    offset = np.float32(0) if low is None else np.repeat(low.T, size, axis=1)
    values = levels * np.repeat(scale.T, size, axis=1) + offset
    before = objective(wanted, values, moments)
    found, better = refit(wrong, values, wanted, moments, sweeps=12)
    after = objective(wanted, better, moments)
    assert (after <= before * SLACK).all()
    assert after.sum() < 0.05 * before.sum()
    np.testing.assert_array_equal(real(fmt, found.wire(better)), better)
    # the codes are what they were, where a scale is not zero
    kept = np.repeat(found.scale.T != 0, size, axis=1)
    np.testing.assert_array_equal(found.levels_of(better)[kept], levels[kept])


def test_refit_helps_what_was_rounded() -> None:
    rows, moments = weights(9, 24, 256), second_moments(inputs(10, 256))
    for name in ("affine2-g64", "affine4-g64", "Q2_K", "Q4_K", "Q3_K"):
        grid = grid_for(name, rows)
        values = gptq(grid, rows, moments)
        _, better = refit(grid, values, rows, moments)
        ratio = objective(rows, better, moments).sum() / objective(rows, values, moments).sum()
        assert ratio < 0.99, name


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(0, 2**32 - 1),
    st.integers(1, 600),
    st.floats(-8, 8),
    st.integers(0, 255),
)
def test_never_worse(name: str, seed: int, tokens: int, size: float, dead: int) -> None:
    rows = weights(seed, 4, 256)
    x = inputs(seed + 1, 256, tokens) * 10**size
    x[:, :dead] = 0
    moments = second_moments(x)
    grid = grid_for(name, rows)
    values = grid.nearest(rows, np.arange(256))
    found, better = polish(grid, values, rows, moments)
    before, after = (objective(rows, q, moments) for q in (values, better))
    slack = 1e-6 * np.trace(moments) / 256 * (rows**2).sum(axis=1)
    assert (after <= before * SLACK + slack).all()
    np.testing.assert_array_equal(real(formats.get(name), found.wire(better)), better)


def test_fixed_scales_stay() -> None:
    rows, moments = weights(11, 5, 256), second_moments(inputs(12, 256))
    grid = grid_for("Q1_0", rows)
    found, values = polish(grid, gptq(grid, rows, moments), rows, moments, sweeps=3)
    np.testing.assert_array_equal(found.scale, grid.scale)
    np.testing.assert_array_equal(real(formats.get("Q1_0"), found.wire(values)), values)


def test_no_activations_change_nothing() -> None:
    rows = weights(13, 3, 256)
    grid = grid_for("affine3-g64", rows)
    values = grid.nearest(rows, np.arange(256))
    found, same = polish(grid, values, rows, np.zeros((256, 256)))
    np.testing.assert_array_equal(same, values)
    np.testing.assert_array_equal(found.scale, grid.scale)


def test_shapes_must_match() -> None:
    rows = weights(14, 3, 256)
    grid = grid_for("affine3-g64", rows)
    with pytest.raises(RequestError, match="all must match"):
        polish(grid, rows[:2], rows, np.eye(256))
