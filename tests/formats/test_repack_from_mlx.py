"""MLX's formats as blocks of ggml's: exact where it is said to be held, and refused where not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from formats.ggml_checks import model_rows
from formats.oracle import quantize
from formats.repacking import (
    ANY_HALF,
    PAIRS,
    ZEROS,
    Parts,
    every_pair,
    ggml_codes,
    ggml_numbers,
    ggml_reads,
    mlx_numbers,
    mlx_reads,
    target_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlxquant.errors import RequestError
from mlxquant.formats import STORAGE, MlxFormat
from mlxquant.formats.affine import GROUP_SIZES, Affine
from mlxquant.formats.floats import FLOATS, e2m1_to_f32, from_float32, to_float32
from mlxquant.formats.mxfp4 import Mxfp4
from mlxquant.formats.mxfp8 import Mxfp8
from mlxquant.formats.nvfp4 import Nvfp4
from mlxquant.formats.packing import pack, unpack
from mlxquant.formats.repack import (
    Holding,
    from_mlx,
    held_by_ggml,
    held_by_mlx,
    to_mlx,
)


def held_parts(
    name: str, fmt: Affine, numbers: np.ndarray, offsets: np.ndarray, seed: int = 8
) -> Parts:
    """Random codes beside scales, and biases where the type has them; both float32 [n, groups]."""
    n, groups = numbers.shape
    k = groups * fmt.group_size
    codes = np.random.default_rng(seed).integers(0, 1 << fmt.bits, (n, k), np.uint8)
    biases = offsets if name not in ZEROS else numbers * np.float32(-ZEROS[name])
    return (
        pack(codes, fmt.bits),
        from_float32(numbers.astype(np.float32), fmt.dtype),
        from_float32(biases.astype(np.float32), fmt.dtype),
    )


@every_pair
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_mlx_there_and_back(name: str, bits: int, group_size: int, dtype: str) -> None:
    """Scales of at most 8 digits, which every element type has, from the smallest to the largest
    of float16."""
    fmt = Affine(bits, group_size, dtype)
    random = np.random.default_rng(9)
    digits = random.integers(-255, 256, (2, 5, 12))
    # in float16 the bias has to be finite too
    top = 8 - (ZEROS.get(name, 1).bit_length() if dtype == "F16" else 0)
    numbers = digits * np.exp2(random.integers(-24, top, (2, 5, 12)))
    parts = held_parts(name, fmt, *numbers)
    assert name in held_by_ggml(fmt, *parts[1:]).types
    wire = from_mlx(fmt, name, parts)
    np.testing.assert_array_equal(ggml_codes(name, wire), unpack(parts[0], bits))
    np.testing.assert_array_equal(ggml_numbers(name, wire), mlx_numbers(fmt, parts))
    np.testing.assert_array_equal(ggml_reads(name, wire), mlx_reads(fmt, parts))
    if held_by_mlx(name, wire):
        back = to_mlx(name, wire)
        repeated = (np.repeat(to_float32(p, dtype), group_size // 32, 1) for p in parts[1:])
        for ours, theirs in zip(back[1:], repeated, strict=True):
            np.testing.assert_array_equal(ours.astype(np.float32), theirs)
        np.testing.assert_array_equal(unpack(back[0], target_of(name).bits), unpack(parts[0], bits))
        if (group_size, dtype, bits) == (32, "F16", target_of(name).bits):
            np.testing.assert_array_equal(back[0], parts[0])
    else:
        assert dtype != "F16" and name in ZEROS


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_ggml_holds_is_exact_and_all_that_is_exact_is_held(data: st.DataObject) -> None:
    """Any bits as scales and biases, of every format; held against arithmetic in float64."""
    name, bits = data.draw(st.sampled_from(PAIRS))
    dtype = data.draw(st.sampled_from(FLOATS))
    fmt = Affine(bits, data.draw(st.sampled_from(GROUP_SIZES)), dtype)
    stored = STORAGE[dtype]
    carrier = np.dtype(f"<u{stored.itemsize}")
    shape = (2, data.draw(st.integers(1, 3)))
    near = st.sampled_from(near_float16(dtype))
    numbers = near | st.integers(0, 256**stored.itemsize - 1)
    scales = data.draw(arrays(carrier, shape, elements=numbers)).view(stored)
    biases = data.draw(arrays(carrier, shape, elements=numbers)).view(stored)
    if name in ZEROS and data.draw(st.booleans()):
        with np.errstate(over="ignore", invalid="ignore"):
            exact = to_float32(scales, dtype) * np.float32(-ZEROS[name])
        biases = from_float32(exact, dtype)
    words = data.draw(arrays(np.uint32, (2, shape[1] * fmt.group_size * bits // 32)))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        s, b = (to_float32(each, dtype).astype(np.float64) for each in (scales, biases))
        halves = [each.astype(np.float16).astype(np.float64) for each in (s, b)]
        lost_s, lost_b = (
            ~np.isfinite(each) | (half != each) for each, half in zip((s, b), halves, strict=True)
        )
        off = b != s * -ZEROS.get(name, 0) if name in ZEROS else lost_b
    used = unpack(words, bits).reshape(*shape, -1).any(axis=-1) | ~np.isfinite(s)
    if name in ZEROS:
        used[:] = True
    held = held_by_ggml(fmt, scales, biases, lambda: words)
    assert (name in held.types) == (not ((lost_s & used) | off).any())
    assert (name in held_by_ggml(fmt, scales, biases).types) == (not (lost_s | off).any())
    parts = (words, scales, biases)
    if name in held.types:
        wire = from_mlx(fmt, name, parts)
        np.testing.assert_array_equal(ggml_numbers(name, wire), mlx_numbers(fmt, parts))
        np.testing.assert_array_equal(ggml_codes(name, wire), unpack(words, bits))
    else:
        with pytest.raises(RequestError, match=rf"{name}: .* in \d of {scales.size} groups"):
            from_mlx(fmt, name, parts)


@cache
def near_float16(dtype: str) -> list[int]:
    """Bits of numbers at the edges of float16, in another type, and of their neighbours."""
    powers = [2.0**e for e in (-26, -25, -24, -23, -17, -16, -15, -14, -13, 0, 9, 12, 13, 15, 16)]
    edges = [0.0, 65504.0, 65280.0, 1e-7, np.inf, *powers, *(1.9921875 * p for p in powers)]
    with np.errstate(over="ignore"):
        stored = from_float32(np.array(edges, np.float32), dtype)
    bits = stored.view(f"<u{stored.dtype.itemsize}")
    sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    around = np.concatenate([bits, bits + 1, bits[1:] - 1])
    return np.concatenate([around, around ^ sign]).tolist()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_scale_of_16_bits(dtype: str) -> None:
    """One group at a time; a number is held if float16 has it."""
    scales = ANY_HALF.view(STORAGE[dtype])[:, None]
    value = to_float32(scales, dtype)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        exact = np.isfinite(value) & (value.astype(np.float16).astype(np.float32) == value)
    zeros = np.zeros_like(scales)
    fmt = Affine(4, 32, dtype)
    for pair in ((scales, zeros), (zeros, scales)):
        held = held_by_ggml(fmt, *pair).obstacles["Q4_1"]
        assert sum(held.values()) == (~exact).sum()
    parts = held_parts("Q4_1", fmt, value[exact[:, 0]], value[exact[:, 0]][::-1])
    wire = from_mlx(fmt, "Q4_1", parts)
    np.testing.assert_array_equal(ggml_numbers("Q4_1", wire), mlx_numbers(fmt, parts))


def test_types_in_order_of_size() -> None:
    random = np.random.default_rng(2)
    scales = (random.integers(1, 99, (3, 4)) / 64).astype(np.float32)
    for bits, zero, both in ((4, 8, ("Q4_0", "Q4_1")), (5, 16, ("Q5_0", "Q5_1"))):
        fmt = Affine(bits, 64, "F32")
        assert held_by_ggml(fmt, scales, scales * -zero).types == both
        assert held_by_ggml(fmt, scales, scales * -zero + 1).types == both[1:]
        assert held_by_ggml(fmt, scales, np.nextafter(scales * -zero, 0)).types == ()
    fmt = Affine(8, 64, "F32")
    assert held_by_ggml(fmt, scales, scales * -128).types == ("Q8_0",)
    assert held_by_ggml(fmt, scales, scales * -127).types == ()
    for bits in (1, 2, 3):
        assert held_by_ggml(Affine(bits, 64, "F32"), scales, scales).types == ("Q4_1",)


def test_a_scale_may_be_held_where_its_bias_in_float16_is_not() -> None:
    """Q4_0 stores no bias."""
    scales = np.array([[60000.0, -65504.0]], np.float32)
    fmt = Affine(4, 32, "F32")
    parts = held_parts("Q4_0", fmt, scales, scales)
    assert held_by_ggml(fmt, *parts[1:]).types == ("Q4_0",)
    wire = from_mlx(fmt, "Q4_0", parts)
    np.testing.assert_array_equal(ggml_reads("Q4_0", wire), mlx_reads(fmt, parts))
    assert not held_by_mlx("Q4_0", wire)
    with np.errstate(over="ignore"):
        infinite = (parts[0], *(part.astype(np.float16) for part in parts[1:]))
    assert np.isinf(infinite[2]).all()
    assert held_by_ggml(Affine(4, 32, "F16"), *infinite[1:]).types == ()


def test_zeros_of_either_sign_are_the_same_bias() -> None:
    scales, biases = np.array([[0.0, -0.0, 1]], "f2"), np.array([[0.0, 0, -8]], "f2")
    assert held_by_ggml(Affine(4, 32, "F16"), scales, biases).types == ("Q4_0", "Q4_1")


def test_reasons() -> None:
    scales = np.array([[0.5, 1e-7, 1e9]], np.float32)
    fmt = Affine(4, 32, "F32")
    assert held_by_ggml(fmt, scales, scales).reason == (
        "Q4_0: biases other than -8 · scale in 3 of 3 groups; "
        "Q4_0: scales that float16 cannot hold in 2 of 3 groups; "
        "Q4_1: biases that float16 cannot hold in 2 of 3 groups; "
        "Q4_1: scales that float16 cannot hold in 2 of 3 groups"
    )
    half = held_by_ggml(fmt, scales[:, :1], scales[:, :1])
    assert half and half.reason == "Q4_0: biases other than -8 · scale in 1 of 1 groups"
    six = held_by_ggml(Affine(6, 32, "F32"), scales, scales)
    assert not six and six.reason == "GGUF has no type with codes of 6 bits and a bias"
    eight = held_by_ggml(Mxfp8(), np.zeros((1, 2), np.uint8))
    assert not eight and eight.reason == "GGUF has no type with the codes of mxfp8"
    short = held_by_ggml(Nvfp4(), np.zeros((3, 6), np.uint8))
    assert not short and short.reason == "rows of 96 weights are no multiple of NVFP4's 64"
    bad = held_by_ggml(Nvfp4(), np.array([[0, 126, 127, 128]], np.uint8))
    assert not bad and bad.reason == (
        "NVFP4: scale bytes above 126, which ggml and MLX read differently, in 2 of 4 groups"
    )
    bad = held_by_ggml(Mxfp4(), np.array([[0, 254, 255]], np.uint8))
    assert not bad and bad.reason == (
        "MXFP4: scale bytes of 255, 2^128 to ggml and infinite to MLX, in 1 of 3 groups"
    )
    with pytest.raises(RequestError, match="biases needed"):
        held_by_ggml(fmt, scales)


def test_answers_for_parts_add_up() -> None:
    fmt = Affine(4, 32, "F32")
    scales = np.array([[0.5, 2], [0.25, 1], [1, 1e-7]], np.float32)
    biases = np.array([[-4, -16], [-2, 1], [0, 0]], np.float32)
    rows = [held_by_ggml(fmt, scales[i : i + 1], biases[i : i + 1]) for i in range(3)]
    assert [row.types for row in rows] == [("Q4_0", "Q4_1"), ("Q4_1",), ()]
    for count in (1, 2, 3):
        whole = held_by_ggml(fmt, scales[:count], biases[:count])
        total: Holding = sum(rows[1:count], rows[0])
        assert (total, total.types, total.reason) == (whole, whole.types, whole.reason)
    six = held_by_ggml(Affine(6, 32, "F32"), scales, biases)
    assert not six + six and (six + six).reason == six.reason


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_groups_of_zeros_need_no_scale(bits: int, dtype: str) -> None:
    """mx.quantize gives them one of 1e-7, which is no float16 number in bfloat16 and float32."""
    fmt = Affine(bits, 64, dtype)
    name = "Q5_1" if bits == 5 else "Q4_1"
    parts = quantize(fmt, np.zeros((4, 256), np.float32))
    asked = []

    def words() -> np.ndarray:
        asked.append(1)
        return parts[0]

    held = held_by_ggml(fmt, *parts[1:], words)
    assert name in held.types
    assert len(asked) == (dtype != "F16")
    assert (name in held_by_ggml(fmt, *parts[1:]).types) == (dtype == "F16")
    assert not ggml_reads(name, from_mlx(fmt, name, parts)).any()
    one = (parts[0].copy(), *parts[1:])
    one[0][2, 3] = 1
    again = held_by_ggml(fmt, *one[1:], lambda: one[0])
    assert (name in again.types) == (dtype == "F16")
    if dtype != "F16":
        assert again.reason.endswith("scales that float16 cannot hold in 1 of 16 groups")
        with pytest.raises(RequestError, match="in 1 of 16 groups"):
            from_mlx(fmt, name, one)


def test_a_scale_that_is_not_finite_is_never_held() -> None:
    """Not even where all codes are 0: MLX multiplies all the same, and gets NaN."""
    words, biases = np.zeros((1, 4), np.uint32), np.zeros((1, 1), np.float32)
    for value in (np.inf, -np.inf, np.nan):
        scales = np.full((1, 1), value, np.float32)
        for dtype in FLOATS:
            stored = (from_float32(scales, dtype), from_float32(biases, dtype))
            assert not held_by_ggml(Affine(4, 32, dtype), *stored, lambda: words)


@pytest.mark.parametrize("bits", [4, 5])
def test_a_quantized_model_is_held(bits: int) -> None:
    """What mlx_lm.convert makes of real weights, in bfloat16 and groups of 64."""
    fmt, name = Affine(bits, 64), f"Q{bits}_1"
    for rows in model_rows().values():
        parts = quantize(fmt, rows)
        assert held_by_ggml(fmt, *parts[1:], lambda parts=parts: parts[0]).types == (name,)
        wire = from_mlx(fmt, name, parts)
        np.testing.assert_array_equal(ggml_reads(name, wire), mlx_reads(fmt, parts))


@pytest.mark.parametrize("fmt", [Mxfp4(), Nvfp4()], ids=["mxfp4", "nvfp4"])
def test_microscaled_models_are_held(fmt: MlxFormat) -> None:
    name = fmt.name.upper()
    for rows in model_rows().values():
        parts = quantize(fmt, rows)
        assert held_by_ggml(fmt, parts[1]).types == (name,)
        wire = from_mlx(fmt, name, parts)
        np.testing.assert_array_equal(ggml_reads(name, wire), mlx_reads(fmt, parts))
        for ours, theirs in zip(to_mlx(name, wire), parts, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    levels = ggml_codes(name, wire)
    assert (e2m1_to_f32(levels) != 0).any()


def test_refusals() -> None:
    fmt = Affine(4, 64, "F16")
    parts = held_parts("Q4_1", fmt, np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(RequestError, match="Q4_0: biases other than -8 · scale in 6 of 6 groups"):
        from_mlx(fmt, "Q4_0", parts)
    for name in ("Q5_1", "Q8_0", "Q4_K", "NVFP4"):
        with pytest.raises(RequestError, match=f"{name} has no codes of affine4-g64"):
            from_mlx(fmt, name, parts)
    with pytest.raises(RequestError, match="biases has shape"):
        from_mlx(fmt, "Q4_1", (*parts[:2], parts[2][:, :2]))
    with pytest.raises(RequestError, match="no multiple of NVFP4's 64"):
        from_mlx(Nvfp4(), "NVFP4", (np.zeros((1, 4), np.uint32), np.zeros((1, 2), np.uint8)))
    with pytest.raises(RequestError, match="whole blocks of 18 bytes needed"):
        to_mlx("Q4_0", np.zeros((2, 19), np.uint8))
    with pytest.raises(RequestError, match="whole blocks of 34 bytes needed"):
        held_by_mlx("Q8_0", np.zeros(34, np.uint8))
    with pytest.raises(RequestError, match="int8"):
        held_by_mlx("Q8_0", np.zeros((1, 34), np.int8))
