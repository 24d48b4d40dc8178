"""What ggml's block formats have in common: one array of whole blocks, read as bytes.

    rows   float32 [n, k]  ──blocks_of──▶  [n · k / block_size, block_size]
    wire   uint8 [n, k / block_size · block_bytes], a row's blocks one after the other

A format's file draws its block, declares its fields, and decodes and encodes arrays of blocks; this
class does the rest. `decode` is bit-identical to ggml's own `to_float`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from ..errors import RequestError
from .base import Array, Format, NonFiniteError, Part
from .floats import Float32
from .mx_layout import MxArray

__all__ = ["GgmlFormat"]

#: weights decoded or encoded at a time, so that temporaries stay small
_PIECE = 1 << 18


class GgmlFormat(Format):
    """A format of GGUF files.

    Attributes:
        ggml_name: llama.cpp's name of the type, e.g. `Q4_K`.
        ggml_type: its number in a GGUF file.
        code_bits: width of a code.
        weights: of a block.
        fields: (name, bytes) of a block's fields, in order; the block's size is their sum.
    """

    ggml_name: ClassVar[str]
    ggml_type: ClassVar[int]
    code_bits: ClassVar[int]
    weights: ClassVar[int]
    fields: ClassVar[tuple[tuple[str, int], ...]]

    @property
    def name(self) -> str:
        """llama.cpp's name."""
        return self.ggml_name

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.code_bits

    @property
    def block_size(self) -> int:
        """Weights of a block."""
        return self.weights

    @property
    def parts(self) -> tuple[Part, ...]:
        """One array of bytes, the tensor itself."""
        return (Part("", "U8", sum(size for _, size in self.fields)),)

    def encode(self, rows: Array, importance: Array | None = None) -> tuple[Array, ...]:
        """Quantize; see `Format.encode`."""
        self.check(rows, importance)
        wrong = ~np.isfinite(rows)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise NonFiniteError(row, column, float(rows[row, column]), int(wrong.sum()))
        n, k = rows.shape
        wire = np.empty((n, k // self.block_size * self.block_bytes), dtype=np.uint8)
        step = max(1, _PIECE // max(1, k))
        per_row = k // self.block_size
        for begin in range(0, n, step):
            piece = np.ascontiguousarray(rows[begin : begin + step])
            blocks = piece.reshape(-1, self.block_size)
            weights = None
            if importance is not None:
                one_row = importance.astype(np.float32).reshape(per_row, self.block_size)
                weights = np.tile(one_row, (len(piece), 1))
            encoded = self.encode_blocks(blocks, weights)
            wire[begin : begin + step] = encoded.reshape(len(piece), -1)
        return (wire,)

    def check(self, rows: Array, importance: Array | None = None) -> None:
        """Refuse what `encode` refuses, but for weights that are not finite.

        Raises:
            RequestError: another dtype or shape, or importance that is negative or not finite.
        """
        if rows.ndim != 2 or rows.dtype != np.float32:
            raise RequestError(
                f"rows are {rows.dtype} {list(rows.shape)}; give float32 in two dimensions"
            )
        k = rows.shape[1]
        if k % self.block_size:
            raise RequestError(
                f"{k} weights a row are no multiple of {self.name}'s {self.block_size}; choose "
                "another type or leave this tensor as it is"
            )
        if importance is not None and importance.shape != (k,):
            raise RequestError(f"importance has shape {list(importance.shape)}, {[k]} needed")
        if importance is not None and not (np.isfinite(importance) & (importance >= 0)).all():
            raise RequestError("importance has negative, infinite or NaN columns; collect it anew")

    def decode(self, wire: tuple[Array, ...]) -> Float32:
        """Dequantize: (uint8 [n, bytes],) → float32 [n, k]."""
        (array,) = wire
        if array.ndim != 2 or array.dtype != np.uint8 or array.shape[1] % self.block_bytes:
            raise RequestError(
                f"{self.name}: {array.dtype} {list(array.shape)} given; uint8 rows of whole blocks "
                f"of {self.block_bytes} bytes needed"
            )
        n, nbytes = array.shape
        k = nbytes // self.block_bytes * self.block_size
        out = np.empty((n, k), dtype=np.float32)
        step = max(1, _PIECE // max(1, k))
        for begin in range(0, n, step):
            piece = np.ascontiguousarray(array[begin : begin + step])
            values = self.decode_blocks(piece.reshape(-1, self.block_bytes))
            out[begin : begin + step] = values.reshape(len(piece), k)
        return out

    @abstractmethod
    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """float32 [b, block_size], finite → uint8 [b, block_bytes].

        `importance` is float32 [b, block_size] or None.
        """

    @abstractmethod
    def decode_blocks(self, blocks: Array) -> Float32:
        """uint8 [b, block_bytes] → float32 [b, block_size]."""

    @abstractmethod
    def decode_mx(self, blocks: MxArray) -> MxArray:
        """`decode_blocks` in MLX's operations, lazily and on its default device: the same bits,
        but that a NaN may be another NaN.

        uint8 [b, block_bytes] → float32 [b, block_size]; [0, block_bytes] has no weights.
        """
