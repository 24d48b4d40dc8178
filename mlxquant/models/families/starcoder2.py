"""StarCoder 2: layer norms, biases everywhere, an MLP of two matrices."""

from __future__ import annotations

from .base import Family, linear, rule
from .common import BLOCK, LAYER, attention
from .rope import Rope
from .settings import Count, Fixed, HeadSize, Real, SlidingWindow, Tied, Vocabulary

STARCODER2 = Family(
    model_types=("starcoder2",),
    architecture="starcoder2",
    settings=(
        Count("num_hidden_layers", "block_count"),
        Count("max_position_embeddings", "context_length", 4096),
        Count("hidden_size", "embedding_length"),
        Count("intermediate_size", "feed_forward_length"),
        Count("num_attention_heads", "attention.head_count"),
        Count("num_key_value_heads", "attention.head_count_kv"),
        Real("norm_epsilon", "attention.layer_norm_epsilon", 1e-5),
        Vocabulary(),
        HeadSize(key=False),
        Rope(theta=100000.0, kinds=frozenset()),
        SlidingWindow(),
        Tied(True),
        Fixed("use_bias", True),
        Fixed("hidden_act", "gelu_pytorch_tanh"),
    ),
    rules=(
        rule("model.embed_tokens.weight", "token_embd.weight"),
        *linear("model.norm", "output_norm"),
        rule("lm_head.weight", "output.weight", needed=False),
        *linear(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm"),
        *linear(f"{LAYER}.post_attention_layernorm", f"{BLOCK}.ffn_norm"),
        *attention(),
        *linear(f"{LAYER}.mlp.c_fc", f"{BLOCK}.ffn_up"),
        *linear(f"{LAYER}.mlp.c_proj", f"{BLOCK}.ffn_down"),
    ),
)
