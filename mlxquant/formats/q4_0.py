"""Q4_0: 32 weights of 4 bits and one scale.

    18 bytes, 4.5 bits per weight
    ┌─────┬──────────────────────────┐
    │ d 2 │ qs                    16 │
    └─────┴──────────────────────────┘

    d    float16
    qs   byte j holds weight j (low nibble) and weight j + 16

    w = d · (q - 8),   q = 0 … 15

Layout: block_q4_0 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, unpack_planes
from .legacy import half_bytes, round_symmetric
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register
from .scale_search import search_symmetric

__all__ = ["Q40"]


@dataclass(frozen=True)
class Q40(GgmlFormat):
    """4 bits around zero."""

    ggml_name = "Q4_0"
    ggml_type = 2
    code_bits = 4
    weights = 32
    fields = (("d", 2), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding; with importance, a search for the least weighted error."""
        if importance is None:
            codes, scale = round_symmetric(blocks, 8)
        else:
            codes, scale = search_symmetric(blocks, importance, 8)
        return np.concatenate((half_bytes(scale), pack_planes(codes, 4, 16)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The product of 11 and 4 bits is exact in float32."""
        part = split(blocks, self.fields)
        levels = unpack_planes(part["qs"], 4, 16).view(np.int8) - np.int8(8)
        with np.errstate(invalid="ignore"):
            rows: Float32 = np.multiply(levels, halves(part["d"]), dtype=np.float32)
        return rows

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        levels = signed_mx(planes_mx(part["qs"], 4, 16)) - 8
        return scaled_mx(levels, halves_mx(part["d"]))


_Q4_0 = Q40()
assert _Q4_0.block_bytes == 18
register(_Q4_0)
