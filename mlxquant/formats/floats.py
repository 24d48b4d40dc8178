"""Floating-point types that NumPy lacks, and the three that weights are stored in.

                 sign  exponent  fraction   value (e > 0)               largest     e = 0
    F32            1       8        23      2^(e-127) · 1.f             3.4e38      f · 2^-149
    BF16           1       8         7      2^(e-127) · 1.f             3.39e38     f · 2^-133
    F16            1       5        10      2^(e-15)  · 1.f             65504       f · 2^-24
    E4M3           1       4         3      2^(e-7)   · 1.f             448         f · 2^-9
    E2M1           1       2         1      2^(e-1)   · 1.f             6           f · 0.5
    E8M0           0       8         0      2^(e-127)                   2^128 → ∞   2^-127

The top bit is the sign, the lowest the last of the fraction. E4M3, E2M1 and E8M0 are the 8-, 4- and
8-bit types of the OCP Microscaling specification (v1.0). E4M3 has no infinity, and 0x7F and 0xFF
are NaN; E2M1 has neither. E8M0's 0xFF, NaN in the specification, is 2^128 to MLX: infinite in F32.

BF16 travels as uint16, since NumPy has no such type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .base import STORAGE, Array

__all__ = [
    "FLOATS",
    "bf16_to_f32",
    "check_dtype",
    "e2m1_to_f32",
    "e4m3_to_f32",
    "e8m0_to_f32",
    "f32_to_bf16",
    "f32_to_e2m1",
    "f32_to_e4m3",
    "from_float32",
    "round_to",
    "to_float32",
]

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

#: the element types of weights, of scales and of the arithmetic of MLX
FLOATS = ("BF16", "F16", "F32")


def check_dtype(dtype: str) -> None:
    """Refuse any element type but FLOATS.

    Raises:
        RequestError: names `dtype` and what is allowed.
    """
    if dtype not in FLOATS:
        raise RequestError(f"dtype {dtype!r}: choose one of {', '.join(FLOATS)}")


def bf16_to_f32(stored: Array) -> Float32:
    """uint16 [...] of bfloat16 bits → float32 [...]; exact."""
    wide = stored.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def f32_to_bf16(values: Array) -> NDArray[np.uint16]:
    """float32 [...] → uint16 [...] of bfloat16 bits, rounded to nearest, ties to even.

    What exceeds the largest bfloat16 by half a step becomes infinite; every NaN becomes 0x7FC0.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = _bf16_carry(bits)
    np.right_shift(rounded, 16, out=rounded)
    stored = rounded.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        stored[nan] = 0x7FC0
    return stored.reshape(np.shape(values))


def round_to(values: Array, dtype: str) -> Float32:
    """float32 [...] → the float32 nearest to each that `dtype` can hold, ties to even.

    This is how arithmetic in BF16 and F16 is done here, and in MLX on a CPU: each operation in
    float32, its result rounded. (24 bits are enough for rounding twice to be harmless.)
    """
    if dtype == "F32":
        return np.asarray(values, dtype=np.float32)
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return values.astype(np.float16).astype(np.float32)
    rounded = _bf16_carry(np.ascontiguousarray(values, dtype=np.float32).view(np.uint32))
    np.bitwise_and(rounded, 0xFFFF0000, out=rounded)
    result = rounded.view(np.float32)
    nan = np.isnan(values)
    if nan.any():
        result[nan] = np.nan
    return result.reshape(np.shape(values))


