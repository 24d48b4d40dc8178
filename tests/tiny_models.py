"""Small random models of many architectures, as Hugging Face folders.

mlx-lm's own classes make the parameters; `_unsanitize` gives them the names and layouts that the
original checkpoints have (experts apart, latent attention in one matrix), so that `sanitize` has
its whole work to do.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from mlxquant.assets import BUNDLED_MODEL

_DENSE = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

_WINDOW = {"sliding_window": 64, "sliding_window_pattern": 2}

_DEEPSEEK = {
    **_DENSE,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_DENSE, "tie_word_embeddings": True},
    "mistral": _DENSE,
    "smollm3": {**_DENSE, "num_hidden_layers": 4},
    "qwen2": {**_DENSE, "num_hidden_layers": 9},
    "qwen3": _DENSE,
    "gemma2": _DENSE,
    "gemma3_text": {**_DENSE, **_WINDOW},
    "gemma3": {"text_config": {**_DENSE, "model_type": "gemma3_text", **_WINDOW}},
    "phi3": _DENSE,
    "mixtral": {**_DENSE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        **_DENSE,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v3_fp8": {
        **_DEEPSEEK,
        "model_type": "deepseek_v3",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    },
    "gpt_oss": {
        **_DENSE,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 64,
        "rope_scaling": None,
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "qwen2_moe": {
        **_DENSE,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 96,
    },
    "deepseek_v2": {
        **_DEEPSEEK,
        "rms_norm_eps": 1e-6,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 0.7,
            "mscale_all_dim": 0.7,
        },
    },
    "starcoder2": {**_DENSE, "norm_epsilon": 1e-5, "use_bias": True},
    "stablelm": {
        **_DENSE,
        "partial_rotary_factor": 0.25,
        "layer_norm_eps": 1e-5,
        "use_qkv_bias": True,
    },
    "glm4": {
        **_DENSE,
        "attention_bias": True,
        "partial_rotary_factor": 0.5,
        "hidden_act": "silu",
    },
    "olmo2": _DENSE,
    "granite": {
        **_DENSE,
        "logits_scaling": 8.0,
        "attention_multiplier": 0.1,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.2,
        "attention_bias": False,
        "mlp_bias": False,
    },
}


#: families whose checkpoints hold experts one by one, by the names of their matrices in mlx-lm
_APART = ("qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")


def make(
    folder: Path,
    family: str,
    *,
    dtype: str = "bfloat16",
    shards: int = 1,
    lively: bool = False,
    **config: Any,
) -> Path:
    """Write a small random model of a family, with the bundled model's tokenizer.

    Args:
        folder: made; holds config.json, the weights in `shards` files, and the tokenizer.
        dtype: MLX's name of the element type. config: entries that depart from CONFIGS.
        lively: weights of a trained model's sizes, so that logits differ by several units; rounded
            to bfloat16 whatever `dtype` is.
    """
    settings = {"model_type": family, "torch_dtype": dtype, **CONFIGS[family], **config}
    model_class, args_class = _get_classes(settings)
    mx.random.seed(7)
    # a copy: some architectures write into the dicts of their config
    model = model_class(args_class.from_dict(json.loads(json.dumps(settings))))
    weights = {
        name: _random(family, name, array.shape, lively=lively).astype(getattr(mx, dtype))
        for name, array in tree_flatten(model.parameters())
    }
    weights = _unsanitize(family, settings, weights)
    mx.eval(weights)
    folder.mkdir(parents=True)
    names = list(weights)
    index: dict[str, str] = {}
    for number in range(shards):
        part = names[len(names) * number // shards : len(names) * (number + 1) // shards]
        file = (
            f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            if shards > 1
            else "model.safetensors"
        )
        mx.save_safetensors(str(folder / file), {n: weights[n] for n in part}, {"format": "pt"})
        index.update(dict.fromkeys(part, file))
    if shards > 1:
        content = {"metadata": {}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps(settings))
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(BUNDLED_MODEL / file, folder)
    return folder


def _random(family: str, name: str, shape: tuple[int, ...], *, lively: bool) -> mx.array:
    """A parameter's values, float32."""
    noise = mx.random.normal(shape)
    if not lively:
        return noise * 0.05
    # llama.cpp looks GELU up in a table of float16, which is off by up to 5e-4 of an activation:
    # the MLPs of families that have it weigh a quarter.
    gelu = family.startswith(("gemma", "starcoder"))
    ends = ("post_feedforward_layernorm.weight", "mlp.c_proj.weight")
    weight = 0.25 if gelu and name.endswith(ends) else 1.0
    if len(shape) > 1:
        values = weight * noise * (0.1 if "embed_tokens" in name else shape[-1] ** -0.5)
    elif "norm" in name and name.endswith(".weight"):
        # Gemma's go to GGUF as 1 + w in float32: multiples of 2^-10 are exact there.
        weight -= 1 if family.startswith("gemma") else 0
        values = mx.round(102.4 * noise) / 1024 + weight
    elif name.endswith("e_score_correction_bias"):
        values = 0.1 * mx.abs(noise)  # below zero, experts of groups not chosen would win
    else:
        values = noise * (1 if name.endswith("sinks") else 0.1)
    return values.astype(mx.bfloat16).astype(mx.float32)


