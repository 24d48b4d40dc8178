"""`quantize --method search` from a folder to a folder: stock mlx-lm opens it, the same bytes on
any number of threads, a NaN named."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
import tiny_models
from mlx.utils import tree_flatten
from save.faulty import tree
from support import run_cli

from mlxquant import ModelError, open_checkpoint, quantize
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.quantize.policy import make_plan
from mlxquant.quantize.request import Request
from mlxquant.quantize.rows import encode_rows, float_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("search") / "model", "qwen3")


def error(folder: Path, source: Path) -> float:
    """Squared error of all quantized weights that stock mlx-lm sees."""
    quantized, _ = mlx_lm.load(str(folder))
    floats, _ = mlx_lm.load(str(source))
    wanted = dict(tree_flatten(floats.parameters()))
    total = 0.0
    for path, module in quantized.named_modules():
        if hasattr(module, "scales"):
            decoded = mx.dequantize(
                module.weight, module.scales, module.get("biases"), module.group_size,
                module.bits, module.mode,
            )  # fmt: skip
            off = decoded.astype(mx.float32) - wanted[f"{path}.weight"].astype(mx.float32)
            total += (off * off).sum().item()
    return total


@pytest.mark.parametrize(
    "options",
    [{"bits": bits} for bits in (1, 2, 3, 4, 5, 6, 8)]
    + [{"mode": mode} for mode in ("mxfp4", "mxfp8", "nvfp4")]
    + [{"bits": 4, "dtype": dtype} for dtype in ("float16", "float32")],
    ids=str,
)
def test_mlx_lm_opens_it_and_finds_less_error(
    model: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    quantize(model, tmp_path / "rtn", Request(method="rtn", **options))
    quantize(model, tmp_path / "search", Request(method="search", **options))
    plain, ours = (error(tmp_path / name, model) for name in ("rtn", "search"))
    # mxfp8's scales are powers of two and its levels too: there is next to nothing to find
    assert 0 < ours <= plain * (1.0001 if options.get("mode") == "mxfp8" else 0.97), ours / plain


def test_the_same_bytes_on_any_number_of_threads(model: Path, tmp_path: Path) -> None:
    trees = []
    for threads in (1, 2, 5):
        quantize(model, tmp_path / f"{threads}", Request(method="search"), threads=threads)
        files = tree(tmp_path / f"{threads}")
        assert files is not None
        trees.append({name: sha for name, sha in files.items() if name.endswith(".safetensors")})
    assert trees[0] and trees[0] == trees[1] == trees[2]


def test_the_file_holds_what_encode_rows_returns(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "out", Request(method="search", bits=3))
    source = resolve_model(open_checkpoint(model))
    plan = make_plan(source, Request(method="search", bits=3))
    stored = mx.load(str(tmp_path / "out" / "model.safetensors"))
    item = next(item for item in plan.items if item.target is not None)
    assert item.target is not None
    rows = float_rows(source, item, 0, item.shape[0])
    wire = encode_rows(item.target, rows, item.dtype, method="search")
    plain = encode_rows(item.target, rows, item.dtype)
    for part, ours in zip(item.target.parts, wire, strict=True):
        array = stored[f"{item.module}.{part.suffix}"]
        bits = np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
        assert np.array_equal(bits, ours), part.suffix
    assert not np.array_equal(wire[0], plain[0])


def test_the_command_and_its_manifest(model: Path, tmp_path: Path) -> None:
    done = run_cli("quantize", model, "-o", tmp_path / "out", "--method", "search", "--json")
    assert done.returncode == 0, done.stderr
    manifests = [
        json.loads(path.read_text())
        for path in (tmp_path / "out").glob("*.json")
        if '"method"' in path.read_text()
    ]
    assert [m["request"]["method"] for m in manifests] == ["search"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_is_named(tmp_path: Path, value: float) -> None:
    folder = tiny_models.make(tmp_path / "model", "llama")
    (file,) = folder.glob("*.safetensors")
    arrays = dict(mx.load(str(file)))
    name = next(name for name in arrays if name.endswith("up_proj.weight"))
    arrays[name][3, 5] = value
    mx.save_safetensors(str(file), arrays, {"format": "pt"})
    for method in ("rtn", "search"):
        with pytest.raises(ModelError, match=r"up_proj.*at row 3, column 5"):
            quantize(folder, tmp_path / method, Request(method=method))
