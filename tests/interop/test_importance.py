"""Importance data against llama.cpp: its library opens the files, llama-quantize takes the numbers,
and with the same numbers our blocks err less than its."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from interop.family_models import export, make_case
from interop.llama_quantize import Refused, quantize
from interop.test_gguf_files import _Options, library

from mlxquant import RequestError, quantize_gguf
from mlxquant.files.gguf import read_gguf
from mlxquant.load.blocks import floats_of
from mlxquant.models.gguf_model import gguf_as_it_is
from mlxquant.quantize.imatrix import Entry, read_imatrix, write_imatrix
from mlxquant.quantize.llama_types import TypeRequest

WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "head_dim": 64,
    "num_hidden_layers": 2,
}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of experts."""
    folder = tmp_path_factory.mktemp("sparse")
    return export(make_case(folder / "model", "qwen3_moe", **WIDE), folder / "m.gguf")


def weights(file: Path) -> dict[str, np.ndarray]:
    found = {}
    for tensor in gguf_as_it_is(file).tensors:
        floats = floats_of(tensor.node)
        found[tensor.name] = floats.flat(0, floats.size).reshape(floats.shape)
    return found


def collected(file: Path) -> dict[str, Entry]:
    """What llama-imatrix would have names for, of uneven sizes; one expert saw nothing."""
    random = np.random.default_rng(4)
    found = {}
    for tensor in gguf_as_it_is(file).tensors:
        if len(tensor.shape) < 2 or "token_embd" in tensor.name:
            continue
        rows = tensor.shape[0] if len(tensor.shape) > 2 else 1
        sums = np.exp(random.standard_normal((rows, tensor.shape[-1])) * 1.5) * 512
        counts = np.full(rows, 512)
        if rows > 1:
            sums[1], counts[1] = 0, 0
        found[tensor.name] = Entry(sums.astype(np.float32), counts)
    return found


def test_llama_cpp_opens_the_file(tmp_path: Path, sparse: Path) -> None:
    base = library()
    file, entries = tmp_path / "i.gguf", collected(sparse)
    write_imatrix(file, entries, ["a.txt"], 3)
    context = ctypes.c_void_p(base.gguf_init_from_file(bytes(file), _Options(True, None)))
    assert context
    try:
        header = read_gguf(file)
        assert base.gguf_get_n_tensors(context) == 2 * len(entries) == len(header.entries)
        start = base.gguf_get_data_offset(context)
        for index, (name, entry) in enumerate(header.entries.items()):
            assert base.gguf_get_tensor_name(context, index).decode() == name
            assert base.gguf_get_tensor_type(context, index) == 0
            assert base.gguf_get_tensor_offset(context, index) + start == entry.start
            assert base.gguf_get_tensor_size(context, index) == entry.stop - entry.start
        names = [name.removesuffix(".in_sum2") for name in list(header.entries)[::2]]
        assert names == sorted(entries)
    finally:
        base.gguf_free(context)


@pytest.mark.parametrize("ending", ["gguf", "dat"])
@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q2_K"])
def test_experts_by_the_same_data(
    tmp_path: Path, sparse: Path, file_type: str, ending: str
) -> None:
    """The numbers that are read from either layout, in the order llama-quantize takes them in."""
    file = tmp_path / f"i.{ending}"
    write_imatrix(file, collected(sparse), ["a.txt"], 3)
    imatrix = read_imatrix(file)
    means = {name: entry.mean.reshape(-1) for name, entry in imatrix.entries.items()}
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    quantize(sparse, theirs, TypeRequest(file_type, importance=True), means)
    quantize_gguf(sparse, ours, file_type, imatrix=imatrix)
    types = [
        {entry.name: entry.type_name for entry in read_gguf(each).entries.values()}
        for each in (theirs, ours)
    ]
    assert types[0] == types[1]
    plain, their_weights, our_weights = weights(sparse), weights(theirs), weights(ours)
    compared = 0
    for name, entry in imatrix.entries.items():
        w = plain[name].astype(np.float64)
        v = entry.of_columns(w.shape[-1]).astype(np.float64)
        v = v[:, None] if w.ndim > 2 else v
        mine, other = (float((v * (x[name] - w) ** 2).sum()) for x in (our_weights, their_weights))
        assert mine <= other, f"{name}: error {mine:.6g}, llama-quantize's {other:.6g}"
        compared += other > 0
    assert compared > 10


def test_what_llama_quantize_refuses(tmp_path: Path, sparse: Path) -> None:
    entries = collected(sparse)
    name = "blk.0.ffn_up_exps.weight"
    entries[name] = Entry(entries[name].sums[:-1], entries[name].counts[:-1])
    means = {key: entry.mean.reshape(-1) for key, entry in entries.items()}
    out = tmp_path / "out.gguf"
    with pytest.raises(Refused, match="imatrix size"):
        quantize(sparse, out, TypeRequest("Q4_K_M", importance=True), means)
    write_imatrix(tmp_path / "i.gguf", entries)
    with pytest.raises(RequestError, match="another model's"):
        quantize_gguf(sparse, tmp_path / "ours.gguf", "Q4_K_M", imatrix=tmp_path / "i.gguf")
