"""What the decoders in MLX operations share: planes of codes, float16 fields, tables, scales.

A format's `decode_mx` does what its `decode_blocks` does, on arrays of MLX and with operations that
MLX has on every device. Codes stay bytes until `scaled_mx` multiplies them, so that temporaries are
about as large as the float32 result. Wherever a product is exact in float32 no fused multiply-add
changes it; nothing here depends on how a compiler contracts the rest.

A GPU may take subnormal float32 for zero. Scales in float16 never lead there; only blocks of MXFP4
with e < 2 and of Q8_K with a d below 2^-126 do.

This module imports mlx when a function is called, not before.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Array

if TYPE_CHECKING:
    import mlx.core as mx

    MxArray = mx.array
else:
    MxArray = Any

__all__ = [
    "MxArray",
    "NibbleLevels",
    "Table",
    "constant_mx",
    "halves_mx",
    "nibbles_mx",
    "planes_mx",
    "scaled_mx",
    "shifted_mx",
    "signed_mx",
    "words_mx",
]


@cache
def constant_mx(values: tuple[int, ...], dtype: str) -> MxArray:
    """A few numbers of NumPy's `dtype`, made once: [values]."""
    import mlx.core as mx

    return mx.array(np.array(values, dtype=dtype))


def words_mx(stored: MxArray) -> MxArray:
    """uint8 [b, 2·n] → the little-endian uint16 [b, n]."""
    import mlx.core as mx

    return stored.view(mx.uint16)


def halves_mx(stored: MxArray) -> MxArray:
    """uint8 [b, 2] of one float16 → float32 [b, 1]."""
    import mlx.core as mx

    return stored.view(mx.float16).astype(mx.float32)


def signed_mx(stored: MxArray) -> MxArray:
    """uint8 [...] → the same bits as int8 [...]."""
    import mlx.core as mx

    return stored.view(mx.int8)


def planes_mx(packed: MxArray, bits: int, width: int) -> MxArray:
    """`k_layout.unpack_planes`: uint8 [b, n] → codes uint8 [b, n·8/bits]; n a multiple of `width`.

    Of width 1, a byte's codes follow each other, lowest bits first.
    """
    b, n = packed.shape
    runs = packed.reshape(b, n // width, 1, width)
    codes = (runs >> constant_mx(tuple(range(0, 8, bits)), "uint8")[:, None]) & ((1 << bits) - 1)
    return codes.reshape(b, n * 8 // bits)


def nibbles_mx(packed: MxArray) -> MxArray:
    """uint8 [b, n] → uint8 [b, 2·n], the low half of a byte first."""
    return planes_mx(packed, 4, 1)


def shifted_mx(words: MxArray, places: tuple[int, ...], bits: int) -> MxArray:
    """The `bits` bits from each place up: uint16 or uint32 [b, n] → the same type [b, n·places]."""
    b, n = words.shape
    dtype = str(words.dtype).removeprefix("mlx.core.")
    codes = (words[:, :, None] >> constant_mx(places, dtype)) & ((1 << bits) - 1)
    return codes.reshape(b, n * len(places))


def scaled_mx(codes: MxArray, scale: MxArray, offset: MxArray | None = None) -> MxArray:
    """w = scale · code + offset, in float32.

    Args:
        codes: integers [b, k].
        scale, offset: float32 [b, s]; each of the s parts of a block has one.

    Returns: float32 [b, k].
    """
    (b, k), s = codes.shape, scale.shape[1]
    rows = codes.reshape(b, s, k // s) * scale[:, :, None]
    if offset is not None:
        rows = rows + offset[:, :, None]
    return rows.reshape(b, k)


class Table:
    """A table of a format, as an array of MLX from its first use on.

    Rows of 2, 4 or 8 bytes are looked up as one word, which costs one access rather than several.

    Attributes:
        values: NumPy [n], or int8 [n, g] with g = 2, 4 or 8.
    """

    def __init__(self, values: Array) -> None:
        self.values = values
        self._array: MxArray | None = None

    def __getitem__(self, index: MxArray) -> MxArray:
        """Unsigned integers [b, m], below n → the entries, [b, m]; of rows, int8 [b, m·g]."""
        import mlx.core as mx

        is_rows = self.values.ndim == 2
        if self._array is None:
            words = self.values
            if is_rows:
                words = np.ascontiguousarray(words).view(f"<u{words.shape[1]}")[:, 0]
            self._array = mx.array(words)
        found = self._array[index]
        return found.view(mx.int8) if is_rows else found


class NibbleLevels:
    """Sixteen int8 levels for the codes of 4-bit planes, looked up a byte at a time.

    Attributes:
        levels: NumPy [16], whole numbers of 8 bits.
    """

    def __init__(self, levels: Array) -> None:
        small = levels.astype(np.int8).view(np.uint8).astype(np.uint16)
        codes = np.arange(256)
        self._pairs = Table(small[codes & 15] | small[codes >> 4] << 8)

    def unpack(self, packed: MxArray, width: int) -> MxArray:
        """uint8 [b, n], planes of 4 bits → the levels of their codes, int8 [b, 2·n]."""
        import mlx.core as mx

        b, n = packed.shape
        pairs = self._pairs[packed].reshape(b, n // width, 1, width)
        levels = (pairs >> constant_mx((0, 8), "uint16")[:, None]).astype(mx.uint8)
        return levels.reshape(b, 2 * n).view(mx.int8)
