"""What ggml's codebook formats (IQ1, IQ2, IQ3) have in common.

A super-block of 256 weights has one scale d in float16 and S sub-blocks. A sub-block has a scale
code l and groups of G weights, and a group is the index of a point g of the format's codebook:

    IQ2, IQ3    w ≈ (d · unit · (2 l + 1)) · g · sign          a sign for every weight
    IQ1         w ≈ (d · (2 l + 1)) · (g ± 1/8)                a shift for every sub-block or group

A format's file draws its block and moves the codes between bytes and `Codes`; the arithmetic is
here, and the search for the best codes in codebook_fit.py.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Array
from .codebook_fit import Shape, Target, fit
from .floats import Float32
from .ggml_format import GgmlFormat
from .grids import SIGNS_MX, SIGNS_OF_SEVEN_MX, grid, grid_mx, parity_of, signs_of
from .k_layout import split
from .mx_layout import MxArray, scaled_mx, shifted_mx, signed_mx, words_mx

__all__ = [
    "CodebookFormat",
    "Codes",
    "MxCodes",
    "ShiftedFormat",
    "SignedFormat",
    "as_bytes",
    "from_nibbles",
    "nibbles",
    "read_words",
    "read_words_mx",
    "with_eighth",
    "write_words",
]


@dataclass(frozen=True)
class Codes:
    """What the bytes of b blocks say.

    Attributes:
        d: float16 [b].
        scales: integers [b, S], the codes l.
        index: integers [b, 256 / G].
        negative: uint8. Signed formats: [b, 32], bit j set where weight j of 8 is negative.
            Shifted formats: [b, S] or [b, 32], 1 where the shift is -1/8.
    """

    d: Array
    scales: Array
    index: Array
    negative: Array


@dataclass(frozen=True)
class MxCodes:
    """The same as arrays of MLX.

    Attributes:
        d: float32 [b, 1].
        scales, index: unsigned integers, as in Codes.
        negative: as in Codes, but where seven signs of eight are stored the bits of these seven, in
            any unsigned type.
    """

    d: MxArray
    scales: MxArray
    index: MxArray
    negative: MxArray


class CodebookFormat(GgmlFormat):
    """A format of super-blocks of 256 weights whose codes are points of a codebook.

    Attributes:
        book: the codebook's name in grids.py.
        shape: how a super-block is divided, and its scale codes.
    """

    weights = 256
    book: ClassVar[str]
    shape: ClassVar[Shape]

    @abstractmethod
    def unpack(self, fields: list[Array]) -> Codes:
        """The fields of b blocks, each uint8 [b, bytes] → their codes."""

    @abstractmethod
    def unpack_mx(self, fields: list[MxArray]) -> MxCodes:
        """As `unpack`, of MLX's arrays."""

    @abstractmethod
    def pack(self, codes: Codes) -> list[Array]:
        """Codes of b blocks → their fields, each uint8 [b, bytes]."""

    def codes_of(self, blocks: Array) -> Codes:
        """uint8 [b, block_bytes] → the codes of b blocks."""
        ends = np.cumsum([size for _, size in self.fields])[:-1]
        return self.unpack([np.ascontiguousarray(part) for part in np.split(blocks, ends, axis=1)])

    def bytes_of(self, codes: Codes) -> Array:
        """The codes of b blocks → uint8 [b, block_bytes]."""
        return np.concatenate(self.pack(codes), axis=1)

    def _scales_of(self, codes: Codes) -> Float32:
        """float32 [b, S]: what a sub-block's points are multiplied by."""
        steps = (codes.scales.astype(np.float32) * 2 + 1) * np.float32(self.shape.unit)
        with np.errstate(over="ignore", invalid="ignore"):
            return codes.d.astype(np.float32)[:, None] * steps

    def _scales_of_mx(self, codes: MxCodes, unit: float) -> MxArray:
        """As `_scales_of`, of MLX's arrays and with another unit; exact if that is a power of 2."""
        import mlx.core as mx

        steps = (codes.scales * 2 + 1).astype(mx.float32) * unit
        return codes.d * steps


