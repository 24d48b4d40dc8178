"""A model in mlx-lm's names, as data: what is planned and written goes by this.

`mlx_lm.py` makes it with mlx-lm's own classes, exact for every architecture that those know;
`header_model.py` from names and shapes alone, without mlx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..load.checkpoint import Checkpoint
from ..load.lazy import Node

__all__ = ["Module", "SourceModel"]


@dataclass(frozen=True)
class Module:
    """A module whose weight is quantized, or could be.

    Attributes:
        path: e.g. `model.layers.0.mlp.up_proj`; its weight is the parameter `<path>.weight`.
        kind: the class, e.g. `Linear`, `Embedding`, `SwitchLinear`.
        shape: of the weight, unpacked.
        quantized: the format that the weight has in the source, or None for a float weight.
        advice: what the architecture's own rule says: True, False (keep it), or the parameters
            `{group_size, bits[, mode]}` that it wants instead of the default.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    quantized: str | None
    advice: bool | Mapping[str, Any]


@dataclass(frozen=True)
class SourceModel:
    """A checkpoint in mlx-lm's names.

    Attributes:
        checkpoint: where it came from.
        config: as mlx-lm reads it (generation_config's end-of-sequence ids included).
        parameters: every parameter as a lazy node, by name, in the model's order.
        blocks: those that are stored as ggml blocks and that `sanitize` left as they are,
            undecoded (see load/blocks.py).
        modules: those that are, or could be, quantized, by path, in the model's order.
        layers: number of decoder layers.
        down_path: path of the first `down_proj` module, which the mixed recipes go by.
        uncast: parameters that keep their element type whatever `dtype` says.
        keeps_vision: the model keeps its vision tower.
        model: mlx-lm's model, quantized where the weights are, its parameters lazy and random.
        stored: element types of parameters whose nodes are float32 only because they are computed.
    """

    checkpoint: Checkpoint
    config: dict[str, Any]
    parameters: dict[str, Node]
    blocks: dict[str, Node]
    modules: dict[str, Module]
    layers: int
    down_path: str | None
    uncast: frozenset[str]
    keeps_vision: bool
    model: Any
    stored: Mapping[str, str] = field(default_factory=dict)
