"""NVFP4, as MLX stores it: no second scale for the whole tensor.

    weight    uint32 [n, k/8]     E2M1 codes, 8 a word, low bits first
    scales    uint8  [n, k/16]    E4M3

    one group of 16: 9 bytes, 4.5 bits per weight
    ┌─────────────────────────────┐ ┌─────────┐
    │ weight: 2 words, 16 codes   │ │ scale 1 │
    └─────────────────────────────┘ └─────────┘

    w ≈ s · level,  s = max |w| / 6 as E4M3,  level = the E2M1 value nearest to w / s

Both quotients are rounded to T. Ties go to the smaller magnitude, and what rounds to zero loses its
sign. E4M3 reaches from 2^-9 to 448, so a group whose largest weight is at most 6·2^-10 = 0.0059 is
stored as zeros, and one that goes beyond 2688 is cut there. (Beyond 448 · 2^27 weights come back as
zeros, as from mx.quantize: see _recode_huge.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Array, Part
from .floats import (
    Bytes,
    Float32,
    check_dtype,
    e2m1_to_f32,
    e4m3_to_f32,
    f32_to_e2m1,
    f32_to_e4m3,
    round_to,
)
from .mlx_format import MlxFormat, groups_of, largest_of
from .packing import pack, unpack
from .registry import register

__all__ = ["Nvfp4"]


@dataclass(frozen=True)
class Nvfp4(MlxFormat):
    """4-bit floats, an 8-bit float scale for every 16.

    Attributes:
        dtype: the type in which MLX divides, and in which `decode` rounds.

    Raises:
        RequestError: `dtype` is none of BF16, F16, F32.
    """

    mode: ClassVar[str] = "nvfp4"

    dtype: str = "BF16"

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    @property
    def name(self) -> str:
        """`nvfp4`."""
        return "nvfp4"

    @property
    def bits(self) -> int:
        """4."""
        return 4

    @property
    def block_size(self) -> int:
        """16."""
        return 16

    @property
    def parts(self) -> tuple[Part, ...]:
        """Codes, scales."""
        return Part("weight", "U32", 16 * 4 // 32), Part("scales", "U8", 1)

    def encode(self, rows: Array, importance: Array | None = None) -> tuple[Array, ...]:
        """Plain rounding, bit-identical to `mx.quantize`; see `Format.encode`."""
        groups = groups_of(rows, 16)
        largest = largest_of(groups)
        scales = f32_to_e4m3(round_to(largest / np.float32(6), self.dtype))
        divisor = e4m3_to_f32(scales)
        divisor[scales == 0] = 1  # such weights are far below the first level
        scaled = round_to(groups / divisor[:, :, None], self.dtype)
        codes = f32_to_e2m1(scaled)
        if float(largest.max(initial=0)) >= 448 * _EXACT:
            _recode_huge(scaled, codes)
        return pack(codes.reshape(rows.shape), 4), scales

    def decode(self, wire: tuple[Array, ...]) -> Array:
        """Bit-identical to `mx.dequantize(..., dtype=dtype)`.

        No rounding: a level times a scale has 6 significant bits and lies within 2^-10 … 2880,
        which every dtype holds.

        Raises:
            RequestError: arrays of another type or shape than `encode` returns.
        """
        self.check_wire(wire)
        values = e2m1_to_f32(unpack(wire[0], 4))
        groups = values.reshape(*wire[1].shape, 16)
        np.multiply(groups, e4m3_to_f32(wire[1])[:, :, None], out=groups)
        return values


#: up to here the distance from a value to each level is exact in float32, or at least in order
_EXACT = 2.0**24


def _recode_huge(scaled: Float32, codes: Bytes) -> None:
    """Correct, in place, the codes of values so large that float32 cannot tell their distances to
    the levels apart. MLX takes the first of equal distances: beyond 2^27 that is 0, not ±6."""
    huge = np.abs(scaled) >= _EXACT
    levels = e2m1_to_f32(np.arange(16, dtype=np.uint8))
    distance = np.abs(scaled[huge][:, None] - levels)
    codes[huge] = distance.argmin(axis=-1).astype(np.uint8)


assert Nvfp4().block_bytes == 16 * 4 // 8 + 1
register(Nvfp4())
