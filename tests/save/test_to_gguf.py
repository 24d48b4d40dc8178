"""The GGUF sink: what is exact is exact, what is not is named, and a file is there whole or not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from mlxquant import OutputError, RequestError, export, open_checkpoint, quantize, quantize_gguf
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_split import open_split
from mlxquant.formats.base import Array
from mlxquant.load.blocks import floats_of
from mlxquant.models.gguf_model import gguf_as_it_is
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.llama_types import TypeRequest
from mlxquant.quantize.request import Request

MODES = {
    "affine4": (Request(bits=4, group_size=32), "Q4_1"),
    "affine4-g128": (Request(bits=4, group_size=128), "Q4_1"),
    "affine5": (Request(bits=5), "Q5_1"),
    "affine2": (Request(bits=2), "Q4_1"),
    "mxfp4": (Request(mode="mxfp4"), "MXFP4"),
    "nvfp4": (Request(mode="nvfp4"), "NVFP4"),
}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def weights(file: Path) -> dict[str, Array]:
    """Every tensor of a GGUF file as float32."""
    found = {}
    for tensor in gguf_as_it_is(file).tensors:
        floats = floats_of(tensor.node)
        found[tensor.name] = floats.flat(0, floats.size).reshape(floats.shape)
    return found


def types(file: Path) -> dict[str, str]:
    return {name: entry.type_name for name, entry in read_gguf(file).entries.items()}


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bundled") / "books.gguf"
    export(None, file)
    return file


def test_a_float_model_keeps_every_bit(bundled: Path) -> None:
    source = resolve_model(open_checkpoint())
    back = resolve_model(open_checkpoint(bundled))
    for name, node in source.parameters.items():
        ours, theirs = (
            floats_of(each).flat(0, node.size) for each in (node, back.parameters[name])
        )
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert {"BF16", "F32"} == set(types(bundled).values())


@pytest.mark.parametrize("name", MODES)
def test_packed_weights_keep_their_codes(tmp_path: Path, name: str) -> None:
    """The blocks stand for the numbers that scale, code and bias make, computed apart from them."""
    request, expected = MODES[name]
    quantize(None, tmp_path / "mlx", request)
    result = export(tmp_path / "mlx", tmp_path / "out.gguf")
    assert not result.plan.inexact
    matrices = {kind for kind in types(tmp_path / "out.gguf").values() if kind != "F32"}
    assert matrices == {expected}
    import mlx.core as mx

    arrays = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    path = "model.layers.3.mlp.down_proj"
    parts = [arrays[f"{path}.weight"], arrays[f"{path}.scales"]]
    if request.mode == "affine":  # in float32 the product and the sum are exact
        parts = [
            parts[0],
            *(arrays[f"{path}.{s}"].astype(mx.float32) for s in ("scales", "biases")),
        ]
    means = mx.dequantize(*parts, **request.default.mlx_config()).astype(mx.float32)
    np.testing.assert_array_equal(
        np.array(means), weights(tmp_path / "out.gguf")["blk.3.ffn_down.weight"]
    )


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request(bits=8), "biases other than -128"),
        (Request(bits=6), "codes of 6 bits"),
        (Request(mode="mxfp8"), ""),
    ],
    ids=["affine8", "affine6", "mxfp8"],
)
def test_what_is_not_exact_is_named_before_anything_is_written(
    tmp_path: Path, request_: Request, why: str
) -> None:
    quantize(None, tmp_path / "mlx", request_)
    seen = []

    def planned(plan: object) -> None:
        seen.append(plan)
        assert not list(tmp_path.glob("*.gguf*"))

    result = export(tmp_path / "mlx", tmp_path / "out.gguf", planned=planned)
    assert seen == [result.plan]
    lost = {item.tensor.name: item for item in result.plan.inexact}
    assert set(lost) == {n for n, kind in types(tmp_path / "out.gguf").items() if kind == "Q8_0"}
    import mlx.core as mx

    arrays = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    parts = [arrays.get(f"model.layers.0.mlp.up_proj.{s}") for s in ("weight", "scales", "biases")]
    means = mx.dequantize(*parts, **request_.default.mlx_config())
    w = np.array(means.astype(mx.float32)).astype(np.float64)
    stored = weights(tmp_path / "out.gguf")["blk.0.ffn_up.weight"]
    item = lost["blk.0.ffn_up.weight"]
    assert item.error == pytest.approx(np.linalg.norm(w - stored) / np.linalg.norm(w), rel=1e-9)
    assert 0 < item.error < 0.01 and item.reason and why in item.reason


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_one_type_for_all_matrices(tmp_path: Path, outtype: str) -> None:
    result = export(None, tmp_path / "out.gguf", outtype=outtype)
    found = types(tmp_path / "out.gguf")
    assert {k for n, k in found.items() if "norm" not in n} == {outtype.upper()}
    assert {k for n, k in found.items() if "norm" in n} == {"F32"}
    # the model is in bfloat16: F32 holds it, F16 does but for numbers below its range
    errors = [item.error for item in result.plan.items]
    assert (max(errors) == 0) == (outtype in ("f32", "bf16"))
    assert max(errors) < {"f16": 1e-5}.get(outtype, 0.01)


def test_the_same_bytes_whatever_the_source_and_the_threads(bundled: Path, tmp_path: Path) -> None:
    files = {
        "folder": lambda out: quantize_gguf(None, out, "Q4_K_M"),
        "gguf": lambda out: quantize_gguf(bundled, out, "Q4_K_M", threads=1),
        "again": lambda out: quantize_gguf(bundled, out, "q4_k_m", threads=3),
    }
    made = set()
    for name, make in files.items():
        make(tmp_path / "books.gguf")
        made.add(digest(tmp_path / "books.gguf"))
        (tmp_path / "books.gguf").rename(tmp_path / f"{name}.gguf")
    assert len(made) == 1


def test_a_split_file_is_the_same_model(bundled: Path, tmp_path: Path) -> None:
    result = export(bundled, tmp_path / "s.gguf", split_bytes=4_000_000)
    assert len(result.outputs) > 2 and not (tmp_path / "s.gguf").exists()
    assert len(open_split(result.outputs[1])) == len(result.outputs)
    for file in result.outputs[:-1]:
        header = read_gguf(file)
        assert sum(e.stop - e.start for e in header.entries.values()) <= 4_000_000
    whole, parts = weights(bundled), weights(result.outputs[2])
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])
    joined = export(result.outputs[-1], tmp_path / "joined.gguf")
    assert digest(joined.outputs[0]) == digest(bundled)


def test_keep_split_keeps_each_tensor_in_its_part(bundled: Path, tmp_path: Path) -> None:
    parts = export(bundled, tmp_path / "s.gguf", split_bytes=4_000_000).outputs
    request = TypeRequest("Q8_0", keep_split=True)
    made = quantize_gguf(parts[0], tmp_path / "q.gguf", request).outputs
    assert len(made) == len(parts)
    for before, after in zip(parts, made, strict=True):
        assert list(read_gguf(before).entries) == list(read_gguf(after).entries)


def test_a_gguf_of_an_unknown_architecture_is_quantized_as_it_is(tmp_path: Path) -> None:
    from mlxquant.files.gguf import Value, build_gguf

    metadata = {
        "general.architecture": Value.of("str", "unheard-of"),
        "unheard-of.block_count": Value.of("u32", 1),
        "unheard-of.embedding_length": Value.of("u32", 256),
        "unheard-of.attention.head_count": Value.of("u32", 4),
        "some.key": Value.array("f64", [1.5, float("nan")]),
    }
    header, ranges = build_gguf(metadata, [("blk.0.attn_q.weight", "F32", (4, 256))])
    rows = np.random.default_rng(1).normal(size=(4, 256)).astype("<f4")
    (tmp_path / "in.gguf").write_bytes(header + rows.tobytes())
    assert ranges[0][1] == len(header) + rows.nbytes
    quantize_gguf(tmp_path / "in.gguf", tmp_path / "out.gguf", TypeRequest("Q8_0", pure=True))
    after = read_gguf(tmp_path / "out.gguf")
    assert {k: after.metadata[k] for k in metadata} == metadata
    assert types(tmp_path / "out.gguf") == {"blk.0.attn_q.weight": "Q8_0"}


def test_overrides_are_in_the_file(tmp_path: Path) -> None:
    from mlxquant.quantize.llama_types import parse_override

    overrides = dict([parse_override("llama.context_length=int:99"), parse_override("a.b=str:c d")])
    quantize_gguf(None, tmp_path / "o.gguf", "Q8_0", overrides=overrides)
    header = read_gguf(tmp_path / "o.gguf")
    assert header.get("llama.context_length") == 99 and header.get("a.b") == "c d"


def test_quantizing_twice_is_refused_unless_asked(bundled: Path, tmp_path: Path) -> None:
    quantize_gguf(bundled, tmp_path / "q8.gguf", "Q8_0")
    quantize(None, tmp_path / "mlx", bits=4)
    for source in ("q8.gguf", "mlx"):
        with pytest.raises(RequestError, match="quantized already"):
            quantize_gguf(tmp_path / source, tmp_path / "q4.gguf", "Q4_K_M")
        assert not (tmp_path / "q4.gguf").exists()
        request = TypeRequest("Q4_K_M", requantize=True)
        quantize_gguf(tmp_path / source, tmp_path / f"{source}-again.gguf", request)


def test_the_output_is_checked_before_work(bundled: Path, tmp_path: Path) -> None:
    file = tmp_path / "notes.gguf"
    file.write_text("my notes")
    with pytest.raises(OutputError, match="exists already"):
        export(None, file)
    with pytest.raises(OutputError, match="is not a GGUF file; --force replaces only those"):
        export(None, file, force=True)
    assert file.read_text() == "my notes"
    with pytest.raises(RequestError, match="no output file"):
        export(None, None)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(bundled.read_bytes())
    with pytest.raises(OutputError, match="the model itself lies there"):
        export(copy, copy, force=True)
    export(None, copy, force=True, outtype="f16")
    assert set(types(copy).values()) == {"F16", "F32"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.gguf", "notes.gguf"]


def test_nan_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    from mlxquant import ModelError

    folder = tiny_models.make(tmp_path / "model", "llama", dtype="float32", vocab_size=4096)
    import mlx.core as mx

    arrays = mx.load(str(folder / "model.safetensors"))
    name = "model.layers.1.mlp.up_proj.weight"
    arrays[name][2, 3] = float("nan")
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    with pytest.raises(ModelError, match=r"blk.1.ffn_up.weight'.* row 2, column 3"):
        quantize_gguf(folder, tmp_path / "o.gguf", TypeRequest("Q8_0", pure=True))
    with pytest.raises(ModelError, match=r"blk.1.ffn_up.weight'.* row 2, column 3"):
        export(folder, tmp_path / "o.gguf", outtype="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
