"""Models by their headers alone, against mlx-lm's own classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import architectures
import pytest
import tiny_models
from mlx import nn
from mlx.utils import tree_flatten

from mlxquant.errors import ModelError
from mlxquant.load.checkpoint import Checkpoint
from mlxquant.load.from_hf import open_folder
from mlxquant.measure.memory_model import item_bytes
from mlxquant.models.header_model import header_model
from mlxquant.models.mlx_lm import _module, resolve_model
from mlxquant.models.quirks import KNOWN, is_known
from mlxquant.models.source_model import Module, SourceModel
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.request import Request
from mlxquant.save.folder import lay_out

REQUESTS = (
    Request(),
    Request(bits=3, group_size=32),
    Request(bits=8, group_size=128),
    Request(mode="mxfp8"),
    Request(mode="nvfp4", head_bits=8),
)


def told(module: Module | None) -> Any:
    """What must agree of a module."""
    if module is None:
        return None
    advice = dict(module.advice) if isinstance(module.advice, Mapping) else module.advice
    return module.shape, module.quantized, advice


@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_modules_and_casts_are_those_of_mlx_lm(kind: str) -> None:
    config = architectures.settings(kind)
    model = architectures.build(config)
    found = header_model(architectures.checkpoint(config, model))
    predicate = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    wanted = {path: _module(path, leaf, predicate) for path, leaf in leaves}
    assert {path: told(module) for path, module in found.modules.items()} == {
        path: told(module) for path, module in wanted.items() if module is not None
    }
    assert len(found.modules) > 10
    cast = getattr(model, "cast_predicate", None) or (lambda name: True)
    assert found.uncast == {name for name in found.parameters if not cast(name)}
    assert set(found.parameters) == {name for name, _ in tree_flatten(model.parameters())}


def planned_bytes(source: SourceModel, request: Request) -> dict[str, int]:
    return {item.name: item_bytes(item, source) for item in make_plan(source, request).items}


@pytest.mark.parametrize("family", tiny_models.CONFIGS)
def test_a_plan_by_headers_has_the_bytes_of_the_real_one(family: str, tmp_path: Path) -> None:
    checkpoint = open_folder(tiny_models.make(tmp_path / "m", family), quick=True)
    found, real = header_model(checkpoint), resolve_model(checkpoint)
    assert found.layers == real.layers
    assert (found.down_path is None) == (real.down_path is None)
    for request in REQUESTS:
        layout = lay_out(make_plan(real, request), real)
        written = sum(output.stop - output.start for output in layout.outputs)
        ours = planned_bytes(found, request)
        assert ours == planned_bytes(real, request)
        assert sum(ours.values()) == written
    recipe = Request(recipe="mixed_3_6")
    if real.down_path is not None:
        assert planned_bytes(found, recipe) == planned_bytes(real, recipe)


def test_experts_are_stacked_and_their_values_cannot_be_read() -> None:
    before = "model.layers.0.block_sparse_moe.experts"
    shapes = {f"{before}.{n}.w2.weight": (128, 256) for n in range(3)}
    found = header_model(architectures.of_shapes(architectures.settings("mixtral"), shapes))
    (name,) = found.parameters
    assert name == "model.layers.0.block_sparse_moe.switch_mlp.down_proj.weight"
    assert found.parameters[name].shape == (3, 128, 256)
    with pytest.raises(AssertionError, match="only its shape is known"):
        found.parameters[name].rows(0, 1)


def test_weights_that_others_packed_are_refused() -> None:
    config = {
        **architectures.settings("llama"),
        "quantization_config": {"quant_method": "gptq", "bits": 4},
    }
    given = architectures.of_shapes(config, {"model.embed_tokens.weight": (320, 128)})
    with pytest.raises(ModelError, match="'gptq'.*unquantized weights"):
        header_model(given)


def test_layers_that_predict_further_tokens_and_towers_are_left_out() -> None:
    config = architectures.settings("llama", tie_word_embeddings=True)
    shapes = {
        "model.embed_tokens.weight": (320, 128),
        "lm_head.weight": (320, 128),
        "model.layers.3.self_attn.q_proj.weight": (128, 128),
        "model.layers.4.self_attn.q_proj.weight": (128, 128),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (16,),
        "mtp.layers.0.mlp.up_proj.weight": (256, 128),
        "vision_tower.blocks.0.attn.qkv.weight": (384, 128),
    }
    found: SourceModel = header_model(architectures.of_shapes(config, shapes))
    assert list(found.parameters) == [
        "model.embed_tokens.weight",
        "model.layers.3.self_attn.q_proj.weight",
    ]


def test_an_unknown_architecture_is_said_to_be_one() -> None:
    assert is_known({"model_type": "mistral"})
    assert not is_known({"model_type": "not-invented-yet"})
    assert not is_known({"model_type": ["llama"]})


def test_a_packed_folder_keeps_its_bytes(tmp_path: Path) -> None:
    from mlxquant import quantize

    quantize(tiny_models.make(tmp_path / "m", "qwen3"), tmp_path / "q", bits=4)
    checkpoint: Checkpoint = open_folder(tmp_path / "q", quick=True)
    found, real = header_model(checkpoint), resolve_model(checkpoint)
    assert {p: told(m) for p, m in found.modules.items()} == {
        p: told(m) for p, m in real.modules.items()
    }
    again = Request(bits=3, requantize=True)
    assert planned_bytes(found, again) == planned_bytes(real, again)
