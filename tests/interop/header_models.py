"""Models that are headers alone: GGUF files whose tensors are holes, for llama-quantize's rules.

`SHAPES` holds models whose sizes a rule is about; `PARTS` and `WHOLE`, names that one is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_values import Value
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.quantize.llama_plan import Tensor

_RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
_NORM = {"attention.layer_norm_epsilon": 1e-5}

#: architectures that a rule names, and what llama.cpp wants to be told of them
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _RMS,
    "llama-embed": _RMS,
    "qwen2": _RMS,
    "qwen3moe": {**_RMS, "expert_feed_forward_length": 4},
    "deci": _RMS,
    "olmo": _NORM,
    "jais2": _NORM,
    "falcon": _NORM,
    "nanbeige": {**_RMS, "num_loops": 2},
    "graniteswitch": {
        **_RMS,
        "logit_scale": 1.0,
        "adapters.count": 1,
        "adapters.lora_rank": 4,
        "adapters.token_ids_activate": [1],
        "adapters.token_ids_substitute": [2],
    },
    "bailingmoe3": {
        **_RMS,
        "attention.key_length_mla": 4,
        "attention.value_length_mla": 4,
        "attention.kv_lora_rank": 4,
        "ssm.conv_kernel": 4,
        "kda.head_dim": 4,
        "kda.gate_lower_bound": -1.0,
        "expert_feed_forward_length": 4,
        "expert_shared_count": 1,
        "leading_dense_block_count": 1,
        "expert_gating_func": 2,
    },
    "glm5-next": {
        **_RMS,
        "attention.key_length_mla": 4,
        "attention.value_length_mla": 4,
        "attention.q_lora_rank": 4,
        "attention.kv_lora_rank": 4,
        "ssm.conv_kernel": 4,
        "kda.head_dim": 4,
        "expert_feed_forward_length": 4,
        "expert_shared_count": 1,
        "attention.indexer.head_count": 4,
        "attention.indexer.key_length": 4,
        "attention.indexer.top_k": 4,
        "attention.indexer.kpool": 2,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 4,
        "hyper_connection.epsilon": 1e-5,
    },
}


def sparse_model(file: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> Path:
    """A GGUF file whose tensors take no room."""
    header, ranges = build_gguf(metadata, [(name, type, shape) for name, shape, type in tensors])
    size = max(stop for _, stop in ranges)
    with file.open("wb") as handle:
        handle.write(header)
        handle.truncate(-(-size // 32) * 32)
    return file


def read(file: Path) -> tuple[dict[str, Any], list[Tensor]]:
    """Plain metadata and tensors of a file."""
    header = read_gguf(file)
    tensors = [(entry.name, entry.shape, entry.type_name) for entry in header.entries.values()]
    return plain(header.metadata), tensors


def settings_of(architecture: str, **given: Any) -> dict[str, Value]:
    """A file's metadata, as little of them as llama.cpp takes."""
    plain = {"context_length": 64, "embedding_length": 256, **ARCHITECTURES[architecture], **given}
    typed = {"general.architecture": Value.of("str", architecture)}
    for key, value in plain.items():
        items = value if isinstance(value, list) else [value]
        kind = "f32" if isinstance(items[0], float) else "u32"
        typed[f"{architecture}.{key}"] = (
            Value.array("i32" if "token_ids" in key else kind, items)
            if isinstance(value, list)
            else Value.of(kind, value)
        )
    return typed


def plain(metadata: Mapping[str, Value]) -> dict[str, Any]:
    """Values as Python has them."""
    return {key: value.value for key, value in metadata.items()}


_DENSE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def dense(
    layers: int,
    width: int = 256,
    tied: bool = False,
    parts: Sequence[str] = _DENSE,
    experts: int = 0,
) -> list[Tensor]:
    """A model's tensors in the order in which converters write them."""
    tensors: list[Tensor] = [("token_embd.weight", (320, width), "F16")]
    for layer in range(layers):
        for part in parts:
            stack = (experts,) if part.endswith("_exps") else ()
            tensors.append((f"blk.{layer}.{part}.weight", (*stack, width, width), "F16"))
        tensors.append((f"blk.{layer}.attn_norm.weight", (width,), "F32"))
    tensors.append(("output_norm.weight", (width,), "F32"))
    return tensors if tied else [*tensors, ("output.weight", (320, width), "F16")]


