"""Gemma 2: soft caps on scores and logits, a window in every second layer."""

from __future__ import annotations

from .base import Family
from .common import ROPE_HALVES, numbers
from .gemma import GELU, RULES, QueryScale
from .rope import Rope
from .settings import Fixed, HeadSize, Real, SlidingWindow

GEMMA2 = Family(
    model_types=("gemma2",),
    architecture="gemma2",
    settings=(
        *numbers(context=8192),
        HeadSize(),
        Rope(kinds=frozenset()),
        Real("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        Real("final_logit_softcapping", "final_logit_softcapping", 30.0),
        QueryScale(largest=46, default=144.0),
        SlidingWindow(4096),
        Fixed("tie_word_embeddings", True),
        Fixed("attention_bias", False, quiet=True),
        GELU,
        ROPE_HALVES,
    ),
    rules=RULES,
)
