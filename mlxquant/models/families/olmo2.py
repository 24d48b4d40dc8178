"""OLMo 2: norms after attention and the MLP, and on all of q and k at once."""

from __future__ import annotations

from .base import Family, rule
from .common import BLOCK, ENDS, LAYER, ROPE_HALVES, SILU, FullAttention, attention, mlp, numbers
from .qwen3 import HEAD_NORMS
from .rope import Rope
from .settings import Fixed, HeadSize

OLMO2 = Family(
    model_types=("olmo2",),
    architecture="olmo2",
    settings=(
        *numbers(context=4096),
        HeadSize(key=False),
        Rope(),
        Fixed("tie_word_embeddings", False, missing=False),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False, quiet=True),
        FullAttention(windows=True),
        ROPE_HALVES,
        SILU,
    ),
    rules=(
        *ENDS,
        rule(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.post_attention_norm.weight"),
        rule(f"{LAYER}.post_feedforward_layernorm.weight", f"{BLOCK}.post_ffw_norm.weight"),
        *HEAD_NORMS,
        *attention(),
        *mlp(),
    ),
)
