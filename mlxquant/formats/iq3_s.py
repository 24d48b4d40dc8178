"""IQ3_S: 256 weights in 110 bytes, 3.4375 bits per weight.

    ┌──────┬────────────────┬─────────────────┬─────────────────┬──────────────────────────┐
    │ d  2 │ low: 64 bytes, │ high: 8 bytes,  │ signs: 32 bytes │ scales: 4 bytes, two     │
    │ f16  │ index bits 0-7 │ index bit 8 of  │ one bit a       │ codes l of 4 bits each,  │
    │      │ of 4 weights   │ 32 weights      │ weight          │ low first                │
    └──────┴────────────────┴─────────────────┴─────────────────┴──────────────────────────┘

    a byte of `high`    one bit for each of eight groups of 4 weights, low bits first

    w = d · (2 l + 1) · point · sign        l for each 32 weights

The points are of 4 levels each out of 1, 3, 5, … 15; there are 512.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .codebook import Codes, MxCodes, SignedFormat, as_bytes, from_nibbles, nibbles
from .codebook_fit import Shape
from .mx_layout import MxArray, halves_mx, nibbles_mx, planes_mx
from .registry import register

__all__ = ["Iq3S"]


class Iq3S(SignedFormat):
    """ggml's IQ3_S."""

    ggml_name = "IQ3_S"
    ggml_type = 21
    code_bits = 3
    fields = (
        ("d", 2),
        ("low", 256 // 4),
        ("high", 256 // 4 // 8),
        ("signs", 256 // 8),
        ("scales", 256 // 32 // 2),
    )
    book = "IQ3_S"
    shape = Shape(sub_blocks=8, unit=1.0, steps=16)
    even = False

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        d, low, high, signs, scales = fields
        upper = np.unpackbits(high, axis=1, bitorder="little").astype(np.uint16)
        return Codes(d.view("<f2")[:, 0], nibbles(scales), low | (upper << 8), signs)

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        import mlx.core as mx

        d, low, high, signs, scales = fields
        index = low | planes_mx(high, 1, 1).astype(mx.uint16) << 8
        return MxCodes(halves_mx(d), nibbles_mx(scales), index, signs)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        return [
            as_bytes(codes.d, "<f2"),
            as_bytes(codes.index & 255, "u1"),
            np.packbits(codes.index >> 8, axis=1, bitorder="little"),
            codes.negative,
            from_nibbles(codes.scales),
        ]


assert Iq3S().block_bytes == 110
register(Iq3S())
