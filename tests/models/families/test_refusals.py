"""What a GGUF file cannot say, and what no family knows, is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from interop.family_models import CASES, YARN, make_case, model_nodes

from mlxquant.errors import ModelError
from mlxquant.load.lazy import Node
from mlxquant.models.families import family_of_config, family_of_metadata
from mlxquant.models.families.changes import constant


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    kind, own = CASES[name]
    return {"model_type": kind, **tiny_models.CONFIGS[kind], **own, **changes}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "'hidden_act' is \"gelu\""),
        ("llama", {"rope_traditional": True}, "'rope_traditional' is true"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'|\"dynamic\""),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0, "odd": 1}},
            "'rope_scaling.odd' is 1",
        ),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "'layer_types'"),
        ("llama", {"num_attention_heads": None}, "'num_attention_heads' is null"),
        ("llama", {"hidden_size": "128"}, "'hidden_size' is \"128\""),
        ("llama", {"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        (
            "qwen2-yarn",
            {"rope_scaling": {**YARN, "beta_slow": 2}},
            "'rope_scaling.beta_slow' is 2: llama.cpp computes",
        ),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "'no_rope_layers'"),
        ("smollm3", {"no_rope_layer_interval": 2}, "'no_rope_layer_interval' is 2"),
        ("qwen2", {"use_sliding_window": True}, "'use_sliding_window' is true"),
        ("qwen2_moe", {"norm_topk_prob": True}, "'norm_topk_prob' is true"),
        ("qwen3_moe", {"norm_topk_prob": False}, "'norm_topk_prob' is false"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "'mlp_only_layers'"),
        ("gemma2", {"query_pre_attn_scalar": 100}, "'query_pre_attn_scalar' is 100"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "'layer_types'"),
        ("gemma3", {"sliding_window_pattern": 0}, "'sliding_window_pattern' is 0"),
        ("gpt_oss", {"layer_types": ["full_attention"] * 2}, "'layer_types'"),
        (
            "deepseek_v2",
            {"topk_method": "group_limited_greedy", "n_group": 2},
            "'topk_method' is \"group_limited_greedy\"",
        ),
        ("deepseek_v2", {"norm_topk_prob": True}, "'norm_topk_prob' is true"),
        ("deepseek_v3", {"q_lora_rank": None}, "'q_lora_rank' is null"),
        ("olmo2", {"tie_word_embeddings": None}, "'tie_word_embeddings' is null"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type"),
    ],
)
def test_a_value_that_gguf_cannot_express(name: str, changes: dict[str, Any], said: str) -> None:
    config = config_of(name, **changes)
    with pytest.raises(ModelError, match=said):
        family_of_config(config).metadata(config)


def test_an_unknown_model_type() -> None:
    with pytest.raises(ModelError, match="model type 'mamba' has no GGUF architecture"):
        family_of_config({"model_type": "mamba"})


@pytest.mark.parametrize("metadata", [{"general.architecture": "rwkv7"}, {}])
def test_an_unknown_architecture(metadata: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="'rwkv7' is not known|'general.architecture' is missing"):
        family_of_metadata(metadata, {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_case(tmp_path_factory.mktemp("families") / "model", "llama")
    config = json.loads((folder / "config.json").read_text())
    nodes = model_nodes(folder)
    family = family_of_config(config)
    return family, config, nodes, family.metadata(config), family.to_gguf(nodes, config)


def some_tensor() -> Node:
    return constant(np.zeros((4, 4), dtype=np.float32))


def test_a_tensor_that_no_rule_names(exported: Any) -> None:
    family, config, nodes, _, tensors = exported
    with pytest.raises(ModelError, match=re.escape("'model.layers.0.odd.weight': not known")):
        family.to_gguf({**nodes, "model.layers.0.odd.weight": some_tensor()}, config)
    with pytest.raises(ModelError, match=re.escape("'blk.2.attn_q.weight': not known")):
        family.to_hf({**tensors, "blk.2.attn_q.weight": some_tensor()}, config)


def test_a_tensor_that_is_missing(exported: Any) -> None:
    family, config, nodes, _, tensors = exported
    name = "model.layers.1.self_attn.q_proj.weight"
    with pytest.raises(ModelError, match=f"'{name}' is missing"):
        family.to_gguf({key: nodes[key] for key in nodes if key != name}, config)
    with pytest.raises(ModelError, match=re.escape("'blk.1.ffn_up.weight' is missing")):
        rest = {key: tensors[key] for key in tensors if key != "blk.1.ffn_up.weight"}
        family.to_hf(rest, config)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("block_count", 0, "at least 1"),
        ("block_count", 10**9, "the file has"),
        ("attention.head_count", 0, "at least 1"),
        ("embedding_length", 0, "at least 1"),
        ("embedding_length", None, "is missing"),
        ("attention.head_count_kv", [2, 1], "one number for all layers"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "a number expected"),
        ("attention.scale", 0.5, "not known for this architecture"),
        ("rope.scaling.type", "yarn2", "not known for this architecture"),
        ("attention.value_length", 16, "32 expected"),
    ],
)
def test_metadata_that_is_implausible(exported: Any, key: str, value: Any, said: str) -> None:
    family, _, _, metadata, tensors = exported
    changed = {**metadata, f"llama.{key}": value}
    if value is None:
        del changed[f"llama.{key}"]
    with pytest.raises(ModelError, match=f"'llama.{key}'.*{said}"):
        family.config(changed, tensors)


def test_a_count_that_the_tensors_deny(tmp_path: Path) -> None:
    """No list of a count's length is made before it is held against a tensor's shape."""
    folder = make_case(tmp_path / "model", "stablelm-parallel")
    config = json.loads((folder / "config.json").read_text())
    family = family_of_config(config)
    tensors = family.to_gguf(model_nodes(folder), config)
    with pytest.raises(ModelError, match="'num_hidden_layers' is 1000000000: the model has"):
        family.to_hf(tensors, {**config, "num_hidden_layers": 10**9})
    with pytest.raises(ModelError, match="4 parts, 2147483647 expected"):
        family.to_hf(tensors, {**config, "num_attention_heads": 2**31 - 1})


def test_a_norm_in_blocks(exported: Any) -> None:
    """What needs values says so, where all else takes wire bytes."""
    family, config, nodes, _, _ = exported
    wire = Node((128,), "U8", lambda region: np.zeros(128, np.uint8), "Test")
    with pytest.raises(ModelError, match="dequantize this tensor first"):
        family.to_gguf({**nodes, "model.norm.weight": wire}, config)


def test_a_rope_table_of_another_kind(exported: Any) -> None:
    family, _, _, metadata, tensors = exported
    odd = constant(np.linspace(1, 5, 16, dtype=np.float32))
    with pytest.raises(ModelError, match="'rope_freqs.weight'"):
        family.config(metadata, {**tensors, "rope_freqs.weight": odd})


def test_keys_that_nobody_reads_are_named() -> None:
    config = config_of("qwen3", odd=1, empty=None, torch_dtype="bfloat16", use_cache=True)
    assert family_of_config(config).unread(config) == ["odd"]
