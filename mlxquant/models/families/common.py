"""What most families share: the numbers every architecture has, and the usual names of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Rule, linear, rule
from .changes import SAME, Change, Joined, RopePairs, Stack
from .settings import Count, Fixed, Real, Setting, Vocabulary
from .sides import Header, Metadata, Settings

__all__ = [
    "ENDS",
    "FullAttention",
    "NORMS",
    "PAIRS",
    "attention",
    "experts",
    "mlp",
    "numbers",
]

LAYER, BLOCK = "model.layers.{n}", "blk.{n}"

#: the changes of q and k where GGUF rotates neighbours
PAIRS: tuple[Change, Change] = (RopePairs("num_attention_heads"), RopePairs("num_key_value_heads"))

#: the embedding, the last norm, and the head where it is a matrix of its own
ENDS = (
    rule("model.embed_tokens.weight", "token_embd.weight"),
    rule("model.norm.weight", "output_norm.weight"),
    rule("lm_head.weight", "output.weight", needed=False),
)

#: a norm before attention and one before the MLP
NORMS = (
    rule(f"{LAYER}.input_layernorm.weight", f"{BLOCK}.attn_norm.weight"),
    rule(f"{LAYER}.post_attention_layernorm.weight", f"{BLOCK}.ffn_norm.weight"),
)


def numbers(
    *, context: int | None = None, hidden: bool = True, eps: float | None = None
) -> tuple[Setting, ...]:
    """Sizes, and the RMS norms' epsilon.

    Args:
        context: `max_position_embeddings` where config.json has none.
        hidden: whether there is an MLP of `intermediate_size`.
        eps: of the norms where config.json has none.
    """
    sizes: tuple[Setting, ...] = (
        Count("num_hidden_layers", "block_count"),
        Count("max_position_embeddings", "context_length", context),
        Count("hidden_size", "embedding_length"),
        Count("num_attention_heads", "attention.head_count"),
        Count("num_key_value_heads", "attention.head_count_kv", "num_attention_heads"),
        Real("rms_norm_eps", "attention.layer_norm_rms_epsilon", eps),
        Vocabulary(),
    )
    if hidden:
        sizes += (Count("intermediate_size", "feed_forward_length"),)
    return sizes


def attention(changes: tuple[Change, Change] = (SAME, SAME)) -> tuple[Rule, ...]:
    """Four matrices, with biases where the model has them; `changes` are those of q and k."""
    q, k = changes
    return (
        *linear(f"{LAYER}.self_attn.q_proj", f"{BLOCK}.attn_q", q),
        *linear(f"{LAYER}.self_attn.k_proj", f"{BLOCK}.attn_k", k),
        *linear(f"{LAYER}.self_attn.v_proj", f"{BLOCK}.attn_v"),
        *linear(f"{LAYER}.self_attn.o_proj", f"{BLOCK}.attn_output"),
        # Some files have the three in one.
        *(
            Rule(
                tuple(f"{LAYER}.self_attn.{part}_proj.{last}" for part in "qkv"),
                (f"{BLOCK}.attn_qkv.{last}",),
                Joined((q, k, SAME), ("num_attention_heads", *["num_key_value_heads"] * 2)),
                needed=False,
            )
            for last in ("weight", "bias")
        ),
    )


def mlp(*, needed: bool = True, hf: str = "mlp", gguf: str = "") -> tuple[Rule, ...]:
    """Gate, up and down; `gguf` ends their names in GGUF, e.g. `_shexp`."""
    return tuple(
        each
        for part in ("gate", "up", "down")
        for each in (
            rule(
                f"{LAYER}.{hf}.{part}_proj.weight",
                f"{BLOCK}.ffn_{part}{gguf}.weight",
                needed=needed,
            ),
            rule(f"{LAYER}.{hf}.{part}_proj.bias", f"{BLOCK}.ffn_{part}{gguf}.bias", needed=False),
        )
    )


def experts(
    block: str,
    count: str,
    *,
    needed: bool = True,
    parts: tuple[str, str, str] | None = None,
) -> tuple[Rule, ...]:
    """Experts stacked as mlx-lm has them, or apart as Hugging Face does.

    Args:
        block: the module that holds them, e.g. `mlp`.
        count: config.json's key of their number.
        parts: Hugging Face's names of gate, up and down, where they are not `gate_proj`, ….
    """
    names = ("gate", "up", "down")
    apart = parts or tuple(f"{name}_proj" for name in names)
    stacked = tuple(
        rule(
            f"{LAYER}.{block}.switch_mlp.{name}_proj.weight",
            f"{BLOCK}.ffn_{name}_exps.weight",
            needed=needed,
        )
        for name in names
    )
    joined = Rule(
        (stacked[0].hf[0], stacked[1].hf[0]),
        (f"{BLOCK}.ffn_gate_up_exps.weight",),
        Joined((SAME, SAME), axis=1),
        needed=False,
    )
    return (*stacked, joined) + tuple(
        rule(
            f"{LAYER}.{block}.experts.{{e}}.{other}.weight",
            f"{BLOCK}.ffn_{name}_exps.weight",
            Stack(),
            needed=False,
            count=count,
        )
        for name, other in zip(names, apart, strict=True)
    )


#: neighbours do not rotate together in a checkpoint
ROPE_HALVES = Fixed("rope_traditional", False, quiet=True)
SILU = Fixed("hidden_act", "silu", also=("swish",))


@dataclass(frozen=True)
class FullAttention(Setting):
    """Every layer sees everything: `layer_types` may say so, and a window may not be used.

    Args:
        windows: the architecture has windows in llama.cpp, so that a file with one is refused;
            otherwise llama.cpp does not look at the key.
    """

    windows: bool = False

    def write(self, config: Settings) -> Metadata:
        """Nothing; a layer with a window is refused."""
        kinds = config.get("layer_types") or []
        if any(kind != "full_attention" for kind in kinds):
            reason = "a GGUF file of this architecture means full attention in every layer"
            raise config.refuse("layer_types", kinds, reason)
        if config.get("use_sliding_window", False):
            raise config.refuse("use_sliding_window", True, "false expected")
        for unused in ("sliding_window", "max_window_layers"):
            config.get(unused)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """Nothing: full attention is the default."""
        window = header.get("attention.sliding_window")
        if self.windows and window:
            raise header.refuse("attention.sliding_window", window, "full attention expected")
        return {}
