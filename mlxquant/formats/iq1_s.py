"""IQ1_S: 256 weights in 50 bytes, 1.5625 bits per weight.

    ┌──────┬───────────────────────────┬───────────────────────────┐
    │ d  2 │ low: 32 bytes, index bits │ words: 8 uint16, one for  │
    │ f16  │ 0-7 of 8 weights          │ each 32 weights           │
    └──────┴───────────────────────────┴───────────────────────────┘

    a word    bits 0-2, 3-5, 6-8, 9-11   index bits 8-10 of four groups of 8 weights
              bits 12-14                 the scale code l
              bit 15                     set where the shift is -1/8, clear where it is 1/8

    w = d · (2 l + 1) · (point + shift)

The points are of 8 levels each out of -1, 0, 1; there are 2048.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .codebook import Codes, MxCodes, ShiftedFormat, as_bytes
from .codebook_fit import Shape
from .mx_layout import MxArray, halves_mx, shifted_mx, words_mx
from .registry import register

__all__ = ["Iq1S"]

_PLACES = np.array([0, 3, 6, 9], dtype=np.uint16)


class Iq1S(ShiftedFormat):
    """ggml's IQ1_S."""

    ggml_name = "IQ1_S"
    ggml_type = 19
    code_bits = 1
    fields = (("d", 2), ("low", 256 // 8), ("words", 256 // 32 * 2))
    shape = Shape(sub_blocks=8, unit=1.0, steps=8, books=2)

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        d, low, packed = fields
        words = packed.view("<u2")
        upper = ((words[:, :, None] >> _PLACES) & 7).reshape(low.shape)
        return Codes(d.view("<f2")[:, 0], (words >> 12) & 7, low | (upper << 8), words >> 15)

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        import mlx.core as mx

        d, low, packed = fields
        words = words_mx(packed)
        index = low | shifted_mx(words, (0, 3, 6, 9), 3) << 8
        negative = (words >> 15).astype(mx.uint8)
        return MxCodes(halves_mx(d), (words >> 12) & 7, index, negative)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        upper = (codes.index >> 8).astype(np.uint16).reshape(-1, 8, 4)
        words = np.bitwise_or.reduce(upper << _PLACES, axis=2)
        words |= codes.scales.astype(np.uint16) << 12
        words |= codes.negative.astype(np.uint16) << 15
        return [
            as_bytes(codes.d, "<f2"),
            as_bytes(codes.index & 255, "u1"),
            as_bytes(words, "<u2"),
        ]


assert Iq1S().block_bytes == 50
register(Iq1S())
