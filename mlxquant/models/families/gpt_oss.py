"""gpt-oss: experts with biases, attention sinks, a window in every second layer.

Its fused and packed experts are taken apart by mlx-lm's `sanitize`; the names here are those after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Family, linear, rule
from .common import BLOCK, ENDS, LAYER, SILU, attention, numbers
from .rope import Rope
from .settings import Count, Derived, Fixed, HeadSize, Setting, SlidingWindow
from .sides import Header, Metadata, Settings


@dataclass(frozen=True)
class _Alternating(Setting):
    """Windowed and full attention in turn, beginning with a window."""

    def write(self, config: Settings) -> Metadata:
        """Nothing; `layer_types` is checked."""
        expected = _kinds(config.count("num_hidden_layers"))
        if config.get("layer_types", expected) != expected:
            reason = "a GGUF file of this architecture means a window in every other layer"
            raise config.refuse("layer_types", config.get("layer_types"), reason)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """`layer_types`."""
        return {"layer_types": _kinds(header.count("block_count"))}


def _kinds(layers: int) -> list[str]:
    return [("sliding_attention", "full_attention")[n % 2] for n in range(layers)]


GPT_OSS = Family(
    model_types=("gpt_oss",),
    architecture="gpt-oss",
    settings=(
        *numbers(context=131072, eps=1e-5),
        HeadSize(),
        Count("num_local_experts", "expert_count"),
        Count("num_experts_per_tok", "expert_used_count"),
        Derived("expert_feed_forward_length", lambda config: config.count("intermediate_size")),
        Rope(theta=150000.0, kinds=frozenset({"yarn"})),
        SlidingWindow(128),
        _Alternating(),
        Fixed("tie_word_embeddings", False),
        Fixed("attention_bias", True),
        Fixed("swiglu_limit", 7.0),
        SILU,
    ),
    rules=(
        *ENDS,
        rule(f"{LAYER}.input_layernorm.weight", f"{BLOCK}.attn_norm.weight"),
        rule(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.post_attention_norm.weight"),
        *attention(),
        rule(f"{LAYER}.self_attn.sinks", f"{BLOCK}.attn_sinks.weight"),
        *linear(f"{LAYER}.mlp.router", f"{BLOCK}.ffn_gate_inp"),
        *linear(f"{LAYER}.mlp.experts.gate_proj", f"{BLOCK}.ffn_gate_exps"),
        *linear(f"{LAYER}.mlp.experts.up_proj", f"{BLOCK}.ffn_up_exps"),
        *linear(f"{LAYER}.mlp.experts.down_proj", f"{BLOCK}.ffn_down_exps"),
    ),
)
