"""What running a model takes in memory, and what a token reads of it, from headers alone.

    weights   exactly what `mlxquant quantize` would write: its own plan, its formats' block sizes
    cache     what mlx-lm's caches hold at the context (kv_cache.py)
    working   the largest part of a prompt on its way through the layers, and caches that grow

MLX frees a result when the work that reads it is done, and hands out work ahead of time, so the
results of some layers are alive together. How many was measured: on Apple's GPUs by mlx-lm's
authors and users (docs/recommend.md names them), on CPUs by tests/measure/test_memory_model.py,
which also says how far off this is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .. import formats
from ..models.header_model import text_settings
from ..models.quirks import quirks_of
from ..models.roles import layer_of, role_of
from ..models.source_model import SourceModel
from ..quantize.policy import Item
from .kv_cache import CacheShape, cache_shape

__all__ = ["PREFILL", "Footprint", "Memory", "Part", "item_bytes"]

#: prompt tokens that mlx-lm sends through the model at a time
PREFILL = 2048

#: how many layers' results are alive together while a prompt is read
_LAYERS_ALIVE = {"gpu": 3.0, "cpu": 1.1}

#: how many arrays of attention scores are, where attention is not one kernel
_SCORES_ALIVE = {"gpu": 2.25, "cpu": 1.0}

#: widths of heads for which MLX's GPU kernels need no array of scores
_FUSED_HEADS = (64, 80, 128)

#: safetensors' element type → bytes
_SIZES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "I16": 2, "U16": 2, "BOOL": 1, "I8": 1}


class Part(NamedTuple):
    """One parameter of a model, a quantized weight with its scales and biases.

    Attributes:
        name: mlx-lm's, or GGUF's.
        shape: of the weights, unpacked.
        bytes: that it takes.
    """

    name: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes."""

    weights: int
    cache: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.working


