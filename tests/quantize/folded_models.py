"""Models before and after something was folded into their weights, run by stock mlx-lm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import tiny_models

from mlxquant import open_checkpoint
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.models.source_model import SourceModel
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.request import Request
from mlxquant.save.stream import Options
from mlxquant.save.to_mlx import save_folder

__all__ = ["CASES", "apart", "logits", "made", "saved", "source_of"]

#: a name → the family and the settings that depart from tiny_models'
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in tiny_models.CONFIGS if name != "deepseek_v3_fp8"},
    "gpt_oss": ("gpt_oss", {"quantization_config": None}),
    "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_one_key_head": ("llama", {"num_key_value_heads": 1}),
    "llama_96": ("llama", {"hidden_size": 96, "head_dim": 24, "tie_word_embeddings": False}),
    "llama_90": (
        "llama",
        {"hidden_size": 90, "head_dim": 30, "num_attention_heads": 3, "num_key_value_heads": 1},
    ),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}),
}

_TOKENS = [[1, 5, 9, 30, 77, 200, 33, 2, 8, 8, 301, 4]]


def made(folder: Path, case: str, *, dtype: str = "float32", **settings: Any) -> Path:
    """The model of a case."""
    family, own = CASES[case]
    return tiny_models.make(folder, family, dtype=dtype, lively=True, **{**own, **settings})


def source_of(folder: Path) -> SourceModel:
    """A folder in mlx-lm's names."""
    return resolve_model(open_checkpoint(folder))


def saved(source: SourceModel, folder: Path, request: Request | None = None) -> Path:
    """A model as a folder, float unless something else is asked for."""
    plan = make_plan(source, request or Request(tensors=(("*", "keep"),)))
    save_folder(plan, source, folder, Options())
    return folder


def logits(folder: Path) -> np.ndarray:
    """What stock mlx-lm computes from a folder on the CPU, float32 [tokens, vocabulary]."""
    with mx.stream(mx.cpu):
        model, _ = mlx_lm.load(str(folder))
        return np.array(model(mx.array(_TOKENS)).astype(mx.float32))[0]


def apart(one: Path, other: Path) -> float:
    """The largest difference of two folders' logits, in standard deviations of the first's."""
    before, after = logits(one), logits(other)
    return float(np.abs(after - before).max() / before.std())
