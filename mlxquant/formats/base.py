"""The contract of a weight format: what the bytes of a weight mean.

A format is a value object. It says how many weights share a block, which arrays (`parts`) hold a
block on disk and how many bytes each takes, and it encodes and decodes rows in plain NumPy. That
NumPy code is the reference: every faster path must match `decode` bit for bit.

    rows   float32 [n, k]        k a multiple of block_size
    wire   one array a part,     each [n, k / block_size * part.per_block], part.dtype

MLX's affine format has three parts (packed words, scales, biases); a ggml block has one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

__all__ = ["Array", "Format", "NonFiniteError", "Part", "STORAGE"]

Array = NDArray[Any]

#: safetensors' dtype name → the NumPy dtype that carries its bits (bfloat16 travels as uint16)
STORAGE: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("<u1"),
    "U32": np.dtype("<u4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
}


@dataclass(frozen=True)
class Part:
    """One stored array of a format.

    Attributes:
        suffix: the parameter's last name component: `weight`, `scales`, `biases`.
        dtype: safetensors' name of the element type, a key of STORAGE.
        per_block: elements that one block takes in this array. May be fractional only in that a
            block of 32 weights at 1 bit is exactly one uint32; it is always a whole number.
    """

    suffix: str
    dtype: str
    per_block: int

    @property
    def block_bytes(self) -> int:
        """Bytes that one block takes in this array."""
        return self.per_block * STORAGE[self.dtype].itemsize


class NonFiniteError(RequestError):
    """A weight is NaN or infinite; no format here can hold it.

    Attributes: `row`, `column` of the first such weight (in the rows given), `value`, and `count`.
    """

    def __init__(self, row: int, column: int, value: float, count: int) -> None:
        self.row, self.column, self.value, self.count = row, column, value, count
        super().__init__(f"{value} at row {row}, column {column} ({count} such weights)")


@dataclass(frozen=True)
class Format(ABC):
    """A weight format. Instances are immutable and compare by value."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name users type: `affine4-g64`, `mxfp4`, …"""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Width of a code."""

    @property
    @abstractmethod
    def block_size(self) -> int:
        """Consecutive weights of a row that share a block (MLX: the group size)."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The stored arrays, in the order in which `encode` returns them."""

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all parts."""
        return sum(part.block_bytes for part in self.parts)

    @property
    def bpw(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.block_bytes / self.block_size

    @abstractmethod
    def encode(self, rows: Array, importance: Array | None = None) -> tuple[Array, ...]:
        """Quantize rows.

        Args:
            rows: float32 [n, k], finite; k a multiple of `block_size`.
            importance: float32 [k] or None; mean squared activation per input column. Plain
                rounding ignores it.

        Returns: one array a part, [n, k / block_size * part.per_block] of STORAGE[part.dtype].

        Raises:
            NonFiniteError: a weight is NaN or infinite.
            RequestError: k is no multiple of `block_size`.
        """

    @abstractmethod
    def decode(self, wire: tuple[Array, ...]) -> Array:
        """Dequantize: the arrays of `encode` → float32 [n, k]."""
