"""MLX's affine formats: a scale and a bias for every group of weights.

    weight    uint32 [n, k·bits/32]     codes q, packed low bits first
    scales    T      [n, k/group_size]
    biases    T      [n, k/group_size]

    one group of 64 at 4 bits, T of 16 bits: 36 bytes, 4.5 bits per weight
    ┌──────────────────────────────────────────────┐ ┌────────┐ ┌────────┐
    │ weight: 8 words, 32 bytes, 64 codes          │ │ scale 2│ │ bias  2│
    └──────────────────────────────────────────────┘ └────────┘ └────────┘

    w ≈ scale · q + bias,  q = 0 … 2^bits - 1

The scale may be negative: the bias is the end of the range that is larger in magnitude, and it is
code 0, stored exactly. The scale is then nudged so that zero is a whole number of steps away:

    steps = 2^bits - 1
    s     = max((max - min) / steps, 1e-7), negated unless |min| > |max|
    edge  = min if |min| > |max| else max
    z     = rint(edge / s)
    scale, bias = (edge / z, edge) if z ≠ 0 else (s, 0)
    q     = clamp(rint((w - bias) / scale), 0, steps)

At 1 bit there is no room for that: bias = min and scale = max((max - min), 1e-7).

All of it in float32; scale and bias are rounded to T at the end, so the codes know the unrounded
scale. A range that overflows float32, or a scale that overflows T, is stored as infinity, as
mx.quantize does, and decodes to NaN or infinity. Formula: the documentation of mx.quantize.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..errors import RequestError
from .base import STORAGE, Array, Part
from .floats import Float32, check_dtype, from_float32, round_to, to_float32
from .mlx_format import MlxFormat, groups_of, refuse_nonfinite
from .packing import WIDTHS, pack, unpack
from .registry import register

__all__ = ["GROUP_SIZES", "Affine", "plain_scales"]

#: the group sizes that mx.quantize takes
GROUP_SIZES = (32, 64, 128)


# slots: the fields become attributes of the class and so take the place of Format's abstract `bits`
@dataclass(frozen=True, slots=True)
class Affine(MlxFormat):
    """MLX's affine format; `Affine(4, 64)` is what `mlx_lm.convert -q` makes.

    Attributes:
        bits: 1, 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128.
        dtype: element type of scales and biases, and of decode's arithmetic.

    Raises:
        RequestError: another width, group size or type; says which are allowed.
    """

    mode: ClassVar[str] = "affine"

    bits: int = field()
    group_size: int = field()
    dtype: str = "BF16"

    def __post_init__(self) -> None:
        _check("bits", self.bits, WIDTHS)
        _check("group_size", self.group_size, GROUP_SIZES)
        check_dtype(self.dtype)

    @property
    def name(self) -> str:
        """`affine<bits>-g<group_size>`."""
        return f"affine{self.bits}-g{self.group_size}"

    @property
    def block_size(self) -> int:
        """The group size."""
        return self.group_size

    @property
    def parts(self) -> tuple[Part, ...]:
        """Codes, scales, biases."""
        return (
            Part("weight", "U32", self.group_size * self.bits // 32),
            Part("scales", self.dtype, 1),
            Part("biases", self.dtype, 1),
        )

    def encode(self, rows: Array, importance: Array | None = None) -> tuple[Array, ...]:
        """Plain rounding, bit-identical to `mx.quantize`; see `Format.encode`."""
        groups = groups_of(rows, self.group_size)
        high, low = groups.max(axis=-1), groups.min(axis=-1)
        refuse_nonfinite(groups, high, low)
        scale, bias = plain_scales(self, groups, high, low)
        # scale is 0 only in a group of one huge value repeated, where every difference is 0 too
        divisor = np.where(scale == 0, np.float32(1), scale)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            steps = np.subtract(groups, bias[:, :, None])
            np.divide(steps, divisor[:, :, None], out=steps)
        if not np.isfinite(scale).all():
            steps[np.isnan(steps)] = 0  # infinity by infinity, in a range that overflowed
        np.rint(steps, out=steps)
        np.clip(steps, np.float32(0), np.float32((1 << self.bits) - 1), out=steps)
        codes = steps.astype(np.uint8).reshape(rows.shape)
        return (
            pack(codes, self.bits),
            from_float32(scale, self.dtype),
            from_float32(bias, self.dtype),
        )

    def _scale_and_bias(self, high: Float32, low: Float32) -> tuple[Float32, Float32]:
        """The float32 scale and bias of each group from its extremes, all of shape [n, b]."""
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            scale = (high - low) / np.float32((1 << self.bits) - 1)
            np.maximum(scale, np.float32(1e-7), out=scale)
            low_is_edge = np.abs(low) > np.abs(high)
            np.negative(scale, out=scale, where=~low_is_edge)
            edge = np.where(low_is_edge, low, high)
            zero_at = np.rint(edge / scale)
            shifted = zero_at != 0
            np.divide(edge, zero_at, out=scale, where=shifted)
        return scale, np.where(shifted, edge, np.float32(0))

    def decode(self, wire: tuple[Array, ...]) -> Array:
        """Bit-identical to `mx.dequantize`: product and sum each rounded to `dtype`.

        Raises:
            RequestError: arrays of another type or shape than `encode` returns.
        """
        self.check_wire(wire)
        scale, bias = (to_float32(array, self.dtype)[:, :, None] for array in wire[1:])
        codes = unpack(wire[0], self.bits)
        rows = codes.astype(np.float32)
        groups = rows.reshape(*scale.shape[:2], self.group_size)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.multiply(groups, scale, out=groups)
            groups = round_to(groups, self.dtype)
            np.add(groups, bias, out=groups)
            groups = round_to(groups, self.dtype)
        return groups.reshape(rows.shape)


def plain_scales(
    target: Affine, groups: Float32, high: Float32, low: Float32
) -> tuple[Float32, Float32]:
    """The scale and bias that mx.quantize takes, before they are rounded to the file's type.

    Args:
        groups: float32 [n, b, g], finite.
        high, low: float32 [n, b], the largest and the smallest weight of each group.

    Returns: float32 [n, b] each.
    """
    if target.bits == 1:
        return _whole_range(groups, high, low)
    return target._scale_and_bias(high, low)


def _whole_range(groups: Float32, high: Float32, low: Float32) -> tuple[Float32, Float32]:
    """Scale and bias at 1 bit, where the two codes are the two extremes.

    A smallest weight of zero has the sign of the first zero in its group, as a scan from left to
    right finds it; NumPy's minimum takes either.
    """
    with np.errstate(over="ignore"):
        scale = np.maximum(high - low, np.float32(1e-7))
    at_zero = low == 0
    if at_zero.any():
        touched = groups[at_zero]
        first = (touched == 0).argmax(axis=-1)
        low[at_zero] = np.take_along_axis(touched, first[:, None], axis=-1)[:, 0]
    return scale, low


def _check(what: str, value: object, allowed: tuple[int, ...]) -> None:
    # `True in (1, 2)` holds, hence the type
    if type(value) is not int or value not in allowed:
        choices = ", ".join(map(str, allowed))
        raise RequestError(f"{what} {value!r}: mode affine takes {choices}")


def _register() -> None:
    for bits in WIDTHS:
        for group_size in GROUP_SIZES:
            member = Affine(bits, group_size)
            scale_and_bias = 2 * STORAGE[member.dtype].itemsize
            assert member.block_bytes == group_size * bits // 8 + scale_and_bias
            register(member)


_register()
