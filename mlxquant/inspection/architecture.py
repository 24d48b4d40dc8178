"""The shape of a model, from config.json's keys of many families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Architecture", "read_architecture"]

#: entries that hold a language model's own settings inside those of a larger model
_NESTED = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class Architecture:
    """A model's shape. What the config does not say, or says by layer, is None.

    Attributes:
        model_type, class_name: `llama`, `LlamaForCausalLM`.
        layers: decoder layers; hidden: width of the residual stream; feed_forward: of an MLP.
        heads, kv_heads, head_dim: of attention.
        experts, experts_per_token: routed ones, where there are any.
        vocabulary: rows of the embedding; context: the longest sequence, tokens.
        sliding_window: of layers with local attention, tokens.
        rope_theta: base of the rotary embedding; rope_scaling: its entry, as it stands.
        tied: whether the output head is the embedding.
        dtype: the element type that the config names.
    """

    model_type: str
    class_name: str | None = None
    layers: int | None = None
    hidden: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    sliding_window: int | None = None
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    tied: bool | None = None
    dtype: str | None = None


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a config.json; values of a wrong type count as not said."""
    flat: dict[str, Any] = dict(config)
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            flat = {**flat, **inner}
            break
    classes = config.get("architectures")
    rope = flat.get("rope_parameters")
    rope = dict(rope) if isinstance(rope, Mapping) else {}
    scaling = flat.get("rope_scaling") or {
        key: value for key, value in rope.items() if key not in ("rope_theta",)
    }
    if isinstance(scaling, Mapping) and scaling.get("rope_type", "") == "default":
        scaling = None
    heads = _number(flat, "num_attention_heads", "n_head", "n_heads", "num_heads")
    hidden = _number(flat, "hidden_size", "n_embd", "d_model", "model_dim", "dim")
    head_dim = _number(flat, "head_dim", "attention_head_dim", "kv_channels")
    theta = flat.get("rope_theta", rope.get("rope_theta", flat.get("rotary_emb_base")))
    tied = flat.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return Architecture(
        model_type=str(config.get("model_type", "")),
        class_name=_text(classes[0]) if isinstance(classes, list) and classes else None,
        layers=_number(flat, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden=hidden,
        feed_forward=_number(
            flat, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim"
        ),
        heads=heads,
        kv_heads=_number(flat, "num_key_value_heads", "n_kv_heads", "num_kv_heads") or heads,
        head_dim=head_dim or (hidden // heads if hidden and heads else None),
        experts=_number(
            flat, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"
        ),
        experts_per_token=_number(flat, "num_experts_per_tok", "moe_topk", "moe_top_k", "top_k"),
        vocabulary=_number(flat, "vocab_size", "n_vocab", "padded_vocab_size"),
        context=_number(
            flat,
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_sequence_length",
            "max_seq_len",
            "seq_length",
            "model_max_length",
        ),
        sliding_window=_number(flat, "sliding_window", "sliding_window_size")
        if flat.get("use_sliding_window", True) is not False
        else None,
        rope_theta=_float(theta),
        rope_scaling=dict(scaling) if isinstance(scaling, Mapping) and scaling else None,
        tied=tied if isinstance(tied, bool) else None,
        dtype=_text(flat.get("dtype", flat.get("torch_dtype"))),
    )


def _number(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these keys that holds a count; a list of equal counts is one."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if type(value) is int and value > 0:
            return value
    return None


def _float(value: object) -> float | None:
    try:
        return (
            float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        )
    except OverflowError:  # an integer of hundreds of digits
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
