"""The affine format: bit for bit MLX's, within half a step of the weights, and strict."""

import numpy as np
import pytest
from formats import checks
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.errors import RequestError
from mlxquant.formats import affine, get
from mlxquant.formats.affine import Affine
from mlxquant.formats.floats import FLOATS, to_float32

EVERY = [
    pytest.param(Affine(bits, group_size, dtype), id=f"{bits}-{group_size}-{dtype}")
    for bits in affine.WIDTHS
    for group_size in affine.GROUP_SIZES
    for dtype in FLOATS
]
every = pytest.mark.parametrize("fmt", EVERY)


@every
def test_edge_cases_are_mlx_s(fmt: Affine) -> None:
    checks.matches_mlx_at_the_edges(fmt)


@every
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_encode_and_decode_are_mlx_s(fmt: Affine, data: st.DataObject) -> None:
    checks.matches_mlx(fmt, data.draw(checks.finite_rows(fmt)))


@every
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_decode_of_anything_is_mlx_s(fmt: Affine, data: st.DataObject) -> None:
    checks.decodes_like_mlx(fmt, data.draw(checks.any_wire(fmt)))


@every
def test_error_is_within_half_a_step(fmt: Affine) -> None:
    rows = checks.ordinary_rows(fmt)
    wire = fmt.encode(rows)
    scale = np.abs(to_float32(wire[1], fmt.dtype)).astype(np.float64)[:, :, None]
    groups = rows.reshape(64, -1, fmt.group_size).astype(np.float64)
    steps = (1 << fmt.bits) - 1
    spread = groups.max(-1, keepdims=True) - groups.min(-1, keepdims=True)
    # the nudge that makes zero a whole number of steps may leave the far end out of reach
    out_of_reach = np.maximum(spread - steps * scale, 0)
    # scale, product and sum are each rounded to dtype
    reach = steps * scale + np.abs(groups).max(-1, keepdims=True)
    rounding = reach * 2 * checks.ROUNDOFF[fmt.dtype] + steps * checks.SMALLEST[fmt.dtype]
    bound = np.maximum(scale / 2, out_of_reach) + 2 * rounding
    checks.within_bound(fmt, rows, fmt.decode(wire), bound)


@every
def test_refusals(fmt: Affine) -> None:
    checks.refuses_nonfinite(fmt)
    checks.refuses_wrong_shapes(fmt)


@every
def test_pieces(fmt: Affine) -> None:
    checks.is_the_same_in_pieces(fmt)


@every
def test_sizes(fmt: Affine) -> None:
    width = 4 if fmt.dtype == "F32" else 2
    assert fmt.block_size == fmt.group_size
    assert fmt.block_bytes == fmt.group_size * fmt.bits // 8 + 2 * width
    assert fmt.bpw == fmt.bits + 16 * width / fmt.group_size
    assert fmt.mlx_config() == {
        "group_size": fmt.group_size,
        "bits": fmt.bits,
        "mode": "affine",
    }
    assert get(fmt.name, fmt.dtype) == fmt


def test_the_larger_end_of_the_range_is_exact() -> None:
    rows = np.linspace(-1, 3, 64, dtype=np.float32)[None]
    words, scales, biases = Affine(4, 64, "F32").encode(rows)
    assert biases[0, 0] == 3
    assert scales[0, 0] < 0
    assert words[0, 0] & 15 == 15
    assert words[0, -1] >> 28 == 0
    # ten or so steps of -4/15 from 3 is -1; zero is a whole number of them
    assert biases[0, 0] % scales[0, 0] == pytest.approx(0, abs=1e-6)


def test_one_bit_keeps_both_extremes() -> None:
    rows = np.tile(np.array([[0.25, 2.0]], np.float32), 16)
    fmt = Affine(1, 32, "F32")
    words, scales, biases = fmt.encode(rows)
    assert words.tolist() == [[0xAAAAAAAA]]
    assert (scales.tolist(), biases.tolist()) == ([[1.75]], [[0.25]])
    np.testing.assert_array_equal(fmt.decode((words, scales, biases)), rows)


@pytest.mark.parametrize("bits", [0, 7, 9, -4, True, "4", 4.0, None])
def test_bits_that_do_not_exist_are_refused(bits: object) -> None:
    with pytest.raises(RequestError, match=r"bits .*: mode affine takes 1, 2, 3, 4, 5, 6, 8"):
        Affine(bits, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("group_size", [0, 16, 65, 256, "64", False, 64.0])
def test_group_sizes_that_do_not_exist_are_refused(group_size: object) -> None:
    with pytest.raises(RequestError, match=r"group_size .*: mode affine takes 32, 64, 128"):
        Affine(4, group_size)  # type: ignore[arg-type]
