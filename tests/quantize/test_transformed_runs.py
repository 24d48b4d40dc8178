"""--rotate and --awq from folder to folder: stock mlx-lm runs what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_models

from mlxquant import load, quantize
from mlxquant.errors import RequestError

TOKENS = mx.array(np.random.default_rng(1).integers(0, 4096, (2, 32)))


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        ({"rotate": "heads", "bits": 8, "method": "search"}, True),
        ({"rotate": "full", "bits": 8, "method": "search"}, False),
        ({"awq": True, "bits": 8, "calibrate": "bundled", "calibrate_windows": 2}, True),
        ({"rotate": "full", "awq": True, "target_bpw": 8.5, "calibrate_windows": 2}, False),
    ],
    ids=["heads", "full", "awq", "everything"],
)
def test_the_model_is_the_same(options: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    import mlx_lm

    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    plain = quantize(folder, tmp_path / "plain", bits=8)
    result = quantize(folder, tmp_path / "out", **options)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    reference, _ = load(folder, dtype="float32")
    expected = reference(TOKENS)

    def error(path: Path) -> float:
        model, _ = mlx_lm.load(str(path))
        found = model(TOKENS).astype(mx.float32)
        return float(mx.sqrt(mx.square(found - expected).mean() / mx.square(expected).mean()))

    assert error(tmp_path / "out") < 3 * error(tmp_path / "plain")
    assert plain.files["model.safetensors"] != result.files["model.safetensors"]
    manifest = json.loads((tmp_path / "out" / "mlxquant.json").read_text())
    made, chosen = manifest["request"], manifest.get("choices", {})
    assert result.source_bpw == plain.source_bpw == pytest.approx(16)
    assert made.get("rotate") == options.get("rotate") and made.get("awq", False) == (
        options.get("awq", False)
    )
    if options.get("rotate") == "full":
        assert any("head" in note for note in result.notes)
    if options.get("awq"):
        assert any("scales were folded" in note for note in result.notes)
        norm = chosen["awq"][0]
        assert norm["from"].endswith("input_layernorm") and len(norm["into"]) == 3
        assert all(0 <= a <= 1 for a in norm["exponent"]) and 0 < norm["error"] <= 1
        assert chosen["kl_on_calibration_text"] == pytest.approx(result.measured, rel=1e-3)
    if "target_bpw" in options:
        assert chosen["budget"]["asked"] == "8.5 bits per weight"


@pytest.mark.parametrize("turned", ["heads", "full"])
def test_types_stay_where_the_config_names_none(turned: str, tmp_path: Path) -> None:
    """Newer configs say `dtype`, which mlx_lm.convert does not look at either."""
    folder = tiny_models.make(tmp_path / "m", "llama", vocab_size=4096)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = config.pop("torch_dtype")
    (folder / "config.json").write_text(json.dumps(config))
    result = quantize(folder, tmp_path / "out", rotate=turned, tensors=(("*.o_proj", "keep"),))
    assert {item.dtype for item in result.plan.items} == {"BF16"}
    stored = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert {str(array.dtype) for array in stored.values()} == {
        "mlx.core.bfloat16",
        "mlx.core.uint32",
    }


def test_the_seed_decides(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", lively=True, vocab_size=4096)
    files = [
        quantize(folder, tmp_path / str(n), rotate="heads", seed=seed).files["model.safetensors"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert files[0] == files[1] != files[2]


def test_refusals(tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "gemma2", vocab_size=4096)
    with pytest.raises(RequestError, match="rotat"):
        quantize(folder, tmp_path / "out", rotate="full")
    with pytest.raises(RequestError, match="--awq weighs channels by a text"):
        quantize(folder, tmp_path / "out", awq=True)
    with pytest.raises(RequestError, match="rotate 'all' is not one of heads, full"):
        quantize(folder, tmp_path / "out", rotate="all")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    with pytest.raises(RequestError, match="seed -1: a number from 0 is needed"):
        quantize(folder, tmp_path / "out", rotate="heads", seed=-1)
