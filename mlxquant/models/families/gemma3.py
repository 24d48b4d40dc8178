"""Gemma 3's text model: a window in all but every sixth layer, which has a rope base of its own.

A model with images is its text model here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Family, rule
from .changes import OnePlus
from .common import BLOCK, LAYER, numbers
from .gemma import GELU, RULES, QueryScale
from .rope import Rope
from .settings import Fixed, HeadSize, Real, Setting, SlidingWindow, Tied
from .sides import Header, Metadata, Settings

_EVERY = 6


@dataclass(frozen=True)
class _Pattern(Setting):
    """Every sixth layer sees everything, or every n-th; `layer_types` says it at more length."""

    def write(self, config: Settings) -> Metadata:
        """`attention.sliding_window_pattern`, where it is not 6."""
        key = "sliding_window_pattern"
        every = config.count(key, config.get(f"_{key}", _EVERY))
        if every < 1:
            raise config.refuse(key, every, "at least 1 expected")
        kinds = config.get("layer_types")
        expected = [
            "sliding_attention" if (n + 1) % every else "full_attention"
            for n in range(config.count("num_hidden_layers"))
        ]
        if kinds is not None and kinds != expected:
            reason = f"every {every}th layer of full attention expected, as {key} says"
            raise config.refuse("layer_types", kinds, reason)
        return {} if every == _EVERY else {f"attention.{key}": every}

    def read(self, header: Header) -> dict[str, Any]:
        """`sliding_window_pattern`."""
        every = header.count("attention.sliding_window_pattern", _EVERY, least=1)
        return {"sliding_window_pattern": every}


#: a model with images says of its text model only what differs from these
_TEXT = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
}

GEMMA3 = Family(
    model_types=("gemma3_text", "gemma3"),
    architecture="gemma3",
    defaults=_TEXT,
    settings=(
        *numbers(context=131072, eps=1e-6),
        HeadSize(),
        Rope(theta=1e6, kinds=frozenset({"linear"})),
        Real("rope_local_base_freq", "rope.freq_base_swa", 10000.0),
        QueryScale(largest=62, default=256.0),
        SlidingWindow(512),
        _Pattern(),
        Tied(True),
        Fixed("attn_logit_softcapping", None, quiet=True),
        Fixed("final_logit_softcapping", None, quiet=True),
        Fixed("attention_bias", False, quiet=True),
        GELU,
    ),
    rules=(
        *RULES,
        rule("lm_head.weight", "output.weight", needed=False),
        rule(f"{LAYER}.self_attn.q_norm.weight", f"{BLOCK}.attn_q_norm.weight", OnePlus()),
        rule(f"{LAYER}.self_attn.k_norm.weight", f"{BLOCK}.attn_k_norm.weight", OnePlus()),
    ),
)
