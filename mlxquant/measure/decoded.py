"""Quantized layers on a CPU: weights are decoded, some rows at a time, and multiplied as floats.

MLX multiplies packed weights by one token after the other on a CPU. For the hundreds of tokens of a
window it is faster to decode a matrix and to multiply floats: 1.2 times with the BLAS that MLX's
own Linux packages bring, some 30 times with OpenBLAS (benchmarks/eval.py). The numbers are the
same, but for the order in which float32 products are summed. On a GPU nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels.operations import CHUNK_BYTES
from ..run.affine import AffineEmbedding, AffineLinear

__all__ = ["decode_on_cpu"]

#: rows of `x` from which on a decoded matrix is faster
_FEW = 8


def decode_on_cpu(model: Any) -> None:
    """Have a model's quantized layers decode before they multiply, where MLX runs on a CPU.

    Args:
        model: an mlx.nn.Module, changed in place; its parameters stay as they are.
    """
    if mx.default_device() != mx.cpu:
        return
    for _, module in model.named_modules():
        other = _CLASSES.get(type(module))  # of their sub-classes nothing is known
        if other is not None:
            module.__class__ = other


class _Linear:
    """Before a quantized linear layer: its product, decoded."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., input_dims] → [..., output_dims]."""
        y: mx.array
        if _is_small(x):
            y = super().__call__(x)  # type: ignore[misc]
            return y
        y = _product(self, x)
        if "bias" in self:  # type: ignore[operator]
            y = y + self["bias"]  # type: ignore[index]
        return y


class _Embedding:
    """Before a quantized embedding that is an output head too: its product, decoded."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., dims] → scores [..., num_embeddings]."""
        y: mx.array
        y = super().as_linear(x) if _is_small(x) else _product(self, x)  # type: ignore[misc]
        return y


def _decoding(first: type, kind: type) -> type:
    return type(kind.__name__, (first, kind), {})


_CLASSES: dict[type, type] = {
    **{kind: _decoding(_Linear, kind) for kind in (nn.QuantizedLinear, AffineLinear)},
    **{kind: _decoding(_Embedding, kind) for kind in (nn.QuantizedEmbedding, AffineEmbedding)},
}


def _is_small(x: mx.array) -> bool:
    """Whether MLX's own product is at least as good: few rows, or a type that it rounds itself."""
    return x.dtype != mx.float32 or x.size < _FEW * x.shape[-1]


def _product(layer: Any, x: mx.array) -> mx.array:
    """x [..., columns] times a layer's weight, packed [rows, …] → [..., rows].

    In memory are the result and at most as much again.
    """
    parts: list[mx.array] = []
    for first, last in _chunks(x, layer["weight"].shape[0]):
        packed = layer["weight"][first:last]
        if parts:
            packed = mx.depends([packed], [parts[-1]])[0]
        biases = layer.get("biases")
        rows = mx.dequantize(
            packed,
            layer["scales"][first:last],
            None if biases is None else biases[first:last],
            group_size=layer.group_size,
            bits=layer.bits,
            mode=layer.mode,
            dtype=mx.float32,
        )
        parts.append(x @ rows.T)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)


def _chunks(x: mx.array, rows: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the rows of a weight that are decoded together.

    Results in parts are in memory twice while they are joined, so a matrix that is no larger than
    its product with `x` is decoded at once; of others CHUNK_BYTES, each batch of rows after the
    product with the one before.
    """
    columns = x.shape[-1]
    step = rows if columns**2 <= x.size else max(1, CHUNK_BYTES // (4 * columns))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)
