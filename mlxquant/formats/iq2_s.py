"""IQ2_S: 256 weights in 82 bytes, 2.5625 bits per weight.

    ┌──────┬────────────────┬─────────────────┬────────────────┬───────────────────────────┐
    │ d  2 │ low: 32 bytes, │ signs: 32 bytes │ high: 8 bytes, │ scales: 8 bytes, two      │
    │ f16  │ index bits 0-7 │ one bit a       │ index bits 8-9 │ codes l of 4 bits each,   │
    │      │ of 8 weights   │ weight          │ of 32 weights  │ low first                 │
    └──────┴────────────────┴─────────────────┴────────────────┴───────────────────────────┘

    a byte of `high`    two bits for each of four groups of 8 weights, low bits first

    w = d · (2 l + 1) / 8 · point · sign        l for each 16 weights

The points are of 8 levels each out of 8, 25, 43; there are 1024.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .codebook import Codes, MxCodes, SignedFormat, as_bytes, from_nibbles, nibbles
from .codebook_fit import Shape
from .mx_layout import MxArray, halves_mx, nibbles_mx, planes_mx
from .registry import register

__all__ = ["Iq2S"]

_PLACES = np.array([0, 2, 4, 6], dtype=np.uint8)


class Iq2S(SignedFormat):
    """ggml's IQ2_S."""

    ggml_name = "IQ2_S"
    ggml_type = 22
    code_bits = 2
    fields = (
        ("d", 2),
        ("low", 256 // 8),
        ("signs", 256 // 8),
        ("high", 256 // 8 * 2 // 8),
        ("scales", 256 // 16 // 2),
    )
    book = "IQ2_S"
    shape = Shape(sub_blocks=16, unit=0.125, steps=16)
    even = False

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        d, low, signs, high, scales = fields
        upper = ((high[:, :, None] >> _PLACES) & 3).reshape(low.shape).astype(np.uint16)
        return Codes(d.view("<f2")[:, 0], nibbles(scales), low | (upper << 8), signs)

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        import mlx.core as mx

        d, low, signs, high, scales = fields
        index = low | planes_mx(high, 2, 1).astype(mx.uint16) << 8
        return MxCodes(halves_mx(d), nibbles_mx(scales), index, signs)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        upper = (codes.index >> 8).astype(np.uint8).reshape(-1, 8, 4)
        return [
            as_bytes(codes.d, "<f2"),
            as_bytes(codes.index & 255, "u1"),
            codes.negative,
            np.bitwise_or.reduce(upper << _PLACES, axis=2),
            from_nibbles(codes.scales),
        ]


assert Iq2S().block_bytes == 82
register(Iq2S())