def _bf16_carry(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Bits of float32 [...] plus half a bfloat16 step, less one unit where the kept part is even:
    the upper 16 bits of the sum are the rounded value. Wrong for NaN, whose sum may wrap."""
    carry = np.right_shift(bits, 16)
    np.bitwise_and(carry, 1, out=carry)
    np.add(carry, 0x7FFF, out=carry)
    np.add(carry, bits, out=carry)
    return carry


def to_float32(stored: Array, dtype: str) -> Float32:
    """An array as its file holds it (BF16 as uint16) → float32 of the same shape; exact.

    F32 is returned as it is, without a copy.

    Raises:
        RequestError: `dtype` is not one of FLOATS.
    """
    check_dtype(dtype)
    if dtype == "BF16":
        return bf16_to_f32(stored)
    return stored.astype(np.float32, copy=False)


def from_float32(values: Array, dtype: str) -> Array:
    """float32 [...] → an array of STORAGE[dtype] as a file holds it, rounded to nearest even.

    Values beyond the type's range become infinite. F32 is returned as it is, without a copy.

    Raises:
        RequestError: `dtype` is not one of FLOATS.
    """
    check_dtype(dtype)
    if dtype == "BF16":
        return f32_to_bf16(values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(STORAGE[dtype], copy=False)


def e8m0_to_f32(codes: Array) -> Float32:
    """uint8 [...] → float32 [...]: 2^(code - 127). 0 gives the subnormal 2^-127, 255 infinity."""
    return _E8M0[codes]


def e4m3_to_f32(codes: Array) -> Float32:
    """uint8 [...] → float32 [...]; 0x7F and 0xFF are NaN."""
    return _E4M3.take(codes)


def e2m1_to_f32(codes: Array) -> Float32:
    """uint8 [...] below 16 → float32 [...]."""
    return _E2M1.take(codes)


def f32_to_e4m3(values: Array) -> Bytes:
    """float32 [...], not NaN → uint8 [...]: nearest, ties to even, saturated at ±448; -0 is kept.

    Adding half a step to the bits of a float32 carries into its exponent as rounding should, so
    the 4 + 3 bits wanted are bits 20 to 26 of the sum, less the difference of the two exponent
    biases (120). Below 2^-6 the steps are all 2^-9.
    """
    size = np.abs(values)
    np.minimum(size, np.float32(448), out=size)
    bits = size.view(np.uint32)
    rounded = np.right_shift(bits, 20)
    np.bitwise_and(rounded, 1, out=rounded)
    np.add(rounded, 0x7FFFF, out=rounded)
    np.add(rounded, bits, out=rounded)
    np.right_shift(rounded, 20, out=rounded)
    np.subtract(rounded, 120 << 3, out=rounded)
    small = size < np.float32(2**-6)
    np.minimum(size, np.float32(2**-6), out=size)
    np.multiply(size, np.float32(2**9), out=size)
    np.rint(size, out=size)
    codes = np.where(small, size.astype(np.uint8), rounded.astype(np.uint8))
    sign = np.right_shift(np.ascontiguousarray(values).view(np.uint32), 24).astype(np.uint8)
    np.bitwise_and(sign, 0x80, out=sign)
    np.bitwise_or(codes, sign, out=codes)
    return codes


#: half-way points between the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6
_E2M1_MIDDLES = tuple(np.float32(x) for x in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0))


def f32_to_e2m1(values: Array) -> Bytes:
    """float32 [...], not NaN → uint8 [...] below 16: nearest, ties towards zero, saturated at ±6.

    What rounds to zero is +0, whatever its sign. Both are what the first smallest distance to
    MLX's level table (0, 0.5, …, 6, -0, -0.5, …, -6) gives.
    """
    size = np.abs(values)
    above = np.empty(size.shape, np.bool_)
    count = above.view(np.uint8)
    codes = np.greater(size, _E2M1_MIDDLES[0]).view(np.uint8)
    for middle in _E2M1_MIDDLES[1:]:
        np.greater(size, middle, out=above)
        np.add(codes, count, out=codes)
    np.less(values, -_E2M1_MIDDLES[0], out=above)
    np.left_shift(count, 3, out=count)
    np.bitwise_or(codes, count, out=codes)
    return codes


def _minifloat(exponent_bits: int, fraction_bits: int, bias: int) -> Float32:
    """Every value of a signed float type, by code, as if all were finite; exact in float32."""
    codes = np.arange(1 << (1 + exponent_bits + fraction_bits))
    fraction = codes & ((1 << fraction_bits) - 1)
    exponent = (codes >> fraction_bits) & ((1 << exponent_bits) - 1)
    sign = 1.0 - 2.0 * (codes >> (exponent_bits + fraction_bits))
    whole = fraction + np.where(exponent > 0, 1 << fraction_bits, 0)
    scale = np.maximum(exponent, 1) - bias - fraction_bits
    return np.asarray(sign * np.ldexp(whole.astype(np.float64), scale), dtype=np.float32)


def _powers_of_two() -> Float32:
    with np.errstate(over="ignore"):
        return np.ldexp(np.float32(1), np.arange(-127, 129, dtype=np.int32)).astype(np.float32)


def _frozen(table: Any) -> Float32:
    array: Float32 = np.ascontiguousarray(table, dtype=np.float32)
    array.flags.writeable = False
    return array


_E2M1 = _frozen(_minifloat(2, 1, bias=1))
_E4M3 = _frozen(np.where(np.arange(256) & 0x7F == 0x7F, np.nan, _minifloat(4, 3, bias=7)))
_E8M0 = _frozen(_powers_of_two())
