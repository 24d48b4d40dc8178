"""Q5_0: 32 weights of 5 bits and one scale.

    22 bytes, 5.5 bits per weight
    ┌─────┬──────┬──────────────────────────┐
    │ d 2 │ qh 4 │ qs                    16 │
    └─────┴──────┴──────────────────────────┘

    d    float16
    qh   bit j is the fifth bit of weight j
    qs   byte j holds the lower four bits of weight j (low nibble) and of weight j + 16

    w = d · (q - 16),   q = 0 … 31

Layout: block_q5_0 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Bytes, Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, unpack_planes
from .legacy import half_bytes, round_symmetric
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register
from .scale_search import search_symmetric

__all__ = ["Q50", "pack_fives", "unpack_fives", "unpack_fives_mx"]


@dataclass(frozen=True)
class Q50(GgmlFormat):
    """5 bits around zero."""

    ggml_name = "Q5_0"
    ggml_type = 6
    code_bits = 5
    weights = 32
    fields = (("d", 2), ("qh", 4), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding; with importance, a search for the least weighted error."""
        if importance is None:
            codes, scale = round_symmetric(blocks, 16)
        else:
            codes, scale = search_symmetric(blocks, importance, 16)
        return np.concatenate((half_bytes(scale), *pack_fives(codes)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The product of 11 and 5 bits is exact in float32."""
        part = split(blocks, self.fields)
        levels = unpack_fives(part["qh"], part["qs"]).view(np.int8) - np.int8(16)
        with np.errstate(invalid="ignore"):
            rows: Float32 = np.multiply(levels, halves(part["d"]), dtype=np.float32)
        return rows

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        levels = signed_mx(unpack_fives_mx(part["qh"], part["qs"])) - 16
        return scaled_mx(levels, halves_mx(part["d"]))


def unpack_fives(high: Array, low: Array) -> Bytes:
    """qh uint8 [b, 4] and qs uint8 [b, 16] → codes uint8 [b, 32]."""
    codes = np.unpackbits(high, axis=1, bitorder="little")
    np.left_shift(codes, 4, out=codes)
    np.bitwise_or(codes, unpack_planes(low, 4, 16), out=codes)
    return codes


def unpack_fives_mx(high: MxArray, low: MxArray) -> MxArray:
    """As `unpack_fives`, of MLX's arrays."""
    return planes_mx(high, 1, 1) << 4 | planes_mx(low, 4, 16)


def pack_fives(codes: Bytes) -> tuple[Bytes, Bytes]:
    """Codes uint8 [b, 32] → qh uint8 [b, 4] and qs uint8 [b, 16]."""
    return (
        np.packbits(codes >> 4, axis=1, bitorder="little"),
        pack_planes(codes & np.uint8(15), 4, 16),
    )


_Q5_0 = Q50()
assert _Q5_0.block_bytes == 22
register(_Q5_0)