def _unsanitize(
    family: str, config: dict[str, Any], weights: dict[str, mx.array]
) -> dict[str, mx.array]:
    """The original checkpoint's names and layouts."""
    if family == "gpt_oss" and not config.get("quantization_config"):
        return weights
    result: dict[str, mx.array] = {}
    for name, array in weights.items():
        if family == "gemma3_text" and config["tie_word_embeddings"] and name == "lm_head.weight":
            continue
        if family == "mixtral" and ".switch_mlp." in name:
            short = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
            before, _, rest = name.partition("switch_mlp.")
            for expert in range(array.shape[0]):
                which = short[rest.removesuffix(".weight")]
                result[f"{before}experts.{expert}.{which}.weight"] = array[expert]
        elif family in _APART and ".switch_mlp." in name:
            before, _, rest = name.partition("switch_mlp.")
            for expert in range(array.shape[0]):
                result[f"{before}experts.{expert}.{rest}"] = array[expert]
        elif family == "deepseek_v3" and name.endswith("embed_q.weight"):
            values = weights[name.replace("embed_q", "unembed_out")]
            joined = mx.concatenate([array.swapaxes(-1, -2), values], axis=1)
            key = name.replace("embed_q", "kv_b_proj")
            result[key] = joined.reshape(-1, config["kv_lora_rank"])
        elif family == "deepseek_v3" and name.endswith("unembed_out.weight"):
            continue
        elif family == "gpt_oss" and ".experts.gate_proj." in name:
            up = weights[name.replace("gate_proj", "up_proj")]
            shape = [*array.shape]
            shape[1] *= 2
            joined = mx.stack([array, up], axis=2).reshape(shape)
            _add_blocks(result, name.replace("gate_proj", "gate_up_proj"), joined)
        elif family == "gpt_oss" and ".experts.up_proj." in name:
            continue
        elif family == "gpt_oss" and ".experts.down_proj." in name:
            _add_blocks(result, name, array)
        else:
            result[name] = array
    if family == "deepseek_v3_fp8":
        return _to_fp8(_unsanitize("deepseek_v3", config, weights))
    return result


def _add_blocks(result: dict[str, mx.array], name: str, array: mx.array) -> None:
    """gpt-oss's experts: fp4 codes in bytes, `[experts, rows, groups, 16]`, and their scales."""
    if name.endswith(".bias"):
        result[name.replace(".bias", "_bias")] = array
        return
    codes, scales = mx.quantize(array, mode="mxfp4")
    base = name.removesuffix(".weight")
    result[f"{base}_blocks"] = codes.view(mx.uint8).reshape(*scales.shape, 16)
    result[f"{base}_scales"] = scales


def _to_fp8(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """DeepSeek's block-scaled fp8: codes in bytes and a float scale for each 128 x 128 block."""
    result: dict[str, mx.array] = {}
    for name, array in weights.items():
        result[name] = array
        if array.ndim == 2 and "proj" in name:
            blocks = [-(-n // 128) for n in array.shape]
            result[name] = mx.to_fp8(array * 16)
            scale = mx.random.uniform(0.05, 0.07, blocks)
            result[name.replace(".weight", ".weight_scale_inv")] = scale
    return result
