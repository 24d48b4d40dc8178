"""Phi 3, 3.5 and 4: q, k and v in one matrix, gate and up in another, on both sides."""

from __future__ import annotations

from .base import Family, rule
from .common import BLOCK, ENDS, LAYER, NORMS, ROPE_HALVES, SILU, numbers
from .rope import LongRope
from .settings import Fixed, HeadSize, SlidingWindow, Tied

PHI3 = Family(
    model_types=("phi3",),
    architecture="phi3",
    settings=(
        *numbers(context=131072),
        HeadSize(key=False, partial=1.0),
        LongRope(),
        SlidingWindow(),
        Tied(False),
        Fixed("attention_bias", False, quiet=True),
        ROPE_HALVES,
        SILU,
    ),
    rules=(
        *ENDS,
        *NORMS,
        rule(f"{LAYER}.self_attn.qkv_proj.weight", f"{BLOCK}.attn_qkv.weight"),
        rule(f"{LAYER}.self_attn.o_proj.weight", f"{BLOCK}.attn_output.weight"),
        rule(f"{LAYER}.mlp.gate_up_proj.weight", f"{BLOCK}.ffn_up.weight"),
        rule(f"{LAYER}.mlp.down_proj.weight", f"{BLOCK}.ffn_down.weight"),
    ),
)
