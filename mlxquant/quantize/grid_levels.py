"""The levels that a weight can take once it is divided by its scale, and the code of each.

Steps     lowest … highest, whole numbers       affine formats, legacy types, K-quants
Table     a few numbers, not evenly spaced      mxfp4, nvfp4, IQ4_NL, IQ4_XS
E4m3      8-bit floats                          mxfp8
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ..formats.floats import Bytes, Float32, e4m3_to_f32, f32_to_e4m3

__all__ = ["E4m3", "Levels", "Steps", "Table"]


class Levels(ABC):
    """A finite set of numbers, each with the code that a file stores for it."""

    @abstractmethod
    def snap(self, scaled: Float32) -> Float32:
        """float32 [...], not NaN → the nearest level of each; may overwrite `scaled`."""

    @abstractmethod
    def codes(self, levels: Float32) -> Bytes:
        """float32 [...] of levels → uint8 [...], their codes as stored."""

    def neighbours(self, levels: Float32) -> tuple[Float32, ...]:
        """Other levels that a value may stand for when rounding moved it; none by default.

        A sum of product and offset is rounded twice, which can move the quotient by up to a whole
        step; products alone keep theirs.
        """
        return ()


class Steps(Levels):
    """Whole numbers.

    Args:
        lowest, highest: the smallest and the largest level.
        zero: the code of level 0, so that code = level + zero; -128 … 127 are stored as int8 where
            it is 0.
    """

    def __init__(self, lowest: int, highest: int, zero: int = 0) -> None:
        self.lowest, self.highest = np.float32(lowest), np.float32(highest)
        self.zero = zero

    def snap(self, scaled: Float32) -> Float32:
        """See Levels."""
        np.rint(scaled, out=scaled)
        np.maximum(scaled, self.lowest, out=scaled)
        np.minimum(scaled, self.highest, out=scaled)
        return scaled

    def codes(self, levels: Float32) -> Bytes:
        """See Levels."""
        return (levels.astype(np.int16) + np.int16(self.zero)).astype(np.uint8)

    def neighbours(self, levels: Float32) -> tuple[Float32, ...]:
        """The levels below and above."""
        one = np.float32(1)
        return np.maximum(levels - one, self.lowest), np.minimum(levels + one, self.highest)


class Table(Levels):
    """Levels whose half-way points are multiples of 1 / `finest`.

    Args:
        levels: float32 [c], the level of each code; of equal ones the first code is used.
        finest: pieces of a unit; no piece holds a change of level inside.
    """

    def __init__(self, levels: Float32, finest: int) -> None:
        self._levels = np.unique(levels)
        first = [int(np.flatnonzero(levels == level)[0]) for level in self._levels]
        self._codes = np.array(first, np.uint8)
        self._finest = np.float32(finest)
        self._begin = np.float32(-np.floor(self._levels[0] * finest))
        pieces = int(np.ceil(self._levels[-1] * finest) + self._begin) + 1
        middles = (self._levels[1:] + self._levels[:-1]) / 2
        begins = (np.arange(pieces) - self._begin) / finest
        self._index = (begins[:, None] >= middles).sum(axis=1)
        self._nearest = self._levels[self._index]
        self._last = np.float32(pieces - 1)

    def _pieces(self, scaled: Float32) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        np.multiply(scaled, self._finest, out=scaled)
        np.add(scaled, self._begin, out=scaled)
        np.fmax(scaled, np.float32(0), out=scaled)
        np.fmin(scaled, self._last, out=scaled)
        return scaled.astype(np.int32)

    def snap(self, scaled: Float32) -> Float32:
        """See Levels."""
        nearest: Float32 = self._nearest.take(self._pieces(scaled))
        return nearest

    def codes(self, levels: Float32) -> Bytes:
        """See Levels."""
        pieces = self._pieces(levels.copy())
        codes: Bytes = self._codes[self._index[pieces]]
        return codes


class E4m3(Levels):
    """8-bit floats: 4 bits of exponent, 3 of fraction, up to 448."""

    def snap(self, scaled: Float32) -> Float32:
        """See Levels."""
        return e4m3_to_f32(f32_to_e4m3(scaled))

    def codes(self, levels: Float32) -> Bytes:
        """See Levels."""
        return f32_to_e4m3(levels)
