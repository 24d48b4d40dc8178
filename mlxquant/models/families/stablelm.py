"""StableLM 2: layer norms with biases, a quarter of each head rotates.

With a parallel residual there is one norm a layer. Norms on the heads of q and k are a vector for
each head in mlx-lm and Hugging Face, and one matrix in GGUF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Family, linear, rule
from .changes import Stack
from .common import BLOCK, LAYER, SILU, attention, mlp
from .rope import Rope
from .settings import Bias, Count, Fixed, HeadSize, Real, Setting, Vocabulary
from .sides import Header, Metadata, Settings


@dataclass(frozen=True)
class _Parallel(Setting):
    """Attention and MLP beside each other; llama.cpp sees it by the missing second norm."""

    def write(self, config: Settings) -> Metadata:
        """`use_parallel_residual`."""
        return {"use_parallel_residual": bool(config.get("use_parallel_residual", False))}

    def read(self, header: Header) -> dict[str, Any]:
        """`use_parallel_residual`, as llama.cpp does."""
        header.get("use_parallel_residual")
        return {"use_parallel_residual": "blk.0.ffn_norm.weight" not in header.tensors}


STABLELM = Family(
    model_types=("stablelm",),
    architecture="stablelm",
    settings=(
        Count("num_hidden_layers", "block_count"),
        Count("max_position_embeddings", "context_length", 4096),
        Count("hidden_size", "embedding_length"),
        Count("intermediate_size", "feed_forward_length"),
        Count("num_attention_heads", "attention.head_count"),
        Count("num_key_value_heads", "attention.head_count_kv"),
        Real("layer_norm_eps", "attention.layer_norm_epsilon"),
        Vocabulary(),
        HeadSize(key=False, partial=0.25),
        Rope(theta=None, kinds=frozenset()),
        _Parallel(),
        Bias("use_qkv_bias", "blk.0.attn_q.bias"),
        Bias("qk_layernorm", "blk.0.attn_q_norm.weight"),
        Fixed("tie_word_embeddings", False),
        SILU,
    ),
    rules=(
        rule("model.embed_tokens.weight", "token_embd.weight"),
        *linear("model.norm", "output_norm"),
        rule("lm_head.weight", "output.weight", needed=False),
        *linear(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm"),
        rule(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.ffn_norm.weight", needed=False),
        rule(f"{LAYER}.post_attention_layernorm.bias", f"{BLOCK}.ffn_norm.bias", needed=False),
        *attention(),
        rule(
            f"{LAYER}.self_attn.q_layernorm.norms.{{e}}.weight",
            f"{BLOCK}.attn_q_norm.weight",
            Stack(),
            needed=False,
            count="num_attention_heads",
        ),
        rule(
            f"{LAYER}.self_attn.k_layernorm.norms.{{e}}.weight",
            f"{BLOCK}.attn_k_norm.weight",
            Stack(),
            needed=False,
            count="num_key_value_heads",
        ),
        *mlp(),
    ),
)
