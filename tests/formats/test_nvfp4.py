"""nvfp4: bit for bit MLX's, within half a level of the weights, and strict."""

import numpy as np
import pytest
from formats import checks
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.formats import get
from mlxquant.formats.floats import FLOATS, e4m3_to_f32
from mlxquant.formats.nvfp4 import Nvfp4

every = pytest.mark.parametrize("fmt", [Nvfp4(dtype) for dtype in FLOATS], ids=FLOATS)


@every
def test_edge_cases_are_mlx_s(fmt: Nvfp4) -> None:
    checks.matches_mlx_at_the_edges(fmt)


@every
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_encode_and_decode_are_mlx_s(fmt: Nvfp4, data: st.DataObject) -> None:
    checks.matches_mlx(fmt, data.draw(checks.finite_rows(fmt)))


@every
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_decode_of_anything_is_mlx_s(fmt: Nvfp4, data: st.DataObject) -> None:
    checks.decodes_like_mlx(fmt, data.draw(checks.any_wire(fmt)))


@every
def test_every_scale_and_code_decodes_like_mlx(fmt: Nvfp4) -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), (256, 2))
    words = (codes[:, ::2] | codes[:, 1::2] << 4).view("<u4")
    scales = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 2, axis=1)
    checks.decodes_like_mlx(fmt, (words, scales))


@every
def test_every_size_of_group_is_mlx_s(fmt: Nvfp4) -> None:
    checks.matches_mlx(fmt, checks.constant_rows_around_powers(fmt, top=6))


@every
def test_values_beyond_the_scales_are_mlx_s(fmt: Nvfp4) -> None:
    """From 2^24 times the largest scale on, float32 cannot tell the distances to levels apart."""
    random = np.random.default_rng(5)
    size = np.exp2(random.uniform(11, 40, (256, 1)))
    rows = checks.finite(random.standard_normal((256, 64)) * size, fmt.dtype)
    checks.matches_mlx(fmt, rows)
    integers = random.integers(-(2**28), 2**28, (64, 64)) * 448.0
    checks.matches_mlx(fmt, checks.finite(integers, fmt.dtype))


@every
def test_error_is_within_half_a_level(fmt: Nvfp4) -> None:
    rows = checks.ordinary_rows(fmt)
    wire = fmt.encode(rows)
    scale = e4m3_to_f32(wire[1]).astype(np.float64)[:, :, None]
    size = np.abs(rows.reshape(64, -1, 16))
    # levels are 0.5 apart below 2, and from there at most 2/5 of the value half-way between them;
    # a scale that was rounded down cuts what lies beyond 6
    bound = np.maximum(np.maximum(scale / 4, size / 5), size - 6 * scale)
    bound = bound + size * 2 * checks.ROUNDOFF[fmt.dtype]
    checks.within_bound(fmt, rows, fmt.decode(wire), bound)
    assert size[(scale == 0)[:, :, 0]].max() <= 6 * 2**-10
    assert (size.max(-1, keepdims=True) - 6 * scale <= np.maximum(scale * 6 / 16, 3 / 512)).all()


@every
def test_refusals(fmt: Nvfp4) -> None:
    checks.refuses_nonfinite(fmt)
    checks.refuses_wrong_shapes(fmt)


@every
def test_pieces(fmt: Nvfp4) -> None:
    checks.is_the_same_in_pieces(fmt)


def test_groups_too_small_for_a_scale_become_zeros() -> None:
    rows = np.full((1, 32), 6 * 2.0**-10, np.float32)
    rows[0, 16:] = -7 * 2.0**-10
    words, scales = Nvfp4("F32").encode(rows)
    assert scales.tolist() == [[0, 1]]
    assert words.tolist() == [[0, 0, 0xDDDDDDDD, 0xDDDDDDDD]]


def test_far_beyond_the_scales_everything_becomes_zero() -> None:
    rows = np.full((2, 16), 448 * 2.0**23, np.float32)
    rows[1] = -448 * 2.0**28
    words, scales = Nvfp4("F32").encode(rows)
    assert scales.tolist() == [[0x7E], [0x7E]]
    assert words.tolist() == [[0x77777777] * 2, [0, 0]]


def test_sizes() -> None:
    fmt = Nvfp4()
    assert (fmt.block_size, fmt.block_bytes, fmt.bpw, fmt.bits) == (16, 9, 4.5, 4)
    assert fmt.mlx_config() == {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    assert get("nvfp4") == fmt
