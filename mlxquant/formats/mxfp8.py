"""MXFP8 (E4M3 elements) of the OCP Microscaling specification (v1.0), as MLX stores it.

    weight    uint32 [n, k/4]     E4M3 codes, 4 a word, low bits first
    scales    uint8  [n, k/32]    E8M0: 2^(byte - 127)

    one group of 32: 33 bytes, 8.25 bits per weight
    ┌──────────────────────────────────────────────┐ ┌─────────┐
    │ weight: 8 words, 32 bytes, 32 codes          │ │ scale 1 │
    └──────────────────────────────────────────────┘ └─────────┘

    w ≈ 2^e · x
    2^e = the smallest power of two ≥ max |w| / 448
    x = w / 2^e as E4M3

So the largest weight of a group lands above 224 and, rounding of the quotient aside, at most at
448: nothing is cut. Ties go to the even code, and the sign of what rounds to zero is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Array, Part
from .floats import check_dtype, e4m3_to_f32, f32_to_e4m3
from .mlx_format import MlxFormat, decode_microscaled, groups_of, microscale
from .packing import pack, unpack
from .registry import register

__all__ = ["Mxfp8"]


@dataclass(frozen=True)
class Mxfp8(MlxFormat):
    """8-bit floats, a power-of-two scale for every 32.

    Attributes:
        dtype: the type in which MLX computes the scale, and in which `decode` rounds.

    Raises:
        RequestError: `dtype` is none of BF16, F16, F32.
    """

    mode: ClassVar[str] = "mxfp8"

    dtype: str = "BF16"

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    @property
    def name(self) -> str:
        """`mxfp8`."""
        return "mxfp8"

    @property
    def bits(self) -> int:
        """8."""
        return 8

    @property
    def block_size(self) -> int:
        """32."""
        return 32

    @property
    def parts(self) -> tuple[Part, ...]:
        """Codes, scales."""
        return Part("weight", "U32", 32 * 8 // 32), Part("scales", "U8", 1)

    def encode(self, rows: Array, importance: Array | None = None) -> tuple[Array, ...]:
        """Plain rounding, bit-identical to `mx.quantize`; see `Format.encode`."""
        scaled, scales = microscale(groups_of(rows, 32), 448, self.dtype)
        return pack(f32_to_e4m3(scaled).reshape(rows.shape), 8), scales

    def decode(self, wire: tuple[Array, ...]) -> Array:
        """Bit-identical to `mx.dequantize(..., dtype=dtype)`.

        Raises:
            RequestError: arrays of another type or shape than `encode` returns.
        """
        self.check_wire(wire)
        return decode_microscaled(e4m3_to_f32(unpack(wire[0], 8)), wire[1], 32, self.dtype)


assert Mxfp8().block_bytes == 32 * 8 // 8 + 1
register(Mxfp8())
