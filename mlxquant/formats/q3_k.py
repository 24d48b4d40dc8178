"""Q3_K: 256 weights of 3 bits; sixteen sub-blocks of 16 with a 6-bit scale each.

    110 bytes, 3.4375 bits per weight
    ┌──────────────────────┬────────────────────────────────────────┬─────────────┬─────┐
    │ hmask             32 │ qs                                  64 │ scales   12 │ d 2 │
    └──────────────────────┴────────────────────────────────────────┴─────────────┴─────┘

    hmask    the high bit of code + 4, in 1-bit planes of 32 bytes: byte l, bit p is weight 32·p + l
    qs       the low two, in 2-bit planes of 32 bytes: byte l of run n holds weights
             128·n + l + 0, 32, 64, 96, lowest bits first
    scales   scale + 32: low four bits in 4-bit planes of 8 bytes, high two in 2-bit planes of 4

                 byte j < 8        bits 3-0 sub-block j         bits 7-4 sub-block j + 8
                 byte 8 + j        bits 2p+1, 2p: sub-block j + 4·p
    d        float16

    w = d · scale · q,   q = -4 … 3,  scale = -32 … 31

Layout: block_q3_K in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, to_halves, unpack_planes
from .k_scales import signed_scales
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register

__all__ = ["Q3K"]


@dataclass(frozen=True)
class Q3K(GgmlFormat):
    """The K-quant of 3 bits."""

    ggml_name = "Q3_K"
    ggml_type = 11
    code_bits = 3
    weights = 256
    fields = (("hmask", 32), ("qs", 64), ("scales", 12), ("d", 2))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        fit = signed_scales(blocks, importance, size=16, half=4, steps=32)
        codes = (fit.codes + np.int8(4)).view(np.uint8)
        scales = (fit.scales + np.int8(32)).view(np.uint8)
        return np.concatenate(
            (
                pack_planes(codes >> 2, 1, 32),
                pack_planes(codes & 3, 2, 32),
                pack_planes(scales & 15, 4, 8),
                pack_planes(scales >> 4, 2, 4),
                to_halves(fit.d),
            ),
            axis=1,
        )

    def decode_blocks(self, blocks: Array) -> Float32:
        """The products are exact in float32, whatever their order."""
        part = split(blocks, self.fields)
        low = unpack_planes(part["scales"][:, :8], 4, 8)
        high = unpack_planes(part["scales"][:, 8:], 2, 4)
        scales = (low | high << 4).view(np.int8) - np.int8(32)
        codes = unpack_planes(part["qs"], 2, 32) | unpack_planes(part["hmask"], 1, 32) << 2
        with np.errstate(invalid="ignore"):
            scale: Float32 = halves(part["d"]) * scales
            signed = codes.view(np.int8).reshape(-1, 16, 16) - np.int8(4)
            rows: Float32 = signed * scale[:, :, None]
        return rows.reshape(len(blocks), 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        low = planes_mx(part["scales"][:, :8], 4, 8)
        high = planes_mx(part["scales"][:, 8:], 2, 4)
        scale = halves_mx(part["d"]) * (signed_mx(low | high << 4) - 32)
        codes = planes_mx(part["qs"], 2, 32) | planes_mx(part["hmask"], 1, 32) << 2
        return scaled_mx(signed_mx(codes) - 4, scale)


_Q3_K = Q3K()
assert _Q3_K.block_bytes == 110
register(_Q3_K)
