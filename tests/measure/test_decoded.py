"""Quantized layers that decode before they multiply, against MLX's own products."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxquant.kernels.backend import Backend

from mlxquant import quantize, quantize_gguf
from mlxquant.measure import decoded
from mlxquant.measure.decoded import decode_on_cpu
from mlxquant.run import packed
from mlxquant.run.model import load

FORMATS = [
    *(("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64)),
    ("mxfp4", 4, 32),
    ("mxfp8", 8, 32),
    ("nvfp4", 4, 16),
]


class Model(nn.Module):
    """A layer and an embedding, quantized, and a sub-class of a quantized layer."""

    def __init__(self, mode: str, bits: int, group: int) -> None:
        super().__init__()
        rng = np.random.default_rng(bits)
        self.plain = nn.Linear(128, 48)
        self.layer = nn.Linear(128, 48)
        self.layer.bias = mx.array(rng.standard_normal(48).astype(np.float32))
        self.embedding = nn.Embedding(48, 128)
        nn.quantize(self, group, bits, mode=mode, class_predicate=lambda path, _: path != "plain")
        self.other = Other(64, 8)


class Other(nn.QuantizedLinear):
    """Does something else."""

    def __call__(self, x: mx.array) -> mx.array:
        return x


def outputs(model: Any, x: mx.array) -> list[Any]:
    return [np.array(y) for y in (model.layer(x), model.embedding.as_linear(x), model.plain(x))]


@pytest.fixture(autouse=True)
def on_the_cpu() -> Any:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


@pytest.mark.parametrize(("mode", "bits", "group"), FORMATS)
@pytest.mark.parametrize("chunk", [8 << 20, 4 * 128 * 7], ids=["whole", "seven rows at a time"])
def test_the_same_products(
    mode: str, bits: int, group: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "CHUNK_BYTES", chunk)
    model = Model(mode, bits, group)
    x = mx.array(np.random.default_rng(1).standard_normal((3, 11, 128)).astype(np.float32))
    before = outputs(model, x)
    tokens = np.array(model.embedding(mx.array([3, 47])).astype(mx.float32))
    decode_on_cpu(model)
    assert type(model.layer) is not nn.QuantizedLinear
    assert type(model.embedding) is not nn.QuantizedEmbedding
    for ours, theirs in zip(outputs(model, x), before, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    again = np.array(model.embedding(mx.array([3, 47])).astype(mx.float32))
    np.testing.assert_array_equal(again, tokens)


def test_few_rows_and_other_types_are_multiplied_by_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("affine", 4, 32)
    decode_on_cpu(model)
    monkeypatch.setattr(decoded, "_product", lambda *_: pytest.fail("was decoded"))
    x = mx.ones((1, 7, 128))
    assert model.layer(x).shape == model.embedding.as_linear(x).shape == (1, 7, 48)
    model.set_dtype(mx.bfloat16)
    assert model.layer(mx.ones((64, 128), mx.bfloat16)).dtype == mx.bfloat16


def test_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("affine", 4, 32)
    decode_on_cpu(model)
    assert (type(model.plain), type(model.other)) == (nn.Linear, Other)
    assert isinstance(model.layer, nn.QuantizedLinear)
    model = Model("affine", 4, 32)
    monkeypatch.setattr(decoded.mx, "default_device", lambda: mx.gpu)
    decode_on_cpu(model)
    assert type(model.layer) is nn.QuantizedLinear


@pytest.mark.parametrize("kind", ["mlx", "ggml"])
def test_a_whole_model(
    kind: str, bundled: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks held in MLX's layout, as they are where no kernel of the processor serves."""
    monkeypatch.setattr(packed, "backend", lambda *_: Backend("mlx", "none here"))
    paths = {"mlx": tmp_path / "q", "ggml": tmp_path / "q.gguf"}
    quantize(None, paths["mlx"], bits=3)
    quantize_gguf(None, paths["ggml"], "Q8_0")
    model, _ = load(paths[kind], dtype="float32")
    tokens = mx.array(np.random.default_rng(0).integers(0, 4000, (1, 40)))
    before = np.array(model(tokens))
    decode_on_cpu(model)
    after = np.array(model(tokens))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4)
    quantized = [m for _, m in model.named_modules() if isinstance(m, nn.QuantizedLinear)]
    assert len(quantized) == 8 * 7
    assert all(isinstance(m, decoded._Linear) for m in quantized)
