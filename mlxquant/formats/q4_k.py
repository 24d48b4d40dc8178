"""Q4_K: 256 weights of 4 bits; eight sub-blocks of 32 with a 6-bit scale and a 6-bit min each.

    144 bytes, 4.5 bits per weight
    ┌─────┬──────┬─────────────┬──────────────────────────────────────────────┐
    │ d 2 │dmin 2│ scales   12 │ qs                                       128 │
    └─────┴──────┴─────────────┴──────────────────────────────────────────────┘

    d, dmin  float16
    scales   six bits of scale and six of min of each sub-block, j = 0 … 3:

                 byte j        bits 5-0 scale j            bits 7-6 high bits of scale j + 4
                 byte j + 4    bits 5-0 min j              bits 7-6 high bits of min j + 4
                 byte j + 8    bits 3-0 low of scale j + 4 bits 7-4 low of min j + 4
    qs       4-bit planes of 32 bytes: byte l of run n holds weights 64·n + l (low nibble) and
             64·n + l + 32

    w = d · scale · q - dmin · min,   q = 0 … 15

Layout: block_q4_K in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Bytes, Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, to_halves, unpack_planes
from .k_mins import scales_and_mins
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx
from .registry import register

__all__ = ["Q4K", "pack_scales", "unpack_scales", "unpack_scales_mx"]


@dataclass(frozen=True)
class Q4K(GgmlFormat):
    """The K-quant of 4 bits."""

    ggml_name = "Q4_K"
    ggml_type = 12
    code_bits = 4
    weights = 256
    fields = (("d", 2), ("dmin", 2), ("scales", 12), ("qs", 128))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        fit = scales_and_mins(blocks, importance, size=32, top=15, steps=63)
        scales = pack_scales(fit.scales, fit.mins)
        codes = pack_planes(fit.codes, 4, 32)
        return np.concatenate((to_halves(fit.d), to_halves(fit.dmin), scales, codes), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The products are exact in float32, so that a fused multiply-add changes nothing."""
        part = split(blocks, self.fields)
        scales, mins = unpack_scales(part["scales"])
        codes = unpack_planes(part["qs"], 4, 32)
        with np.errstate(invalid="ignore"):
            scale, low = halves(part["d"]) * scales, halves(part["dmin"]) * mins
            rows: Float32 = codes.reshape(-1, 8, 32) * scale[:, :, None] - low[:, :, None]
        return rows.reshape(len(blocks), 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        scales, mins = unpack_scales_mx(part["scales"])
        scale, low = halves_mx(part["d"]) * scales, halves_mx(part["dmin"]) * mins
        return scaled_mx(planes_mx(part["qs"], 4, 32), scale, -low)


def unpack_scales(packed: Array) -> tuple[Bytes, Bytes]:
    """uint8 [b, 12] → scales and mins, each uint8 [b, 8] below 64."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (third & 15) | first >> 6 << 4), axis=1)
    mins = np.concatenate((second & 63, third >> 4 | second >> 6 << 4), axis=1)
    return scales, mins


def unpack_scales_mx(packed: MxArray) -> tuple[MxArray, MxArray]:
    """As `unpack_scales`, of MLX's arrays."""
    import mlx.core as mx

    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = mx.concatenate([first & 63, (third & 15) | first >> 6 << 4], axis=1)
    mins = mx.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    return scales, mins


def pack_scales(scales: Array, mins: Array) -> Bytes:
    """Scales and mins, each uint8 [b, 8] below 64 → uint8 [b, 12]."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = mins[:, :4] | mins[:, 4:] >> 4 << 6
    third = (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4
    return np.concatenate((first, second, third), axis=1)


_Q4_K = Q4K()
assert _Q4_K.block_bytes == 144
register(_Q4_K)
