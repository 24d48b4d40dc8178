"""DeepSeek V2 and V3: multi-head latent attention, shared experts, dense layers first.

GGUF holds the second key-value matrix in two halves for each head, as mlx-lm's V3 does; V2's is
whole in mlx-lm, and the key half is transposed on the way. llama.cpp sees one key head of
kv_lora_rank + qk_rope_head_dim columns; the sizes of the decompressed heads have keys of their own.
The two small norms of the latent vectors have mlx-lm's 1e-6 in both models; llama.cpp takes the
other norms' epsilon for them. Files of an older llama.cpp have V2's matrix as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Family, Rule, rule
from .changes import KeyValueHalves
from .common import BLOCK, ENDS, LAYER, NORMS, SILU, experts, mlp
from .rope import Rope
from .settings import Count, Fixed, Real, Setting, Vocabulary
from .sides import Header, Metadata, Settings

_SOFTMAX, _SIGMOID = 1, 2
#: layers of models whose queries are not compressed
_LITE = (26, 27)


@dataclass(frozen=True)
class _Latent(Setting):
    """The sizes of latent attention's vectors and heads."""

    def write(self, config: Settings) -> Metadata:
        """`attention.*_lora_rank`, `key_length`, `key_length_mla`, …"""
        rank, turning = config.count("kv_lora_rank", 512), config.count("qk_rope_head_dim", 64)
        found: Metadata = {
            "attention.head_count_kv": 1,
            "attention.kv_lora_rank": rank,
            "attention.key_length": rank + turning,
            "attention.value_length": rank,
            "attention.key_length_mla": config.count("qk_nope_head_dim", 128) + turning,
            "attention.value_length_mla": config.count("v_head_dim", 128),
            "rope.dimension_count": turning,
        }
        config.get("num_key_value_heads")
        # null is a model whose queries are not compressed; only a missing key means the default
        if "q_lora_rank" not in config.values or config.get("q_lora_rank") is not None:
            found["attention.q_lora_rank"] = config.count("q_lora_rank", 1536)
        elif config.count("num_hidden_layers") not in _LITE:
            reason = "llama.cpp knows models without it by their 26 or 27 layers"
            raise config.refuse("q_lora_rank", None, reason)
        return found

    def read(self, header: Header) -> dict[str, Any]:
        """`kv_lora_rank`, `q_lora_rank`, `qk_nope_head_dim`, `qk_rope_head_dim`, `v_head_dim`."""
        rank = header.count("attention.kv_lora_rank", least=1)
        turning = header.count("rope.dimension_count", least=1)
        # Files of an older llama.cpp have the second matrix in one, and the heads' own sizes.
        whole = header.get("attention.key_length_mla") is None
        heads = header.count("attention.head_count")
        sizes = "" if whole else "_mla"
        for name, expected in (
            ("attention.head_count_kv", heads if whole else 1),
            ("attention.key_length", None if whole else rank + turning),
            ("attention.value_length", None if whole else rank),
        ):
            value = header.count(name)
            if expected is not None and value != expected:
                raise header.refuse(name, value, f"{expected} expected")
        low = header.get("attention.q_lora_rank")
        return {
            "num_key_value_heads": heads,
            "kv_lora_rank": rank,
            "q_lora_rank": None if low is None else header.count("attention.q_lora_rank", least=1),
            "qk_rope_head_dim": turning,
            "qk_nope_head_dim": header.count(f"attention.key_length{sizes}", least=turning)
            - turning,
            "v_head_dim": header.count(f"attention.value_length{sizes}", least=1),
        }


@dataclass(frozen=True)
class _Router(Setting):
    """How experts are chosen and weighed.

    Args:
        gating: llama.cpp's number of the function.
        groups: whether experts can be chosen from the best groups only: llama.cpp adds a group's
            two best scores, which is V3's rule; V2 takes the best one.
    """

    gating: int
    groups: bool

    def write(self, config: Settings) -> Metadata:
        """`expert_*`."""
        found: Metadata = {
            "expert_gating_func": self.gating,
            "expert_weights_scale": config.real("routed_scaling_factor", 1.0),
        }
        if self.groups:
            if config.get("norm_topk_prob", True):
                found["expert_weights_norm"] = True
            found["expert_group_count"] = config.count("n_group", 1)
            found["expert_group_used_count"] = config.count("topk_group", 1)
            return found
        limited = config.get("topk_method") == "group_limited_greedy"
        config.get("topk_group")
        if config.count("n_group", 1) > 1 and limited:
            reason = "llama.cpp chooses groups by another rule"
            raise config.refuse("topk_method", "group_limited_greedy", reason)
        return found

    def read(self, header: Header) -> dict[str, Any]:
        """`routed_scaling_factor`, `norm_topk_prob`, `n_group`, `topk_group`."""
        header.get("expert_gating_func")
        normed = header.get("expert_weights_norm", False)
        found: dict[str, Any] = {
            "routed_scaling_factor": header.real("expert_weights_scale", 1.0) or 1.0,
            "norm_topk_prob": bool(normed),
        }
        if self.groups:
            found["n_group"] = header.count("expert_group_count", 1, least=0) or 1
            found["topk_group"] = header.count("expert_group_used_count", 1, least=0) or 1
            return found | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
        if normed:
            raise header.refuse("expert_weights_norm", normed, "false expected")
        return found | {"topk_method": "greedy", "n_group": 1, "topk_group": 1}


