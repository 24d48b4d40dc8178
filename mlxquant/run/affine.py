"""MLX's affine layers with scales of another element type than the model's: products in float32.

ggml's scales are float16, and the model around them is usually bfloat16. In bfloat16 the scales
would lose three digits; in float16 the activations could overflow; scales left as they are would
turn every activation behind them into float32. Held in float32 they are exact, and so is
scale · code + bias; the product is rounded to the element type of `x`.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear

__all__ = ["AffineEmbedding", "AffineLinear", "in_float32"]


def in_float32(layer: Any, dtype: mx.Dtype) -> None:
    """Make a quantized layer multiply in float32 and give what the model computes in.

    Args:
        layer: nn.QuantizedLinear, nn.QuantizedEmbedding or mlx-lm's QuantizedSwitchLinear, its
            scales and biases float32 if they are floats; layers of other kinds stay as they are.
        dtype: element type of an embedding's vectors.
    """
    kind = _KINDS.get(type(layer))
    if kind is None:
        return
    layer.__class__ = kind  # the same parameters, multiplied in another way
    layer.dtype = dtype


class AffineLinear(nn.QuantizedLinear):  # type: ignore[misc]
    """nn.QuantizedLinear, in float32."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., input_dims] → [..., output_dims]."""
        y: mx.array = super().__call__(x.astype(mx.float32))
        return y.astype(x.dtype)


class AffineEmbedding(nn.QuantizedEmbedding):  # type: ignore[misc]
    """nn.QuantizedEmbedding, in float32."""

    def __call__(self, tokens: mx.array) -> mx.array:
        """Ids [...] → vectors [..., dims]."""
        rows: mx.array = super().__call__(tokens)
        return rows.astype(self.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., dims] → scores [..., num_embeddings], for heads that are tied to it."""
        y: mx.array = super().as_linear(x.astype(mx.float32))
        return y.astype(x.dtype)


class _SwitchLinear(QuantizedSwitchLinear):  # type: ignore[misc]
    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y: mx.array = super().__call__(x.astype(mx.float32), indices, sorted_indices)
        return y.astype(x.dtype)


_KINDS: dict[type, type] = {
    nn.QuantizedLinear: AffineLinear,
    nn.QuantizedEmbedding: AffineEmbedding,
    QuantizedSwitchLinear: _SwitchLinear,
}
