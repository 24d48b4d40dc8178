"""What an import leaves of a GGUF file: every byte, or what was asked for; nothing if refused."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from generating import text
from load.test_from_gguf import export as export_as
from save.faulty import Fault, Runner, tree
from wire_models import STORED, make, spoil, wires

from mlxquant import (
    ModelError,
    RequestError,
    export,
    import_gguf,
    load,
    open_checkpoint,
    quantize,
    quantize_gguf,
)
from mlxquant.formats.base import Array
from mlxquant.formats.floats import to_float32
from mlxquant.load.blocks import floats_of
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.llama_types import TypeRequest
from mlxquant.run.options import Options

REPACKED = {
    "Q4_0": "affine4-g32",
    "Q4_1": "affine4-g32",
    "Q5_0": "affine5-g32",
    "Q5_1": "affine5-g32",
    "Q8_0": "affine8-g32",
    "MXFP4": "mxfp4",
    "NVFP4": "nvfp4",
}
#: of the bundled vocabulary's width, so that a folder goes back into a file
WORDS: dict[str, Any] = {"vocabulary": True, "num_hidden_layers": 1}


def floats(path: Path) -> dict[str, Array]:
    """Every parameter of a model, float32."""
    return {
        name: (found := floats_of(node)).flat(0, found.size).reshape(found.shape)
        for name, node in resolve_model(open_checkpoint(path)).parameters.items()
    }


def assert_same_tensors(file: Path, again: Path) -> None:
    """The same tensors, types and bytes; an F32 matrix that was narrowed comes back as such."""
    ours, theirs = wires(again), wires(file)
    assert ours.keys() == theirs.keys()
    for name, (type_name, data) in ours.items():
        if theirs[name][0] == "F32" and type_name in ("BF16", "F16"):
            type_name, data = "F32", as_float32(type_name, data)
        assert (type_name, data) == theirs[name], name


def as_float32(type_name: str, data: bytes) -> bytes:
    carrier = np.frombuffer(data, "<u2" if type_name == "BF16" else "<f2")
    return to_float32(carrier, type_name).tobytes()


def one_after_the_other(layers: int, first: int, *matrices: str) -> dict[str, str]:
    """Matrix → type: every type that there is in turn, beginning with the `first`."""
    names = [f"blk.{n}.{name}.weight" for n in range(layers) for name in matrices]
    every = (*STORED, "F16", "BF16", "F32")
    return {name: every[(first + place) % len(every)] for place, name in enumerate(names)}


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("first", [0, 11, 21])
def test_every_byte_comes_back(tmp_path: Path, family: str, first: int) -> None:
    """File → folder → file: q and k with their rows turned, and stacked experts, among them."""
    ffn = ["ffn_gate", "ffn_up", "ffn_down"]
    ffn = [f"{name}_exps" for name in ffn] if family == "mixtral" else ffn
    attention = ["attn_q", "attn_k", "attn_v", "attn_output"]
    types = one_after_the_other(5, first, *attention, *ffn)
    words = WORDS | {"num_hidden_layers": 5}
    file = make(tmp_path / "model.gguf", family, {**types, "*": "Q4_K"}, **words)
    assert {*STORED, "F16", "BF16", "F32"} == {type_name for type_name, _ in wires(file).values()}
    result = import_gguf(file, tmp_path / "folder")
    assert result.exact == len(result.fates) and result.worst is None
    tensors = open_checkpoint(tmp_path / "folder").tensors
    for fate in result.fates:
        found = (fate.how, tensors[fate.item.name].format)
        if fate.stored in REPACKED:
            assert found == ("repacked", REPACKED[fate.stored])
        elif fate.stored in STORED:
            assert found == ("kept", fate.stored)
        else:
            narrow = ("narrowed", {"float16": "f16", "bfloat16": "bf16"}[str(result.plan.dtype)])
            assert found in (("plain", fate.stored.lower()), narrow)
    export(tmp_path / "folder", tmp_path / "again.gguf")
    assert_same_tensors(file, tmp_path / "again.gguf")


FAMILIES = {
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "gemma2": {"query_pre_attn_scalar": 64, "tie_word_embeddings": True},
    "phi3": {},
    "gpt_oss": {"quantization_config": None},
    "deepseek_v3": {},
    "starcoder2": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_of_every_family(tmp_path: Path, family: str) -> None:
    """What the folder means is what the file means, through mlx-lm's own names and shapes."""
    types = {"*ffn_down*": "Q6_K", "*attn_[kv]_b*": "IQ4_NL", "*": "Q3_K"}
    file = make(tmp_path / "model.gguf", family, types, **FAMILIES[family])
    result = import_gguf(file, tmp_path / "folder")
    assert result.exact == len(result.fates)
    found = {fate.how for fate in result.fates}
    assert found <= {"kept", "plain", "narrowed", "computed", "decoded"} and "kept" in found
    assert ("decoded" in found) == (family == "deepseek_v3")
    assert ("computed" in found) == (family == "gemma2")
    before, after = floats(file), floats(tmp_path / "folder")
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert np.array_equal(values.view(np.uint32), after[name].view(np.uint32)), name


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_1", "Q8_0", "NVFP4"])
def test_stock_mlx_lm_runs_what_is_repacked(tmp_path: Path, bundled: Path, type_name: str) -> None:
    """In float32, where MLX's arithmetic is as good as ggml's."""
    export_as(bundled, tmp_path / "books.gguf", type_name)
    import_gguf(tmp_path / "books.gguf", tmp_path / "exact")
    import_gguf(tmp_path / "books.gguf", tmp_path / "floats", dequantize=True, dtype="float32")
    assert "mlxquant" not in json.loads((tmp_path / "exact" / "config.json").read_text())
    logits = []
    for name in ("exact", "floats"):
        model, tokenizer = mlx_lm.load(str(tmp_path / name))
        model.set_dtype(mx.float32)
        logits.append(np.array(model(mx.array([tokenizer.encode("The rain beat upon")]))))
    assert np.abs(logits[0] - logits[1]).max() < 1e-3 < np.abs(logits[0]).max()


