"""Bytes that one decode step reads: what sets the pace where memory is the limit.

    weights   all of the model's, but
                of an embedding that is no output head, one row a sequence;
                of experts, those that the tokens of the step are routed to
    cache     keys and values of every token before, of every sequence

A step makes one token of each sequence of a batch. Activations, a few kilobytes, stay in the
processor's caches and are left out. The least time of a step is bytes / bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from ..inspection.architecture import read_architecture
from ..models.roles import role_of
from ..run.cache import make_layers
from ..run.linear import PackedEmbedding, PackedSwitchLinear

__all__ = ["CacheBytes", "WeightBytes", "cache_bytes", "distinct_experts", "weight_bytes"]

_EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding, PackedEmbedding)
_SWITCHES = (SwitchLinear, QuantizedSwitchLinear, PackedSwitchLinear)


@dataclass(frozen=True)
class WeightBytes:
    """A model's weights by how a decode step reads them.

    Attributes:
        always: bytes that every step reads.
        row: bytes of the embeddings' rows that one token reads.
        experts: of each stack of experts, (how many, bytes of one).
        active: experts that a token is routed to; 0 in a model without.
    """

    always: int
    row: int
    experts: tuple[tuple[int, int], ...] = ()
    active: int = 0

    def of_step(self, batch: int = 1) -> int:
        """Bytes that a step of so many sequences reads."""
        chosen = sum(
            distinct_experts(count, self.active, batch) * size for count, size in self.experts
        )
        return self.always + batch * self.row + round(chosen)


@dataclass(frozen=True)
class CacheBytes:
    """What one sequence's cache holds.

    Attributes:
        layers: of each layer's keys and values, (bytes a token, most tokens or None).
        state: bytes that do not grow: recurrent layers' states.
    """

    layers: tuple[tuple[int, int | None], ...]
    state: int = 0

    def at(self, tokens: int) -> int:
        """Bytes after so many tokens."""
        held = (
            size * (tokens if most is None else min(tokens, most)) for size, most in self.layers
        )
        return self.state + sum(held)


def distinct_experts(count: int, active: int, tokens: int) -> float:
    """How many of `count` experts are read when each of some tokens is routed to `active` of them.

    For one token that is `active`; for more, the expectation where routing is even and tokens are
    independent: count · (1 - (1 - active / count)^tokens).
    """
    if active >= count:
        return count
    return active if tokens == 1 else count * (1 - (1 - active / count) ** tokens)


def weight_bytes(model: Any, config: Mapping[str, Any]) -> WeightBytes:
    """How the weights of a loaded model are read.

    Args:
        model: mlx-lm's, or one with Packed layers.
        config: its config.json: experts a token, vocabulary, hidden size.
    """
    facts = read_architecture(config)
    modules = dict(tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module))
    always = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    row, experts = 0, []
    embeddings = {name: each for name, each in modules.items() if isinstance(each, _EMBEDDINGS)}
    heads = {name for name in modules if role_of(f"{name}.weight") == "head"}
    tied = None if heads else _tied(embeddings, facts.vocabulary, facts.hidden)
    for name, embedding in embeddings.items():
        if name != tied:
            always -= _nbytes(embedding)
            row += _nbytes(embedding) // embedding.weight.shape[0]
    for each in modules.values():
        if isinstance(each, _SWITCHES):
            size = _nbytes(each)
            always -= size
            experts.append((each.num_experts, size // each.num_experts))
    counts = [count for count, _ in experts]
    active = facts.experts_per_token or max(counts, default=0)
    return WeightBytes(always, row, tuple(experts), active if experts else 0)


def cache_bytes(model: Any) -> CacheBytes:
    """What a cache of this model holds, found out by giving it one token.

    A layer that reads the cache of another layer is not counted a second time.
    """
    layers = make_layers(model)
    mx.eval(model(mx.array([[0]]), cache=layers))
    growing: list[tuple[int, int | None]] = []
    state = 0
    for layer in _flat(layers):
        keys = getattr(layer, "keys", None)
        if keys is None:
            state += sum(a.nbytes for _, a in tree_flatten(layer.state) if isinstance(a, mx.array))
            continue
        # Both are [batch, heads, tokens that there is room for, width].
        size = sum(array.nbytes // array.shape[2] for array in (keys, layer.values))
        most = getattr(layer, "max_size", None) or getattr(layer, "chunk_size", None)
        growing.append((size, most))
    return CacheBytes(tuple(growing), state)


def _flat(layers: Any) -> list[Any]:
    """Caches, those of a CacheList one by one."""
    found: list[Any] = []
    for layer in layers:
        found.extend(_flat(layer.caches) if hasattr(layer, "caches") else [layer])
    return found


def _tied(embeddings: Mapping[str, Any], vocabulary: int | None, hidden: int | None) -> str | None:
    """The embedding that is the output head too: of all tokens, and as wide as the model is."""
    for name, each in embeddings.items():
        rows, width = each.weight.shape[0], _width(each)
        if rows >= (vocabulary or 0) and width == (hidden or width):
            return name
    return next(iter(embeddings), None)


def _width(embedding: Any) -> int:
    """Weights of a row."""
    dims = getattr(embedding, "input_dims", None) or getattr(embedding, "dims", None)
    return int(dims or embedding.weight.shape[1])


def _nbytes(module: Any) -> int:
    return sum(int(array.nbytes) for _, array in tree_flatten(module.parameters()))
