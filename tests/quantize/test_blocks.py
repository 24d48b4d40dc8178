"""A model run layer by layer computes what it computes whole, whatever its architecture."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_models

from mlxquant import load, open_checkpoint
from mlxquant.errors import ModelError
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.blocks import OUTSIDE, BlockModel

TOKENS = mx.array(np.random.default_rng(0).integers(0, 320, (2, 24)))


def logits(model: BlockModel) -> mx.array:
    """Of TOKENS, one layer at a time."""
    with model.loaded(OUTSIDE):
        hidden = model.embed(TOKENS)
        mx.eval(hidden)
    for index in range(model.count):
        with model.loaded(index):
            hidden = model.layer(index, TOKENS, hidden)
            mx.eval(hidden)
    with model.loaded(OUTSIDE):
        found = model.tail(TOKENS, hidden)
        mx.eval(found)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "smollm3",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "gemma3",
        "phi3",
        "mixtral",
        "qwen3_moe",
        "deepseek_v3",
        "gpt_oss",
        "starcoder2",
        "stablelm",
        "glm4",
        "olmo2",
        "granite",
    ],
)
def test_layer_by_layer_is_the_whole_model(name: str, tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / name, name)
    model = BlockModel(resolve_model(open_checkpoint(folder)), "float32")
    whole, _ = load(folder, dtype="float32")
    assert mx.array_equal(logits(model), whole(TOKENS))


def test_weights_are_there_only_within(tmp_path: Path) -> None:
    model = BlockModel(resolve_model(open_checkpoint(tiny_models.make(tmp_path / "m", "llama"))))
    layer = model.model.layers[0].self_attn.q_proj
    before = layer.weight
    with model.loaded(0):
        assert layer.weight is not before
    assert layer.weight is before
    with pytest.raises(ZeroDivisionError), model.loaded(0):
        raise ZeroDivisionError
    assert layer.weight is before
    assert type(model.model.layers[0]).__name__ == "TransformerBlock"


def test_what_the_layers_share_is_refused(tmp_path: Path) -> None:
    model = BlockModel(resolve_model(open_checkpoint(tiny_models.make(tmp_path / "m", "llama"))))

    class Telling(type(model.model.layers[1])):  # type: ignore[misc]
        def __call__(self, x: mx.array, *args: object, **kwargs: object) -> tuple[mx.array, int]:
            return super().__call__(x, *args, **kwargs), 1

    model.model.layers[1].__class__ = Telling
    with model.loaded(1), pytest.raises(ModelError, match="hand each other more than hidden"):
        model.layer(1, TOKENS, mx.zeros((2, 24, 128)))
