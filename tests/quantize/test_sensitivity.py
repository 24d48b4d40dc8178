"""Predicted divergences: exact where the law is exact, sane where it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.quantize.sensitivity import (
    Calibration,
    Sensitivity,
    in_context,
    predict,
    predict_all,
    relative_error,
)

ERRORS = {f"f{i}": 4.0**-i for i in range(1, 9)}


@given(st.floats(1e-6, 10), st.sets(st.sampled_from(sorted(ERRORS)), min_size=1))
def test_a_quadratic_law_is_found_from_any_formats(factor: float, chosen: set[str]) -> None:
    measured = {name: factor * ERRORS[name] for name in chosen}
    found = predict(Sensitivity(ERRORS, measured))
    assert found == pytest.approx({name: factor * error for name, error in ERRORS.items()})


@given(st.floats(1e-4, 10), st.floats(0.5, 1.2))
def test_a_power_law_is_found_from_two(factor: float, power: float) -> None:
    law = {name: factor * error**power for name, error in ERRORS.items()}
    found = predict(Sensitivity(ERRORS, {name: law[name] for name in ("f2", "f6")}))
    for name in ("f1", "f2", "f3", "f4", "f5", "f6"):
        assert found[name] == pytest.approx(law[name])
    # errors smaller than any that was measured: quadratic
    assert found["f8"] == pytest.approx(law["f6"] / 16)


@example([5e-324, *[0.0] * 6, 1.0], [0.0])
@given(
    st.lists(st.floats(0, 2), min_size=8, max_size=8),
    st.lists(st.floats(0, 5), min_size=1, max_size=8),
)
def test_a_larger_error_never_costs_less(errors: list[float], measured: list[float]) -> None:
    table = {f"f{i}": error for i, error in enumerate(errors)}
    found = predict(Sensitivity(table, {f"f{i}": kl for i, kl in enumerate(measured)}))
    by_error = [found[name] for name in sorted(table, key=lambda name: table[name])]
    assert all(math.isfinite(cost) and cost >= 0 for cost in by_error)
    for smaller, larger in zip(by_error, by_error[1:], strict=False):
        assert smaller <= larger * (1 + 1e-9)
    assert all(found[name] == 0 for name, error in table.items() if error == 0)


def test_noise_is_evened_out() -> None:
    """Fewer bits that measured better: both at their geometric mean."""
    found = predict(Sensitivity(ERRORS, {"f2": 1e-5, "f3": 4e-5}))
    assert found["f2"] > found["f3"]
    between = math.sqrt(found["f2"] * found["f3"])
    assert between == pytest.approx(2e-5)


def test_a_tensor_that_does_nothing_still_prefers_better_formats() -> None:
    found = predict(Sensitivity(ERRORS, {"f2": 0.0, "f4": -1e-9}))
    assert 0 < found["f4"] < found["f2"] < 1e-9


def test_what_was_not_measured_is_like_its_role() -> None:
    tensors = {
        "a": Sensitivity(ERRORS, {"f3": 2 * ERRORS["f3"]}, "mlp.up"),
        "b": Sensitivity(ERRORS, {}, "mlp.up"),
        "c": Sensitivity(ERRORS, {"f3": 6 * ERRORS["f3"]}, "head"),
        "d": Sensitivity(ERRORS, {}, "router"),
    }
    found = predict_all(tensors)
    assert list(found) == list(tensors)
    assert found["b"]["f5"] == pytest.approx(2 * ERRORS["f5"])
    assert found["d"]["f5"] == pytest.approx(4 * ERRORS["f5"])  # the median of 2 and 6


def test_context_meets_half_way() -> None:
    costs = {name: {"f1": 0.4, "f2": 0.1} for name in "abcde"}
    chosen = dict.fromkeys("abcd", "f2")
    found = in_context(costs, chosen, {"a": 0.4, "b": 0.025, "c": 1e6, "d": -0.1, "e": 3.0})
    assert found["a"] == pytest.approx({"f1": 0.8, "f2": 0.2})
    assert found["b"] == pytest.approx({"f1": 0.2, "f2": 0.05})
    assert found["c"] == pytest.approx({"f1": 1.2, "f2": 0.3})
    assert found["d"] == pytest.approx({"f1": 0.4 / 3, "f2": 0.1 / 3})
    assert found["e"] == costs["e"]  # it is not in the plan
    assert in_context(costs, chosen, {}) == costs


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Sensitivity(ERRORS, {}), "without measurements"),
        (Sensitivity(ERRORS, {"f9": 1.0}), "f9 was measured, but its error is not known"),
        (Sensitivity({"f1": math.nan}, {"f1": 1.0}), "f1: nan is no error"),
        (Sensitivity(ERRORS, {"f1": -0.5}), "f1: -0.5 is no error and no divergence"),
        (Sensitivity(ERRORS, {"f1": math.inf}), "f1: inf"),
    ],
)
def test_numbers_that_cannot_be(tensor: Sensitivity, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        predict(tensor)


def test_a_bad_number_names_its_tensor() -> None:
    with pytest.raises(RequestError, match="model.x: f1: inf"):
        predict_all({"model.x": Sensitivity(ERRORS, {"f1": math.inf})})
    with pytest.raises(RequestError, match="no tensor of the model was measured"):
        predict_all({"model.x": Sensitivity(ERRORS, {})})


def test_the_error_is_that_of_the_output() -> None:
    """Against the outputs of a layer on the inputs that the moments are of."""
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(64, 64)).astype(np.float32)
    inputs = (rng.normal(size=(500, 64)) * np.linspace(0.1, 3, 64)).astype(np.float32) @ mix
    rows = rng.normal(size=(24, 64)).astype(np.float32)
    fmt = formats.get_mlx("affine3-g64", "F32")
    decoded = fmt.decode(fmt.encode(rows))
    moments = inputs.T @ inputs / len(inputs)
    before, after = inputs @ rows.T, inputs @ decoded.T
    wanted = float(((after - before) ** 2).sum() / (before**2).sum())
    assert relative_error(rows, decoded, moments) == pytest.approx(wanted, rel=1e-3)
    diagonal = np.diag(moments)
    assert relative_error(rows, decoded, diagonal) == pytest.approx(
        relative_error(rows, decoded, np.diag(diagonal)), rel=1e-4
    )
    assert relative_error(rows, decoded) == pytest.approx(
        relative_error(rows, decoded, np.eye(64)), rel=1e-4
    )


def test_inputs_and_weights_of_nothing() -> None:
    rows = np.ones((2, 4), np.float32)
    assert relative_error(rows, rows, np.eye(4)) == 0
    # no input ever reached the layer: the plain error
    assert relative_error(rows, rows * 1.5, np.zeros((4, 4))) == pytest.approx(0.25)
    assert relative_error(0 * rows, 0 * rows) == 0
    assert relative_error(0 * rows, rows) == 1


def test_calibration() -> None:
    assert Calibration().whole(0.3) == 0.3 and Calibration().total(0.3) == 0.3
    once = Calibration([(0.1, 0.12)])
    assert once.whole(0.1) == pytest.approx(0.12)
    assert once.whole(0.01) == pytest.approx(0.012) and once.whole(1.0) == pytest.approx(1.2)
    assert once.whole(0) == 0
    twice = Calibration([(0.5, 0.65), (0.1, 0.105)])
    for total, whole in twice.points:
        assert twice.whole(total) == pytest.approx(whole)
    assert 1.05 < twice.whole(0.25) / 0.25 < 1.3


@given(
    st.lists(st.tuples(st.floats(1e-4, 2), st.floats(1e-4, 2)), max_size=4),
    st.floats(1e-5, 5),
    st.floats(1, 3),
)
def test_calibration_rises_and_has_an_inverse(
    points: list[tuple[float, float]], total: float, more: float
) -> None:
    line = Calibration(points)
    assert line.total(line.whole(total)) == pytest.approx(total, rel=1e-6)
    assert line.whole(total * more) >= line.whole(total) * (1 - 1e-9)


@pytest.mark.parametrize("point", [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_points_that_calibrate_nothing(point: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match="calibrates nothing"):
        Calibration([point])