def test_mlxquant_says_the_same_from_file_and_folder(tmp_path: Path, bundled: Path) -> None:
    """Blocks beside repacked weights, in the type that each computes in by itself."""
    some = (("blk.[0-3].attn_(q|v)", "Q4_K"), ("blk.4.ffn_down", "IQ4_XS"))
    request = TypeRequest("Q4_0", tensor_types=some)
    quantize_gguf(bundled, tmp_path / "books.gguf", request)
    result = import_gguf(tmp_path / "books.gguf", tmp_path / "folder")
    assert {"Q4_0", "Q4_K", "IQ4_XS", "Q6_K"} <= {fate.stored for fate in result.fates}
    assert result.plan.quantization and open_checkpoint(tmp_path / "folder").blocks()
    paths = tmp_path / "books.gguf", tmp_path / "folder"
    said = [text(load(path), Options(temp=0.0, max_tokens=32)) for path in paths]
    assert said[0] == said[1] and len(said[0]) > 40


def test_requantizing_is_quantizing(tmp_path: Path) -> None:
    file = make(tmp_path / "model.gguf", types={"*attn*": "Q4_K", "*": "Q8_0"}, **WORDS)
    quantize(file, tmp_path / "quantized", bits=4, group_size=32)
    result = import_gguf(file, tmp_path / "imported", requantize="affine4-g32")
    ours, theirs = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("imported", "quantized")
    )
    assert ours == theirs
    mlx_lm.load(str(tmp_path / "imported"))
    errors = {fate.item.name: fate.error for fate in result.fates}
    assert all(0.001 < errors[name] < 0.1 for name in errors if name.endswith("proj.weight"))
    assert result.worst is not None and result.worst.error == max(errors.values())
    assert {fate.how for fate in result.fates} == {"requantized", "cast"}
    assert result.exact == sum("norm" in name for name in errors)


