"""NVFP4 as ggml stores it: four groups of 16 in one block, each with a scale of its own.

    36 bytes, 4.5 bits per weight
    ┌─────┬──────────────────────────────────────────────┐
    │ d 4 │ qs                                        32 │
    └─────┴──────────────────────────────────────────────┘

    d    byte s is the scale of group s: E4M3 without a sign
    qs   E2M1; byte 8·s + j holds weights j (low nibble) and j + 8 of group s

    code  0    1    2    3    4    5    6    7     + 8: negative
          0    0.5  1    1.5  2    3    4    6

    w ≈ s · level,  s = max |w| / 6 as E4M3,  level = the nearest to w / s

ggml's E4M3 rounds half a step up; it goes straight from 240 to 448, and takes every scale of 256 or
more for 448. Its decoder ignores the sign bit, reads 0x7F as 0, and 0xFF as 480. Ties between
levels go to the smaller magnitude, and what rounds to zero loses its sign. Layout: block_nvfp4 in
ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Bytes, Float32
from .ggml_format import GgmlFormat
from .ggml_mxfp4 import TWICE_E2M1, TWICE_E2M1_MX
from .k_layout import pack_planes, split, unpack_planes
from .legacy import largest_magnitude
from .mx_layout import MxArray, Table, scaled_mx
from .registry import register

__all__ = ["GgmlNvfp4"]

#: half-way points between twice the levels
_MIDDLES = tuple(np.float32(x) for x in (0.5, 1.5, 2.5, 3.5, 5, 7, 10))
#: up to so many scales, float32 tells a weight's distances to the levels apart
_EXACT = np.float32(2**18)


def _half_scales() -> Float32:
    """Half of each scale, by byte; ggml keeps twice the levels."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    whole = fraction + np.where(exponent > 0, 8, 0)
    scales = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - 10 - 1)
    scales[0x7F] = 0
    halved: Float32 = scales.astype(np.float32)
    return halved


_HALF_SCALES = _half_scales()
_HALF_SCALES_MX = Table(_HALF_SCALES)


@dataclass(frozen=True)
class GgmlNvfp4(GgmlFormat):
    """4-bit floats, an 8-bit float scale for every 16."""

    ggml_name = "NVFP4"
    ggml_type = 40
    code_bits = 4
    weights = 64
    fields = (("d", 4), ("qs", 32))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding, which knows no importance."""
        groups = blocks.reshape(-1, 16)
        largest = largest_magnitude(groups)
        scales = _to_e4m3(largest / np.float32(6))
        unit = _HALF_SCALES[scales]
        codes = _nearest(groups, unit)
        huge = (largest > unit * _EXACT)[:, 0] & (scales > 0)[:, 0]
        if huge.any():
            codes[huge] = _nearest_of_huge(groups[huge], unit[huge])
        codes[scales[:, 0] == 0] = 0
        return np.concatenate(
            (scales.reshape(-1, 4), pack_planes(codes.reshape(-1, 64), 4, 8)), axis=1
        )

    def decode_blocks(self, blocks: Array) -> Float32:
        """Exact: a level times a scale has 6 significant bits."""
        part = split(blocks, self.fields)
        levels = TWICE_E2M1.take(unpack_planes(part["qs"], 4, 8)).reshape(-1, 4, 16)
        np.multiply(levels, _HALF_SCALES[part["d"]][:, :, None], out=levels)
        return levels.reshape(-1, 64)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        return scaled_mx(TWICE_E2M1_MX.unpack(part["qs"], 8), _HALF_SCALES_MX[part["d"]])


def _to_e4m3(values: Float32) -> Bytes:
    """float32 ≥ 0 → uint8, by ggml's rules (see above)."""
    bits = values.view(np.uint32)
    # the exponent's bias falls from 127 to 7; the half step carries into it where it must
    normal = ((bits >> 19) + 1 >> 1).astype(np.int32) - (120 << 3)
    with np.errstate(over="ignore"):
        small = np.minimum(values * np.float32(512) + np.float32(0.5), np.float32(7)).astype(
            np.int32
        )
    codes = np.where(values < np.float32(2**-6), small, normal)
    return np.where(codes >= 15 << 3, 0x7E, codes).astype(np.uint8)


def _nearest(groups: Float32, unit: Float32) -> Bytes:
    """Codes [g, 16] of weights [g, 16] by half-scale [g, 1]; products with half-ways are exact."""
    size = np.abs(groups)
    above = np.empty(size.shape, np.bool_)
    count = above.view(np.uint8)
    codes: Bytes = np.greater(size, unit * _MIDDLES[0]).view(np.uint8)
    for middle in _MIDDLES[1:]:
        np.greater(size, unit * middle, out=above)
        np.add(codes, count, out=codes)
    np.less(groups, -unit * _MIDDLES[0], out=above)
    np.left_shift(count, 3, out=count)
    np.bitwise_or(codes, count, out=codes)
    return codes


def _nearest_of_huge(groups: Float32, unit: Float32) -> Bytes:
    """As `_nearest`, by the distances as float32 has them; of equal ones the first code wins."""
    distance = np.abs(unit[:, :, None] * TWICE_E2M1 - groups[:, :, None])
    codes: Bytes = distance.argmin(axis=-1).astype(np.uint8)
    return codes


_NVFP4 = GgmlNvfp4()
assert _NVFP4.block_bytes == 36
register(_NVFP4)
