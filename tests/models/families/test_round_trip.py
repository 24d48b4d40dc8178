"""Every family there and back: names, layouts and settings, without a file between."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from interop.family_models import CASES, make_case, model_nodes, stored_nodes, values_of
from mlx_lm.utils import _get_classes

from mlxquant.load.lazy import Node
from mlxquant.models.families import FAMILIES, Family, family_of_config, family_of_metadata
from mlxquant.models.families.changes import constant
from mlxquant.models.families.sides import Settings

#: what mlx-lm reads of a config and GGUF has no word for, since nothing depends on it
_LOST = {"model_type", "layer_types", "sliding_window", "rope_parameters"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_case(tmp_path / "model", request.param)


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What mlx-lm makes of a config."""
    made = _get_classes(config)[1].from_dict(json.loads(json.dumps(config)))
    found = dataclasses.asdict(made)
    if "head_dim" in found and found["head_dim"] is None:
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    return found


def test_comes_back_as_it_went(case: Path) -> None:
    config = json.loads((case / "config.json").read_text())
    nodes = model_nodes(case)
    family = family_of_config(config)
    metadata, tensors = family.metadata(config), family.to_gguf(nodes, config)

    assert family_of_metadata(metadata, tensors) is family
    back = family.config(metadata, tensors)
    assert set(family.to_hf(tensors, back)) == set(nodes)
    there, again = arguments(config), arguments(back)
    for key in there.keys() - _LOST:
        expected, found = there[key], again[key]
        if key == "rope_scaling" and expected:
            assert {**found, **expected} == found or _same_scaling(expected, found)
        elif isinstance(expected, float):
            assert found == pytest.approx(expected, rel=1e-6), key
        else:
            assert found == expected, key
    for name, node in family.to_hf(tensors, back).items():
        assert node.shape == nodes[name].shape, name
        assert np.array_equal(values_of(node), values_of(nodes[name])), name


def _same_scaling(expected: dict[str, Any], found: dict[str, Any]) -> bool:
    kinds = {"type", "rope_type"}
    return all(
        found.get(key) == pytest.approx(value)
        for key, value in expected.items()
        if key not in kinds
    )


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3"])
def test_takes_the_names_of_hugging_face(tmp_path: Path, name: str) -> None:
    folder = make_case(tmp_path / "model", name)
    config = json.loads((folder / "config.json").read_text())
    family = family_of_config(config)
    ours = family.to_gguf(model_nodes(folder), config)
    theirs = family.to_gguf(stored_nodes(folder), config)
    assert ours.keys() == theirs.keys()
    for key, node in theirs.items():
        assert node.shape == ours[key].shape
        assert np.array_equal(values_of(node), values_of(ours[key])), key


def test_every_argument_of_mlx_lm_is_looked_at() -> None:
    for family in FAMILIES:
        config = {"model_type": family.model_types[0]}
        fields = {f.name for f in dataclasses.fields(_get_classes(config)[1])}
        asked = _asked(family)
        assert fields - asked - {"model_type", "rope_parameters"} == set(), family


def _asked(family: Family) -> set[str]:
    """The keys of config.json that a family's settings read in any of its cases."""
    found: set[str] = set()
    for kind, changes in CASES.values():
        if kind in family.model_types:
            config = Settings({"model_type": kind, **tiny_models.CONFIGS[kind], **changes})
            for setting in family.settings:
                setting.write(config)
            found |= config.asked
    return found


