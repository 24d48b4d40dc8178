"""MXFP4 of the OCP Microscaling specification (v1.0), as MLX stores it.

    weight    uint32 [n, k/8]     E2M1 codes, 8 a word, low bits first
    scales    uint8  [n, k/32]    E8M0: 2^(byte - 127)

    one group of 32: 17 bytes, 4.25 bits per weight
    ┌──────────────────────────────────────────────┐ ┌─────────┐
    │ weight: 4 words, 16 bytes, 32 codes          │ │ scale 1 │
    └──────────────────────────────────────────────┘ └─────────┘

    code  0    1    2    3    4    5    6    7     + 8: negative
          0    0.5  1    1.5  2    3    4    6

    w ≈ 2^e · level
    2^e = the smallest power of two ≥ max |w| / 6
    level = the nearest to w / 2^e

So the largest weight of a group lands above 3 and, rounding of the quotient aside, at most at 6:
nothing is cut. Ties go to the smaller magnitude, and what rounds to zero loses its sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Array, Part
from .floats import check_dtype, e2m1_to_f32, f32_to_e2m1
from .mlx_format import MlxFormat, decode_microscaled, groups_of, microscale
from .packing import pack, unpack
from .registry import register

__all__ = ["Mxfp4"]


@dataclass(frozen=True)
class Mxfp4(MlxFormat):
    """4-bit floats, a power-of-two scale for every 32.

    Attributes:
        dtype: the type in which MLX computes the scale, and in which `decode` rounds.

    Raises:
        RequestError: `dtype` is none of BF16, F16, F32.
    """

    mode: ClassVar[str] = "mxfp4"

    dtype: str = "BF16"

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    @property
    def name(self) -> str:
        """`mxfp4`."""
        return "mxfp4"

    @property
    def bits(self) -> int:
        """4."""
        return 4

    @property
    def block_size(self) -> int:
        """32."""
        return 32

    @property
    def parts(self) -> tuple[Part, ...]:
        """Codes, scales."""
        return Part("weight", "U32", 32 * 4 // 32), Part("scales", "U8", 1)

    def encode(self, rows: Array, importance: Array | None = None) -> tuple[Array, ...]:
        """Plain rounding, bit-identical to `mx.quantize`; see `Format.encode`."""
        scaled, scales = microscale(groups_of(rows, 32), 6, self.dtype)
        return pack(f32_to_e2m1(scaled).reshape(rows.shape), 4), scales

    def decode(self, wire: tuple[Array, ...]) -> Array:
        """Bit-identical to `mx.dequantize(..., dtype=dtype)`.

        Raises:
            RequestError: arrays of another type or shape than `encode` returns.
        """
        self.check_wire(wire)
        return decode_microscaled(e2m1_to_f32(unpack(wire[0], 4)), wire[1], 32, self.dtype)


assert Mxfp4().block_bytes == 32 * 4 // 8 + 1
register(Mxfp4())
