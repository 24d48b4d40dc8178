"""GLM 4 (0414): norms before and after, a part of each head rotates, gate and up in one matrix.

Neighbours rotate together on both sides.
"""

from __future__ import annotations

from .base import Family, rule
from .common import BLOCK, ENDS, LAYER, SILU, FullAttention, attention, numbers
from .rope import Rope
from .settings import Bias, Fixed, HeadSize

GLM4 = Family(
    model_types=("glm4",),
    architecture="glm4",
    settings=(
        *numbers(context=32768),
        HeadSize(partial=1.0),
        Rope(theta=None, kinds=frozenset()),
        Bias("attention_bias", "blk.0.attn_q.bias"),
        Fixed("tie_word_embeddings", False),
        Fixed("rope_traditional", True, quiet=True),
        FullAttention(),
        SILU,
    ),
    rules=(
        *ENDS,
        rule(f"{LAYER}.input_layernorm.weight", f"{BLOCK}.attn_norm.weight"),
        rule(f"{LAYER}.post_self_attn_layernorm.weight", f"{BLOCK}.post_attention_norm.weight"),
        rule(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.ffn_norm.weight"),
        rule(f"{LAYER}.post_mlp_layernorm.weight", f"{BLOCK}.post_ffw_norm.weight"),
        *attention(),
        rule(f"{LAYER}.mlp.gate_up_proj.weight", f"{BLOCK}.ffn_up.weight"),
        rule(f"{LAYER}.mlp.down_proj.weight", f"{BLOCK}.ffn_down.weight"),
    ),
)
