"""Conversions: every code and every tie, against MLX where MLX has the type."""

import mlx.core as mx
import numpy as np
import pytest
from formats.golden import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlxquant.errors import RequestError
from mlxquant.formats import floats

ALL_16 = np.arange(1 << 16, dtype=np.uint16)
ALL_8 = np.arange(1 << 8, dtype=np.uint8)


def around_every_bf16() -> np.ndarray:
    """Every bfloat16 with the lower half of a float32 at, beside and between the ties."""
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (ALL_16.astype(np.uint32)[:, None] << 16 | low).reshape(-1).view(np.float32)


def test_bf16_to_f32_is_exact_for_every_code() -> None:
    reference = mx.array(ALL_16).view(mx.bfloat16).astype(mx.float32, stream=mx.cpu)
    ours = floats.bf16_to_f32(ALL_16)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view("<u4"), np.array(reference).view("<u4"))


def test_f32_to_bf16_rounds_like_mlx_nan_included() -> None:
    values = around_every_bf16()
    reference = mx.array(values).astype(mx.bfloat16, stream=mx.cpu).view(mx.uint16)
    np.testing.assert_array_equal(floats.f32_to_bf16(values), np.array(reference))


def test_f32_to_bf16_of_particular_values() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -np.inf, np.nan, -0.0], np.float32)
    codes = [0x3F80, 0x3F80, 0x3F82, 0x7F80, 0xFF80, 0x7FC0, 0x8000]
    assert floats.f32_to_bf16(values).tolist() == codes
    assert floats.f32_to_bf16(values.reshape(1, 7)[:, ::-1]).tolist() == [codes[::-1]]


def test_f16_rounds_like_mlx() -> None:
    values = np.concatenate([ALL_16.view(np.float16).astype(np.float32), around_every_bf16()])
    values = values[~np.isnan(values)]
    reference = np.array(mx.array(values).astype(mx.float16, stream=mx.cpu))
    same_bits(floats.from_float32(values, "F16"), reference, "F16")


@pytest.mark.parametrize("dtype", floats.FLOATS)
def test_there_and_back(dtype: str) -> None:
    stored = floats.from_float32(around_every_bf16(), dtype)
    values = floats.to_float32(stored, dtype)
    back = floats.from_float32(values, dtype)
    if dtype == "BF16":
        same_bits(back, stored, dtype)
    same_bits(floats.to_float32(back, dtype), values, dtype)
    same_bits(floats.round_to(around_every_bf16(), dtype), values, dtype)


def test_f32_is_not_copied() -> None:
    values = np.ones(3, np.float32)
    assert floats.to_float32(values, "F32") is values
    assert floats.from_float32(values, "F32") is values


@pytest.mark.parametrize("dtype", ["F64", "U8", "bf16", "", None, 16])
def test_other_types_are_refused(dtype: object) -> None:
    values = np.ones(3, np.float32)
    for convert in (floats.to_float32, floats.from_float32):
        with pytest.raises(RequestError, match="choose one of BF16, F16, F32"):
            convert(values, dtype)  # type: ignore[arg-type]


def test_e4m3_decodes_like_mlx() -> None:
    reference = mx.from_fp8(mx.array(ALL_8), mx.float32, stream=mx.cpu)
    same_bits(floats.e4m3_to_f32(ALL_8), np.array(reference), "E4M3")


def test_e4m3_encodes_like_mlx_at_every_tie() -> None:
    levels = floats.e4m3_to_f32(ALL_8[:127]).astype(np.float64)
    ties = (levels[1:] + levels[:-1]) / 2
    points = np.concatenate([levels, ties, [449, 464, 465, 1e6, 3.4e38, 1e-40]]).astype(np.float32)
    near = np.concatenate([np.nextafter(points, np.float32(to)) for to in (0, 1e38)] + [points])
    values = np.concatenate([near, -near, around_every_bf16()])
    values = values[np.isfinite(values)]
    reference = np.array(mx.to_fp8(mx.array(values), stream=mx.cpu))
    np.testing.assert_array_equal(floats.f32_to_e4m3(values), reference)


def test_e4m3_there_and_back() -> None:
    finite = ALL_8[ALL_8 & 0x7F != 0x7F]
    np.testing.assert_array_equal(floats.f32_to_e4m3(floats.e4m3_to_f32(finite)), finite)


def test_e2m1_levels() -> None:
    levels = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    ours = floats.e2m1_to_f32(ALL_8[:16])
    same_bits(ours, np.array(levels + [-x for x in levels], np.float32), "E2M1")
    assert np.signbit(ours[8])


@settings(deadline=None)
@given(arrays(np.float32, 40, elements=st.floats(-12, 12, width=32)))
def test_e2m1_is_the_first_nearest_level(values: np.ndarray) -> None:
    distance = np.abs(values[:, None].astype(np.float64) - floats.e2m1_to_f32(ALL_8[:16]))
    np.testing.assert_array_equal(floats.f32_to_e2m1(values), distance.argmin(axis=1))


def test_e8m0_powers() -> None:
    ours = floats.e8m0_to_f32(ALL_8)
    assert ours[127] == 1
    assert ours[0] == np.float32(2.0**-127)
    assert ours[255] == np.inf
    assert (ours[1:255] == 2 * ours[:254]).all()