_MIXTURE = (*_DENSE[:4], "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
#: where a model's size matters
_FEW = ("attn_v", "ffn_down")

HEADS, KEYS = "attention.head_count", "attention.head_count_kv"

#: models whose sizes rules go by, with small matrices
SHAPES: dict[str, tuple[str, dict[str, Any], list[Tensor]]] = {
    "llama 70B": (
        "llama",
        {"block_count": 80, HEADS: 64, KEYS: 8},
        dense(80),
    ),
    "llama 65B": ("llama", {"block_count": 80, HEADS: 64}, dense(80, parts=_FEW)),
    "llama, tied": (
        "llama",
        {"block_count": 16, HEADS: 32, KEYS: 8},
        dense(16, tied=True),
    ),
    "mixtral": (
        "llama",
        {
            "block_count": 32,
            HEADS: 32,
            KEYS: 8,
            "expert_count": 8,
            "expert_used_count": 2,
        },
        dense(32, parts=_MIXTURE, experts=8),
    ),
    "mixtral of 80 layers": (
        "llama",
        {
            "block_count": 80,
            HEADS: 8,
            KEYS: 4,
            "expert_count": 8,
            "expert_used_count": 2,
        },
        dense(80, parts=(*_FEW, "ffn_down_exps"), experts=8),
    ),
    "qwen2 72B": (
        "qwen2",
        {"block_count": 80, HEADS: 64, KEYS: 8},
        dense(80, parts=_FEW),
    ),
    "qwen2 72B with a next-token layer": (
        "qwen2",
        {"block_count": 81, "nextn_predict_layers": 1, HEADS: 64},
        dense(81, parts=_FEW),
    ),
    "olmo 70B": ("olmo", {"block_count": 80, HEADS: 64}, dense(80, parts=_FEW)),
    "llama-embed 70B": (
        "llama-embed",
        {"block_count": 80, HEADS: 64, KEYS: 8},
        dense(80, parts=_FEW),
    ),
    "jais2 70B": ("jais2", {"block_count": 68, HEADS: 64}, dense(68, parts=_FEW)),
    "deci, layer by layer": (
        "deci",
        {
            "block_count": 80,
            HEADS: [64, *[0] * 79],
            KEYS: [8, *[0] * 79],
        },
        dense(80, parts=_FEW),
    ),
    "falcon": (
        "falcon",
        {"block_count": 32, HEADS: 71, KEYS: 1},
        dense(32),
    ),
    "rows of 96": ("olmo", {"block_count": 9, HEADS: 8}, dense(9, 96)),
    "rows of 17": ("olmo", {"block_count": 9, HEADS: 8}, dense(9, 17)),
}


#: names of a layer's tensors, as converters of many architectures write them
PARTS = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_kv_b",
    "attn_output",
    "attn_q_a",
    "attn_q_b",
    "attn_k_b",
    "attn_v_b",
    "cross_attn_v",
    "attn_kv_a_mqa",
    "attn_rel_b",
    "attn_norm",
    "ffn_norm",
    "ffn_up",
    "ffn_gate",
    "ffn_down",
    "ffn_up_exps",
    "ffn_gate_exps",
    "ffn_down_exps",
    "ffn_down_shexp",
    "ffn_gate_shexp",
    "ffn_gate_inp",
    "ffn_gate_inp_shexp",
    "ffn_gate_tid2eid",
    "ffn_up_norm",
    "altup_router",
    "altup_proj",
    "laurel_l",
    "laurel_r",
    "per_layer_model_proj",
    "inp_gate",
    "ssm_conv1d",
    "ssm_conv1d_q",
    "ssm_in",
    "ssm_out",
    "shortconv.conv",
    "shortconv.in_proj",
    "indexer.k_proj",
    "indexer.q_proj",
    "indexer.proj",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a",
    "ssm_f_b",
    "ssm_g_a",
    "ssm_g_b",
    "ssm_beta",
    "hc_attn_fn",
    "nextn.eh_proj",
    "nextn.embed_tokens",
    "time_mix_first",
    "time_mix_w0",
    "time_mix_w1",
    "time_mix_w2",
    "time_mix_v0",
    "time_mix_v1",
    "time_mix_v2",
    "time_mix_a0",
    "time_mix_a1",
    "time_mix_a2",
    "time_mix_g1",
    "time_mix_g2",
    "time_mix_decay_w1",
    "time_mix_decay_w2",
    "time_mix_lerp_fused",
    "time_mix_key",
    "channel_mix_key",
)
#: and of tensors of no layer
WHOLE = (
    "token_embd.weight",
    "per_layer_token_embd.weight",
    "output.weight",
    "output.bias",
    "position_embd.weight",
    "token_types.weight",
    "v.position_embd.weight",
    "v.patch_embd.weight",
    "v.patch_merger.weight",
    "v.sam.pos_embd.weight",
    "v.sam.neck.0.weight",
    "v.sam.net_2.weight",
    "v.blk.0.attn_v.weight",
    "v.blk.0.attn.rel_pos_h.weight",
    "a.rvq.codebook.weight",
    "mm.a.code_embd.weight",
    "mm.0.weight",
    "rope_freqs.weight",
    "blk.x.attn_v.weight",
    "blk.3a.attn_v.weight",
    "cls.weight",
    "cls.output.weight",
    "per_layer_model_proj.weight",
    "altup_proj.weight",
    "blk.0.attn_sinks",
)
