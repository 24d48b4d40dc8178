"""IQ2_XS: 256 weights in 74 bytes, 2.3125 bits per weight.

    ┌──────┬──────────────────────────────┬──────────────────────────────┐
    │ d  2 │ groups: 32 uint16, one for   │ scales: 8 bytes, two codes l │
    │ f16  │ each 8 weights               │ of 4 bits each, low first    │
    └──────┴──────────────────────────────┴──────────────────────────────┘

    a group   bits 0-8    the index
              bits 9-15   the signs of 7 weights, the 8th by parity

    w = d · (2 l + 1) / 8 · point · sign        l for each 16 weights

The points are of 8 levels each out of 8, 25, 43; there are 512.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .codebook import Codes, MxCodes, SignedFormat, as_bytes, from_nibbles, nibbles, with_eighth
from .codebook_fit import Shape
from .mx_layout import MxArray, halves_mx, nibbles_mx, words_mx
from .registry import register

__all__ = ["Iq2Xs"]


class Iq2Xs(SignedFormat):
    """ggml's IQ2_XS."""

    ggml_name = "IQ2_XS"
    ggml_type = 17
    code_bits = 2
    fields = (("d", 2), ("groups", 256 // 8 * 2), ("scales", 256 // 16 // 2))
    book = "IQ2_XS"
    shape = Shape(sub_blocks=16, unit=0.125, steps=16)
    even = True

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        d, groups, scales = fields
        words = groups.view("<u2")
        return Codes(d.view("<f2")[:, 0], nibbles(scales), words & 511, with_eighth(words >> 9))

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        d, groups, scales = fields
        words = words_mx(groups)
        return MxCodes(halves_mx(d), nibbles_mx(scales), words & 511, words >> 9)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        seven = (codes.negative & 127).astype(np.uint16)
        groups = codes.index.astype(np.uint16) | (seven << 9)
        return [as_bytes(codes.d, "<f2"), as_bytes(groups, "<u2"), from_nibbles(codes.scales)]


assert Iq2Xs().block_bytes == 74
register(Iq2Xs())
