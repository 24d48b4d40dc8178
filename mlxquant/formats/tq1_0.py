"""TQ1_0: 256 weights of three levels, five to a byte, one scale.

    54 bytes, 1.6875 bits per weight
    ┌───────────────────────────────────────────┬──────┬─────┐
    │ qs                                     48 │ qh 4 │ d 2 │
    └───────────────────────────────────────────┴──────┴─────┘

    qs   byte l of the first 32 holds weights l, l + 32, … l + 128; byte l of the last 16 holds
         weights 160 + l, + 16, … + 64
    qh   byte l holds weights 240 + l, + 4, + 8 and + 12
    d    float16, the largest |w|

    w = d · (t - 1),   t = 0, 1, 2

A byte is a fixed-point fraction of five ternary digits, the first weight's first, rounded up: for
n = 81·t0 + 27·t1 + 9·t2 + 3·t3 + t4 it is ⌈256·n / 243⌉. Multiplying it by 3 carries a digit out
at the top, so digit i is ((byte · 3^i mod 256) · 3) div 256. qh's fifth digit is 0.

Half a step rounds away from zero. Where 1 / d overflows, below 2^-128, ggml's digits are 1. Layout:
block_tq1_0 in ggml-common.h of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Array
from .floats import Bytes, Float32
from .ggml_format import GgmlFormat
from .k_layout import halves, split
from .legacy import half_bytes, inverse, largest_magnitude, overflows, round_half_away
from .mx_layout import MxArray, constant_mx, halves_mx, scaled_mx
from .registry import register

__all__ = ["Tq10", "trits"]

#: runs of bytes: (first byte, bytes, digits a byte)
_RUNS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))
_POWERS = np.array([1, 3, 9, 27, 81])
#: level t - 1 of digit i of a byte: int8 [5, 256]
_DIGITS = ((np.arange(256) * _POWERS[:, None] % 256 * 3 >> 8) - 1).astype(np.int8)
#: the byte of a number of five ternary digits: uint8 [243]
_FRACTIONS = ((np.arange(243) * 256 + 242) // 243).astype(np.uint8)


@dataclass(frozen=True)
class Tq10(GgmlFormat):
    """Ternary, packed tight."""

    ggml_name = "TQ1_0"
    ggml_type = 34
    code_bits = 2
    weights = 256
    fields = (("qs", 48), ("qh", 4), ("d", 2))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """ggml's plain rounding, which knows no importance."""
        scale = largest_magnitude(blocks)
        digits = trits(blocks, scale)
        packed, begin = [], 0
        for _, size, count in _RUNS:
            run = digits[:, begin : begin + size * count].reshape(-1, count, size)
            number = np.zeros((len(blocks), size), np.uint8)
            for i in range(count):
                number += run[:, i] * np.uint8(_POWERS[4 - i])
            packed.append(_FRACTIONS[number])
            begin += size * count
        return np.concatenate((*packed, half_bytes(scale)), axis=1)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Every product is exact; 0 · ∞ is NaN."""
        scale = halves(split(blocks, self.fields)["d"])
        levels = np.empty((len(blocks), self.weights), np.int8)
        end = 0
        for first, size, count in _RUNS:
            run = blocks[:, first : first + size]
            for i in range(count):
                begin, end = end, end + size
                levels[:, begin:end] = _DIGITS[i][run]
        with np.errstate(invalid="ignore"):
            return np.multiply(levels, scale, dtype=np.float32)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        import mlx.core as mx

        levels = []
        for first, size, count in _RUNS:
            # bytes wrap around, which leaves the fraction behind the first i digits
            powers = constant_mx((1, 3, 9, 27, 81)[:count], "uint8")[:, None]
            rest = blocks[:, None, first : first + size] * powers
            digits = (rest.astype(mx.uint16) * 3 >> 8).astype(mx.int8)
            levels.append(digits.reshape(len(blocks), size * count) - 1)
        d = halves_mx(split(blocks, self.fields)["d"])
        return scaled_mx(mx.concatenate(levels, axis=1), d)


def trits(blocks: Float32, scale: Float32) -> Bytes:
    """float32 [b, 256] and the largest magnitudes [b, 1] → 0, 1 or 2, uint8 [b, 256]."""
    with np.errstate(under="ignore"):
        codes = round_half_away(blocks * inverse(scale)).view(np.uint8)
    np.add(codes, 1, out=codes)
    lost = overflows(scale)
    if lost.any():
        codes[lost] = 1
    return codes


_TQ1_0 = Tq10()
assert _TQ1_0.block_bytes == 54
register(_TQ1_0)
