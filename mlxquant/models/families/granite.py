"""Granite 3: Llama's layers, with the scales of its embedding, scores, residuals and logits."""

from __future__ import annotations

from .base import Family
from .common import ENDS, NORMS, PAIRS, SILU, FullAttention, attention, mlp, numbers
from .rope import Rope
from .settings import Bias, HeadSize, Real, Tied

GRANITE = Family(
    model_types=("granite",),
    architecture="granite",
    settings=(
        *numbers(),
        HeadSize(key=False),
        Rope(theta=None, kinds=frozenset({"linear", "yarn"})),
        Real("logits_scaling", "logit_scale"),
        Real("attention_multiplier", "attention.scale"),
        Real("embedding_multiplier", "embedding_scale"),
        Real("residual_multiplier", "residual_scale"),
        Tied(True),
        Bias("attention_bias", "blk.0.attn_q.bias"),
        Bias("mlp_bias", "blk.0.ffn_gate.bias"),
        FullAttention(),
        SILU,
    ),
    rules=(*ENDS, *NORMS, *attention(PAIRS), *mlp()),
)