class Footprint:
    """A model's demands on memory, whatever format its weights get.

    Args:
        source: of `models.header_model`, or of `models.mlx_lm`.

    Attributes:
        cache: the shape of its caches.
        parameters: number of weights.
    """

    def __init__(self, source: SourceModel) -> None:
        self.source = source
        self.cache: CacheShape = cache_shape(source)
        self._settings = text_settings(source.config)

    @cached_property
    def parameters(self) -> int:
        """Number of weights, those that no decode step reads included."""
        modules = self.source.modules
        total = sum(math.prod(module.shape) for module in modules.values())
        for name, node in self.source.parameters.items():
            path, _, last = name.rpartition(".")
            packed = path in modules and modules[path].quantized and last in ("scales", "biases")
            if not packed and not (path in modules and last == "weight"):
                total += node.size
        return total

    def memory(
        self,
        weights: int,
        context: int,
        *,
        itemsize: int = 2,
        kv_bits: int | None = None,
        device: str = "gpu",
        prefill: int = PREFILL,
    ) -> Memory:
        """What a conversation of `context` tokens takes.

        Args:
            weights: bytes of the weights.
            itemsize: bytes of a number of the type that it computes in.
            kv_bits: width of a quantized cache.
            device: `gpu` or `cpu`.
            prefill: prompt tokens in one pass.
        """
        chunk = min(prefill, context)
        working = _LAYERS_ALIVE[device] * self._layer_width * chunk * itemsize
        working += _SCORES_ALIVE[device] * self._scores(context, chunk, itemsize, kv_bits, device)
        working += self.cache.growing(context, itemsize, kv_bits)
        working += self.cache.overhang(context, chunk, itemsize)
        cache = self.cache.bytes(context, itemsize, kv_bits)
        return Memory(weights, cache, math.ceil(working))

    def token_bytes(
        self, parts: Sequence[Part], context: int, itemsize: int, kv_bits: int | None = None
    ) -> int:
        """Bytes that generating one token reads: weights, and the cache at that context.

        Of an embedding that is no output head one row is read, of experts those that the token is
        routed to.

        Args:
            parts: every parameter of the model.
        """
        has_head = any(role_of(part.name) == "head" for part in parts)
        read = 0.0
        for part in parts:
            role, share = role_of(part.name), 1.0
            if role == "embedding" and len(part.shape) == 2 and has_head:
                share = 1 / part.shape[0]
            elif role.startswith("expert.") and len(part.shape) == 3:
                share = min(1.0, self._active / part.shape[0])
            read += part.bytes * share
        return math.ceil(read) + self.cache.read(context, itemsize, kv_bits)

    @cached_property
    def _active(self) -> int:
        """Experts that a token is routed to."""
        from ..inspection.architecture import read_architecture

        return read_architecture(self.source.config).experts_per_token or 1 << 30

    @cached_property
    def _layer_width(self) -> int:
        """Numbers a token that the operations of the widest layer make, all together."""
        hidden = _number(self._settings, "hidden_size", "n_embd", "d_model")
        widths: dict[int, float] = {}
        for path, module in self.source.modules.items():
            layer = layer_of(path)
            if layer is not None:
                widths[layer] = widths.get(layer, 0) + self._module_width(path, module.shape)
        return math.ceil(4 * hidden + max(widths.values(), default=0.0))

    def _module_width(self, path: str, shape: tuple[int, ...]) -> float:
        """Numbers a token that a module makes, and that are made of these before the next one."""
        role = role_of(path)
        rows = shape[-2]
        if role.startswith("expert.") and len(shape) == 3:
            active = min(self._active, shape[0])
            # each expert's input is gathered; outputs are sorted back and weighted
            more = {
                "gate": shape[-1] + rows,
                "up": 0,
                "down": 2 * rows,
                "gate_up": shape[-1] + rows,
            }
            return active * (rows + more.get(role.removeprefix("expert."), 0))
        if len(shape) == 3:  # one matrix a head
            return 2.0 * shape[0] * rows
        if role in ("attention.q", "attention.qkv", "ssm"):  # turned; attention's output, twice
            return 4.0 * rows
        if role in ("attention.k", "mlp.gate", "mlp.gate_up"):
            return (2.0 if role != "mlp.gate_up" else 1.5) * rows
        return float(rows)

    def _scores(
        self, context: int, chunk: int, itemsize: int, kv_bits: int | None, device: str
    ) -> int:
        """Bytes of one layer's attention scores; 0 where they are never an array."""
        if not self.cache.layers:
            return 0
        heads = _number(self._settings, "num_attention_heads", "n_head", "n_heads")
        hidden = _number(self._settings, "hidden_size", "n_embd", "d_model")
        width = _number(self._settings, "head_dim") or hidden // max(1, heads)
        latent = quirks_of(self.source.config).latent or self._settings.get("kv_lora_rank")
        if device == "gpu" and width in _FUSED_HEADS and not latent and kv_bits is None:
            return 0
        keys = max(
            context if each.window is None else min(context, each.window + chunk)
            for each in self.cache.layers
        )
        return heads * chunk * keys * itemsize


def item_bytes(item: Item, source: SourceModel) -> int:
    """Bytes of one parameter in the output, scales and biases included."""
    if item.target is not None:
        return item.size // item.target.block_size * item.target.block_bytes
    module = source.modules.get(item.module or "")
    if module is not None and module.quantized and not item.decoded:
        total = 0
        for suffix in ("weight", "scales", "biases"):
            node = source.parameters.get(f"{module.path}.{suffix}")
            if node is not None:
                floats = node.dtype in ("F32", "F16", "BF16")
                total += node.size * _size(item.dtype if floats else node.dtype)
        return total
    return item.size * _size(item.dtype)


def _size(dtype: str) -> int:
    storage = formats.STORAGE.get(dtype)
    return storage.itemsize if storage is not None else _SIZES[dtype]


def _number(settings: Mapping[str, Any], *keys: str) -> int:
    """The first of these settings that is a count; 0 where none is."""
    for key in keys:
        value = settings.get(key)
        if type(value) is int and value > 0:
            return value
    return 0
