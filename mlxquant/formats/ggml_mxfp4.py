"""MXFP4 as ggml stores it: the OCP Microscaling format, a scale and its 32 codes in one block.

    17 bytes, 4.25 bits per weight
    ┌─────┬──────────────────────────┐
    │ e 1 │ qs                    16 │
    └─────┴──────────────────────────┘

    e    E8M0: 2^(e - 127)
    qs   E2M1; byte j holds weight j (low nibble) and weight j + 16

    code  0    1    2    3    4    5    6    7     + 8: negative
          0    0.5  1    1.5  2    3    4    6

    w ≈ 2^(e - 127) · level
    e = ⌊log2 max |w|⌋ - 2 + 127, and 0 for a block of zeros
    level = the nearest to w / 2^(e - 127)

So the largest weight lands between 4 and 8 and is cut at 6: MLX's `mxfp4` chooses a larger scale.
Ties go to the smaller magnitude, and what rounds to zero loses its sign. The logarithm is rounded
to float32, which lifts a weight just below a power of two to that power. Below 2^-125 e wraps
around, and the block comes back as zeros. ggml holds twice the levels, as integers, and half the
scale, which is finite even for e = 255; its 0 has no sign. Layout: block_mxfp4 in ggml-common.h of
llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32, f32_to_e2m1
from .ggml_format import GgmlFormat
from .k_layout import pack_planes, split, unpack_planes
from .legacy import largest_magnitude
from .mx_layout import MxArray, NibbleLevels, Table, scaled_mx
from .registry import register

__all__ = ["TWICE_E2M1", "TWICE_E2M1_MX", "GgmlMxfp4"]

#: twice the levels of E2M1, by code
TWICE_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
TWICE_E2M1_MX = NibbleLevels(TWICE_E2M1)
#: half of 2^(e - 127), by e
_HALF_SCALES = np.ldexp(np.float32(1), np.arange(-128, 128)).astype(np.float32)
_HALF_SCALES_MX = Table(_HALF_SCALES)


@dataclass(frozen=True)
class GgmlMxfp4(GgmlFormat):
    """4-bit floats, a power-of-two scale for every 32."""

    ggml_name = "MXFP4"
    ggml_type = 39
    code_bits = 4
    weights = 32
    fields = (("e", 1), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding, which knows no importance."""
        largest = largest_magnitude(blocks)
        present = largest > 0
        logarithm = np.log2(largest, where=present, out=np.zeros(largest.shape), dtype=np.float64)
        exponent = np.floor(logarithm.astype(np.float32)).astype(np.int32) - 2
        exponent[~present] = -127
        shift = -np.maximum(exponent, -127)
        with np.errstate(under="ignore"):
            codes = f32_to_e2m1(blocks * np.ldexp(np.float32(1), shift).astype(np.float32))
        codes[exponent[:, 0] < -127] = 0
        lifted = exponent[:, 0] > 125
        if lifted.any():
            # 4 · 2^126 and beyond are infinite, and so never the nearest
            codes[lifted] = codes[lifted] & 8 | np.minimum(codes[lifted] & 7, 5)
        stored = (exponent + 127).astype(np.uint8)
        return np.concatenate((stored, pack_planes(codes, 4, 16)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Exact, but that 6 · 2^126 and beyond overflow to infinity."""
        part = split(blocks, self.fields)
        levels = TWICE_E2M1.take(unpack_planes(part["qs"], 4, 16))
        with np.errstate(over="ignore"):
            return np.multiply(levels, _HALF_SCALES[part["e"]], out=levels)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        return scaled_mx(TWICE_E2M1_MX.unpack(part["qs"], 16), _HALF_SCALES_MX[part["e"]])


_MXFP4 = GgmlMxfp4()
assert _MXFP4.block_bytes == 17
register(_MXFP4)
