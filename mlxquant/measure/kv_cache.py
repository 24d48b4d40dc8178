"""How large the caches of a model's layers become, from names, shapes and settings alone.

What attention keeps of a token is what its key and value projections make of it, so the rows of
these say how much: grouped-query attention, wide heads and layers that differ need no rule.

    k_proj [256, 2048], v_proj [256, 2048]       512 numbers a token and layer
    latent attention: kv_a_proj's latent         kv_lora_rank + qk_rope_head_dim numbers
    a sliding window                             no more tokens than the window
    recurrent layers, convolutions               a state of one size, whatever the context

mlx-lm's caches grow by 256 tokens at a time; quantized, they hold codes and a scale and a bias for
each group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.header_model import text_settings
from ..models.quirks import Quirks, quirks_of
from ..models.roles import layer_of, role_of
from ..models.source_model import SourceModel

__all__ = ["KV_GROUP", "CacheShape", "LayerCache", "cache_shape"]

#: tokens by which mlx-lm's caches grow
STEP = 256

#: weights that share a scale in a quantized cache, if nothing else is asked for
KV_GROUP = 64

_CONVOLUTIONS = ("conv", "conv1d", "conv_1d", "short_conv")


@dataclass(frozen=True)
class LayerCache:
    """What the attention of one layer keeps.

    Attributes:
        width: numbers a token.
        window: tokens that it keeps at most; None for all.
    """

    width: int
    window: int | None = None

    def tokens(self, context: int) -> int:
        """Tokens that there is room for when so many were seen."""
        room = -(-context // STEP) * STEP
        return room if self.window is None else min(room, self.window)


@dataclass(frozen=True)
class CacheShape:
    """The caches of a model.

    Attributes:
        layers: of those that attend.
        state: numbers that recurrent layers keep: (of the model's type, float32).
        quantizable: mlx-lm can quantize the cache; groups of 32 if not `groups_of_64`.
        why_not: if it cannot, why.
    """

    layers: tuple[LayerCache, ...]
    state: tuple[int, int] = (0, 0)
    quantizable: bool = True
    groups_of_64: bool = True
    why_not: str = ""

    def bytes(self, context: int, itemsize: int, bits: int | None = None) -> int:
        """Bytes when `context` tokens are in it.

        Args:
            itemsize: bytes of a number of the type that the model computes in.
            bits: width of a quantized cache's codes.
        """
        held = sum(layer.tokens(context) * layer.width for layer in self.layers)
        return math.ceil(held * self._per_number(itemsize, bits)) + self._state(itemsize)

    def read(self, context: int, itemsize: int, bits: int | None = None) -> int:
        """Bytes that the next token reads when `context` tokens are in it."""
        read = sum(
            layer.width * (context if layer.window is None else min(context, layer.window))
            for layer in self.layers
        )
        return math.ceil(read * self._per_number(itemsize, bits)) + self._state(itemsize)

    def overhang(self, context: int, chunk: int, itemsize: int) -> int:
        """Bytes beyond `bytes` while a prompt is read: windows keep the whole of its last part."""
        return itemsize * sum(
            layer.width * max(0, min(context, layer.window + chunk - 1) - layer.tokens(context))
            for layer in self.layers
            if layer.window is not None
        )

    def growing(self, context: int, itemsize: int, bits: int | None = None) -> int:
        """Bytes of the largest layer's cache, of which there are two while it grows."""
        most = max((each.tokens(context) * each.width for each in self.layers), default=0)
        return math.ceil(most * self._per_number(itemsize, bits))

    def _per_number(self, itemsize: int, bits: int | None) -> float:
        """Bytes a number."""
        if bits is None:
            return itemsize
        return bits / 8 + 2 * itemsize / (KV_GROUP if self.groups_of_64 else 32)

    def _state(self, itemsize: int) -> int:
        return self.state[0] * itemsize + self.state[1] * 4


def cache_shape(source: SourceModel) -> CacheShape:
    """The caches that mlx-lm makes for a model, found from names, shapes and settings."""
    settings, quirks = text_settings(source.config), quirks_of(source.config)
    widths = _widths(source, settings, quirks)
    shared = settings.get(quirks.shares) if quirks.shares else 0
    own = max(1, source.layers) - (shared if isinstance(shared, int) else 0)
    windows = _windows(settings, quirks, source.layers)
    layers = tuple(
        LayerCache(width, windows.get(layer))
        for layer, width in sorted(widths.items())
        if layer < own
    )
    heads = {_head_size(settings)}
    why = ""
    if any(layer.window for layer in layers):
        why = "layers with a sliding window cannot have one"
    elif quirks.latent:
        why = "latent attention cannot have one"
    elif not layers:
        why = "no layer has a cache that grows"
    elif any(size % 32 for size in heads):
        why = f"heads of {min(heads)} are no multiple of 32"
    return CacheShape(
        layers, _state(source, settings), not why, all(size % 64 == 0 for size in heads), why
    )


def _widths(source: SourceModel, settings: Mapping[str, Any], quirks: Quirks) -> dict[int, int]:
    """Layer → numbers a token that its attention keeps."""
    rows: dict[int, dict[str, tuple[int, ...]]] = {}
    for path, module in source.modules.items():
        layer, role = layer_of(path), role_of(path)
        if layer is None or "linear_attn" in path or not role.startswith("attention."):
            continue
        leaf = path.rpartition(".")[2]
        if "kv_a" in leaf:
            role = "latent"
        elif "kv_b" in leaf:
            role = "unpacked"
        rows.setdefault(layer, {}).setdefault(role.removeprefix("attention."), module.shape)
    heads = _number(settings, "num_attention_heads", "n_head", "n_heads")
    found = {}
    for layer, shapes in rows.items():
        if quirks.latent and "latent" in shapes:
            width = shapes["latent"][0]
        elif "unpacked" in shapes:  # heads · (keys without position + values), and the position's
            width = shapes["unpacked"][0] + heads * _number(settings, "qk_rope_head_dim")
        elif "k" in shapes:
            width = shapes["k"][0] + shapes.get("v", shapes["k"])[0]
        elif "qkv" in shapes and "out" in shapes:
            width = shapes["qkv"][0] - shapes["out"][-1]
        else:
            continue
        found[layer] = width
    return found


def _windows(settings: Mapping[str, Any], quirks: Quirks, layers: int) -> dict[int, int]:
    """Layer → tokens of its window; layers without one are not there."""
    window = _number(settings, quirks.key)
    if not window or not quirks.windows:
        return {}
    if quirks.windows == "listed":
        kinds = settings.get("layer_types")
        if not isinstance(kinds, list):
            kinds = ["sliding_attention", "full_attention"] * layers if quirks.alternate else []
        return {i: window for i, kind in enumerate(kinds[:layers]) if kind == "sliding_attention"}
    if quirks.windows == "chunks":
        return {i: window + STEP for i in range(layers) if (i + 1) % 4}
    key, usual = quirks.pattern
    pattern = settings.get(key, usual)
    if isinstance(pattern, str) and pattern:
        return {i: window for i in range(layers) if pattern[i % len(pattern)] == "L"}
    if isinstance(pattern, int) and pattern > 0:
        return {i: window for i in range(layers) if i % pattern != pattern - 1}
    return {}


def _state(source: SourceModel, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers that recurrent layers and convolutions keep: of the model's type, and float32."""
    narrow = wide = 0
    for name, node in source.parameters.items():
        path, _, last = name.rpartition(".")
        leaf = path.rpartition(".")[2]
        if last == "weight" and leaf in _CONVOLUTIONS and len(node.shape) == 3:
            channels, length = node.shape[0], max(node.shape[1:])
            narrow += channels * (length - 1)
        elif name.endswith("A_log") and len(node.shape) == 2:  # Mamba: channels, states
            narrow += math.prod(node.shape)
        elif name.endswith("A_log"):
            if "linear_attn" in path:
                keys = ("linear_num_value_heads", "linear_value_head_dim", "linear_key_head_dim")
                wide += math.prod(_number(settings, key) for key in keys)
            else:
                head = _number(settings, "mamba_d_head", "mamba_head_dim")
                states = _number(settings, "mamba_d_state", "ssm_state_size")
                narrow += node.shape[0] * head * states
    return narrow, wide


def _head_size(settings: Mapping[str, Any]) -> int:
    """Numbers of a key of one head."""
    heads = _number(settings, "num_attention_heads", "n_head", "n_heads") or 1
    hidden = _number(settings, "hidden_size", "n_embd", "d_model")
    return _number(settings, "head_dim") or hidden // heads


def _number(settings: Mapping[str, Any], *keys: str) -> int:
    """The first of these settings that is a count; 0 where none is."""
    for key in keys:
        value = settings.get(key)
        if type(value) is int and value > 0:
            return value
    return 0
