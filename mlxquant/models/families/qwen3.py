"""Qwen 3: norms on each head of q and k, a head size of its own."""

from __future__ import annotations

from .base import Family, rule
from .common import (
    BLOCK,
    ENDS,
    LAYER,
    NORMS,
    SILU,
    FullAttention,
    attention,
    mlp,
    numbers,
)
from .rope import Rope
from .settings import Fixed, HeadSize, Tied

HEAD_NORMS = (
    rule(f"{LAYER}.self_attn.q_norm.weight", f"{BLOCK}.attn_q_norm.weight"),
    rule(f"{LAYER}.self_attn.k_norm.weight", f"{BLOCK}.attn_k_norm.weight"),
)

QWEN3 = Family(
    model_types=("qwen3",),
    architecture="qwen3",
    settings=(
        *numbers(),
        HeadSize(),
        Rope(theta=None),
        Tied(False),
        FullAttention(),
        Fixed("attention_bias", False, quiet=True),
        SILU,
    ),
    rules=(*ENDS, *NORMS, *HEAD_NORMS, *attention(), *mlp()),
)
