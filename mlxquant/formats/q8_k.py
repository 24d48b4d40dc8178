"""Q8_K: 256 weights of 8 bits with one scale; ggml's type for activations.

    292 bytes, 9.125 bits per weight
    ┌─────┬───────────────────────────────────────────────┬─────────────────────┐
    │ d 4 │ qs                                        256 │ bsums            32 │
    └─────┴───────────────────────────────────────────────┴─────────────────────┘

    d        float32
    qs       int8
    bsums    sixteen int16: the sum of each 16 codes, for dot products; decode does not read them

    w = d · q

Encode takes the first weight of the largest magnitude as code -127: d = that weight / -127, and
q = rint(w · (-127 / that weight)), all in float32. Where d · 127 would overflow, d is the next
number towards zero.

Layout: block_q8_K in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .k_layout import split
from .mx_layout import MxArray, scaled_mx, signed_mx
from .registry import register

__all__ = ["Q8K"]


@dataclass(frozen=True)
class Q8K(GgmlFormat):
    """The K-quant of 8 bits."""

    ggml_name = "Q8_K"
    ggml_type = 15
    code_bits = 8
    weights = 256
    fields = (("d", 4), ("qs", 256), ("bsums", 32))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Plain rounding; importance is ignored."""
        at = np.abs(blocks).argmax(axis=1)[:, None]
        edge = np.take_along_axis(blocks, at, axis=1)
        zero = edge == 0
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            inverse = np.where(zero, np.float32(0), np.float32(-127) / edge)
            d = np.where(zero, np.float32(0), np.float32(1) / inverse)
            d = np.where(np.isinf(d * np.float32(127)), np.nextafter(d, np.float32(0)), d)
            scaled = np.rint(np.nan_to_num(blocks * inverse, posinf=127, neginf=-127))
        codes = np.clip(scaled, -127, 127).astype(np.int8)
        sums = codes.reshape(-1, 16, 16).sum(axis=2, dtype="<i2")
        parts = (d.astype("<f4"), codes, sums)
        return np.concatenate([part.view(np.uint8) for part in parts], axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """One product a weight."""
        part = split(blocks, self.fields)
        d = np.ascontiguousarray(part["d"]).view("<f4")
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            rows: Float32 = d * part["qs"].view(np.int8)
        return rows

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        import mlx.core as mx

        part = split(blocks, self.fields)
        return scaled_mx(signed_mx(part["qs"]), part["d"].view(mx.float32))


_Q8_K = Q8K()
assert _Q8_K.block_bytes == 292
register(_Q8_K)
