"""A loaded model with one of its weights replaced by other numbers, for as long as it is needed.

The numbers are float32, whatever the model computes in, so that a weight of 8 bits is what its
scales and codes say and not what 16 bits leave of it. The layer multiplies in float32 and rounds
its result to the element type that it got.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..run.linear import PackedEmbedding, PackedLinear, PackedSwitchLinear

__all__ = ["can_replace", "replaced"]

_LINEAR = (nn.Linear, nn.QuantizedLinear, PackedLinear)
_EMBEDDING = (nn.Embedding, nn.QuantizedEmbedding, PackedEmbedding)
_SWITCH = (SwitchLinear, QuantizedSwitchLinear, PackedSwitchLinear)


def can_replace(model: Any, name: str) -> bool:
    """Whether a parameter can have other numbers: not if its layer is packed and of a rare kind."""
    path, _, last = name.rpartition(".")
    layer = _at(model, path)
    return not hasattr(layer, "bits") or (
        last == "weight" and isinstance(layer, (*_LINEAR, *_EMBEDDING, *_SWITCH))
    )


@contextmanager
def replaced(model: Any, name: str, values: mx.array) -> Iterator[None]:
    """Within, the parameter of that name has these values.

    Args:
        model: an mlx.nn.Module.
        name: of a parameter; of a packed weight, `<module>.weight`.
        values: float32, of the weight's shape, unpacked.
    """
    path, _, last = name.rpartition(".")
    layer = _at(model, path)
    made = _layer(layer, values) if last == "weight" else None
    if made is not None:
        model.update_modules(tree_unflatten([(path, made)]))
        try:
            yield
        finally:
            model.update_modules(tree_unflatten([(path, layer)]))
        return
    before = dict(tree_flatten(layer.parameters()))[last]
    model.load_weights([(name, values.astype(before.dtype))], strict=False)
    try:
        yield
    finally:
        model.load_weights([(name, before)], strict=False)


def _at(model: Any, path: str) -> Any:
    """The module at a dotted path."""
    for part in path.split(".") if path else ():
        model = model[int(part)] if part.isdigit() else model[part]
    return model


def _layer(layer: Any, values: mx.array) -> Any:
    """A layer that does with these values what `layer` does with its own; None for rare kinds."""
    if _is(layer, _LINEAR):
        return _Linear(values, layer.get("bias"))
    if _is(layer, _EMBEDDING):
        return _Embedding(values, layer(mx.array([0])).dtype)
    return _SwitchLinear(values, layer.get("bias")) if _is(layer, _SWITCH) else None


def _is(layer: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a layer is of one of these kinds; of plain ones no sub-class, which may do more."""
    return type(layer) is kinds[0] or isinstance(layer, kinds[1:])


class _Linear(nn.Module):  # type: ignore[misc]
    def __init__(self, weight: mx.array, bias: mx.array | None) -> None:
        super().__init__()
        self.weight = weight
        if bias is not None:
            self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = x.astype(mx.float32) @ self.weight.T
        if "bias" in self:
            y = y + self.bias
        return y.astype(x.dtype)


class _Embedding(nn.Module):  # type: ignore[misc]
    def __init__(self, weight: mx.array, dtype: mx.Dtype) -> None:
        super().__init__()
        self.weight = weight
        self.dtype = dtype

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.weight[tokens].astype(self.dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        y: mx.array = x.astype(mx.float32) @ self.weight.T
        return y.astype(x.dtype)


class _SwitchLinear(nn.Module):  # type: ignore[misc]
    def __init__(self, weight: mx.array, bias: mx.array | None) -> None:
        super().__init__()
        self.weight = weight
        if bias is not None:
            self.bias = bias

    @property
    def num_experts(self) -> int:
        return int(self.weight.shape[0])

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y = mx.gather_mm(
            x.astype(mx.float32),
            self.weight.swapaxes(-1, -2),
            rhs_indices=indices,
            sorted_indices=sorted_indices,
        )
        if "bias" in self:
            y = y + mx.expand_dims(self.bias[indices], -2)
        return y.astype(x.dtype)
