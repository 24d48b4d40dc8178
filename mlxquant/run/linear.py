"""Layers whose weights are ggml blocks.

    weight   uint8 [rows, row_bytes]            a row's blocks one after the other; of experts
             uint8 [experts, rows, row_bytes]   one matrix each
    bias     [rows] or [experts, rows]

A layer's result is the product with the decoded weights, summed in float32, in the element type of
`x`. Which kernel multiplies, or whether MLX's operations do, is kernels/backend.py's to say; memory
does not grow with the matrix. Layers can be differentiated in `x` and traced by MLX: LoRA trains on
top of them, and mlx-lm's does so by `to_lora`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..formats.ggml_format import GgmlFormat
from ..kernels import on_mlx

__all__ = ["PackedEmbedding", "PackedLinear", "PackedSwitchLinear"]


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

    def unfreeze(self, *args: Any, **kwargs: Any) -> None:
        """As of MLX's quantized layers: blocks stay frozen."""
        super().unfreeze(*args, **kwargs)
        self.freeze(recurse=False)

    def _extra_repr(self) -> str:
        shape = (*self.weight.shape[:-1], self.input_dims)
        return f"{self.format.name}, {list(shape)}, bias={'bias' in self}"


class PackedLinear(_Packed):
    """nn.Linear on blocks."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., input_dims] → [..., output_dims]."""
        y: mx.array = on_mlx.matmul(x, self.weight, self.format)
        return y + self.bias if "bias" in self else y

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """mlx-lm's layer that adds a low-rank product to this one's, which stays as it is."""
        from mlx_lm.tuner.lora import LoRALinear

        made = LoRALinear(self.input_dims, self.output_dims, r, dropout, scale)
        made.linear = self
        return made


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
        rows: mx.array = on_mlx.rows(self.weight, tokens.reshape(-1), self.format, self.dtype)
        return rows.reshape(*tokens.shape, self.input_dims)

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., input_dims] → scores [..., rows], for heads that are tied to the embedding."""
        y: mx.array = on_mlx.matmul(x, self.weight, self.format)
        return y

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """mlx-lm's layer that adds a low-rank table to this one, which stays as it is."""
        from mlx_lm.tuner.lora import LoRAEmbedding

        made = LoRAEmbedding(self.output_dims, self.input_dims, r, dropout, scale)
        made.embedding = self
        return made


class PackedSwitchLinear(_Packed):
    """mlx-lm's SwitchLinear on blocks: a matrix for each expert."""

    @property
    def num_experts(self) -> int:
        """Matrices."""
        return self.weight.shape[0]

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """x [..., n, input_dims] times the matrices of experts `indices` [...] → [..., n, rows].

        The leading axes are broadcast against each other. `sorted_indices` is mlx-lm's: whether
        `indices` ascend, which makes no difference here.
        """
        shape = np.broadcast_shapes(x.shape[:-2], indices.shape)
        n = x.shape[-2]
        rows = mx.broadcast_to(x, (*shape, *x.shape[-2:])).reshape(-1, x.shape[-1])
        chosen = mx.broadcast_to(indices, shape).reshape(-1)
        if n > 1:
            chosen = mx.repeat(chosen, n)
        y: mx.array = on_mlx.gather(rows, chosen, self.weight, self.format)
        y = y.reshape(*shape, n, self.output_dims)
        return y + mx.expand_dims(self.bias[indices], -2) if "bias" in self else y

    def to_lora(self, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> nn.Module:
        """mlx-lm's layer that adds low-rank products to this one's, which stay as they are."""
        from mlx_lm.tuner.lora import LoRASwitchLinear

        made = LoRASwitchLinear(
            self.input_dims, self.output_dims, self.num_experts, r, dropout, scale
        )
        made.linear = self
        return made
