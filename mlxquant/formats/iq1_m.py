"""IQ1_M: 256 weights in 56 bytes, 1.75 bits per weight.

    ┌───────────────────────────┬───────────────────────────┬──────────────────────────┐
    │ low: 32 bytes, index bits │ high: 16 bytes, 4 bits    │ words: 4 uint16, one for │
    │ 0-7 of 8 weights          │ for each 8 weights        │ each 64 weights          │
    └───────────────────────────┴───────────────────────────┴──────────────────────────┘

    4 bits of `high`   bits 0-2   index bits 8-10
    (low half first)   bit 3      set where the shift is -1/8, clear where it is 1/8

    a word             bits 0-2, 3-5, 6-8, 9-11   the scale codes l of 16 weights each
                       bits 12-15                 4 bits of d (f16), the lowest in the first word

    w = d · (2 l + 1) · (point + shift)

The points are those of IQ1_S.
"""

from __future__ import annotations

import numpy as np

from .base import Array
from .codebook import Codes, MxCodes, ShiftedFormat, as_bytes, from_nibbles, nibbles
from .codebook_fit import Shape
from .mx_layout import MxArray, nibbles_mx, shifted_mx, words_mx
from .registry import register

__all__ = ["Iq1M"]

_SCALE_PLACES = np.array([0, 3, 6, 9], dtype=np.uint16)
_D_PLACES = np.array([0, 4, 8, 12], dtype=np.uint16)


class Iq1M(ShiftedFormat):
    """ggml's IQ1_M."""

    ggml_name = "IQ1_M"
    ggml_type = 29
    code_bits = 1
    fields = (("low", 256 // 8), ("high", 256 // 8 // 2), ("words", 256 // 64 * 2))
    shape = Shape(sub_blocks=16, unit=1.0, steps=8)

    def unpack(self, fields: list[Array]) -> Codes:
        """See CodebookFormat."""
        low, high, packed = fields
        words = packed.view("<u2")
        d = np.bitwise_or.reduce((words >> 12) << _D_PLACES, axis=1).astype("<u2")
        scales = ((words[:, :, None] >> _SCALE_PLACES) & 7).reshape(-1, 16)
        halves = nibbles(high)
        index = low | ((halves & 7).astype(np.uint16) << 8)
        return Codes(d.view("<f2"), scales, index, halves >> 3)

    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """See CodebookFormat."""
        import mlx.core as mx

        low, high, packed = fields
        words = words_mx(packed)
        bits = words >> 12
        d = bits[:, :1] | bits[:, 1:2] << 4 | bits[:, 2:3] << 8 | bits[:, 3:] << 12
        halves = nibbles_mx(high)
        index = low | (halves & 7).astype(mx.uint16) << 8
        scales = shifted_mx(words, (0, 3, 6, 9), 3)
        return MxCodes(d.view(mx.float16).astype(mx.float32), scales, index, halves >> 3)

    def pack(self, codes: Codes) -> list[Array]:
        """See CodebookFormat."""
        scales = codes.scales.astype(np.uint16).reshape(-1, 4, 4)
        words = np.bitwise_or.reduce(scales << _SCALE_PLACES, axis=2)
        d = np.ascontiguousarray(codes.d, dtype="<f2").view("<u2")
        words |= ((d[:, None] >> _D_PLACES) & 15) << 12
        return [
            as_bytes(codes.index & 255, "u1"),
            from_nibbles((codes.index >> 8) | (codes.negative << 3)),
            as_bytes(words, "<u2"),
        ]


assert Iq1M().block_bytes == 56
register(Iq1M())