class SignedFormat(CodebookFormat):
    """IQ2 and IQ3: magnitudes from a codebook, and signs.

    `even`: only seven signs of eight are stored; an even number of weights is negative.
    """

    even: ClassVar[bool]

    def decode_blocks(self, blocks: Array) -> Float32:
        """See GgmlFormat."""
        codes = self.codes_of(blocks)
        count, sub_blocks = codes.scales.shape
        values = grid(self.book)[codes.index].reshape(count, sub_blocks, 256 // sub_blocks)
        with np.errstate(over="ignore", invalid="ignore"):
            values *= self._scales_of(codes)[:, :, None]
            values = values.reshape(count, 32, 8) * signs_of(codes.negative)
        return values.reshape(count, 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat; scale times point has 22 bits and is exact."""
        codes = self.unpack_mx(list(split(blocks, self.fields).values()))
        signs = (SIGNS_OF_SEVEN_MX if self.even else SIGNS_MX)[codes.negative]
        points = grid_mx(self.book, 1)[codes.index]
        return scaled_mx(points * signs, self._scales_of_mx(codes, self.shape.unit))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """See GgmlFormat; what is minimized is Σ importance · (weight - decoded)²."""
        negative = np.signbit(blocks) & (blocks != 0)
        masks = np.packbits(negative, axis=1, bitorder="little")
        target = Target.of(np.abs(blocks), importance)
        if self.even:
            masks = _make_even(masks, target)
        found = fit(target, grid(self.book), self.shape)
        return self.bytes_of(Codes(found.d, found.scales, found.index, masks))


def _make_even(masks: Array, target: Target) -> Array:
    """Flip one sign wherever eight weights have an odd number of them: the one whose flip costs
    least. Its magnitude in `target.values` becomes negative; returns the new masks.

    A flip at magnitude |w| of a weight coded as s·g costs 4 · importance · |w| · s·g.
    """
    values, importance = target.values, target.importance
    cost = values if importance is None else values * importance
    odd = np.flatnonzero(parity_of(masks))
    place = cost.reshape(-1, 8)[odd].argmin(axis=1)
    values.reshape(-1, 8)[odd, place] *= -1
    flipped = masks.copy()
    flipped.reshape(-1)[odd] ^= np.left_shift(1, place).astype(np.uint8)
    return flipped


class ShiftedFormat(CodebookFormat):
    """IQ1: points of -1, 0 and 1, all of them shifted by 1/8 up or down.

    Where `shape.books` is 2, all groups of a sub-block are shifted the same way.
    """

    book = "IQ1_S"

    def decode_blocks(self, blocks: Array) -> Float32:
        """See GgmlFormat."""
        codes = self.codes_of(blocks)
        count, sub_blocks = codes.scales.shape
        shift = np.float32(0.125) - np.float32(0.25) * codes.negative
        values = grid(self.book)[codes.index].reshape(count, shift.shape[1], 256 // shift.shape[1])
        values += shift[:, :, None]
        values = values.reshape(count, sub_blocks, 256 // sub_blocks)
        with np.errstate(over="ignore", invalid="ignore"):
            values *= self._scales_of(codes)[:, :, None]
        return values.reshape(count, 256)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat; in eighths points and shifts are integers, and everything is exact."""
        codes = self.unpack_mx(list(split(blocks, self.fields).values()))
        count, shifts = codes.negative.shape
        eighths = grid_mx(self.book, 8)[codes.index].reshape(count, shifts, 256 // shifts)
        shift = 1 - signed_mx(codes.negative) * 2
        shifted = (eighths + shift[:, :, None]).reshape(count, 256)
        return scaled_mx(shifted, self._scales_of_mx(codes, self.shape.unit / 8))

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """See GgmlFormat; what is minimized is Σ importance · (weight - decoded)²."""
        points = grid(self.book)
        both = np.concatenate([points + np.float32(0.125), points - np.float32(0.125)])
        found = fit(Target.of(blocks, importance), both, self.shape)
        index = found.index % len(points)
        negative = (found.index // len(points)).astype(np.uint8)
        if self.shape.books == 2:
            negative = negative[:, :: 32 // self.shape.sub_blocks]
        return self.bytes_of(Codes(found.d, found.scales, index, negative))


def nibbles(packed: Array) -> Array:
    """uint8 [b, n] → uint8 [b, 2 n], the low half of a byte first."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    return halves.reshape(len(packed), 2 * packed.shape[1])


def from_nibbles(codes: Array) -> Array:
    """Integers below 16 [b, 2 n] → uint8 [b, n], the first in the low half."""
    pairs = codes.reshape(len(codes), codes.shape[1] // 2, 2).astype(np.uint8)
    packed: Array = pairs[:, :, 0] | (pairs[:, :, 1] << 4)
    return packed


def read_words(words: Array) -> tuple[Array, Array]:
    """uint32 [b, 8] → scale codes [b, 8] and masks of negative weights, uint8 [b, 32].

    A word, for 32 weights: the signs of 8 weights in 7 bits, four times, then 4 bits of scale. The
    eighth weight's sign makes the number of negative ones even.
    """
    seven = (words[:, :, None] >> np.array([0, 7, 14, 21], dtype=np.uint32)) & 127
    return words >> 28, with_eighth(seven.reshape(len(words), 32))


def read_words_mx(stored: MxArray) -> tuple[MxArray, MxArray]:
    """`read_words` of MLX's arrays: uint8 [b, 32] or [b, 8, 4] → scale codes [b, 8] and the seven
    stored signs of every 8 weights, [b, 32]; both uint32.

    In a block the words lie at even offsets, not at multiples of 4: hence by halves.
    """
    import mlx.core as mx

    b = len(stored)
    halves = words_mx(stored.reshape(b, 32)).astype(mx.uint32)
    words = halves[:, ::2] | halves[:, 1::2] << 16
    return words >> 28, shifted_mx(words, (0, 7, 14, 21), 7)


def write_words(scales: Array, masks: Array) -> Array:
    """The opposite of `read_words`."""
    seven = (masks & 127).astype(np.uint32).reshape(len(masks), 8, 4)
    signs = seven << np.array([0, 7, 14, 21], dtype=np.uint32)
    words: Array = np.bitwise_or.reduce(signs, axis=2)
    words |= scales.astype(np.uint32) << 28
    return words


def with_eighth(seven: Array) -> Array:
    """Masks of seven signs → uint8 masks of eight, an even number of bits set."""
    masks = seven.astype(np.uint8)
    masks |= parity_of(masks) << 7
    return masks


def as_bytes(array: Array, dtype: str) -> Array:
    """An array [b] or [b, n] in the given type → its bytes, uint8 [b, …]."""
    rows = array[:, None] if array.ndim == 1 else array
    return np.ascontiguousarray(rows, dtype=dtype).view(np.uint8)
