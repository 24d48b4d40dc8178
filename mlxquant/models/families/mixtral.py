"""Mixtral: GGUF's llama with experts. The router takes the softmax over the experts it chose."""

from __future__ import annotations

from .base import Family, rule
from .common import (
    BLOCK,
    ENDS,
    LAYER,
    NORMS,
    PAIRS,
    ROPE_HALVES,
    SILU,
    FullAttention,
    attention,
    experts,
    numbers,
)
from .rope import Rope
from .settings import Count, HeadSize, Tied

MIXTRAL = Family(
    model_types=("mixtral",),
    architecture="llama",
    settings=(
        *numbers(context=32768),
        HeadSize(key=False),
        Count("num_local_experts", "expert_count"),
        Count("num_experts_per_tok", "expert_used_count"),
        Rope(theta=1e6, kinds=frozenset()),
        Tied(False),
        FullAttention(),
        ROPE_HALVES,
        SILU,
    ),
    rules=(
        *ENDS,
        *NORMS,
        *attention(PAIRS),
        rule(f"{LAYER}.block_sparse_moe.gate.weight", f"{BLOCK}.ffn_gate_inp.weight"),
        *experts("block_sparse_moe", "num_local_experts", parts=("w1", "w3", "w2")),
    ),
    chosen=lambda header: header.count("expert_count", 0) > 0,
)
