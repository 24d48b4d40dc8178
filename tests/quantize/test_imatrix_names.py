"""Importance data of mlx-lm's modules in GGUF's names and back, for every family."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from interop.family_models import CASES, make_case

from mlxquant import ModelError, RequestError
from mlxquant.load.from_hf import open_folder
from mlxquant.models.families import family_of_config
from mlxquant.models.mlx_lm import SourceModel, resolve_model
from mlxquant.quantize.imatrix import Entry
from mlxquant.quantize.imatrix_names import by_modules, by_tensors


def source(folder: Path, name: str) -> SourceModel:
    return resolve_model(open_folder(make_case(folder / "model", name)))


def collected(model: SourceModel) -> dict[str, Entry]:
    """Data for every matrix of a model, each with numbers of its own; a row an expert or head."""
    found = {}
    for number, path in enumerate(model.modules):
        *stack, _, columns = model.parameters[f"{path}.weight"].shape
        random = np.random.default_rng(number)
        sums = random.random((stack[0] if stack else 1, columns)) * 100
        found[path] = Entry(sums.astype(np.float32), random.integers(1, 99, len(sums)))
    return found


def same(entry: Entry, other: Entry) -> None:
    np.testing.assert_array_equal(entry.sums, other.sums)
    np.testing.assert_array_equal(entry.counts, other.counts)


@pytest.mark.parametrize("name", CASES)
def test_every_family_there_and_back(tmp_path: Path, name: str) -> None:
    """Each matrix's data fit the columns of the tensor that `export` makes of that very matrix."""
    model = source(tmp_path, name)
    family, given = family_of_config(model.config), collected(model)
    tensors = family.to_gguf(model.parameters, model.config)
    origins = family.origins(list(model.parameters), model.config)
    named = by_tensors(given, model.config)
    for key, entry in named.items():
        (origin,) = (each.removesuffix(".weight") for each in origins[key])
        shape = tensors[key].shape
        if len(shape) > 1:  # a matrix of one row is a vector there
            matrices = shape[0] if len(shape) > 2 else 1
            assert entry.sums.shape == (matrices, shape[-1]), key
        else:
            assert entry.sums.shape[1] == shape[0], key
        if "kv_b_proj" not in origin:
            same(entry, given[origin])
    back = by_modules(named, model.config, list(model.modules))
    assert back.keys() == given.keys()
    for path, entry in back.items():
        if "kv_b_proj" not in path:
            same(entry, given[path])


def test_the_halves_of_latent_attention(tmp_path: Path) -> None:
    """The value half takes the whole's input in every head; of the key half nothing is known."""
    model = source(tmp_path, "deepseek_v2")
    heads, path = model.config["num_attention_heads"], "model.layers.1.self_attn.kv_b_proj"
    given = Entry.of(np.arange(1.0, 17.0), 5)
    named = by_tensors({path: given}, model.config)
    assert list(named) == ["blk.1.attn_v_b.weight"]
    assert named["blk.1.attn_v_b.weight"].mean.tolist() == [given.mean[0].tolist()] * heads
    back = by_modules(named, model.config, [path])[path]
    np.testing.assert_allclose(back.mean, given.mean, rtol=1e-6)
    # as llama-imatrix writes it: all heads in one row, one count
    flat = Entry.of(np.tile(given.sums[0], heads), 5)
    again = by_modules({"blk.1.attn_v_b.weight": flat}, model.config, [path])[path]
    np.testing.assert_allclose(again.mean, given.mean, rtol=1e-6)
    with pytest.raises(RequestError, match="do not make"):
        by_modules({"blk.1.attn_v_b.weight": Entry.of(np.ones(17), 5)}, model.config, [path])


@pytest.mark.parametrize("name", ["llama-biases", "qwen3_moe"])
def test_matrices_in_one(tmp_path: Path, name: str) -> None:
    """Files with q, k and v in one matrix, or gate and up: those have the same input."""
    model = source(tmp_path, name)
    given = collected(model)
    for path in given:  # what has one input has one importance
        for part, first in (("k", "q"), ("v", "q")):
            if f"self_attn.{part}_proj" in path:
                given[path] = given[path.replace(f"{part}_proj", f"{first}_proj")]
        if "up_proj" in path:
            given[path] = given[path.replace("up_proj", "gate_proj")]

    def joined(key: str) -> str:
        key = re.sub(r"attn_[qkv](?=\.)", "attn_qkv", key)
        return re.sub(r"ffn_(gate|up)_exps", "ffn_gate_up_exps", key)

    apart = by_tensors(given, model.config)
    one = by_tensors(given, model.config, {joined(key) for key in apart})
    assert one.keys() == {joined(key) for key in apart} and len(one) < len(apart)
    back = by_modules(one, model.config, list(model.modules))
    assert back.keys() == given.keys()
    for path, entry in back.items():
        same(entry, given[path])


def test_a_model_that_is_wrapped_for_images(tmp_path: Path) -> None:
    model = source(tmp_path, "gemma3")
    plain = collected(model)
    wrapped = {f"language_model.{path}": entry for path, entry in plain.items()}
    named = by_tensors(wrapped, model.config)
    assert named.keys() == by_tensors(plain, model.config).keys()
    assert by_modules(named, model.config, list(wrapped)).keys() == wrapped.keys()


def test_what_has_no_place_there(tmp_path: Path) -> None:
    model = source(tmp_path, "llama")
    with pytest.raises(ModelError, match="'model.layers.0.mlp.fourth_proj': GGUF has no tensor"):
        by_tensors({"model.layers.0.mlp.fourth_proj": Entry.of(np.ones(4), 1)}, model.config)
    with pytest.raises(ModelError, match="model type 'unheard_of'"):
        by_tensors({}, {"model_type": "unheard_of"})
    foreign = {"blk.0.ssm_in.weight": Entry.of(np.ones(4), 1)}
    assert by_modules(foreign, model.config, list(model.modules)) == {}