def test_wire_bytes_are_moved_like_rows(tmp_path: Path) -> None:
    """Rows of blocks, which are opaque, land where rows of floats do."""
    folder = make_case(tmp_path / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    family = family_of_config(config)
    nodes = model_nodes(folder)
    name = "model.layers.0.self_attn.k_proj.weight"
    rows = nodes[name].shape[0]
    wire = np.arange(rows * 18, dtype=np.int64).reshape(rows, 18).astype(np.uint8)
    floats = values_of(nodes[name])

    def compute(region: Any) -> Any:
        return wire[region[0].start : region[0].stop, region[1].start : region[1].stop]

    moved = family.to_gguf({**nodes, name: Node(wire.shape, "U8", compute, "Test")}, config)
    found = moved["blk.0.attn_k.weight"]
    plain = values_of(family.to_gguf(nodes, config)["blk.0.attn_k.weight"])
    bytes_ = found.flat(0, found.size).reshape(found.shape)
    for row in range(rows):
        origin = np.flatnonzero((floats == plain[row]).all(axis=1))
        assert np.array_equal(bytes_[row], wire[origin[0]])
    assert not np.array_equal(bytes_, wire)


def test_a_few_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    folder = make_case(tmp_path / "model", "deepseek_v2")
    config = json.loads((folder / "config.json").read_text())
    tensors = family_of_config(config).to_gguf(model_nodes(folder), config)
    for name, node in tensors.items():
        whole = node.flat(0, node.size)
        begin, end = node.size // 3, node.size // 3 + min(node.size // 2, 700)
        assert np.array_equal(node.flat(begin, end), whole[begin:end]), name


@pytest.mark.parametrize("name", ["llama-biases", "qwen3_moe"])
def test_files_with_matrices_in_one(tmp_path: Path, name: str) -> None:
    """q, k and v in one matrix, gate and up of experts in another, as llama.cpp can write them."""
    folder = make_case(tmp_path / "model", name)
    config = json.loads((folder / "config.json").read_text())
    family, nodes = family_of_config(config), model_nodes(folder)
    apart = family.to_gguf(nodes, config)
    joined: dict[str, Node] = {}
    for key, node in apart.items():
        into = re.sub(r"attn_[qkv](?=\.)", "attn_qkv", key)
        into = re.sub(r"ffn_(gate|up)_exps", "ffn_gate_up_exps", into)
        before = [values_of(joined[into])] if into in joined else []
        axis = 1 if "gate_up" in into else 0
        joined[into] = constant(np.concatenate([*before, values_of(node)], axis))
    assert len(joined) < len(apart)
    back = family.to_hf(joined, family.config(family.metadata(config), apart))
    assert back.keys() == nodes.keys()
    for key, node in back.items():
        assert np.array_equal(values_of(node), values_of(nodes[key])), key


def test_what_newer_configs_nest() -> None:
    """transformers 5 keeps rope's settings together; Gemma 3 by the kind of layer."""
    kind, changes = CASES["gemma3"]
    config = {"model_type": kind, **tiny_models.CONFIGS[kind], **changes}
    names = ("rope_theta", "rope_scaling", "rope_local_base_freq")
    theta, scaling, local = (config[name] for name in names)
    nested = {key: value for key, value in config.items() if key not in names} | {
        "rope_parameters": {
            "full_attention": {"rope_theta": theta, **scaling},
            "sliding_attention": {"rope_theta": local, "rope_type": "default"},
        }
    }
    family = family_of_config(config)
    assert family.metadata(nested) == family.metadata(config)

    kind, changes = CASES["glm4"]
    config = {"model_type": kind, **tiny_models.CONFIGS[kind], **changes}
    parts = {key: config.pop(key) for key in ("rope_theta", "partial_rotary_factor")}
    nested = {**config, "rope_parameters": {"rope_type": "default", **parts}}
    family = family_of_config(config)
    assert family.metadata(nested) == family.metadata({**config, **parts})


def test_what_a_model_with_images_leaves_unsaid() -> None:
    """The config.json of Gemma 3 4B, shortened to what it says of its text model."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}
    metadata = family_of_config(config).metadata(config)
    expected = {
        "attention.head_count": 8,
        "attention.head_count_kv": 4,
        "attention.key_length": 256,
        "vocab_size": 262208,
        "rope.freq_base": 1e6,
        "embedding_length": 2560,
    }
    assert {key: metadata[f"gemma3.{key}"] for key in expected} == expected
