from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize import grids
from quantize.grids import real

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats import STORAGE, Format, MlxFormat
from mlxquant.formats.affine import Affine
from mlxquant.formats.floats import round_to
from mlxquant.quantize.grid import Grid, grid_of_wire, has_grid, make_grid

#: every format that gives each weight a code of its own
GRIDDED = [name for name in formats.names() if has_grid(formats.get(name))]

#: of them, those of ggml
GGML = [name for name in GRIDDED if not isinstance(formats.get(name), MlxFormat)]

#: weights that code several together, or that are no codes at all
WITHOUT = ["IQ2_XXS", "IQ3_S", "IQ1_M", "TQ1_0", "TQ2_0", "Q8_K", "F32", "BF16"]


def weights(seed: int = 0, n: int = 6, k: int = 512) -> np.ndarray:
    """Rows of very different sizes."""
    size = np.exp(np.random.default_rng(seed).standard_normal((n, 1)))
    return round_to(grids.weights(seed, n, k) * size.astype(np.float32), "BF16")


def grid_of(fmt: Format, rows: np.ndarray) -> Grid:
    grid = grid_of_wire(fmt, fmt.encode(rows))
    assert grid is not None
    return grid


def test_which_formats_have_one() -> None:
    assert {"affine4-g64", "mxfp4", "mxfp8", "nvfp4", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS"} <= set(
        GRIDDED
    )
    for name in WITHOUT:
        assert not has_grid(formats.get(name))
        assert make_grid(formats.get(name), weights(k=256)) is None


@pytest.mark.parametrize("name", GRIDDED)
def test_wire_decodes_to_the_values(name: str) -> None:
    fmt, rows = formats.get(name), weights(1)
    grid = grid_of(fmt, rows)
    assert grid.shape == rows.shape
    values = grid.nearest(rows * np.float32(1.3), np.arange(rows.shape[1]))
    wire = grid.wire(values)
    blocks = rows.shape[1] // fmt.block_size
    for part, array in zip(fmt.parts, wire, strict=True):
        assert array.dtype == STORAGE[part.dtype]
        assert array.shape == (len(rows), blocks * part.per_block)
    np.testing.assert_array_equal(real(fmt, wire), values)


