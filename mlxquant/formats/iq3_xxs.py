"""IQ3_XXS: 256 weights in 98 bytes, 3.0625 bits per weight.

    ┌──────┬──────────────────────────┬──────────────────────────┐
    │ d  2 │ index: 64 bytes, one for │ words: 8 uint32, one for │
    │ f16  │ each 4 weights           │ each 32 weights          │
    └──────┴──────────────────────────┴──────────────────────────┘

    a word    bits 0-6, 7-13, 14-20, 21-27   the signs of 8 weights, 7 stored, the 8th by parity
              bits 28-31                     the scale code l

    w = d · (2 l + 1) / 4 · point · sign

The points are of 4 levels each out of 4, 12, 20, 28, 36, 44, 52, 62; there are 256.
"""

from __future__ import annotations

from .base import Array
from .codebook import Codes, MxCodes, SignedFormat, as_bytes, read_words, read_words_mx, write_words
from .codebook_fit import Shape
from .mx_layout import MxArray, halves_mx
from .registry import register

__all__ = ["Iq3Xxs"]


class Iq3Xxs(SignedFormat):
    """ggml's IQ3_XXS."""

    ggml_name = "IQ3_XXS"
    ggml_type = 18
    code_bits = 3
    fields = (("d", 2), ("index", 256 // 4), ("words", 256 // 32 * 4))
    book = "IQ3_XXS"
    shape = Shape(sub_blocks=8, unit=0.25, steps=16)
    even = True

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        d, index, words = fields
        scales, negative = read_words(words.view("<u4"))
        return Codes(d.view("<f2")[:, 0], scales, index, negative)

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        d, index, words = fields
        scales, negative = read_words_mx(words)
        return MxCodes(halves_mx(d), scales, index, negative)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        words = write_words(codes.scales, codes.negative)
        return [as_bytes(codes.d, "<f2"), as_bytes(codes.index, "u1"), as_bytes(words, "<u4")]


assert Iq3Xxs().block_bytes == 98
register(Iq3Xxs())
