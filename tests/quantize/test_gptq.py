from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize.grids import inputs, real, second_moments, weights

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats.base import NonFiniteError
from mlxquant.quantize import gptq as module
from mlxquant.quantize.encode import encoded
from mlxquant.quantize.gptq import encode, feedback, gptq, objective, retarget
from mlxquant.quantize.grid import Grid, Storage, make_grid
from mlxquant.quantize.grid_levels import Steps
from mlxquant.quantize.hessian import DAMPING, factorize, tied

FORMATS = ["affine1-g32", "affine2-g64", "affine3-g32", "affine4-g128", "affine8-g64", "mxfp4"]
FORMATS += ["mxfp8", "nvfp4", "Q4_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


class Coarse(Storage):
    """A grid of a few levels over all of a short row: small enough to try everything."""

    fixed = True

    def __init__(self, group: int, top: int) -> None:
        self.group, self.levels = group, Steps(0, top)

    def round_scale(self, scale: np.ndarray, begin: int) -> np.ndarray:
        return scale

    def wire(
        self, scale: np.ndarray, low: np.ndarray | None, codes: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        return (codes,)


def coarse(rows: np.ndarray, top: int) -> Grid:
    low, high = rows.min(axis=1)[None], rows.max(axis=1)[None]
    return Grid(Coarse(rows.shape[1], top), (high - low) / np.float32(top), low)


def grid_for(name: str, rows: np.ndarray) -> Grid:
    grid = make_grid(formats.get(name), rows)
    assert grid is not None
    return grid


def nearest(grid: Grid, rows: np.ndarray) -> np.ndarray:
    return grid.nearest(rows, np.arange(rows.shape[1]))


def on_grid(grid: Grid, values: np.ndarray) -> bool:
    return np.array_equal(nearest(grid, values), values)


@pytest.mark.parametrize("name", FORMATS)
def test_identity_gives_the_nearest(name: str) -> None:
    rows = weights(1, 16, 256)
    grid = grid_for(name, rows)
    np.testing.assert_array_equal(gptq(grid, rows, np.eye(256)), nearest(grid, rows))


@pytest.mark.parametrize("name", FORMATS)
def test_half_the_error_where_inputs_are_correlated(name: str) -> None:
    rows, moments = weights(2, 64, 512), second_moments(inputs(3, 512))
    grid = grid_for(name, rows)
    values = gptq(grid, rows, moments)
    assert on_grid(grid, values)
    ours, theirs = (objective(rows, q, moments) for q in (values, nearest(grid, rows)))
    assert (ours <= theirs * (1 + 1e-5)).all()
    # one bit has no room for feedback
    assert ours.sum() < {"affine1-g32": 0.8, "Q2_K": 0.8}.get(name, 0.65) * theirs.sum()


@pytest.mark.parametrize("seed", [40, 41])
@pytest.mark.parametrize("name", [*FORMATS, "IQ2_XXS", "IQ3_S", "TQ2_0"])
def test_never_worse_than_the_search(name: str, seed: int) -> None:
    """All of it, polish included, against what the search makes of the same moments."""
    fmt, rows = formats.get(name), weights(seed, 24, 512)
    # few tokens: moments that are singular, some columns never seen
    x = inputs(seed + 10, 512, tokens=200)
    x[:, 30:60] = 0
    moments = second_moments(x)
    known = factorize(moments)
    searched = real(fmt, encoded(fmt, rows, known.importance))
    found = real(fmt, encode(fmt, rows, moments))
    ours, theirs = (objective(rows, values, moments) for values in (found, searched))
    assert (ours <= theirs * (1 + 1e-4)).all()
    assert ours.sum() < 0.97 * theirs.sum() or name == "TQ2_0"


def textbook(grid: Grid, rows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """GPTQ as it is written down, column by column in float64: the inverse, and its factor."""
    k = rows.shape[1]
    matrix = moments / np.diagonal(moments).mean() + DAMPING * np.eye(k)
    order = np.argsort(-np.diagonal(moments), kind="stable")
    inverse = np.linalg.inv(matrix[np.ix_(order, order)])
    upper = np.linalg.cholesky(inverse).T
    todo, values = rows[:, order].astype(np.float64), np.empty_like(rows)
    for c in range(k):
        lane = np.ascontiguousarray(todo[:, c], np.float32)
        values[:, order[c]] = grid.nearest_lane(lane, int(order[c]))
        error = (todo[:, c] - values[:, order[c]]) / upper[c, c]
        todo[:, c:] -= error[:, None] * upper[c, c:]
    return values


@pytest.mark.parametrize("k", [32, 128, 320])
def test_it_is_gptq(k: int) -> None:
    rows, moments = weights(4, 40, k), second_moments(inputs(5, k))
    grid = grid_for("affine4-g32", rows)
    differ = gptq(grid, rows, moments) != textbook(grid, rows, moments)
    # a tie that float32 decides otherwise changes what follows in its row
    assert differ.any(axis=1).sum() <= 2


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(0, 2**32 - 1),
    st.integers(1, 600),
    st.floats(0, 3),
    st.floats(-8, 8),
    st.integers(0, 255),
)
def test_never_worse_than_the_nearest(
    name: str, seed: int, tokens: int, mixing: float, size: float, dead: int
) -> None:
    rows = weights(seed, 5, 256)
    x = inputs(seed + 1, 256, tokens, mixing) * 10**size
    x[:, :dead] = 0
    moments = second_moments(x)
    grid = grid_for(name, rows)
    values = gptq(grid, rows, moments)
    plain = nearest(grid, rows)
    before = objective(rows, plain, moments)
    after = objective(rows, values, moments)
    slack = 1e-5 * before + 1e-6 * np.trace(moments) / 256 * (rows**2).sum(axis=1)
    assert (after <= before + slack).all()
    assert on_grid(grid, values)
    # columns that nothing is known about are simply rounded
    np.testing.assert_array_equal(values[:, :dead], plain[:, :dead])


def everything(grid: Grid, rows: np.ndarray, moments: np.ndarray, top: int) -> np.ndarray:
    """The least objective of each row over all codes."""
    k = rows.shape[1]
    codes = np.array(list(itertools.product(range(top + 1), repeat=k)), np.float32)
    assert grid.low is not None
    possible = codes[None] * grid.scale[0][:, None, None] + grid.low[0][:, None, None]
    difference = possible - rows[:, None]
    return np.einsum("nck,kl,ncl->nc", difference, moments, difference).min(axis=1)


@pytest.mark.parametrize(("k", "top"), [(5, 3), (8, 2), (10, 1)])
def test_against_every_choice_of_codes(k: int, top: int) -> None:
    rows, moments = weights(6, 60, k), second_moments(inputs(7, k, tokens=500))
    grid = coarse(rows, top)
    best = everything(grid, rows, moments, top)
    values = gptq(grid, rows, moments)
    found = objective(rows, values, moments)
    plain = objective(rows, nearest(grid, rows), moments)
    assert (found >= best * (1 - 1e-5)).all()
    # the best takes far more off the nearest's error than feedback leaves
    assert best.sum() < 0.8 * plain.sum()
    assert found.sum() - best.sum() < 0.4 * (plain.sum() - best.sum())
    assert (found <= best * (1 + 1e-5)).mean() > 0.25


def test_a_plane_is_rounded_within_babais_bound() -> None:
    """Where no code is cut off, a quarter of the steps' squares times the pivots."""
    rows = weights(8, 200, 24)
    scale = np.full((1, 200), 1e-3, np.float32)
    grid = Grid(Coarse(24, 400), scale, np.full((1, 200), -0.2, np.float32))
    moments = second_moments(inputs(9, 24))
    known = factorize(moments, 0.0)
    assert known.damping == 0
    values = gptq(grid, rows, known)
    limit = 1e-6 / 4 * known.pivots.sum(dtype=np.float64) * np.diagonal(moments).mean()
    assert (objective(rows, values, moments) <= limit * (1 + 1e-3)).all()


def test_singular_moments() -> None:
    rows = weights(10, 8, 256)
    grid = grid_for("affine3-g64", rows)
    x = np.random.default_rng(11).standard_normal((3, 256))
    moments = second_moments(x)
    values = gptq(grid, rows, factorize(moments, damping=0.0))
    assert np.isfinite(values).all()
    before = objective(rows, nearest(grid, rows), moments)
    assert objective(rows, values, moments).sum() < 0.2 * before.sum()


def test_damping_rises_until_there_is_a_factor() -> None:
    moments = second_moments(inputs(12, 64))
    assert factorize(moments).damping == DAMPING
    least, vector = (part[..., 0] for part in np.linalg.eigh(moments))
    mean = np.diagonal(moments).mean()
    dented = moments - (least + 0.05 * mean) * np.outer(vector, vector)
    assert factorize(dented).damping == pytest.approx(0.1)
    assert factorize(np.ones((64, 64)), damping=0.0).damping == pytest.approx(1e-6)


def test_a_factor_is_a_factor() -> None:
    moments = second_moments(inputs(13, 96))
    known = factorize(moments)
    upper = np.triu(known.feedback).astype(np.float64) * np.sqrt(known.pivots)
    scaled = known.matrix + known.damping * np.eye(96)
    np.testing.assert_allclose(upper @ upper.T, scaled[np.ix_(known.order, known.order)], atol=1e-5)
    assert (np.diff(np.diagonal(moments)[known.order]) <= 0).all()


def test_a_tied_table_serves_both_roles() -> None:
    rows, moments = weights(30, 32, 256), second_moments(inputs(31, 256))
    grid = grid_for("affine3-g64", rows)
    head, both = (gptq(grid, rows, known) for known in (moments, tied(moments, 2.0)))
    assert ((both - rows) ** 2).sum() < ((head - rows) ** 2).sum()
    assert objective(rows, head, moments).sum() < objective(rows, both, moments).sum()
    plain = objective(rows, nearest(grid, rows), moments).sum()
    assert objective(rows, both, moments).sum() < plain
    mean = np.diagonal(moments).mean()
    np.testing.assert_allclose(tied(moments, 2.0), moments / mean + 2 * np.eye(256), atol=1e-9)


def test_no_activations_at_all() -> None:
    rows = weights(14, 4, 256)
    grid = grid_for("Q4_K", rows)
    np.testing.assert_array_equal(gptq(grid, rows, np.zeros((256, 256))), nearest(grid, rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[:, :60], r"shape \[64, 60\]; a square"),
        (lambda m: m * np.where(np.arange(64) == 9, np.nan, 1), "NaN or infinite.*calibrate with"),
        (lambda m: m - 1e3 * np.eye(64), "is negative; calibrate anew"),
        (
            lambda m: 1e9 * (np.ones((64, 64)) - np.eye(64)) + np.eye(64),
            "not positive semidefinite",
        ),
    ],
)
def test_what_are_no_moments(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=message):
        factorize(change(second_moments(inputs(15, 64))))


def test_shapes_must_match() -> None:
    rows = weights(16, 4, 256)
    grid = grid_for("Q4_K", rows)
    with pytest.raises(RequestError, match="second moments of 128 columns"):
        gptq(grid, rows, np.eye(128))
    with pytest.raises(RequestError, match="all must match"):
        gptq(grid, rows[:2], np.eye(256))


@pytest.mark.parametrize("case", ["zeros", "constant", "one weight"])
@pytest.mark.parametrize("name", FORMATS)
def test_plain_tensors(name: str, case: str) -> None:
    rows = np.zeros((3, 256), np.float32)
    if case == "constant":
        rows[:] = 0.375
    if case == "one weight":
        rows[:, 100] = -3
    fmt, moments = formats.get(name), second_moments(inputs(17, 256))
    grid = make_grid(fmt, rows, factorize(moments).importance)
    assert grid is not None
    values = real(fmt, encode(fmt, rows, moments))
    plain = objective(rows, nearest(grid, rows), moments)
    assert (objective(rows, values, moments) <= plain * (1 + 1e-5) + 1e-12).all()
    if case == "zeros":
        np.testing.assert_array_equal(values, 0)


@pytest.mark.parametrize("name", ["IQ1_S", "IQ2_XXS", "IQ3_S", "TQ1_0"])
def test_feedback_between_blocks(name: str) -> None:
    fmt, rows = formats.get(name), weights(18, 12, 768)
    moments = second_moments(inputs(19, 768))
    importance = np.diagonal(moments).astype(np.float32)
    plain = objective(rows, fmt.decode(fmt.encode(rows, importance)), moments)
    (wire,) = feedback(fmt, rows, moments, importance)
    ours = objective(rows, fmt.decode((wire,)), moments)
    assert (ours <= plain * (1 + 1e-5)).all()
    # ternary weights have little to give: one scale, the largest weight, serves a whole block
    assert ours.sum() < (1 if name == "TQ1_0" else 0.99) * plain.sum()
    np.testing.assert_array_equal(encode(fmt, rows, moments, importance)[0], wire)


def test_feedback_of_one_block_is_the_encoder() -> None:
    fmt, rows = formats.get("IQ2_XS"), weights(20, 3, 256)
    importance = np.ones(256, np.float32)
    (wire,) = feedback(fmt, rows, second_moments(inputs(21, 256)), importance)
    np.testing.assert_array_equal(wire, fmt.encode(rows, importance)[0])


def test_encode_goes_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, rows = formats.get("affine3-g64"), weights(22, 50, 256)
    moments = second_moments(inputs(23, 256))
    whole = encode(fmt, rows, moments)
    monkeypatch.setattr(module, "_PIECE", 7 * 256)
    for one, other in zip(whole, encode(fmt, rows, moments), strict=True):
        assert one.shape == other.shape
        # products of other shapes may round otherwise, and so may a tie
        assert (one != other).mean() < 0.02
    empty = encode(fmt, rows[:0], moments)
    assert [part.shape for part in empty] == [(0, 24), (0, 4), (0, 4)]


def test_nan_weights() -> None:
    rows = weights(24, 4, 256)
    rows[2, 9] = np.nan
    with pytest.raises(NonFiniteError, match="row 2, column 9"):
        encode(formats.get("affine4-g64"), rows, np.eye(256))


def test_retarget_is_the_best_answer_to_other_inputs() -> None:
    rows, x = weights(25, 10, 48), inputs(26, 48, tokens=4000)
    y = x + 0.3 * np.random.default_rng(27).standard_normal(x.shape) @ np.diag(np.arange(48) / 24)
    moments, cross = second_moments(y), x.T @ y / len(x)
    found = retarget(rows, moments, cross, damping=0.0)
    best = np.linalg.lstsq(y, x @ rows.T.astype(np.float64), rcond=None)[0].T
    np.testing.assert_allclose(found, best, atol=1e-5)
    # damped, it lies between the two
    damped = retarget(rows, moments, cross, damping=0.1)
    errors = [((x @ rows.T - y @ w.T) ** 2).sum() for w in (found, damped, rows)]
    assert errors[0] < errors[1] < errors[2]


def test_retarget_of_equal_inputs_changes_nothing() -> None:
    rows, moments = weights(28, 5, 32), second_moments(inputs(29, 32))
    np.testing.assert_array_equal(retarget(rows, moments, moments), rows)
    np.testing.assert_array_equal(retarget(rows, np.zeros((32, 32)), np.zeros((32, 32))), rows)
    with pytest.raises(RequestError, match="cross moments of shape"):
        retarget(rows, moments, moments[:4])
