"""Codes ↔ packed words, as mx.quantize lays them out.

A row of codes is one string of bits, low bits first, cut into little-endian uint32 words. Widths
that do not divide 32 run across the word boundary:

    3 bits:   byte 0            byte 1            byte 2
              c2c2c1c1c1c0c0c0  c5c4c4c4c3c3c3c2  c7c7c7c6c6c6c5c5     (bit 7 … bit 0 of each byte)

Neighbours are joined in lanes twice as wide, until a lane holds whole bytes:

    lane      codes in it   low bits used      done for
    uint8     1             bits               8
    uint16    2             2·bits             4
    uint32    4             4·bits             2 6
    uint64    8             8·bits             1 3 5
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .base import Array

__all__ = ["WIDTHS", "pack", "unpack"]

#: code widths that MLX packs
WIDTHS = (1, 2, 3, 4, 5, 6, 8)

#: bytes of a lane → its type
_LANES: dict[int, np.dtype[Any]] = {w: np.dtype(f"<u{w}") for w in (1, 2, 4, 8)}


def pack(codes: Array, bits: int) -> NDArray[np.uint32]:
    """Pack codes.

    Args:
        codes: uint8 [n, k], each below 2^bits; k·bits a multiple of 32, k of 8.
        bits: one of WIDTHS.

    Returns: uint32 [n, k·bits/32].

    Raises:
        RequestError: another width, or a row that does not fill whole words.
    """
    n, k = codes.shape
    _check(k, bits)
    lanes: Array = np.ascontiguousarray(codes, dtype=np.uint8)
    width, used = 1, bits
    while used % 8:
        lanes = lanes.view(_LANES[2 * width])
        kept = lanes.dtype.type((1 << used) - 1)
        high = np.right_shift(lanes, 8 * width)
        np.left_shift(high, used, out=high)
        lanes = np.bitwise_or(high, np.bitwise_and(lanes, kept), out=high)
        width, used = 2 * width, 2 * used
    wire = lanes.view(np.uint8).reshape(-1, width)[:, : used // 8]
    return np.ascontiguousarray(wire).reshape(n, k * bits // 8).view("<u4")


def unpack(words: Array, bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: uint32 [n, k·bits/32] → uint8 [n, k].

    Raises:
        RequestError: another width, or a row that does not hold a multiple of 8 codes.
    """
    n, columns = words.shape
    k = 32 * columns // bits if bits in WIDTHS else 0
    _check(k, bits)
    width = next(w for w in _LANES if w * bits % 8 == 0)
    used = width * bits
    wire = np.ascontiguousarray(words, dtype="<u4").view(np.uint8).reshape(-1, used // 8)
    lanes: Array = wire
    if used < 8 * width:
        lanes = np.zeros((wire.shape[0], width), np.uint8)
        lanes[:, : used // 8] = wire
    lanes = lanes.reshape(-1).view(_LANES[width])
    while width > 1:
        width, used = width // 2, used // 2
        kept = lanes.dtype.type((1 << used) - 1)
        high = np.right_shift(lanes, used)
        np.left_shift(high, 8 * width, out=high)
        np.bitwise_or(high, np.bitwise_and(lanes, kept), out=high)
        lanes = high.view(_LANES[width])
    return lanes.reshape(n, k)


def _check(k: int, bits: int) -> None:
    if bits not in WIDTHS:
        raise RequestError(f"bits {bits}: codes are packed in {', '.join(map(str, WIDTHS))} bits")
    if k % 8 or k * bits % 32:
        raise RequestError(
            f"{k} codes of {bits} bits: a row must fill whole 32-bit words and bytes by eights"
        )