def _settings(gating: int, *, groups: bool) -> tuple[Setting, ...]:
    own: tuple[Setting, ...] = (
        Fixed("topk_method", "noaux_tc"),
        Fixed("scoring_func", "sigmoid"),
    )
    if not groups:
        own = (
            Fixed("norm_topk_prob", False, quiet=True),
            Fixed("scoring_func", "softmax"),
        )
    return (
        Count("num_hidden_layers", "block_count"),
        Count("max_position_embeddings", "context_length", 2048),
        Count("hidden_size", "embedding_length"),
        Count("intermediate_size", "feed_forward_length"),
        Count("num_attention_heads", "attention.head_count"),
        Real("rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-6),
        Vocabulary(),
        _Latent(),
        Count("moe_intermediate_size", "expert_feed_forward_length"),
        Count("n_routed_experts", "expert_count"),
        Count("num_experts_per_tok", "expert_used_count", 1),
        Count("n_shared_experts", "expert_shared_count"),
        Count("first_k_dense_replace", "leading_dense_block_count", 0, least=0),
        _Router(gating, groups),
        Rope(kinds=frozenset({"yarn"}), latent=True),
        Fixed("moe_layer_freq", 1),
        Fixed("attention_bias", False),
        Fixed("tie_word_embeddings", False),
        SILU,
        *own,
    )


def _rules() -> tuple[Rule, ...]:
    def attn(hf: str, gguf: str, *, needed: bool = True) -> Rule:
        return rule(f"{LAYER}.self_attn.{hf}.weight", f"{BLOCK}.{gguf}.weight", needed=needed)

    return (
        *ENDS,
        *NORMS,
        attn("q_proj", "attn_q", needed=False),
        attn("q_a_proj", "attn_q_a", needed=False),
        attn("q_a_layernorm", "attn_q_a_norm", needed=False),
        attn("q_b_proj", "attn_q_b", needed=False),
        attn("kv_a_proj_with_mqa", "attn_kv_a_mqa"),
        attn("kv_a_layernorm", "attn_kv_a_norm"),
        attn("o_proj", "attn_output"),
        *mlp(needed=False),
        rule(f"{LAYER}.mlp.gate.weight", f"{BLOCK}.ffn_gate_inp.weight", needed=False),
        *experts("mlp", "n_routed_experts", needed=False),
        *mlp(needed=False, hf="mlp.shared_experts", gguf="_shexp"),
    )


#: the second matrix of keys and values; the file's halves, or as older files have it
_WHOLE = (
    Rule(
        (f"{LAYER}.self_attn.kv_b_proj.weight",),
        (f"{BLOCK}.attn_k_b.weight", f"{BLOCK}.attn_v_b.weight"),
        KeyValueHalves(),
    ),
    rule(f"{LAYER}.self_attn.kv_b_proj.weight", f"{BLOCK}.attn_kv_b.weight", needed=False),
)

DEEPSEEK_V2 = Family(
    model_types=("deepseek_v2",),
    architecture="deepseek2",
    settings=_settings(_SOFTMAX, groups=False),
    rules=(*_rules(), *_WHOLE),
    chosen=lambda header: header.count("expert_gating_func", _SOFTMAX) != _SIGMOID,
)

DEEPSEEK_V3 = Family(
    model_types=("deepseek_v3", "kimi_k2"),
    architecture="deepseek2",
    settings=_settings(_SIGMOID, groups=True),
    rules=(
        *_rules(),
        rule(
            f"{LAYER}.mlp.gate.e_score_correction_bias",
            f"{BLOCK}.exp_probs_b.bias",
            needed=False,
        ),
        rule(f"{LAYER}.self_attn.embed_q.weight", f"{BLOCK}.attn_k_b.weight", needed=False),
        rule(f"{LAYER}.self_attn.unembed_out.weight", f"{BLOCK}.attn_v_b.weight", needed=False),
        *_WHOLE,
    ),
    chosen=lambda header: header.count("expert_gating_func", _SOFTMAX) == _SIGMOID,
)
