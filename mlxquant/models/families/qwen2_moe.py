"""Qwen 1.5 and 2 with experts, and one that is shared behind a gate of its own."""

from __future__ import annotations

from .base import Family, rule
from .changes import Row
from .common import (
    BLOCK,
    ENDS,
    LAYER,
    NORMS,
    ROPE_HALVES,
    SILU,
    FullAttention,
    attention,
    experts,
    mlp,
    numbers,
)
from .rope import Rope
from .settings import Count, Fixed, HeadSize

QWEN2_MOE = Family(
    model_types=("qwen2_moe",),
    architecture="qwen2moe",
    settings=(
        *numbers(context=32768),
        HeadSize(key=False),
        Count("num_experts", "expert_count"),
        Count("num_experts_per_tok", "expert_used_count"),
        Count("moe_intermediate_size", "expert_feed_forward_length"),
        Count("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        Rope(theta=1e6, kinds=frozenset()),
        Fixed("tie_word_embeddings", False),
        Fixed("norm_topk_prob", False),
        Fixed("decoder_sparse_step", 1),
        Fixed("mlp_only_layers", []),
        FullAttention(),
        ROPE_HALVES,
        SILU,
    ),
    rules=(
        *ENDS,
        *NORMS,
        *attention(),
        rule(f"{LAYER}.mlp.gate.weight", f"{BLOCK}.ffn_gate_inp.weight"),
        *experts("mlp", "num_experts"),
        rule(f"{LAYER}.mlp.shared_expert_gate.weight", f"{BLOCK}.ffn_gate_inp_shexp.weight", Row()),
        *mlp(hf="mlp.shared_expert", gguf="_shexp"),
    ),
)
