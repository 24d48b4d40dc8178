"""mxfp8: bit for bit MLX's, within half an E4M3 step of the weights, and strict."""

import numpy as np
import pytest
from formats import checks
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.formats import get
from mlxquant.formats.floats import FLOATS, e8m0_to_f32
from mlxquant.formats.mxfp8 import Mxfp8

every = pytest.mark.parametrize("fmt", [Mxfp8(dtype) for dtype in FLOATS], ids=FLOATS)


@every
def test_edge_cases_are_mlx_s(fmt: Mxfp8) -> None:
    checks.matches_mlx_at_the_edges(fmt)


@every
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_encode_and_decode_are_mlx_s(fmt: Mxfp8, data: st.DataObject) -> None:
    checks.matches_mlx(fmt, data.draw(checks.finite_rows(fmt)))


@every
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decode_of_anything_is_mlx_s(fmt: Mxfp8, data: st.DataObject) -> None:
    checks.decodes_like_mlx(fmt, data.draw(checks.any_wire(fmt)))


@every
def test_every_scale_and_code_decodes_like_mlx(fmt: Mxfp8) -> None:
    words = np.tile(np.arange(256, dtype=np.uint8), (256, 1)).view("<u4")
    scales = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 8, axis=1)
    checks.decodes_like_mlx(fmt, (words, scales))


@every
def test_every_scale_is_mlx_s(fmt: Mxfp8) -> None:
    checks.matches_mlx(fmt, checks.constant_rows_around_powers(fmt, top=448))


@every
def test_error_is_within_half_a_step(fmt: Mxfp8) -> None:
    rows = checks.ordinary_rows(fmt)
    wire = fmt.encode(rows)
    power = e8m0_to_f32(wire[1]).astype(np.float64)[:, :, None]
    size = np.abs(rows.reshape(64, -1, 32))
    # a quotient max / 448 among F16's denormals is rounded coarsely; what it leaves out is cut
    cut = np.maximum(size - 448 * power, 0)
    assert cut.max() <= 448 * checks.SMALLEST[fmt.dtype]
    # 3 bits of fraction above 2^-6, steps of 2^-9 below
    bound = np.maximum(power * 2**-10, size * 2**-4) * (1 + 2 * checks.ROUNDOFF[fmt.dtype])
    bound = np.maximum(bound, cut) + checks.SMALLEST[fmt.dtype]
    checks.within_bound(fmt, rows, fmt.decode(wire), bound)


@every
def test_refusals(fmt: Mxfp8) -> None:
    checks.refuses_nonfinite(fmt)
    checks.refuses_wrong_shapes(fmt)


@every
def test_pieces(fmt: Mxfp8) -> None:
    checks.is_the_same_in_pieces(fmt)


def test_ties_go_to_the_even_code_and_zero_keeps_its_sign() -> None:
    rows = np.zeros((1, 32), np.float32)
    rows[0, :8] = [448, -0.0, 1.0625, 1.1875, -(2.0**-10), 3 * 2.0**-10, 432, 2.0**-6]
    words, scales = Mxfp8("F32").encode(rows)
    assert scales.tolist() == [[127]]
    codes = words.view(np.uint8)[0, :8]
    assert codes.tolist() == [0x7E, 0x80, 0x38, 0x3A, 0x80, 0x02, 0x7E, 0x08]


def test_sizes() -> None:
    fmt = Mxfp8()
    assert (fmt.block_size, fmt.block_bytes, fmt.bpw, fmt.bits) == (32, 33, 8.25, 8)
    assert fmt.mlx_config() == {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    assert get("mxfp8") == fmt
