"""mxfp4: bit for bit MLX's, within half a level of the weights, and strict."""

import numpy as np
import pytest
from formats import checks
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.formats import get
from mlxquant.formats.floats import FLOATS, e8m0_to_f32
from mlxquant.formats.mxfp4 import Mxfp4

every = pytest.mark.parametrize("fmt", [Mxfp4(dtype) for dtype in FLOATS], ids=FLOATS)


@every
def test_edge_cases_are_mlx_s(fmt: Mxfp4) -> None:
    checks.matches_mlx_at_the_edges(fmt)


@every
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_encode_and_decode_are_mlx_s(fmt: Mxfp4, data: st.DataObject) -> None:
    checks.matches_mlx(fmt, data.draw(checks.finite_rows(fmt)))


@every
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decode_of_anything_is_mlx_s(fmt: Mxfp4, data: st.DataObject) -> None:
    checks.decodes_like_mlx(fmt, data.draw(checks.any_wire(fmt)))


@every
def test_every_scale_and_code_decodes_like_mlx(fmt: Mxfp4) -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), (256, 2))
    words = (codes[:, ::2] | codes[:, 1::2] << 4).view("<u4")
    checks.decodes_like_mlx(fmt, (words, np.arange(256, dtype=np.uint8)[:, None]))


@every
def test_every_scale_is_mlx_s(fmt: Mxfp4) -> None:
    checks.matches_mlx(fmt, checks.constant_rows_around_powers(fmt, top=6))


@every
def test_error_is_within_half_a_level(fmt: Mxfp4) -> None:
    rows = checks.ordinary_rows(fmt)
    wire = fmt.encode(rows)
    power = e8m0_to_f32(wire[1]).astype(np.float64)[:, :, None]
    size = np.abs(rows.reshape(64, -1, 32))
    assert (size.max(-1, keepdims=True) <= 6 * power * (1 + checks.ROUNDOFF[fmt.dtype])).all()
    # levels are 0.5 apart below 2, and from there at most 2/5 of the value half-way between them
    bound = np.maximum(power / 4, size / 5) * (1 + 2 * checks.ROUNDOFF[fmt.dtype])
    checks.within_bound(fmt, rows, fmt.decode(wire), bound)


@every
def test_refusals(fmt: Mxfp4) -> None:
    checks.refuses_nonfinite(fmt)
    checks.refuses_wrong_shapes(fmt)


@every
def test_pieces(fmt: Mxfp4) -> None:
    checks.is_the_same_in_pieces(fmt)


def test_ties_go_to_the_smaller_magnitude_and_zero_has_no_sign() -> None:
    rows = np.zeros((1, 32), np.float32)
    rows[0, :8] = [0.25, -0.25, 0.75, -1.25, 2.5, -3.5, 5, 6]
    words, scales = Mxfp4("F32").encode(rows)
    assert scales.tolist() == [[127]]
    assert [int(words[0, 0]) >> 4 * i & 15 for i in range(8)] == [0, 0, 1, 10, 4, 13, 6, 7]


def test_a_group_too_small_for_a_scale_wraps_around() -> None:
    rows = np.full((1, 32), 2.0**-130, np.float32)
    words, scales = Mxfp4("F32").encode(rows)
    # 2^-130 / 6 lies below 2^-132, whose byte would be -5
    assert scales.tolist() == [[256 - 5]]
    assert words.tolist() == [[0x66666666] * 4]


def test_sizes() -> None:
    fmt = Mxfp4()
    assert (fmt.block_size, fmt.block_bytes, fmt.bpw, fmt.bits) == (32, 17, 4.25, 4)
    assert fmt.mlx_config() == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert get("mxfp4") == fmt
