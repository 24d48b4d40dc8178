"""Files as llama.cpp's own converter writes them, and as older versions did: they open and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from interop import llama
from interop.converted import DATA, LEFT_OUT
from interop.family_models import CASES, export, make_case, read_back, tokens, values_of

from mlxquant import open_checkpoint
from mlxquant.files.gguf import Value, read_gguf
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.formats.base import Array
from mlxquant.models.families import family_of_metadata
from mlxquant.run.packed import build_model

CONVERTED: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))

#: largest difference of a logit, as in test_families.py
_LIMIT = 1e-3

Metadata = dict[str, Value]


def rewritten(
    file: Path, change: Callable[[Metadata, dict[str, Array]], None]
) -> tuple[Metadata, dict[str, Array]]:
    """An F32 file with other metadata and tensors, in its place; those are returned."""
    header = read_gguf(file)
    raw = file.read_bytes()
    metadata = dict(header.metadata)
    arrays = {
        entry.name: np.frombuffer(raw[entry.start : entry.stop], "<f4").reshape(entry.shape)
        for entry in header.entries.values()
    }
    change(metadata, arrays)
    written, ranges = build_gguf(
        metadata, [(name, "F32", array.shape) for name, array in arrays.items()]
    )
    content = bytearray(-(-max(stop for _, stop in ranges) // 32) * 32)
    content[: len(written)] = written
    for array, (start, stop) in zip(arrays.values(), ranges, strict=True):
        content[start:stop] = np.ascontiguousarray(array, dtype="<f4").tobytes()
    file.write_bytes(content)
    return metadata, arrays


def difference(file: Path) -> float:
    """The largest difference of a logit between llama.cpp and mlxquant, on the same file."""
    ids = tokens()
    theirs = llama.logits(file, ids)
    model, _ = build_model(open_checkpoint(file), "float32")
    ours = np.array(model(mx.array([ids]))[0])
    assert ours.std() > 0.3
    return float(np.abs(ours - theirs).max())


def test_every_case_was_converted() -> None:
    assert CONVERTED.keys() == CASES.keys() - LEFT_OUT


@pytest.mark.parametrize("name", CONVERTED)
def test_a_file_of_llama_cpp_s_converter(tmp_path: Path, name: str) -> None:
    """Its metadata and shapes with our bytes, which are the same (`converted.py` compares)."""
    folder = make_case(tmp_path / "model", name)
    file = export(folder, tmp_path / "model.gguf")
    given = CONVERTED[name]

    def change(metadata: Metadata, arrays: dict[str, Array]) -> None:
        metadata.clear()
        metadata["tokenizer.ggml.model"] = Value.of("str", "no_vocab")
        for key, (kind, value) in given["metadata"].items():
            array = kind.startswith("[")
            metadata[key] = Value.array(kind[1:-1], value) if array else Value.of(kind, value)
        # llama.cpp counts the tokens, which these files have none of
        name = f"{metadata['general.architecture'].value}.vocab_size"
        metadata.setdefault(name, Value.of("u32", len(arrays["token_embd.weight"])))
        assert arrays.keys() == given["tensors"].keys()
        for key, shape in given["tensors"].items():
            arrays[key] = arrays[key].reshape(shape)

    rewritten(file, change)
    assert difference(file) <= _LIMIT


def _drop(*keys: str) -> Callable[[Metadata, dict[str, Array]], None]:
    def change(metadata: Metadata, arrays: dict[str, Array]) -> None:
        for key in keys:
            del metadata[key]

    return change


def _scale_linear(metadata: Metadata, arrays: dict[str, Array]) -> None:
    metadata["llama.rope.scale_linear"] = metadata.pop("llama.rope.scaling.factor")
    del metadata["llama.rope.scaling.type"]


def _whole_key_values(metadata: Metadata, arrays: dict[str, Array]) -> None:
    """As before llama.cpp applied the key half to queries."""
    heads = metadata["deepseek2.attention.head_count"]
    metadata["deepseek2.attention.head_count_kv"] = heads
    for side in ("key", "value"):
        name = f"deepseek2.attention.{side}_length"
        metadata[name] = metadata.pop(f"{name}_mla")
    for name in [name for name in arrays if name.endswith("attn_k_b.weight")]:
        keys, values = arrays.pop(name), arrays.pop(name.replace("k_b", "v_b"))
        whole = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        arrays[name.replace("k_b", "kv_b")] = whole.reshape(-1, whole.shape[-1])


_OLDER: dict[str, tuple[str, dict[str, Any], Callable[[Metadata, dict[str, Array]], None]]] = {
    "rope.scale_linear": ("llama-linear", {}, _scale_linear),
    "a factor without a kind": ("llama-linear", {}, _drop("llama.rope.scaling.type")),
    "a kind without a factor": ("llama-linear", {}, _drop("llama.rope.scaling.factor")),
    "no base": ("qwen2", {"rope_theta": 1e6}, _drop("qwen2.rope.freq_base")),
    "whole key values, V2": ("deepseek_v2", {}, _whole_key_values),
    "whole key values, V3": ("deepseek_v3-yarn", {}, _whole_key_values),
}


@pytest.mark.parametrize("name", _OLDER)
def test_a_file_of_an_older_llama_cpp(tmp_path: Path, name: str) -> None:
    """What is missing means what it means to llama.cpp, and not what it would in a config.json."""
    case, config, change = _OLDER[name]
    folder = make_case(tmp_path / "model", case, **config)
    file = export(folder, tmp_path / "model.gguf")
    _, arrays = rewritten(file, change)
    assert difference(file) <= _LIMIT

    metadata, tensors = read_back(file)
    family = family_of_metadata(metadata, tensors)
    found = family.config(metadata, tensors)
    again = family.to_gguf(family.to_hf(tensors, found), found)
    for key in arrays.keys() & again.keys():
        assert np.array_equal(values_of(again[key]), arrays[key]), key
