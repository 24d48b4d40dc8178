"""Q5_K: 256 weights of 5 bits; eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.

    176 bytes, 5.5 bits per weight
    ┌─────┬──────┬─────────────┬──────────────┬──────────────────────────────────────────────┐
    │ d 2 │dmin 2│ scales   12 │ qh        32 │ qs                                       128 │
    └─────┴──────┴─────────────┴──────────────┴──────────────────────────────────────────────┘

    d, dmin  float16
    scales   as in Q4_K
    qh       the code's high bit, in 1-bit planes of 32 bytes: byte l, bit p is weight 32·p + l
    qs       its low four, in 4-bit planes of 32 bytes: byte l of run n holds weights
             64·n + l (low nibble) and 64·n + l + 32

    w = d · scale · q - dmin · min,   q = 0 … 31

Layout: block_q5_K in ggml-common.h of llama.cpp.
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
from .q4_k import pack_scales, unpack_scales, unpack_scales_mx
from .registry import register

__all__ = ["Q5K"]


@dataclass(frozen=True)
class Q5K(GgmlFormat):
    """The K-quant of 5 bits."""

    ggml_name = "Q5_K"
    ggml_type = 13
    code_bits = 5
    weights = 256
    fields = (("d", 2), ("dmin", 2), ("scales", 12), ("qh", 32), ("qs", 128))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        fit = scales_and_mins(blocks, importance, size=32, top=31, steps=63)
        return np.concatenate(
            (
                to_halves(fit.d),
                to_halves(fit.dmin),
                pack_scales(fit.scales, fit.mins),
                pack_planes(fit.codes >> 4, 1, 32),
                pack_planes(fit.codes & 15, 4, 32),
            ),
            axis=1,
        )

    def decode_blocks(self, blocks: Array) -> Float32:
        """The products are exact in float32, so that a fused multiply-add changes nothing."""
        part = split(blocks, self.fields)
        scales, mins = unpack_scales(part["scales"])
        codes = unpack_planes(part["qs"], 4, 32) | unpack_planes(part["qh"], 1, 32) << 4
        with np.errstate(invalid="ignore"):
            scale, low = halves(part["d"]) * scales, halves(part["dmin"]) * mins
            rows: Float32 = codes.reshape(-1, 8, 32) * scale[:, :, None] - low[:, :, None]
        return rows.reshape(len(blocks), 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        scales, mins = unpack_scales_mx(part["scales"])
        scale, low = halves_mx(part["d"]) * scales, halves_mx(part["dmin"]) * mins
        codes = planes_mx(part["qs"], 4, 32) | planes_mx(part["qh"], 1, 32) << 4
        return scaled_mx(codes, scale, -low)


_Q5_K = Q5K()
assert _Q5_K.block_bytes == 176
register(_Q5_K)
