"""Q6_K: 256 weights of 6 bits; sixteen sub-blocks of 16 with an 8-bit scale each.

    210 bytes, 6.5625 bits per weight
    ┌────────────────────────────────────────┬──────────────────────┬─────────────┬─────┐
    │ ql                                 128 │ qh                64 │ scales   16 │ d 2 │
    └────────────────────────────────────────┴──────────────────────┴─────────────┴─────┘

    ql       the low four bits of code + 32, in 4-bit planes of 64 bytes: byte l of run n holds
             weights 128·n + l (low nibble) and 128·n + l + 64
    qh       its high two, in 2-bit planes of 32 bytes: byte l of run n holds weights
             128·n + l + 0, 32, 64, 96, lowest bits first
    scales   int8
    d        float16

    w = d · scale · q,   q = -32 … 31

Layout: block_q6_K in ggml-common.h of llama.cpp.
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

__all__ = ["Q6K"]


@dataclass(frozen=True)
class Q6K(GgmlFormat):
    """The K-quant of 6 bits."""

    ggml_name = "Q6_K"
    ggml_type = 14
    code_bits = 6
    weights = 256
    fields = (("ql", 128), ("qh", 64), ("scales", 16), ("d", 2))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        fit = signed_scales(blocks, importance, size=16, half=32, steps=128)
        codes = (fit.codes + np.int8(32)).view(np.uint8)
        return np.concatenate(
            (
                pack_planes(codes & 15, 4, 64),
                pack_planes(codes >> 4, 2, 32),
                fit.scales.view(np.uint8),
                to_halves(fit.d),
            ),
            axis=1,
        )

    def decode_blocks(self, blocks: Array) -> Float32:
        """The products are exact in float32, whatever their order."""
        part = split(blocks, self.fields)
        codes = unpack_planes(part["ql"], 4, 64) | unpack_planes(part["qh"], 2, 32) << 4
        with np.errstate(invalid="ignore"):
            scale = halves(part["d"]) * part["scales"].view(np.int8)
            signed = codes.view(np.int8).reshape(-1, 16, 16) - np.int8(32)
            rows: Float32 = signed * scale[:, :, None]
        return rows.reshape(len(blocks), 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        codes = planes_mx(part["ql"], 4, 64) | planes_mx(part["qh"], 2, 32) << 4
        scale = halves_mx(part["d"]) * signed_mx(part["scales"])
        return scaled_mx(signed_mx(codes) - 32, scale)


_Q6_K = Q6K()
assert _Q6_K.block_bytes == 210
register(_Q6_K)
