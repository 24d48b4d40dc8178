"""Importance data on their way into a GGUF file: which tensor, which expert, which rules, what is
said."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop.family_models import export, make_case

from mlxquant import RequestError, formats, quantize_gguf
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_values import Value
from mlxquant.load.blocks import floats_of
from mlxquant.models.gguf_model import GgufModel, gguf_as_it_is
from mlxquant.quantize.gguf_plan import GgufPlan, type_plan
from mlxquant.quantize.imatrix import Entry, Imatrix, write_imatrix
from mlxquant.quantize.llama_types import TypeRequest
from mlxquant.save import layout

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    return export(make_case(folder / "model", "llama-untied", **WIDE), folder / "m.gguf")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    wide = {**WIDE, "moe_intermediate_size": 256}
    return export(make_case(folder / "model", "qwen3_moe", **wide), folder / "m.gguf")


def data(model: GgufModel, *, seed: int = 0, leave: str = "token_embd") -> dict[str, Entry]:
    """For every matrix but those whose names have `leave` in them; a row an expert."""
    random = np.random.default_rng(seed)
    found = {}
    for tensor in model.tensors:
        if len(tensor.shape) > 1 and not re.search(leave, tensor.name):
            rows = tensor.shape[0] if len(tensor.shape) > 2 else 1
            sums = np.exp(random.standard_normal((rows, tensor.shape[-1])) * 2)
            found[tensor.name] = Entry.of(sums * 100, 100)
    return found


def planned(file: Path, name: str, imatrix: Imatrix | None, **options: Any) -> GgufPlan:
    return type_plan(gguf_as_it_is(file), TypeRequest(name, **options), imatrix=imatrix)


def wires(file: Path) -> dict[str, bytes]:
    whole = file.read_bytes()
    return {e.name: whole[e.start : e.stop] for e in read_gguf(file).entries.values()}


@pytest.mark.parametrize("name", ["Q4_K", "Q4_0", "IQ4_XS", "IQ2_S"])
def test_every_expert_s_rows_are_encoded_by_its_own_columns(
    sparse: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the units of work are: many rows, or a few that end within an expert's."""
    imatrix = Imatrix(data(gguf_as_it_is(sparse)))
    types = (("ffn_(up|down)_exps", name),)
    request = TypeRequest("Q8_0", tensor_types=types)
    made = []
    for unit in (1 << 20, 7000):
        monkeypatch.setattr(layout, "UNIT_BYTES", unit)
        quantize_gguf(sparse, tmp_path / f"{unit}.gguf", request, imatrix=imatrix)
        made.append(wires(tmp_path / f"{unit}.gguf"))
    assert made[0] == made[1]
    fmt = formats.get(name)
    for tensor in gguf_as_it_is(sparse).tensors:
        if "ffn_up_exps" not in tensor.name and "ffn_down_exps" not in tensor.name:
            continue
        floats = floats_of(tensor.node)
        weights = floats.flat(0, floats.size).reshape(floats.shape)
        means = imatrix.entries[tensor.name].mean
        parts = [fmt.encode(rows, v)[0].tobytes() for rows, v in zip(weights, means, strict=True)]
        assert made[0][tensor.name] == b"".join(parts)
        plain = b"".join(fmt.encode(rows)[0].tobytes() for rows in weights)
        assert made[0][tensor.name] != plain


def test_the_layouts_of_the_file_make_the_same_model(dense: Path, tmp_path: Path) -> None:
    """Counts are such that means survive the older layout's division."""
    entries = {
        name: Entry.of(entry.sums, 512) for name, entry in data(gguf_as_it_is(dense)).items()
    }
    made = []
    for ending in ("gguf", "dat"):
        file = tmp_path / f"i.{ending}"
        write_imatrix(file, entries, ["calm.txt"], 1)
        out = tmp_path / f"{ending}.gguf"
        quantize_gguf(dense, out, "Q4_K_M", imatrix=file)
        made.append(wires(out))
        header = read_gguf(out)
        keys = {k: v for k, v in header.metadata.items() if k.startswith("quantize.imatrix.")}
        assert keys == {
            "quantize.imatrix.file": Value.of("str", f"i.{ending}"),
            "quantize.imatrix.dataset": Value.of("str", "calm.txt"),
            "quantize.imatrix.entries_count": Value.of("u32", len(entries)),
            "quantize.imatrix.chunks_count": Value.of("u32", 1),
        }
        assert list(header.metadata)[-4:] == list(keys)
    assert made[0] == made[1]
    quantize_gguf(dense, tmp_path / "plain.gguf", "Q4_K_M")
    plain = wires(tmp_path / "plain.gguf")
    assert {name for name in plain if plain[name] != made[0][name]} == set(entries)
    assert not any(k.startswith("quantize.") for k in read_gguf(tmp_path / "plain.gguf").metadata)


def test_texts_in_the_metadata_have_room(dense: Path) -> None:
    imatrix = Imatrix(data(gguf_as_it_is(dense)), ("ä" * 100, "b"), 0, name="n" * 200)
    metadata = planned(dense, "Q4_0", imatrix).metadata
    assert metadata["quantize.imatrix.file"].value == "n" * 127
    assert metadata["quantize.imatrix.dataset"].value == "ä" * 63
    assert "quantize.imatrix.chunks_count" not in metadata


