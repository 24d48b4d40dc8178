"""IQ4_XS: 256 weights of 4 bits with the levels of IQ4_NL; eight sub-blocks of 32 with a 6-bit
scale each.

    136 bytes, 4.25 bits per weight
    ┌─────┬──────────┬──────────┬──────────────────────────────────────────────┐
    │ d 2 │scales_h 2│scales_l 4│ qs                                       128 │
    └─────┴──────────┴──────────┴──────────────────────────────────────────────┘

    d         float16, of either sign
    scales_h  bits 2·s and 2·s + 1 are the upper two bits of scale s
    scales_l  byte s holds the lower four of scale 2·s (low nibble) and of scale 2·s + 1
    qs        byte 16·s + j holds weights j (low nibble) and j + 16 of sub-block s

    w = d · (scale - 32) · level,   scale = 0 … 63

Layout: block_iq4_xs in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Float32
from .ggml_format import GgmlFormat
from .iq4_nl import EDGES, LEVELS, LEVELS_MX, nearest_codes, nearest_levels
from .k_layout import halves, pack_planes, split, unpack_planes
from .legacy import half_bytes, inverse
from .mx_layout import MxArray, halves_mx, planes_mx, scaled_mx, signed_mx
from .registry import register
from .scale_search import (
    best_scale,
    clipped_half,
    lanes_of,
    moments,
    sum_of,
    weighted_error,
    weights_of,
)

__all__ = ["DIVISORS", "Iq4Xs"]

#: d is the largest sub-block scale by each of these: around -32 and 31, the ends of 6 bits
DIVISORS = tuple(np.float32(x) for x in (-32, -31.4, -30.7, -29.8, -28.5, -27, 31, 29.5))


@dataclass(frozen=True)
class Iq4Xs(GgmlFormat):
    """4 bits, not evenly spaced, in super-blocks."""

    ggml_name = "IQ4_XS"
    ggml_type = 23
    code_bits = 4
    weights = 256
    fields = (("d", 2), ("scales_h", 2), ("scales_l", 4), ("qs", 128))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        b = len(blocks)
        weights = weights_of(importance)
        if weights is not None:
            weights = _sub_blocks(weights)
        x = _sub_blocks(lanes_of(blocks))
        d, steps = _super_block(x, weights, best_scale(x, weights, EDGES, nearest_levels))
        with np.errstate(over="ignore", under="ignore"):
            scale = (d * steps).T.reshape(-1, 1)
            codes = nearest_codes(blocks.reshape(-1, 32) * inverse(scale))
        d, steps = d[:, None], steps.T
        scales = (steps + 32).astype(np.uint8)
        upper = pack_planes(scales >> 4, 2, 1)
        lower = pack_planes(scales & np.uint8(15), 4, 1)
        packed = pack_planes(codes.reshape(b, 256), 4, 16)
        return np.concatenate((half_bytes(d), upper, lower, packed), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """d · (scale - 32) is exact in float32; its product with a level is rounded once."""
        part = split(blocks, self.fields)
        scales = unpack_planes(part["scales_h"], 2, 1) << 4 | unpack_planes(part["scales_l"], 4, 1)
        levels = LEVELS.take(unpack_planes(part["qs"], 4, 16)).reshape(-1, 8, 32)
        with np.errstate(invalid="ignore"):
            scale = halves(part["d"]) * (scales.view(np.int8) - np.int8(32))
            np.multiply(levels, scale[:, :, None], out=levels)
        return levels.reshape(-1, 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        scales = planes_mx(part["scales_h"], 2, 1) << 4 | planes_mx(part["scales_l"], 4, 1)
        scale = halves_mx(part["d"]) * (signed_mx(scales) - 32)
        return scaled_mx(LEVELS_MX.unpack(part["qs"], 16), scale)


def _sub_blocks(lanes: Float32) -> Float32:
    """[256, b] → [32, 8 · b]: sub-block s of block i is column s · b + i."""
    return np.ascontiguousarray(lanes.reshape(8, 32, -1).swapaxes(0, 1)).reshape(32, -1)


def _super_block(x: Float32, weights: Float32 | None, found: Float32) -> tuple[Float32, Float32]:
    """One float16 scale for eight sub-blocks, and a whole number of steps of it for each.

    Args:
        x, weights: float32 [32, 8·b].
        found: the best scale of each sub-block on its own, float32 [8·b].

    Returns: d float32 [b], exact in float16, and steps float32 [8, b] from -32 to 31.
    """
    found = found.reshape(8, -1)
    where = np.abs(found).argmax(axis=0)[None]
    largest = np.take_along_axis(found, where, axis=0)[0]

    def error_of(d: Float32, steps: Float32) -> Float32:
        scale = (d * steps).reshape(-1)
        levels = nearest_levels(x * inverse(scale))
        return weighted_error(x, levels * scale, weights).reshape(8, -1)

    def near(d: Float32, wanted: Float32) -> Float32:
        steps: Float32 = np.clip(np.rint(wanted * inverse(d)), np.float32(-32), np.float32(31))
        return steps

    with np.errstate(all="ignore"):
        best_d = clipped_half(largest / DIVISORS[0])
        best_steps = near(best_d, found)
        least = error_of(best_d, best_steps)
        for divisor in DIVISORS[1:]:
            d = clipped_half(largest / divisor)
            steps = near(d, found)
            error = error_of(d, steps)
            better = sum_of(error) < sum_of(least)
            best_d = np.where(better, d, best_d)
            best_steps = np.where(better, steps, best_steps)
            least = np.where(better, error, least)
        for change in (np.float32(-1), np.float32(1)):
            steps = np.clip(best_steps + change, np.float32(-32), np.float32(31))
            error = error_of(best_d, steps)
            better = error < least
            best_steps = np.where(better, steps, best_steps)
            least = np.where(better, error, least)
        # the d that fits best the codes chosen so far
        levels = nearest_levels(x * inverse((best_d * best_steps).reshape(-1)))
        levels *= best_steps.reshape(-1)
        wanted = x if weights is None else x * weights
        product, square = (sum_of(part.reshape(8, -1)) for part in moments(levels, wanted, weights))
        d = product / square
        d = clipped_half(np.where(np.isfinite(d), d, best_d))
        better = sum_of(error_of(d, best_steps)) < sum_of(least)
        best_d = np.where(better, d, best_d)
    return best_d, best_steps


_IQ4_XS = Iq4Xs()
assert _IQ4_XS.block_bytes == 136
register(_IQ4_XS)
