"""Small models of every architecture that `recommend` knows, in mlx-lm's own classes.

Nothing is written: `checkpoint` is what a folder with these parameters would be, by its headers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from mlxquant.load.checkpoint import Checkpoint, StoredTensor

#: settings of every family together; each takes those that it knows
COMMON: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "rope_scaling": None,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "type": "default"},
    "rope_interleave": True,
    "partial_rotary_factor": 0.5,
    "use_qk_norm": True,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "scoring_func": "sigmoid",
    "score_func": "sigmoid",
    "route_norm": True,
    "route_scale": 1.0,
    "mup_enabled": False,
    "global_attn_every_n_layers": 2,
    # latent attention
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
    # windows and recurrent layers
    "sliding_window": 64,
    "sliding_window_pattern": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    # granite
    "attention_multiplier": 0.1,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    # tokens
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_ROPE = {"rope_theta": 10000.0, "rope_type": "default", "type": "default"}
_YARN = {
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.7,
    "mscale_all_dim": 0.7,
}
_MINICPM = {"dim_model_base": 64, "scale_depth": 1.0, "scale_emb": 1.0}
_CONVOLUTIONS = {
    "conv_bias": False,
    "conv_L_cache": 3,
    "layer_types": ["conv", "full_attention"] * 2,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
}
_GEMMA4 = {
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 320,
    "hidden_size_per_layer_input": 32,
    "global_head_dim": 64,
    "rope_parameters": None,
}

#: model type → settings that depart from COMMON
CHANGES: dict[str, dict[str, Any]] = {
    "apertus": {"post_norm": False, "qk_norm": True, "hidden_act": "xielu"},
    "deepseek_v2": {"rope_scaling": _YARN},
    "ernie4_5": {"use_bias": False},
    "ernie4_5_moe": {"use_bias": False, "moe_num_experts": 4, "moe_k": 2},
    "exaone4": {"sliding_window_pattern": "LLLG"},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128, "mamba_expand": 1},
    "gemma3": {"text_config": {**COMMON, "model_type": "gemma3_text"}},
    "gemma3n": {
        "text_config": {
            **COMMON,
            "model_type": "gemma3n",
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 320,
            "hidden_size_per_layer_input": 32,
            "rope_local_base_freq": 10000.0,
            "final_logit_softcapping": 30.0,
            "activation_sparsity_pattern": [0.0] * 4,
            "altup_num_inputs": 2,
            "altup_coef_clip": 100.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 16,
        }
    },
    "gemma4": {"text_config": {**COMMON, "model_type": "gemma4_text", **_GEMMA4}},
    "gemma4_text": _GEMMA4,
    "gemma4_unified": {"text_config": {**COMMON, "model_type": "gemma4_text", **_GEMMA4}},
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.25},
    "granitemoehybrid": {
        **_MAMBA,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 64,
        "mamba_d_head": 64,
        "mamba_proj_bias": False,
        "mamba_conv_bias": True,
        "position_embedding_type": "rope",
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
    },
    "kimi_k25": {"text_config": {**COMMON, "model_type": "deepseek_v3"}},
    "kimi_vl": {"text_config": {**COMMON, "model_type": "deepseek_v3"}},
    "lfm2": {
        **_CONVOLUTIONS,
        "block_dim": 128,
        "block_ff_dim": 256,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {**_CONVOLUTIONS, "use_expert_bias": True},
    "llama4": {
        "text_config": {
            **COMMON,
            "model_type": "llama4",
            "attention_chunk_size": 64,
            "interleave_moe_layer_step": 1,
            "intermediate_size_mlp": 256,
            "num_experts_per_tok": 1,
        }
    },
    "llava": {"text_config": {**COMMON, "model_type": "llama"}},
    "mellum": {"rope_parameters": dict.fromkeys(("sliding_attention", "full_attention"), _ROPE)},
    "minicpm": _MINICPM,
    "minicpm3": {
        **_MINICPM,
        "rope_scaling": {
            "type": "longrope",
            "factor": 1.0,
            "short_factor": [1.0] * 16,
            "long_factor": [1.0] * 16,
            "original_max_position_embeddings": 64,
        },
    },
    "minimax": {"shared_intermediate_size": 64, "rotary_dim": 16},
    "minimax_m2": {"shared_intermediate_size": 64, "rotary_dim": 16},
    "ministral3": {
        "rope_parameters": {
            **_ROPE,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        }
    },
    "mistral3": {"text_config": {**COMMON, "model_type": "llama"}},
    "nemotron_h": {
        "layer_types": None,
        "hybrid_override_pattern": ["M", "*", "E", "M"],
        "moe_shared_expert_intermediate_size": 64,
        "mamba_num_heads": 4,
        "mamba_head_dim": 64,
        "mamba_proj_bias": False,
        "ssm_state_size": 16,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
    },
    "qwen3_vl_moe": {"text_config": {**COMMON, "model_type": "qwen3_vl_moe"}},
    "stablelm": {"use_qkv_bias": False},
}


def settings(kind: str, **changes: Any) -> dict[str, Any]:
    """A config.json of a model type."""
    return {**COMMON, "model_type": kind, **CHANGES.get(kind, {}), **changes}


def build(config: dict[str, Any]) -> Any:
    """mlx-lm's model of a config, its parameters lazy."""
    model_class, args_class = _get_classes(dict(config))
    # a copy: some architectures write into the dicts of their config
    model = model_class(args_class.from_dict(json.loads(json.dumps(config))))
    model.eval()
    return model


def checkpoint(config: dict[str, Any], model: Any, dtype: str = "BF16") -> Checkpoint:
    """A checkpoint with a model's parameters: names, shapes and types; no values."""
    size = {"BF16": 2, "F32": 4}[dtype]
    return of_shapes(
        config,
        {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())},
        dtype,
        size,
    )


def of_shapes(
    config: dict[str, Any], shapes: dict[str, tuple[int, ...]], dtype: str = "BF16", size: int = 2
) -> Checkpoint:
    """A checkpoint of these tensors."""
    stored, at = {}, 0
    for name, shape in shapes.items():
        stop = at
        count = size
        for n in shape:
            count *= n
        stop += count
        stored[name] = StoredTensor(name, dtype, shape, Path("model.safetensors"), at, stop)
        at = stop
    path = Path("/nowhere/model")
    return Checkpoint(path, config, stored, dict(stored), None, (), (), source="model")
