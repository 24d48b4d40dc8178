"""Llama, and what shares its layers: Mistral, SmolLM, Yi, xverse, …

GGUF rotates neighbouring rows of q and k, the checkpoint halves of a head: rows are reordered.
llama3's rope scaling is the tensor `rope_freqs.weight`.
"""

from __future__ import annotations

from .base import Family
from .common import ENDS, NORMS, PAIRS, ROPE_HALVES, SILU, FullAttention, attention, mlp, numbers
from .rope import Rope
from .settings import Bias, HeadSize, Tied

LLAMA = Family(
    model_types=("llama", "mistral", "iquestcoder", "xverse"),
    architecture="llama",
    settings=(
        *numbers(context=2048),
        HeadSize(),
        Rope(kinds=frozenset({"linear", "yarn", "llama3"})),
        Tied(True),
        Bias("attention_bias", "blk.0.attn_q.bias"),
        Bias("mlp_bias", "blk.0.ffn_gate.bias"),
        FullAttention(),
        ROPE_HALVES,
        SILU,
    ),
    rules=(*ENDS, *NORMS, *attention(PAIRS), *mlp()),
    chosen=lambda header: header.count("expert_count", 0) == 0,
)