def test_rules_go_by_whether_there_are_data(dense: Path) -> None:
    entries = data(gguf_as_it_is(dense))

    def types(name: str, imatrix: Imatrix | None, **options: Any) -> dict[str, str]:
        items = planned(dense, name, imatrix, **options).items
        return {item.tensor.name: item.type for item in items}

    without, with_ = types("IQ3_XXS", None), types("IQ3_XXS", Imatrix(entries))
    assert without != with_
    assert types("IQ3_XXS", Imatrix(entries), exclude_weights=("blk", "output")) == without
    assert types("IQ3_XXS", Imatrix({})) == without


def test_what_is_said(dense: Path, sparse: Path) -> None:
    def notes(file: Path, name: str, imatrix: Imatrix | None, **options: Any) -> str:
        return "\n".join(planned(file, name, imatrix, **options).notes)

    entries = data(gguf_as_it_is(dense))
    said = notes(dense, "Q4_K_M", Imatrix(entries))
    assert said == "no importance data for token_embd.weight: all columns count alike"
    said = notes(dense, "Q4_K_M", Imatrix(entries), exclude_weights=("attn_q", "attn_k"))
    for name in ("blk.0.attn_q.weight", "blk.1.attn_k.weight"):
        assert name in said
    few = {name: entry for name, entry in entries.items() if "ffn" in name}
    assert "4 more: all columns count alike" in notes(dense, "Q4_K_M", Imatrix(few))
    said = notes(dense, "IQ2_XS", Imatrix(data(gguf_as_it_is(dense), leave="1.attn_q")))
    assert "a tensor gets a type so small that without importance data the loss is large" in said
    assert "blk.1.attn_q.weight" in said and "no importance data for" not in said
    assert "4 tensors get a type so small" not in said
    strange = {**entries, "blk.7.ssm_in.weight": Entry.of(np.ones(9), 1)}
    assert "the model has no blk.7.ssm_in.weight, which importance data are given for" in notes(
        dense, "Q4_K_M", Imatrix(strange)
    )
    some = data(gguf_as_it_is(sparse))
    name = "blk.1.ffn_up_exps.weight"
    counts = some[name].counts.copy()
    counts[:2] = 0
    some[name] = Entry(some[name].sums, counts)
    said = notes(sparse, "Q4_K_M", Imatrix(some))
    assert f"{name}: 2 of {len(counts)} experts saw no input; their columns count alike" in said


@pytest.mark.parametrize("change", ["columns", "experts", "model"])
def test_data_of_another_model(sparse: Path, change: str) -> None:
    entries: Mapping[str, Entry] = data(gguf_as_it_is(sparse))
    name = "blk.0.ffn_down_exps.weight"
    entry = entries[name]
    if change == "columns":
        entries = {**entries, name: Entry.of(entry.sums[:, :-1], 1)}
    elif change == "experts":
        entries = {**entries, name: Entry.of(entry.sums[:-1], 1)}
    else:
        entries = {f"model.{key}": value for key, value in entries.items()}
    with pytest.raises(RequestError) as caught:
        planned(sparse, "Q4_K_M", Imatrix(entries, name="other.gguf"))
    assert str(caught.value).startswith("other.gguf: ")
    assert "another model's" in str(caught.value)
    if change != "model":
        assert f"{name!r} has " in str(caught.value)
        assert planned(sparse, "Q4_K_M", Imatrix(entries), exclude_weights=("down",)).items


def test_the_token_embedding_s_are_left_out_where_they_do_not_fit(dense: Path) -> None:
    """As llama-quantize does: collectors give them a column a token."""
    entries = {**data(gguf_as_it_is(dense)), "token_embd.weight": Entry.of(np.ones(320), 1)}
    assert "token_embd.weight: all columns" in planned(dense, "Q4_0", Imatrix(entries)).notes[-1]


def test_include_and_exclude(dense: Path) -> None:
    imatrix = Imatrix(data(gguf_as_it_is(dense)))

    def weighed(**options: Any) -> set[str]:
        items = planned(dense, "Q4_0", imatrix, **options).items
        return {item.tensor.name for item in items if item.importance is not None}

    everything = weighed()
    assert everything == set(imatrix.entries)
    assert weighed(include_weights=("ffn_down", "attn_v")) == {
        name for name in everything if "ffn_down" in name or "attn_v" in name
    }
    assert weighed(exclude_weights=("ffn",)) == {n for n in everything if "ffn" not in n}
    with pytest.raises(RequestError, match="--include-weights or --exclude-weights, not both"):
        TypeRequest("Q4_0", include_weights=("a",), exclude_weights=("b",))


def test_other_data_are_another_run(dense: Path, tmp_path: Path) -> None:
    """A run that was interrupted is not gone on with by other data."""
    model = gguf_as_it_is(dense)
    described = [
        type_plan(model, TypeRequest("Q4_0"), imatrix=Imatrix(data(model, seed=seed))).described
        for seed in (1, 1, 2)
    ]
    assert described[0] == described[1] != described[2]
    quantize_gguf(dense, tmp_path / "a.gguf", "Q4_0", imatrix=Imatrix(data(model)))
    quantize_gguf(dense, tmp_path / "b.gguf", "Q4_0", imatrix=Imatrix(data(model)), threads=3)
    digests = [hashlib.sha256((tmp_path / f"{n}.gguf").read_bytes()).digest() for n in "ab"]
    assert digests[0] == digests[1]
