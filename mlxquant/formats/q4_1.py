"""Q4_1: 32 weights of 4 bits, a scale and an offset.

    20 bytes, 5 bits per weight
    ┌─────┬─────┬──────────────────────────┐
    │ d 2 │ m 2 │ qs                    16 │
    └─────┴─────┴──────────────────────────┘

    d, m float16
    qs   byte j holds weight j (low nibble) and weight j + 16

    w = d · q + m,   q = 0 … 15

Layout: block_q4_1 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, unpack_planes
from .legacy import half_bytes, round_affine
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx
from .registry import register
from .scale_search import search_affine

__all__ = ["Q41"]


@dataclass(frozen=True)
class Q41(GgmlFormat):
    """4 bits above a smallest value."""

    ggml_name = "Q4_1"
    ggml_type = 3
    code_bits = 4
    weights = 32
    fields = (("d", 2), ("m", 2), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding; with importance, a search for the least weighted error."""
        if importance is None:
            codes, scale, low = round_affine(blocks, 15)
        else:
            codes, scale, low = search_affine(blocks, importance, 15)
        packed = pack_planes(codes, 4, 16)
        return np.concatenate((half_bytes(scale), half_bytes(low), packed), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The product is exact in float32, so that a fused multiply-add changes nothing."""
        part = split(blocks, self.fields)
        codes = unpack_planes(part["qs"], 4, 16)
        with np.errstate(invalid="ignore"):
            rows = np.multiply(codes, halves(part["d"]), dtype=np.float32)
            return np.add(rows, halves(part["m"]), out=rows)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        codes = planes_mx(part["qs"], 4, 16)
        return scaled_mx(codes, halves_mx(part["d"]), halves_mx(part["m"]))


_Q4_1 = Q41()
assert _Q4_1.block_bytes == 20
register(_Q4_1)
