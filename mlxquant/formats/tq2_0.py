"""TQ2_0: 256 weights of three levels in 2 bits, one scale.

    66 bytes, 2.0625 bits per weight
    ┌──────────────────────────────────────────────┬─────┐
    │ qs                                        64 │ d 2 │
    └──────────────────────────────────────────────┴─────┘

    qs   2-bit planes of 32 bytes: byte l of run n holds weights 128·n + l, + 32, + 64 and + 96,
         low bits first
    d    float16, the largest |w|

    w = d · (q - 1),   q = 0 … 2 when encoded, 0 … 3 when decoded

Half a step rounds away from zero. Where 1 / d overflows, below 2^-128, ggml's codes are 1. Layout:
block_tq2_0 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, unpack_planes
from .legacy import half_bytes, largest_magnitude
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register
from .tq1_0 import trits

__all__ = ["Tq20"]


@dataclass(frozen=True)
class Tq20(GgmlFormat):
    """Ternary, quick to unpack."""

    ggml_name = "TQ2_0"
    ggml_type = 35
    code_bits = 2
    weights = 256
    fields = (("qs", 64), ("d", 2))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding, which knows no importance."""
        scale = largest_magnitude(blocks)
        packed = pack_planes(trits(blocks, scale), 2, 32)
        return np.concatenate((packed, half_bytes(scale)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Every product is exact; 0 · ∞ is NaN."""
        part = split(blocks, self.fields)
        levels = unpack_planes(part["qs"], 2, 32).view(np.int8) - np.int8(1)
        with np.errstate(invalid="ignore"):
            rows: Float32 = np.multiply(levels, halves(part["d"]), dtype=np.float32)
        return rows

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        levels = signed_mx(planes_mx(part["qs"], 2, 32)) - 1
        return scaled_mx(levels, halves_mx(part["d"]))


_TQ2_0 = Tq20()
assert _TQ2_0.block_bytes == 66
register(_TQ2_0)
