"""Q8_0: 32 weights of 8 bits and one scale.

    34 bytes, 8.5 bits per weight
    ┌─────┬──────────────────────────────────────────┐
    │ d 2 │ qs                                    32 │
    └─────┴──────────────────────────────────────────┘

    d    float16, the largest |w| / 127
    qs   int8

    w = d · q,   q = -127 … 127 when encoded, -128 … 127 when decoded

Half a step rounds away from zero. Layout: block_q8_0 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, split
from .legacy import half_bytes, inverse, largest_magnitude, overflows, round_half_away
from .mx_layout import MxArray, halves_mx, scaled_mx, signed_mx
from .registry import register

__all__ = ["Q80"]


@dataclass(frozen=True)
class Q80(GgmlFormat):
    """8 bits around zero."""

    ggml_name = "Q8_0"
    ggml_type = 8
    code_bits = 8
    weights = 32
    fields = (("d", 2), ("qs", 32))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding, which knows no importance."""
        with np.errstate(under="ignore"):
            scale = largest_magnitude(blocks) / np.float32(127)
            codes = round_half_away(blocks * inverse(scale)).view(np.uint8)
        lost = overflows(scale)
        if lost.any():
            codes[lost] = 0
        return np.concatenate((half_bytes(scale), codes), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The product of 11 and 8 bits is exact in float32."""
        part = split(blocks, self.fields)
        with np.errstate(invalid="ignore"):
            return np.multiply(part["qs"].view(np.int8), halves(part["d"]), dtype=np.float32)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        return scaled_mx(signed_mx(part["qs"]), halves_mx(part["d"]))


_Q8_0 = Q80()
assert _Q8_0.block_bytes == 34
register(_Q8_0)