@pytest.mark.parametrize("name", GRIDDED)
def test_the_encoders_own_bytes_come_back(name: str) -> None:
    fmt, rows = formats.get(name), weights(2)
    wire = fmt.encode(rows)
    grid = grid_of_wire(fmt, wire)
    assert grid is not None
    for before, after in zip(wire, grid.wire(real(fmt, wire)), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", GRIDDED)
def test_other_scales_are_stored_and_read_back(name: str) -> None:
    fmt, rows = formats.get(name), weights(3)
    grid = grid_of(fmt, rows)
    if grid.storage.fixed:
        assert name in ("Q1_0", "MXFP4", "NVFP4")
        return
    scale = grid.storage.round_scale(grid.scale * np.float32(0.8), 0)
    low = None if grid.low is None else grid.storage.round_low(grid.low * np.float32(0.9), 0)
    other = grid.with_scales(scale, low)
    values = other.nearest(rows, np.arange(rows.shape[1]))
    wire = other.wire(values)
    np.testing.assert_array_equal(real(fmt, wire), values)
    again = grid_of_wire(fmt, wire)
    assert again is not None
    np.testing.assert_array_equal(again.scale, scale)
    if low is not None:
        np.testing.assert_array_equal(again.low, low)
    # and it is the nearest that can be stored: not far from what was asked, and kept when asked
    assert (np.abs(scale - 0.8 * grid.scale) <= 0.5 * np.abs(grid.scale)).mean() > 0.95
    np.testing.assert_array_equal(grid.storage.round_scale(scale, 0), scale)


@pytest.mark.parametrize("name", GRIDDED)
def test_nearest_is_the_nearest_of_all_levels(name: str) -> None:
    fmt, rows = formats.get(name), weights(4, n=3, k=256)
    grid = grid_of(fmt, rows)
    levels = all_levels(grid)
    size = grid.storage.group
    scale = np.repeat(grid.scale.T, size, axis=1)[:, :, None].astype(np.float64)
    low = 0 if grid.low is None else np.repeat(grid.low.T, size, axis=1)[:, :, None]
    possible = scale * levels + low
    columns = np.random.default_rng(5).permutation(256)
    given_rows = rows[:, columns] * np.float32(1.2)
    got = grid.nearest(given_rows, columns)
    best = np.abs(possible[:, columns] - given_rows[:, :, None]).min(axis=2)
    # equal up to float32's rounding of values near a middle
    slack = 1e-6 * np.abs(possible).max()
    assert (np.abs(got - given_rows) <= best + slack).all()
    one = grid.nearest_lane(np.ascontiguousarray(given_rows[:, 7]), int(columns[7]))
    np.testing.assert_array_equal(one, got[:, 7])


def all_levels(grid: Grid) -> np.ndarray:
    """Every level of a grid, by asking for the nearest to very many numbers of every magnitude."""
    finest = np.linspace(-512, 512, 1 << 16)
    asked = np.concatenate([finest, finest / 2**7, finest / 2**14]).astype(np.float32)
    return np.unique(grid.storage.levels.snap(asked))


def test_there_are_as_many_levels_as_codes() -> None:
    # zero of either sign is one level; Q8_0 leaves -128 out; E4M3 has two codes for NaN
    fewer = {"Q8_0": 1, "mxfp8": 3, "mxfp4": 1, "nvfp4": 1, "MXFP4": 1, "NVFP4": 1}
    for name in GRIDDED:
        fmt = formats.get(name)
        count = len(all_levels(grid_of(fmt, weights(k=256))))
        assert count == (1 << fmt.bits) - fewer.get(name, 0), name


EDGES = {
    "zeros": np.zeros((2, 256)),
    "constant": np.full((2, 256), 0.3),
    "constant below zero": np.full((2, 256), -7.0),
    "far from zero": 100 + np.random.default_rng(0).standard_normal((2, 256)) * 1e-3,
    "one weight": np.where(np.arange(256) == 77, 3.0, 0.0)[None].repeat(2, axis=0),
    "tiny": np.random.default_rng(1).standard_normal((2, 256)) * 1e-30,
    "large": np.random.default_rng(2).standard_normal((2, 256)) * 1e4,
}


@pytest.mark.parametrize("name", GRIDDED)
@pytest.mark.parametrize("case", EDGES)
def test_edges(name: str, case: str) -> None:
    fmt = formats.get(name)
    rows = round_to(EDGES[case].astype(np.float32), "BF16")
    grid = grid_of(fmt, rows)
    with warnings.catch_warnings(action="error"):
        values = grid.nearest(rows, np.arange(256))
        wire = grid.wire(values)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(real(fmt, wire), values)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 5, 6, 8]),
    st.floats(-1e4, 1e4),
    st.floats(1e-6, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_codes_are_found_whatever_the_offset_dwarfs(
    bits: int, offset: float, spread: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    rows = (offset + spread * random.standard_normal((2, 64))).astype(np.float32)
    fmt = Affine(bits, 32)
    grid = grid_of(fmt, round_to(rows, "BF16"))
    values = grid.nearest(rows, np.arange(64))
    np.testing.assert_array_equal(real(fmt, grid.wire(values)), values)


def test_values_off_the_grid_are_refused() -> None:
    fmt, rows = formats.get("Q4_K"), weights(6)
    grid = grid_of(fmt, rows)
    values = grid.nearest(rows, np.arange(512))
    values[2, 300] += grid.scale[9, 2] / 3
    with pytest.raises(RequestError, match="row 2, column 300 is not on the grid"):
        grid.wire(values)
    with pytest.raises(RequestError, match=r"shape \[6, 256\]"):
        grid.wire(values[:, :256])


def test_make_grid_is_better_with_importance() -> None:
    rows = weights(7, n=32, k=256)
    importance = np.random.default_rng(8).gamma(0.3, size=256).astype(np.float32)
    for name in ("Q4_K", "Q4_0", "IQ4_XS"):
        fmt = formats.get(name)
        errors = []
        for given_importance in (None, importance):
            grid = make_grid(fmt, rows, given_importance)
            assert grid is not None
            errors.append(
                (grid.nearest(rows, np.arange(256)) - rows) ** 2 @ importance.astype(np.float64)
            )
        assert errors[1].sum() < errors[0].sum()


def test_a_grid_is_a_value() -> None:
    grid = grid_of(formats.get("affine3-g32"), weights(9))
    doubled = grid.with_scales(grid.scale * 2, grid.low)
    np.testing.assert_array_equal(doubled.inverse, replace(grid, scale=grid.scale * 2).inverse)
    assert not np.array_equal(doubled.inverse, grid.inverse)