@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [("float32", 0, 0), ("float16", 1e-5, 2**-11), ("bfloat16", 1e-4, 2**-8)],
)
def test_dequantizing_rounds_once(tmp_path: Path, dtype: str, least: float, most: float) -> None:
    file = make(tmp_path / "model.gguf", types="Q5_K")
    result = import_gguf(file, tmp_path / "folder", dequantize=True, dtype=dtype)
    errors = [fate.error for fate in result.fates if fate.stored == "Q5_K"]
    assert all(error is not None and least <= error <= most for error in errors)
    assert result.exact == len(result.fates) or least
    held = {tensor.format for tensor in open_checkpoint(tmp_path / "folder").tensors.values()}
    assert held == {{"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]}


def test_floats_become_other_floats(tmp_path: Path) -> None:
    file = make(tmp_path / "model.gguf", types="F16")
    result = import_gguf(file, tmp_path / "folder", dequantize=True, dtype="bfloat16")
    assert {fate.stored for fate in result.fates} == {"F16", "F32"}
    assert {tensor.format for tensor in open_checkpoint(tmp_path / "folder").tensors.values()} == {
        "bf16"
    }


BAD = {
    "Q4_K": ("blk.0.ffn_up.weight", "nan", "NaN in a scale of row 3"),
    "Q6_K": ("token_embd.weight", "inf", "infinity in a scale of row 3"),
    "Q4_0": ("blk.0.ffn_up.weight", "inf", "infinity in a scale of row 3"),
    "Q5_1": ("blk.0.ffn_down.weight", "nan", "NaN in a scale of row 3"),
    "MXFP4": ("blk.0.ffn_up.weight", "nan", "NaN in a scale of row 3"),
    "IQ1_M": ("blk.0.ffn_up.weight", "nan", "NaN in a scale of row 3"),
    "F16": ("blk.0.ffn_up.weight", "nan", "nan in row 3"),
    "BF16": ("blk.0.ffn_up.weight", "inf", "inf in row 3"),
}


@pytest.mark.parametrize("type_name", BAD)
def test_what_is_not_finite_is_refused_unless_asked_for(tmp_path: Path, type_name: str) -> None:
    tensor, what, says = BAD[type_name]
    file = make(
        tmp_path / "model.gguf",
        types=type_name,
        edit={tensor: lambda wire: spoil(wire, type_name, 3, what)},
    )
    for options in ({}, {"dequantize": True}, {"requantize": "4"}):
        with pytest.raises(ModelError) as caught:
            import_gguf(file, tmp_path / "folder", **options)
        message = str(caught.value)
        if not options:
            assert message.startswith(f"{file}: tensor {tensor!r}: {says}")
            assert "--allow-nonfinite" in message
        assert "inspect --verify" in message and "\n" not in message
        assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    result = import_gguf(file, tmp_path / "folder", allow_nonfinite=True)
    assert result.exact == len(result.fates)
    before, after = (resolve_model(open_checkpoint(path)) for path in (file, tmp_path / "folder"))
    kept = {name: node.rows(0, 9) for name, node in after.blocks.items()}
    assert kept or type_name not in STORED
    for name, rows in kept.items():
        assert np.array_equal(rows, before.blocks[name].rows(0, 9))


def test_a_bad_norm_is_refused(tmp_path: Path) -> None:
    file = make(
        tmp_path / "model.gguf",
        edit={"output_norm.weight": lambda wire: spoil(wire, "F32", 0, "nan")},
    )
    with pytest.raises(ModelError, match=r"'output_norm.weight': nan in row 0 of 'model.norm"):
        import_gguf(file, tmp_path / "folder")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"requantize": "4", "dequantize": True}, "choose one"),
        ({"requantize": "q4_k"}, "q4_k"),
        ({"requantize": "keep"}, "name a format"),
        ({"requantize": "7"}, "bits 7"),
        ({"dtype": "bfloat16"}, "an exact import keeps every type"),
        ({"requantize": "4", "allow_nonfinite": True}, "no format of MLX holds NaN"),
        ({"dequantize": True, "dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_requests_that_cannot_be(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        import_gguf("no.gguf", tmp_path / "folder", **options)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_the_same_bytes_whatever_the_threads_and_parts(tmp_path: Path) -> None:
    types = {"*attn*": "Q4_0", "*down*": "Q6_K", "*": "Q4_K"}
    whole = make(tmp_path / "model.gguf", types=types, **WORDS)
    split = make(tmp_path / "model.gguf", types=types, parts=3, **WORDS)
    import_gguf(whole, tmp_path / "one", threads=1)
    import_gguf(whole, tmp_path / "seven", threads=7)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "seven")
    last = split.with_name(split.name.replace("00001-of", "00003-of"))
    import_gguf(last, tmp_path / "split")
    weights = "model.safetensors"
    assert hashes(tmp_path / "split")[weights] == hashes(tmp_path / "one")[weights]


def test_the_manifest(tmp_path: Path) -> None:
    file = make(tmp_path / "model.gguf", types={"*attn*": "Q4_0", "*": "Q4_K"}, **WORDS)
    result = import_gguf(file, tmp_path / "folder")
    manifest = json.loads((tmp_path / "folder" / "mlxquant.json").read_text())
    assert manifest["request"] == {"import": "exact", "allow_nonfinite": False}
    assert manifest["source"]["name"] == "model.gguf"
    assert manifest["source"]["sha256"] == {"model.gguf": sha256(file.read_bytes()).hexdigest()}
    listed = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert listed | {"mlxquant.json": result.files["mlxquant.json"]["sha256"]} == hashes(
        tmp_path / "folder"
    )
    lines = {entry["name"]: entry for entry in manifest["plan"]}
    up, query = (
        lines[f"model.layers.0.{name}.weight"] for name in ("mlp.up_proj", "self_attn.q_proj")
    )
    assert (up["source"], up["format"]) == ("Q4_K", "Q4_K")
    assert (query["source"], query["format"]) == ("Q4_0", "affine4-g32")


@pytest.fixture(scope="module")
def runner() -> Any:
    found = Runner()
    yield found
    found.close()


def test_a_killed_import_is_resumed_to_the_same_bytes(tmp_path: Path, runner: Runner) -> None:
    types = {"*attn*": "Q4_0", "*down*": "F16", "*": "Q4_K"}
    file = make(tmp_path / "model.gguf", types=types, **WORDS)
    assert runner(file, tmp_path / "expected", work="import_gguf").status == 0
    for number, what in ((5, "kill"), (9, "half"), (14, "power"), (3, "ENOSPC")):
        place = tmp_path / f"{what}"
        place.mkdir()
        fault = Fault(number, what, only="pwrite")
        died = runner(file, place / "out", fault, work="import_gguf", threads=2)
        assert died.status == (1 if what == "ENOSPC" else -9)
        assert tree(place / "out") is None
        done = runner(file, place / "out", work="import_gguf", resume=True)
        assert (done.status, done.error) == (0, "")
        assert tree(place / "out") == tree(tmp_path / "expected")


def test_another_request_does_not_resume(tmp_path: Path, runner: Runner) -> None:
    file = make(tmp_path / "model.gguf", types="Q4_0", **WORDS)
    died = runner(file, tmp_path / "out", Fault(6, "kill", only="pwrite"), work="import_gguf")
    assert died.status == -9
    again = runner(file, tmp_path / "out", work="import_gguf", resume=True, requantize="4")
    assert again.status == 2 and "--force starts over" in again.error


def test_nothing_but_gguf_is_imported(tmp_path: Path, bundled: Path) -> None:
    shutil.copy(bundled / "config.json", tmp_path / "model.gguf")
    for path in (tmp_path / "model.gguf", bundled, tmp_path / "missing.gguf"):
        with pytest.raises(Exception, match=str(path)) as caught:
            import_gguf(path, tmp_path / "out")
        assert type(caught.value).__name__ == "FileFormatError"
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
