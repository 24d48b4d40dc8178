"""Codes between ggml's planes and MLX's rows: the same numbers in other places.

ggml puts the first and the second half of a run of codes into the low and the high nibbles of the
same bytes; MLX lines codes up, low bits first. A run of 32 codes of 4 bits:

    ggml    byte j    c_j      (low nibble)    c_{j+16}  (high)      j = 0 … 15
    MLX     byte i    c_{2i}   (low nibble)    c_{2i+1}  (high)      i = 0 … 15

Other widths go by lanes: a uint64 that holds 8 codes, a code a byte. 8 codes of `bits` bits are
`bits` bytes of MLX's row, so that a lane becomes a piece of a row by closing the gaps between its
codes and leaving out its empty bytes.

Everything moves in machine words, many codes at a time; the plain definitions of both layouts are
`k_layout` and `packing`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .floats import Bytes

__all__ = [
    "Lanes",
    "close_up",
    "lanes_of_planes",
    "nibbles_to_planes",
    "nibbles_to_rows",
    "planes_of_lanes",
    "spread_out",
]

#: uint64 [m]: 8 codes each, a code a byte, the first one lowest
Lanes = NDArray[np.uint64]

_LOW = np.uint64(0x0F0F0F0F0F0F0F0F)
_HIGH = np.uint64(0xF0F0F0F0F0F0F0F0)
_FOUR = np.uint64(4)


def nibbles_to_rows(planes: Bytes, run: int, rows: Bytes) -> None:
    """Codes of 4 bits from ggml's order to MLX's.

    Args:
        planes: contiguous uint8 [m], m a multiple of 16.
        run: bytes of a run of 2 · `run` codes: 16, and 8 in NVFP4.
        rows: contiguous uint8 [m], written.
    """
    pairs = planes.view("<u2")
    even = pairs.astype(np.uint8).view("<u8")
    odd = np.right_shift(pairs, 8).astype(np.uint8).view("<u8")
    half = np.dtype(f"<u{run // 2}")
    first, second = rows.view(half).reshape(-1, 2).T
    low = even & _LOW
    high = odd & _LOW
    np.left_shift(high, _FOUR, out=high)
    np.bitwise_or(low.view(half), high.view(half), out=first)
    np.right_shift(even, _FOUR, out=even)
    np.bitwise_and(even, _LOW, out=even)
    np.bitwise_and(odd, _HIGH, out=odd)
    np.bitwise_or(even.view(half), odd.view(half), out=second)


def nibbles_to_planes(rows: Bytes, run: int) -> Bytes:
    """The inverse of `nibbles_to_rows`: contiguous uint8 [m] → uint8 [m]."""
    halves = rows.view(f"<u{run // 2}").reshape(-1, 2).T
    first, second = (np.ascontiguousarray(half).view("<u8") for half in halves)
    even = second & _LOW
    np.left_shift(even, _FOUR, out=even)
    np.bitwise_or(even, first & _LOW, out=even)
    np.right_shift(first, _FOUR, out=first)
    np.bitwise_and(first, _LOW, out=first)
    np.bitwise_and(second, _HIGH, out=second)
    np.bitwise_or(second, first, out=second)
    pairs = second.view(np.uint8).astype("<u2")
    np.left_shift(pairs, 8, out=pairs)
    np.bitwise_or(pairs, even.view(np.uint8).astype("<u2"), out=pairs)
    return pairs.view(np.uint8)


def lanes_of_planes(low: Bytes, fifth: Bytes) -> Lanes:
    """Runs of 32 codes of 5 bits in ggml's order → lanes.

    Args:
        low: contiguous uint8 [16 · m], the lower four bits.
        fifth: contiguous uint8 [4 · m], bit j that of code j.

    Returns: uint64 [4 · m].
    """
    planes = low.view("<u8")
    lanes: Lanes = np.unpackbits(fifth, bitorder="little").view("<u8")
    np.left_shift(lanes, _FOUR, out=lanes)
    nibbles = np.empty_like(lanes)
    first, second = nibbles.view("V16").reshape(-1, 2).T
    first[:] = (planes & _LOW).view("V16")
    second[:] = (planes >> _FOUR & _LOW).view("V16")
    return np.bitwise_or(lanes, nibbles, out=lanes)


def planes_of_lanes(lanes: Lanes) -> tuple[Bytes, Bytes]:
    """The inverse of `lanes_of_planes`: `low` and `fifth`."""
    fifth = np.packbits(lanes.view(np.uint8) & np.uint8(16), bitorder="little")
    halves = lanes.view("V16").reshape(-1, 2).T
    first, second = (np.ascontiguousarray(half).view("<u8") for half in halves)
    np.bitwise_and(first, _LOW, out=first)
    np.bitwise_and(second, _LOW, out=second)
    np.left_shift(second, _FOUR, out=second)
    return np.bitwise_or(first, second, out=first).view(np.uint8), fifth


def close_up(lanes: Lanes, bits: int, rows: Bytes) -> None:
    """Lanes of codes below 2^bits → MLX's rows.

    Two neighbours a and b of `used` bits, at the two ends of a field of 2 · `room` bits, move
    together by a + b · 2^room - b · (2^room - 2^used) = a + b · 2^used.

    Args:
        lanes: uint64 [m], overwritten.
        rows: contiguous uint8 [bits · m], written.
    """
    for room, used in ((8, bits), (16, 2 * bits), (32, 4 * bits)):
        fields = lanes.view(f"<u{room // 4}")
        upper = np.right_shift(fields, room)
        np.multiply(upper, (1 << room) - (1 << used), out=upper)
        np.subtract(fields, upper, out=fields)
    octets, kept = lanes.view(np.uint8).reshape(-1, 8), rows.reshape(-1, bits)
    for i in range(bits):
        kept[:, i] = octets[:, i]


def spread_out(rows: Bytes, bits: int) -> Lanes:
    """The inverse of `close_up`: contiguous uint8 [bits · m] → uint64 [m]."""
    lanes = np.zeros(rows.size // bits, np.uint64)
    octets, kept = lanes.view(np.uint8).reshape(-1, 8), rows.reshape(-1, bits)
    for i in range(bits):
        octets[:, i] = kept[:, i]
    for room, used in ((32, 4 * bits), (16, 2 * bits), (8, bits)):
        fields = lanes.view(f"<u{room // 4}")
        upper = np.right_shift(fields, used)
        np.multiply(upper, (1 << room) - (1 << used), out=upper)
        np.add(fields, upper, out=fields)
    return lanes
