"""IQ4_NL: 32 weights of 4 bits, which name levels that lie closer around zero, and one scale.

    18 bytes, 4.5 bits per weight
    ┌─────┬──────────────────────────┐
    │ d 2 │ qs                    16 │
    └─────┴──────────────────────────┘

    d    float16, of either sign
    qs   byte j holds weight j (low nibble) and weight j + 16

    code     0    1   2   3   4   5   6   7  8  9 10 11 12 13 14  15
    level -127 -104 -83 -65 -49 -35 -22 -10  1 13 25 38 53 69 89 113

    w = d · level

Layout and levels: block_iq4_nl and kvalues_iq4nl in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Bytes, Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, pack_planes, split, unpack_planes
from .legacy import half_bytes, inverse
from .mx_layout import MxArray, NibbleLevels, halves_mx, scaled_mx
from .registry import register
from .scale_search import best_scale, lanes_of, refined, weights_of

__all__ = ["CHANGES", "EDGES", "LEVELS", "LEVELS_MX", "Iq4Nl", "nearest_codes", "nearest_levels"]

#: the levels, by code
LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
LEVELS_MX = NibbleLevels(LEVELS)

#: where a search puts the extreme weight: around the levels at both ends
EDGES = tuple(np.float32(x) for x in (*range(-148, -96, 3), *range(98, 133, 5)))


def _codes_of_halves() -> Bytes:
    """The nearest code to each half-open half-unit from -128 to 128: uint8 [512].

    The levels are integers, so that each point half-way between two is a multiple of one half, and
    no half-unit holds a change of code.
    """
    begins = np.arange(512)
    codes: Bytes = (begins[:, None] >= CHANGES).sum(axis=1).astype(np.uint8)
    return codes


#: the half-units, counted from -128, at which the next code begins
CHANGES = LEVELS[1:] + LEVELS[:-1] + 256

_CODES = _codes_of_halves()
_NEAREST = LEVELS[_CODES]


def _halves_of(scaled: Float32) -> Array:
    """Scaled weights → indices of the tables above; of NaN, any. Overwrites `scaled`."""
    np.multiply(scaled, 2, out=scaled)
    np.add(scaled, 256, out=scaled)
    np.fmax(scaled, 0, out=scaled)
    np.fmin(scaled, 511, out=scaled)
    return scaled.astype(np.int16)


def nearest_levels(scaled: Float32) -> Float32:
    """float32 → the nearest level of each; overwrites `scaled`."""
    return _NEAREST.take(_halves_of(scaled))


def nearest_codes(scaled: Float32) -> Bytes:
    """float32 → the code of the nearest level, uint8; overwrites `scaled`."""
    return _CODES.take(_halves_of(scaled))


@dataclass(frozen=True)
class Iq4Nl(GgmlFormat):
    """4 bits, not evenly spaced."""

    ggml_name = "IQ4_NL"
    ggml_type = 20
    code_bits = 4
    weights = 32
    fields = (("d", 2), ("qs", 16))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Search for the least squared error, weighted by importance where it is given."""
        x, weights = lanes_of(blocks), weights_of(importance)
        found = best_scale(x, weights, EDGES, nearest_levels)
        scale = refined(x, weights, found, nearest_levels)[0][:, None]
        with np.errstate(over="ignore", under="ignore"):
            codes = nearest_codes(blocks * inverse(scale))
        return np.concatenate((half_bytes(scale), pack_planes(codes, 4, 16)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """The product of 11 and 7 bits is exact in float32."""
        part = split(blocks, self.fields)
        levels = LEVELS.take(unpack_planes(part["qs"], 4, 16))
        with np.errstate(invalid="ignore"):
            return np.multiply(levels, halves(part["d"]), out=levels)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        part = split(blocks, self.fields)
        return scaled_mx(LEVELS_MX.unpack(part["qs"], 16), halves_mx(part["d"]))


_IQ4_NL = Iq4Nl()
assert _IQ4_NL.block_bytes == 18
register(_IQ4_NL)
