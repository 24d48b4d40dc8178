"""Layers whose weights are ggml blocks, decoded as they are used.

    weight   uint8 [rows, row_bytes]            a row's blocks one after the other; of experts
             uint8 [experts, rows, row_bytes]   one matrix each
    bias     [rows] or [experts, rows]

A layer's result is the product with the decoded weights, rounded to the element type of `x`. Some
rows are decoded at a time (CHUNK_BYTES of floats), each batch after the product with the one
before, so that memory does not grow with the matrix. This module is the one place where it happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..formats.ggml_format import GgmlFormat

__all__ = ["CHUNK_BYTES", "PackedEmbedding", "PackedLinear", "PackedSwitchLinear"]

#: of decoded float32 weights held at a time; what the decoding itself takes is about as much again
CHUNK_BYTES = 8 << 20


class _Packed(nn.Module):  # type: ignore[misc]
    """What the layers share.

    Args:
        weight: uint8 [..., rows, row_bytes].
        fmt: how a block is decoded.
        bias: [..., rows], or None.
    """

    def __init__(self, weight: mx.array, fmt: GgmlFormat, bias: mx.array | None = None) -> None:
        super().__init__()
        self.format = fmt
        self.weight = weight
        if bias is not None:
            self.bias = bias
        self.freeze()

    @property
    def input_dims(self) -> int:
        """Weights of a row."""
        return self.weight.shape[-1] // self.format.block_bytes * self.format.block_size

    @property
    def output_dims(self) -> int:
        """Rows of a matrix."""
        return self.weight.shape[-2]

    def _extra_repr(self) -> str:
        shape = (*self.weight.shape[:-1], self.input_dims)
        return f"{self.format.name}, {list(shape)}, bias={'bias' in self}"

    def _decode(self, wire: mx.array, dtype: mx.Dtype) -> mx.array:
        """uint8 [..., row_bytes] → weights [..., input_dims]."""
        blocks = wire.reshape(-1, self.format.block_bytes)
        rows = self.format.decode_mx(blocks).astype(dtype)
        return rows.reshape(*wire.shape[:-1], self.input_dims)

    def _chunks(self, rows: int) -> Iterator[tuple[int, int]]:
        """(first, last) of the rows that are decoded together."""
        step = max(1, CHUNK_BYTES // (4 * self.input_dims))
        for first in range(0, rows, step):
            yield first, min(first + step, rows)

    def _product(self, x: mx.array, weight: mx.array) -> mx.array:
        """x [..., input_dims] times one matrix, uint8 [rows, row_bytes] → [..., rows]."""
        parts: list[mx.array] = []
        for first, last in self._chunks(weight.shape[0]):
            wire = _after(weight[first:last], parts)
            parts.append(x @ self._decode(wire, x.dtype).T)
        return mx.concatenate(parts, axis=-1)


def _after(wire: mx.array, parts: list[mx.array]) -> mx.array:
    """`wire`, not to be looked at before the last of `parts` is computed.

    MLX would otherwise decode every batch of rows before it multiplies by the first.
    """
    return mx.depends([wire], [parts[-1]])[0] if parts else wire


class PackedLinear(_Packed):
    """nn.Linear on blocks."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., input_dims] → [..., output_dims]."""
        y = self._product(x, self.weight)
        return y + self.bias if "bias" in self else y


class PackedEmbedding(_Packed):
    """nn.Embedding on blocks.

    Args:
        weight, fmt: as the other layers'.
        dtype: element type of the vectors.
    """

    def __init__(self, weight: mx.array, fmt: GgmlFormat, dtype: mx.Dtype) -> None:
        super().__init__(weight, fmt)
        self.dtype = dtype

    def __call__(self, tokens: mx.array) -> mx.array:
        """Ids [...] → vectors [..., input_dims]."""
        ids = tokens.reshape(-1)
        parts: list[mx.array] = []
        for first, last in self._chunks(ids.size):
            wire = _after(self.weight[ids[first:last]], parts)
            parts.append(self._decode(wire, self.dtype))
        rows = mx.concatenate(parts) if parts else mx.zeros((0, self.input_dims), self.dtype)
        return rows.reshape(*tokens.shape, self.input_dims)

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., input_dims] → scores [..., rows], for heads that are tied to the embedding."""
        return self._product(x, self.weight)


class PackedSwitchLinear(_Packed):
    """mlx-lm's SwitchLinear on blocks: a matrix for each expert."""

    @property
    def num_experts(self) -> int:
        """Matrices."""
        return self.weight.shape[0]

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x [..., n, input_dims] times the matrices of experts `indices` [...] → [..., n, rows].

        The leading axes are broadcast against each other; `sorted_indices` says that `indices`
        ascend. Where there are many of them, they are evaluated, and each expert is decoded once.
        """
        shape = np.broadcast_shapes(x.shape[:-2], indices.shape)
        x = mx.broadcast_to(x, (*shape, *x.shape[-2:])).reshape(-1, *x.shape[-2:])
        chosen = mx.broadcast_to(indices, shape).reshape(-1)
        if 2 * chosen.size <= self.num_experts:
            y = self._each_pair(x, chosen)
        elif sorted_indices:
            y = self._each_expert(x, chosen)
        else:
            order = mx.argsort(chosen)
            y = self._each_expert(x[order], chosen[order])[mx.argsort(order)]
        y = y.reshape(*shape, *y.shape[-2:])
        return y + mx.expand_dims(self.bias[indices], -2) if "bias" in self else y

    def _each_pair(self, x: mx.array, chosen: mx.array) -> mx.array:
        """x [p, n, input_dims], experts [p] → [p, n, rows]: a matrix is decoded for every pair."""
        rows = self.output_dims
        parts: list[mx.array] = []
        pairs = max(1, CHUNK_BYTES // (4 * rows * self.input_dims))
        for begin in range(0, chosen.size, pairs):
            end = begin + pairs
            columns: list[mx.array] = []
            for first, last in self._chunks(rows):
                wire = _after(self.weight[:, first:last], columns or parts)[chosen[begin:end]]
                columns.append(x[begin:end] @ self._decode(wire, x.dtype).swapaxes(-1, -2))
            parts.append(mx.concatenate(columns, axis=-1))
        return mx.concatenate(parts)

    def _each_expert(self, x: mx.array, chosen: mx.array) -> mx.array:
        """The same for experts that ascend, each decoded once."""
        experts = np.array(chosen)
        bounds = [0, *(np.flatnonzero(np.diff(experts)) + 1).tolist(), len(experts)]
        parts: list[mx.array] = []
        for first, last in pairwise(bounds):
            matrix = _after(self.weight[int(experts[first])], parts)
            parts.append(self._product(x[first:last], matrix))
        return mx.concatenate(parts)
