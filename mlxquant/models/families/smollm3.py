"""SmolLM 3: Llama's layers, of which every fourth has no rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Family
from .common import ENDS, NORMS, PAIRS, ROPE_HALVES, SILU, FullAttention, attention, mlp, numbers
from .rope import Rope
from .settings import Fixed, HeadSize, Setting, Tied
from .sides import Header, Metadata, Settings

_EVERY = 4


@dataclass(frozen=True)
class _WithoutRotation(Setting):
    """llama.cpp knows by itself which layers do not rotate."""

    def write(self, config: Settings) -> Metadata:
        """Nothing; the pattern is checked."""
        every = config.get("no_rope_layer_interval", _EVERY)
        expected = [int((n + 1) % _EVERY != 0) for n in range(config.count("num_hidden_layers"))]
        found = config.get("no_rope_layers")
        reason = f"a GGUF file of this architecture means every {_EVERY}th layer"
        if found is None and every != _EVERY:
            raise config.refuse("no_rope_layer_interval", every, reason)
        if found is not None and found != expected:
            raise config.refuse("no_rope_layers", found, reason)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """`no_rope_layer_interval`."""
        return {"no_rope_layer_interval": _EVERY}


SMOLLM3 = Family(
    model_types=("smollm3",),
    architecture="smollm3",
    settings=(
        *numbers(context=32768),
        HeadSize(),
        Rope(),
        Tied(True),
        _WithoutRotation(),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
        FullAttention(),
        ROPE_HALVES,
        SILU,
    ),
    rules=(*ENDS, *NORMS, *attention(PAIRS), *mlp()),
)
