"""Q2_K: 256 weights of 2 bits; sixteen sub-blocks of 16 with a 4-bit scale and a 4-bit min each.

    84 bytes, 2.625 bits per weight
    ┌────────────────┬──────────────────────────────────────────┬─────┬──────┐
    │ scales      16 │ qs                                    64 │ d 2 │dmin 2│
    └────────────────┴──────────────────────────────────────────┴─────┴──────┘

    scales   byte j: sub-block j's scale in the low nibble, its min in the high one
    qs       2-bit planes of 32 bytes: byte l of run n holds weights 128·n + l + 0, 32, 64, 96,
             lowest bits first
    d, dmin  float16

    w = d · scale · q - dmin · min,   q = 0 … 3

Layout: block_q2_K in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, to_halves, unpack_planes
from .k_mins import scales_and_mins
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx
from .registry import register

__all__ = ["Q2K"]


@dataclass(frozen=True)
class Q2K(GgmlFormat):
    """The K-quant of 2 bits."""

    ggml_name = "Q2_K"
    ggml_type = 10
    code_bits = 2
    weights = 256
    fields = (("scales", 16), ("qs", 64), ("d", 2), ("dmin", 2))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        fit = scales_and_mins(blocks, importance, size=16, top=3, steps=15)
        scales = fit.scales | fit.mins << 4
        codes = pack_planes(fit.codes, 2, 32)
        return np.concatenate((scales, codes, to_halves(fit.d), to_halves(fit.dmin)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The products are exact in float32, so that a fused multiply-add changes nothing."""
        part = split(blocks, self.fields)
        with np.errstate(invalid="ignore"):
            scale: Float32 = halves(part["d"]) * (part["scales"] & 15)
            low: Float32 = halves(part["dmin"]) * (part["scales"] >> 4)
            codes = unpack_planes(part["qs"], 2, 32).reshape(-1, 16, 16)
            rows: Float32 = codes * scale[:, :, None] - low[:, :, None]
        return rows.reshape(len(blocks), 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        scale = halves_mx(part["d"]) * (part["scales"] & 15)
        low = halves_mx(part["dmin"]) * (part["scales"] >> 4)
        return scaled_mx(planes_mx(part["qs"], 2, 32), scale, -low)


_Q2_K = Q2K()
assert _Q2_K.block_bytes == 84
register(_Q2_K)
