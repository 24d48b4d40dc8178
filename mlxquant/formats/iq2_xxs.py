"""IQ2_XXS: 256 weights in 66 bytes, 2.0625 bits per weight.

    ┌──────┬─────────────────────────────────────────────────────┐
    │ d  2 │ pairs: 64 bytes, 8 for each 32 weights              │
    │ f16  │ ┌──────────────────────────┬──────────────────────┐ │
    │      │ │ index: 4 bytes, one for  │ word: uint32         │ │
    │      │ │ each 8 weights           │                      │ │
    │      │ └──────────────────────────┴──────────────────────┘ │
    └──────┴─────────────────────────────────────────────────────┘

    a word    bits 0-6, 7-13, 14-20, 21-27   the signs of 8 weights, 7 stored, the 8th by parity
              bits 28-31                     the scale code l

    w = d · (2 l + 1) / 8 · point · sign

The points are of 8 levels each out of 8, 25, 43; there are 256.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .codebook import Codes, MxCodes, SignedFormat, as_bytes, read_words, read_words_mx, write_words
from .codebook_fit import Shape
from .mx_layout import MxArray, halves_mx
from .registry import register

__all__ = ["Iq2Xxs"]


class Iq2Xxs(SignedFormat):
    """ggml's IQ2_XXS."""

    ggml_name = "IQ2_XXS"
    ggml_type = 16
    code_bits = 2
    fields = (("d", 2), ("pairs", 256 // 32 * (4 + 4)))
    book = "IQ2_XXS"
    shape = Shape(sub_blocks=8, unit=0.125, steps=16)
    even = True

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        d, pairs = fields
        halves = pairs.reshape(-1, 8, 8)
        words = np.ascontiguousarray(halves[:, :, 4:]).view("<u4")[:, :, 0]
        scales, negative = read_words(words)
        return Codes(d.view("<f2")[:, 0], scales, halves[:, :, :4].reshape(-1, 32), negative)

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        d, pairs = fields
        halves = pairs.reshape(-1, 8, 8)
        scales, negative = read_words_mx(halves[:, :, 4:])
        return MxCodes(halves_mx(d), scales, halves[:, :, :4].reshape(-1, 32), negative)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        words = as_bytes(write_words(codes.scales, codes.negative), "<u4").reshape(-1, 8, 4)
        index = as_bytes(codes.index, "u1").reshape(-1, 8, 4)
        pairs = np.concatenate([index, words], axis=2)
        return [as_bytes(codes.d, "<f2"), pairs.reshape(-1, 64)]


assert Iq2Xxs().block_bytes == 66
register(Iq2Xxs())
