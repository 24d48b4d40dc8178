"""Q1_0: 128 signs and one scale.

    18 bytes, 1.125 bits per weight
    ┌─────┬──────────────────────────┐
    │ d 2 │ qs                    16 │
    └─────┴──────────────────────────┘

    d    float16, the mean of |w|
    qs   bit j is the sign of weight j: 1 where w ≥ 0 (-0 too)

    w = d where the bit is 1, -d where it is 0

The mean is a sum in float32 from the first weight to the last, as ggml adds. Layout: block_q1_0 in
ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, split
from .legacy import half_bytes
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register

__all__ = ["Q10"]


@dataclass(frozen=True)
class Q10(GgmlFormat):
    """1 bit."""

    ggml_name = "Q1_0"
    ggml_type = 41
    code_bits = 1
    weights = 128
    fields = (("d", 2), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's mean and signs, which know no importance."""
        size = np.ascontiguousarray(np.abs(blocks).T)
        total = np.zeros(len(blocks), np.float32)
        with np.errstate(over="ignore", under="ignore"):
            for column in size:
                np.add(total, column, out=total)
            mean = total[:, None] / np.float32(128)
        signs = np.packbits(blocks >= 0, axis=1, bitorder="little")
        return np.concatenate((half_bytes(mean), signs), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Exact; of a NaN scale the sign flips too."""
        part = split(blocks, self.fields)
        signs = np.unpackbits(part["qs"], axis=1, bitorder="little").view(np.bool_)
        scale = halves(part["d"])
        return np.where(signs, scale, -scale)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        signs = signed_mx(planes_mx(part["qs"], 1, 1)) * 2 - 1
        return scaled_mx(signs, halves_mx(part["d"]))


_Q1_0 = Q10()
assert _Q1_0.block_bytes == 18
register(_Q1_0)
