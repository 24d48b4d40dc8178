"""How the K-quants lay out narrow codes: in planes, which run across bytes rather than along them.

A run of `width` bytes holds 8/bits planes of `width` codes each; plane p is bits p·bits and up of
every byte. Two bits, width 32 (128 codes):

    byte l      bit 7 6   5 4   3 2   1 0
                code l+96 l+64  l+32  l

What does not fit a narrow plane is spread over two arrays, each in planes of its own.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .base import Array
from .floats import Bytes, Float32

__all__ = ["halves", "pack_planes", "split", "to_halves", "unpack_planes"]

#: an array of NumPy or of MLX
_Bytes = TypeVar("_Bytes")


def split(blocks: _Bytes, fields: tuple[tuple[str, int], ...]) -> dict[str, _Bytes]:
    """uint8 [b, block_bytes] → each field by name, uint8 [b, its bytes]; of NumPy, as views, and of
    MLX."""
    whole: Any = blocks
    found, begin = {}, 0
    for name, size in fields:
        found[name] = whole[:, begin : begin + size]
        begin += size
    return found


def unpack_planes(packed: Array, bits: int, width: int) -> Bytes:
    """uint8 [b, n] → codes uint8 [b, n·8/bits]; n a multiple of `width`."""
    b, n = packed.shape
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(b, n // width, 1, width)
    codes: Bytes = (runs >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(b, n * 8 // bits)


def pack_planes(codes: Array, bits: int, width: int) -> Bytes:
    """Codes uint8 [b, k], each below 2^bits → uint8 [b, k·bits/8]."""
    b, k = codes.shape
    planes = 8 // bits
    runs = codes.reshape(b, k // (planes * width), planes, width)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(runs << shifts, axis=2)
    return packed.reshape(b, k * bits // 8)


def halves(stored: Array) -> Float32:
    """uint8 [b, 2] of one float16 → float32 [b, 1]."""
    return np.ascontiguousarray(stored).view("<f2").astype(np.float32)


def to_halves(values: NDArray[np.float16]) -> Bytes:
    """float16 [b] → its bytes, uint8 [b, 2]."""
    return values.astype("<f2")[:, None].view(np.uint8)
