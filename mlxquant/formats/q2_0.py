"""Q2_0: 64 weights of 2 bits and one scale.

    18 bytes, 2.25 bits per weight
    ┌─────┬──────────────────────────┐
    │ d 2 │ qs                    16 │
    └─────┴──────────────────────────┘

    d    float16, the largest |w|
    qs   four codes a byte, low bits first

    w = d · (q - 1),   q = 0 … 2 when encoded, 0 … 3 when decoded

Half a step rounds away from zero. Where 1 / d overflows, below 2^-128, ggml's codes are 0. Layout:
block_q2_0 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, split
from .legacy import half_bytes, inverse, largest_magnitude, overflows, round_half_away
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register

__all__ = ["Q20"]

#: the levels of a byte's four codes, by byte: int8 [256, 4]
_LEVELS = ((np.arange(256)[:, None] >> np.arange(0, 8, 2) & 3) - 1).astype(np.int8)
#: the same four levels as one word
_WORDS = _LEVELS.view(np.uint32)[:, 0]


@dataclass(frozen=True)
class Q20(GgmlFormat):
    """2 bits; ggml's encoder uses three of the four levels."""

    ggml_name = "Q2_0"
    ggml_type = 42
    code_bits = 2
    weights = 64
    fields = (("d", 2), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding, which knows no importance."""
        scale = largest_magnitude(blocks)
        with np.errstate(under="ignore"):
            codes = (round_half_away(blocks * inverse(scale)) + np.int8(1)).view(np.uint8)
        lost = overflows(scale)
        if lost.any():
            codes[lost] = 0
        packed = codes[:, ::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6
        return np.concatenate((half_bytes(scale), packed), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Every product is exact; 0 · ∞ is NaN."""
        part = split(blocks, self.fields)
        levels = _WORDS[part["qs"]].view(np.int8)
        with np.errstate(invalid="ignore"):
            return np.multiply(levels, halves(part["d"]), dtype=np.float32)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        levels = signed_mx(planes_mx(part["qs"], 2, 1)) - 1
        return scaled_mx(levels, halves_mx(part["d"]))


_Q2_0 = Q20()
assert _Q2_0.block_bytes == 18
register(_Q2_0)
