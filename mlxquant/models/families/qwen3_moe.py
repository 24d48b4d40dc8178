"""Qwen 3 with experts in every layer; the weights of those chosen are made to sum to one."""

from __future__ import annotations

from .base import Family, rule
from .common import BLOCK, ENDS, LAYER, NORMS, SILU, FullAttention, attention, experts, numbers
from .qwen3 import HEAD_NORMS
from .rope import Rope
from .settings import Count, Fixed, HeadSize, Tied

QWEN3_MOE = Family(
    model_types=("qwen3_moe",),
    architecture="qwen3moe",
    settings=(
        *numbers(),
        HeadSize(),
        Count("num_experts", "expert_count"),
        Count("num_experts_per_tok", "expert_used_count"),
        Count("moe_intermediate_size", "expert_feed_forward_length"),
        Rope(theta=None, kinds=frozenset()),
        Tied(False),
        Fixed("norm_topk_prob", True, missing=False),
        Fixed("decoder_sparse_step", 1),
        Fixed("mlp_only_layers", []),
        FullAttention(),
        Fixed("attention_bias", False, quiet=True),
        SILU,
    ),
    rules=(
        *ENDS,
        *NORMS,
        *HEAD_NORMS,
        *attention(),
        rule(f"{LAYER}.mlp.gate.weight", f"{BLOCK}.ffn_gate_inp.weight"),
        *experts("mlp", "num_experts"),
    ),
)
