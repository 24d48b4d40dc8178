"""By plain rounding, tensors are byte for byte those of `mlx_lm.convert` for the same request."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
import tiny_models

from mlxquant import quantize
from mlxquant.assets import BUNDLED_MODEL

#: mlxquant's options, mlx_lm.convert's options
Request = tuple[dict[str, Any], dict[str, Any]]

FAMILIES = list(tiny_models.CONFIGS)

BITS = [
    ({"bits": b, "group_size": g}, {"quantize": True, "q_bits": b, "q_group_size": g})
    for b in (1, 2, 3, 4, 5, 6, 8)
    for g in (32, 64, 128)
]
MODES = [({"mode": m}, {"quantize": True, "q_mode": m}) for m in ("mxfp4", "mxfp8", "nvfp4")]
RECIPES = [
    ({"recipe": r}, {"quantize": True, "quant_predicate": r, "q_group_size": 64})
    for r in ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
]
DTYPES = [
    ({"bits": 4, "dtype": d}, {"quantize": True, "dtype": d})
    for d in ("float16", "bfloat16", "float32")
]


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every array of a model folder as (dtype, shape, bytes)."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, array in mx.load(str(file)).items():
            found[name] = (str(array.dtype), array.shape, bytes(memoryview(array.view(mx.uint8))))
    return found


def convert(source: Path, output: Path, **options: Any) -> Path:
    """Stock mlx_lm.convert, without its prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        mlx_lm.convert(str(source), str(output), **options)
    return output


def assert_same(ours: Path, theirs: Path) -> None:
    """Same names, types, shapes and bytes; the first difference is named."""
    a, b = tensors(ours), tensors(theirs)
    assert sorted(a) == sorted(b)
    different = [name for name in a if a[name] != b[name]]
    assert not different, f"{len(different)} tensors differ, first {different[0]}"


def format_of(entry: dict[str, Any], path: str) -> dict[str, Any]:
    """What a config's `quantization` says of a module: its own entry or the default."""
    own = entry.get(path, entry)
    return {
        "group_size": own["group_size"],
        "bits": own["bits"],
        "mode": own.get("mode", "affine"),
    }


@pytest.mark.parametrize(
    "request_", [*BITS, *MODES, *RECIPES, *DTYPES], ids=lambda r: "-".join(map(str, r[0].values()))
)
def test_bundled_model(tmp_path: Path, request_: Request) -> None:
    ours, theirs = request_
    quantize(None, tmp_path / "ours", method="rtn", **ours)
    convert(BUNDLED_MODEL, tmp_path / "theirs", **theirs)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("family", FAMILIES)
def test_families(tmp_path: Path, family: str) -> None:
    source = tiny_models.make(tmp_path / "source", family, shards=2)
    quantize(source, tmp_path / "ours", bits=4, method="rtn")
    convert(source, tmp_path / "theirs", quantize=True)
    assert_same(tmp_path / "ours", tmp_path / "theirs")
    config, theirs = (
        json.loads((tmp_path / which / "config.json").read_text()) for which in ("ours", "theirs")
    )
    packed = [n.removesuffix(".scales") for n in tensors(tmp_path / "ours") if ".scales" in n]
    for key in ("quantization", "quantization_config"):
        entry, reference = config.pop(key), theirs.pop(key)
        for path in packed:
            assert format_of(entry, path) == format_of(reference, path)
        assert all(entry[path] is False for path in set(entry) - set(reference) - set(packed))
    assert config == theirs


@pytest.mark.parametrize("family", ["qwen2", "mixtral", "deepseek_v3"])
@pytest.mark.parametrize(
    "request_",
    [MODES[0], MODES[2], RECIPES[2], DTYPES[0]],
    ids=["mxfp4", "nvfp4", "mixed_3_6", "float16"],
)
def test_families_with_other_requests(tmp_path: Path, family: str, request_: Request) -> None:
    ours, theirs = request_
    source = tiny_models.make(tmp_path / "source", family)
    quantize(source, tmp_path / "ours", method="rtn", **ours)
    convert(source, tmp_path / "theirs", **theirs)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_source_types(tmp_path: Path, dtype: str) -> None:
    source = tiny_models.make(tmp_path / "source", "qwen3", dtype=dtype)
    quantize(source, tmp_path / "ours", bits=3, method="rtn")
    convert(source, tmp_path / "theirs", quantize=True, q_bits=3)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3"])
def test_stock_mlx_lm_generates(tmp_path: Path, family: str) -> None:
    source = tiny_models.make(tmp_path / "source", family)
    quantize(source, tmp_path / "ours", bits=4, method="rtn")
    convert(source, tmp_path / "theirs", quantize=True)
    replies = []
    for which in ("ours", "theirs"):
        model, tokenizer = mlx_lm.load(str(tmp_path / which))
        prompt = mx.array([1, 2, 3, 4, 5])
        replies.append(model(prompt[None]))
        mlx_lm.generate(model, tokenizer, prompt=[1, 2, 3], max_tokens=4)
    assert mx.array_equal(*replies)


@pytest.mark.parametrize("mode", ["affine", "mxfp4", "mxfp8", "nvfp4"])
def test_dequantize(tmp_path: Path, mode: str) -> None:
    """A quantized model as floats: mlx_lm's values, from our folder and from mlx_lm's own."""
    convert(BUNDLED_MODEL, tmp_path / "packed", quantize=True, q_mode=mode)
    quantize(tmp_path / "packed", tmp_path / "ours", dequantize=True)
    convert(tmp_path / "packed", tmp_path / "theirs", dequantize=True)
    assert_same(tmp_path / "ours", tmp_path / "theirs")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert "quantization" not in config and "quantization_config" not in config


def test_dequantize_experts(tmp_path: Path) -> None:
    source = tiny_models.make(tmp_path / "source", "mixtral")
    convert(source, tmp_path / "packed", quantize=True)
    quantize(tmp_path / "packed", tmp_path / "ours", dequantize=True)
    convert(tmp_path / "packed", tmp_path / "theirs", dequantize=True)
    assert_same(tmp_path / "ours", tmp_path / "theirs")


def test_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model over many files, with an index that mlx_lm follows."""
    monkeypatch.setattr("mlxquant.save.folder.SHARD_BYTES", 1 << 20)
    quantize(None, tmp_path / "ours", bits=4, method="rtn")
    convert(BUNDLED_MODEL, tmp_path / "theirs", quantize=True)
    assert_same(tmp_path / "ours", tmp_path / "theirs")
    files = sorted(file.name for file in (tmp_path / "ours").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 3
    index, reference = (
        json.loads((tmp_path / which / "model.safetensors.index.json").read_text())
        for which in ("ours", "theirs")
    )
    assert index["metadata"] == reference["metadata"]
    assert sorted(set(index["weight_map"].values())) == files
    assert set(index["weight_map"]) == set(reference["weight_map"])
    mlx_lm.load(str(tmp_path / "ours"))


def test_experts_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few rows, cut through stacked experts and split projections, give the same."""
    monkeypatch.setattr("mlxquant.save.layout.UNIT_BYTES", 1000)
    for family in ("mixtral", "deepseek_v3_fp8", "gpt_oss"):
        source = tiny_models.make(tmp_path / family / "source", family, shards=3)
        quantize(source, tmp_path / family / "ours", bits=4, method="rtn", threads=3)
        convert(source, tmp_path / family / "theirs", quantize=True)
        assert_same(tmp_path / family / "ours", tmp_path / family / "theirs")
