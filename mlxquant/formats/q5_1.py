"""Q5_1: 32 weights of 5 bits, a scale and an offset.

    24 bytes, 6 bits per weight
    ┌─────┬─────┬──────┬──────────────────────────┐
    │ d 2 │ m 2 │ qh 4 │ qs                    16 │
    └─────┴─────┴──────┴──────────────────────────┘

    d, m float16
    qh   bit j is the fifth bit of weight j
    qs   byte j holds the lower four bits of weight j (low nibble) and of weight j + 16

    w = d · q + m,   q = 0 … 31

Layout: block_q5_1 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, split
from .legacy import half_bytes, round_affine
from .mx_layout import MxArray, halves_mx, scaled_mx
from .q5_0 import pack_fives, unpack_fives, unpack_fives_mx
from .registry import register
from .scale_search import search_affine

__all__ = ["Q51"]


@dataclass(frozen=True)
class Q51(GgmlFormat):
    """5 bits above a smallest value."""

    ggml_name = "Q5_1"
    ggml_type = 7
    code_bits = 5
    weights = 32
    fields = (("d", 2), ("m", 2), ("qh", 4), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding; with importance, a search for the least weighted error."""
        if importance is None:
            codes, scale, low = round_affine(blocks, 31)
        else:
            codes, scale, low = search_affine(blocks, importance, 31)
        return np.concatenate((half_bytes(scale), half_bytes(low), *pack_fives(codes)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The product is exact in float32, so that a fused multiply-add changes nothing."""
        part = split(blocks, self.fields)
        codes = unpack_fives(part["qh"], part["qs"])
        with np.errstate(invalid="ignore"):
            rows = np.multiply(codes, halves(part["d"]), dtype=np.float32)
            return np.add(rows, halves(part["m"]), out=rows)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        codes = unpack_fives_mx(part["qh"], part["qs"])
        return scaled_mx(codes, halves_mx(part["d"]), halves_mx(part["m"]))


_Q5_1 = Q51()
assert _Q5_1.block_bytes == 24
register(_Q5_1)
