"""From a checkpoint that holds ggml blocks to a model that runs, without a second copy on disk.

mlx-lm's model class makes the model; then every weight finds its place:

    blocks that an MLX format holds bit for bit    MLX's own quantized layer   (formats/repack.py)
    other blocks, and on a processor that has      a Packed layer              (run/linear.py)
    a kernel for them all blocks
    weights that MLX has quantized                 as they are
    blocks in layers of other kinds, all else      floats

Floats are cast to the model's element type, but for those that the architecture keeps. Weights are
read one after the other, so that loading takes the model's memory and one tensor more.

On a processor MLX multiplies its own formats one row of x at a time, slower than the kernels for
blocks by an order of magnitude (benchmarks/decode_cpu.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import SwitchLinear

from ..formats.base import Array
from ..formats.mlx_format import MlxFormat
from ..formats.repack import held_by_mlx, mlx_format_of, to_mlx
from ..kernels import backend
from ..load.blocks import decoder
from ..load.checkpoint import Checkpoint, carrier_of
from ..load.lazy import Node
from ..load.operations import cast, to_mx
from ..models.mlx_lm import SourceModel, resolve_model
from .affine import in_float32
from .linear import PackedEmbedding, PackedLinear, PackedSwitchLinear

__all__ = ["build_model"]

#: element types that a model can run in → safetensors' names
_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}

#: bytes of a tensor that are read, cast or repacked at a time
_PIECE = 64 << 20

_PACKABLE = (nn.Linear, nn.Embedding, SwitchLinear)


def build_model(checkpoint: Checkpoint, dtype: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The model, its weights in memory, and its config.

    Args:
        dtype: `float16`, `bfloat16` or `float32`; None for what the config says.

    Raises:
        ModelError: an architecture that mlx-lm does not know, or weights that do not fit it.
        FileFormatError: a file changed since it was opened.
    """
    source = resolve_model(checkpoint)
    _Builder(source, _DTYPES[dtype or _own_dtype(source.config)]).fill()
    return source.model, source.config


def _own_dtype(config: Mapping[str, Any]) -> str:
    """The element type that a config names; bfloat16 where it names none of _DTYPES."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if part.get(key) in _DTYPES:
                return str(part[key])
    return "bfloat16"


class _Builder:
    """Gives a model its weights.

    Attributes:
        source: the model, lazy, and the nodes of its parameters.
        dtype: safetensors' name of the element type that it runs in.
    """

    def __init__(self, source: SourceModel, dtype: str) -> None:
        self.source, self.dtype = source, dtype
        self.mx_dtype: mx.Dtype = to_mx(np.zeros(0, carrier_of(dtype)), dtype).dtype
        leaves = tree_flatten(source.model.leaf_modules(), is_leaf=nn.Module.is_module)
        self.layers: dict[str, Any] = dict(leaves)

    def fill(self) -> None:
        """Replace layers, and set and evaluate every parameter."""
        model, done = self.source.model, set()
        for name, node in self.source.blocks.items():
            path, _, last = name.rpartition(".")
            layer = self.layers.get(path)
            if last == "weight" and type(layer) in _PACKABLE:
                made = self._in_mlx(layer, node) or self._packed(layer, node)
                model.update_modules(tree_unflatten([(path, made)]))
                done.add(name)
        for name, node in self.source.parameters.items():
            if name not in done:
                array = self._floats(name, node)
                mx.eval(array)
                model.load_weights([(name, array)], strict=False)

    def _packed(self, layer: Any, node: Node) -> Any:
        """The layer that decodes the blocks as it goes."""
        weight, fmt = to_mx(_read(node, node.dtype), "U8"), decoder(node.dtype)
        mx.eval(weight)
        if isinstance(layer, nn.Embedding):
            return PackedEmbedding(weight, fmt, self.mx_dtype)
        kind = PackedLinear if isinstance(layer, nn.Linear) else PackedSwitchLinear
        return kind(weight, fmt, layer.get("bias"))

    def _in_mlx(self, layer: Any, node: Node) -> Any | None:
        """MLX's own layer with the same codes and scales, if there is one."""
        target = mlx_format_of(node.dtype)
        if target is None or backend("matmul", decoder(node.dtype)).name == "cpu":
            return None
        parts = _repacked(node, target)
        if parts is None:
            return None
        made = layer.to_quantized(**target.mlx_config())
        for part, values in zip(target.parts, parts, strict=True):
            setattr(made, part.suffix, mx.array(values))
        if target.mode == "affine" or isinstance(layer, nn.Embedding):
            in_float32(made, self.mx_dtype)
        mx.eval([made[part.suffix] for part in target.parts])
        return made

    def _floats(self, name: str, node: Node) -> mx.array:
        """A parameter that is no block: cast, if it is a float that may be."""
        path, _, last = name.rpartition(".")
        dtype = node.dtype
        if dtype in _DTYPES.values() and name not in self.source.uncast:
            dtype = self.dtype
            layer = self.layers.get(path)
            if last in ("scales", "biases") and hasattr(layer, "bits") and node.dtype != dtype:
                dtype = "F32"
                in_float32(layer, self.mx_dtype)
        array: mx.array = to_mx(_read(node, dtype), dtype)
        return array


def _pieces(node: Node) -> Iterator[tuple[int, int]]:
    """(first, last) of rows, _PIECE bytes at a time."""
    rows = math.prod(node.shape[:-1])
    step = max(1, _PIECE * rows // max(1, node.nbytes))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _read(node: Node, dtype: str) -> Array:
    """All of a node as another element type, in its carrier."""
    width = node.shape[-1] if node.shape else 1
    out = np.empty((math.prod(node.shape[:-1]), width), carrier_of(dtype))
    for first, last in _pieces(node):
        out[first:last] = cast(node.rows(first, last), node.dtype, dtype)
    return out.reshape(node.shape)


def _repacked(node: Node, target: MlxFormat) -> list[Array] | None:
    """A tensor of blocks as the parts of an MLX format, scales in float32 where they are floats.

    None if the format does not hold it: a scale in it means something else there, or overflows.
    """
    found: list[Array] = []
    rows = math.prod(node.shape[:-1])
    for first, last in _pieces(node):
        wire = node.rows(first, last)
        if not held_by_mlx(node.dtype, wire):
            return None
        parts = to_mlx(node.dtype, wire)
        if not found:
            kinds = [np.float32 if p.dtype == np.float16 else p.dtype for p in parts]
            found = [
                np.empty((rows, p.shape[1]), kind) for p, kind in zip(parts, kinds, strict=True)
            ]
        for whole, part in zip(found, parts, strict=True):
            whole[first:last] = part
    return [whole.reshape(*node.shape[:-1], -1) for whole in found]
