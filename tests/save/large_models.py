"""Models of many megabytes, written as fast as the disk takes them, with little memory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.safetensors import build_header

__all__ = ["llama", "mixtral"]

Shapes = dict[str, tuple[int, ...]]

_TILE = 4 << 20


def llama(folder: Path, *, layers: int, hidden: int, inner: int, vocabulary: int = 512) -> Path:
    """A bfloat16 Llama in two shards: `2 · layers · hidden · (3 · inner + 4 · hidden)` bytes."""
    shapes = _outside(vocabulary, hidden)
    for layer in range(layers):
        shapes |= _attention(layer, hidden)
        mlp = f"model.layers.{layer}.mlp"
        shapes[f"{mlp}.gate_proj.weight"] = shapes[f"{mlp}.up_proj.weight"] = (inner, hidden)
        shapes[f"{mlp}.down_proj.weight"] = (hidden, inner)
    return _write(folder, "llama", shapes, _config(layers, hidden, inner, vocabulary))


def mixtral(
    folder: Path, *, layers: int, hidden: int, inner: int, experts: int, vocabulary: int
) -> Path:
    """A bfloat16 Mixtral in two shards, its experts apart as in the original checkpoint."""
    shapes = _outside(vocabulary, hidden)
    for layer in range(layers):
        shapes |= _attention(layer, hidden)
        moe = f"model.layers.{layer}.block_sparse_moe"
        shapes[f"{moe}.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            shapes[f"{moe}.experts.{expert}.w1.weight"] = (inner, hidden)
            shapes[f"{moe}.experts.{expert}.w2.weight"] = (hidden, inner)
            shapes[f"{moe}.experts.{expert}.w3.weight"] = (inner, hidden)
    config = _config(layers, hidden, inner, vocabulary)
    config |= {"num_local_experts": experts, "num_experts_per_tok": 2}
    return _write(folder, "mixtral", shapes, config)


def _outside(vocabulary: int, hidden: int) -> Shapes:
    return {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }


def _attention(layer: int, hidden: int) -> Shapes:
    base = f"model.layers.{layer}"
    shapes: Shapes = {f"{base}.self_attn.{x}_proj.weight": (hidden, hidden) for x in "qkvo"}
    shapes[f"{base}.input_layernorm.weight"] = (hidden,)
    shapes[f"{base}.post_attention_layernorm.weight"] = (hidden,)
    return shapes


def _config(layers: int, hidden: int, inner: int, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _write(folder: Path, family: str, shapes: Shapes, config: dict[str, Any]) -> Path:
    """Random weights, the same at each call."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(7).normal(0, 0.05, _TILE // 2).astype(np.float32)
    tile = 2 * (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    names = list(shapes)
    index: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        header, _ = build_header([(n, "BF16", shapes[n]) for n in part], {"format": "pt"})
        with (folder / name).open("wb") as file:
            file.write(header)
            for tensor in part:
                # every tensor begins elsewhere in the tile, so that no two are the same
                start, left = 2 * 4099 * names.index(tensor) % _TILE, 2 * math.prod(shapes[tensor])
                while left:
                    left -= file.write(tile[start : start + min(left, _TILE)])
        index.update(dict.fromkeys(part, name))
    content = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": family, **config}))
    for file_name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(BUNDLED_MODEL / file_name, folder)
    return folder
