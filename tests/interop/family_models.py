"""One model a line: what is exported to GGUF, run by llama.cpp, and read back.

`case`: (tiny_models' family, entries of config.json that depart from its). Between them they use
every setting of every family that changes what a model computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

from mlxquant import formats
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_types import tensor_type
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.formats.base import Array
from mlxquant.load.checkpoint import StoredTensor
from mlxquant.load.from_hf import open_folder
from mlxquant.load.lazy import Node, leaf
from mlxquant.models.families import family_of_config, typed
from mlxquant.models.families.changes import as_float32
from mlxquant.models.mlx_lm import resolve_model

YARN = {
    "rope_type": "yarn",
    "type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LATENT = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1}
_LONG = {
    "type": "longrope",
    "long_factor": [1.0 + n / 8 for n in range(12)],
    "short_factor": [1.0 + n / 64 for n in range(12)],
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-untied": ("llama", {"tie_word_embeddings": False, "head_dim": None}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("llama", {"head_dim": 64, "num_key_value_heads": 4}),
    "llama-llama3": ("llama", {"rope_scaling": _LLAMA3, "rope_theta": 500.0}),
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-yarn": ("llama", {"rope_scaling": YARN}),
    "mistral": ("mistral", {"sliding_window": 4096}),
    "smollm3": ("smollm3", {}),
    "mixtral": ("mixtral", {}),
    "qwen2": ("qwen2", {"num_hidden_layers": 2}),
    "qwen2-yarn": ("qwen2", {"num_hidden_layers": 2, "rope_scaling": YARN}),
    "qwen2_moe": ("qwen2_moe", {}),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 64}),
    "qwen3_moe": ("qwen3_moe", {}),
    "gemma2": (
        "gemma2",
        {
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": True,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": True,
            "sliding_window": 16,
            "rope_local_base_freq": 3000.0,
            "sliding_window_pattern": 6,
            "num_hidden_layers": 7,
            "rope_theta": 1e6,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3-every-second": (
        "gemma3_text",
        {"query_pre_attn_scalar": 32, "sliding_window": 16, "sliding_window_pattern": 2},
    ),
    "phi3": ("phi3", {}),
    "phi3-longrope": (
        "phi3",
        {
            "rope_scaling": _LONG,
            "original_max_position_embeddings": 64,
            "partial_rotary_factor": 0.75,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {"quantization_config": None, "sliding_window": 16, "rope_scaling": YARN},
    ),
    "deepseek_v2": ("deepseek_v2", {"routed_scaling_factor": 2.5}),
    "deepseek_v3": ("deepseek_v3", {"routed_scaling_factor": 2.5}),
    "deepseek_v3-yarn": ("deepseek_v3", {"rope_scaling": _LATENT}),
    "glm4": ("glm4", {}),
    "glm4-plain": ("glm4", {"attention_bias": False, "partial_rotary_factor": 1.0}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {"logits_scaling": 2.0}),
    "granite-biases": (
        "granite",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "logits_scaling": 2.0,
        },
    ),
    "stablelm": ("stablelm", {}),
    "stablelm-parallel": (
        "stablelm",
        {"use_qkv_bias": False, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    "starcoder2": ("starcoder2", {}),
}


def model_nodes(folder: Path) -> dict[str, Node]:
    """Every tensor of a model folder by the name that mlx-lm has for it."""
    return resolve_model(open_folder(folder)).parameters


def stored_nodes(folder: Path) -> dict[str, Node]:
    """Every tensor of a model folder by the name that its file has for it."""
    return {name: leaf(tensor) for name, tensor in open_folder(folder).stored.items()}


def values_of(node: Node) -> Array:
    """All of a node, float32."""
    return as_float32(node).flat(0, node.size).reshape(node.shape)


def make_case(folder: Path, name: str, **changes: Any) -> Path:
    """The model of a case, in float32."""
    family, config = CASES[name]
    settings = {"rope_theta": 5000.0, **config, **changes}  # no default of either program
    return tiny_models.make(folder, family, dtype="float32", lively=True, **settings)


def export(folder: Path, file: Path, types: Sequence[str] = ("F32",)) -> Path:
    """A model folder as a GGUF file without a vocabulary.

    Matrices are of the first of `types` whose blocks fit their rows, F32 if none does; vectors,
    norms, biases and routers are F32.
    """
    checkpoint = open_folder(folder)
    family = family_of_config(checkpoint.config)
    metadata = typed({**family.metadata(checkpoint.config), "tokenizer.ggml.model": "no_vocab"})
    nodes = family.to_gguf(model_nodes(folder), checkpoint.config)
    chosen = {name: _type_of(name, node, types) for name, node in nodes.items()}
    header, ranges = build_gguf(
        metadata, [(name, chosen[name], node.shape) for name, node in nodes.items()]
    )
    size = max(stop for _, stop in ranges)
    content = bytearray(-(-size // 32) * 32)
    content[: len(header)] = header
    for (name, node), (start, stop) in zip(nodes.items(), ranges, strict=True):
        values = values_of(node).astype("<f4")
        if chosen[name] != "F32":
            (values,) = formats.get(chosen[name]).encode(values.reshape(-1, node.shape[-1]))
        content[start:stop] = values.tobytes()
    file.write_bytes(content)
    return file


def _type_of(name: str, node: Node, types: Sequence[str]) -> str:
    if len(node.shape) == 1 or name.endswith(".bias") or "norm" in name or "gate_inp" in name:
        return "F32"
    fitting = [each for each in types if node.shape[-1] % tensor_type(each).block_size == 0]
    return (*fitting, "F32")[0]


def read_back(file: Path) -> tuple[Mapping[str, Any], dict[str, Node]]:
    """The metadata and the tensors of a file of F32 tensors."""
    header = read_gguf(file)
    return header.metadata, {
        entry.name: leaf(
            StoredTensor(entry.name, "F32", entry.shape, file, entry.start, entry.stop)
        )
        for entry in header.entries.values()
    }


def tokens(count: int = 64) -> list[int]:
    """Ids of the small models' vocabulary."""
    return [int(n) for n in np.random.default_rng(3).integers(0, 320, count)]
