"""Bytes that a token reads, of weights and cache, against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlxquant.kernels import host
from tiny_models import make

from mlxquant import load, quantize
from mlxquant.measure.bytes_per_token import (
    CacheBytes,
    WeightBytes,
    cache_bytes,
    distinct_experts,
    weight_bytes,
)
from mlxquant.pipeline import open_checkpoint
from mlxquant.pipeline_gguf import quantize_gguf

D, V = 128, 320  # hidden size and vocabulary of the tiny models
HEADS, KV, WIDTH, MLP, LAYERS = 4, 2, 32, 256, 2


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def attention() -> int:
    """Weights of a layer's attention."""
    return 2 * D * HEADS * WIDTH + 2 * D * KV * WIDTH


def test_tied_embedding_is_read_whole(bundled: Path) -> None:
    """books-7m: every one of its 7,344,384 weights, two bytes each, and 512 bytes of keys and
    values a token and layer: 2 of 2 heads of 64, bfloat16."""
    model, _ = load(bundled)
    assert weight_bytes(model, config_of(bundled)) == WeightBytes(always=2 * 7_344_384, row=0)
    cache = cache_bytes(model)
    assert cache == CacheBytes(layers=((2 * 2 * 64 * 2, None),) * 8)
    assert cache.at(1000) == 8 * 512 * 1000


def test_dense_with_a_head_of_its_own(tmp_path: Path) -> None:
    """Of the embedding one row is read; of everything else everything."""
    folder = make(tmp_path / "model", "mistral")
    model, _ = load(folder)
    weights = LAYERS * (attention() + 3 * D * MLP + 2 * D) + D + V * D
    found = weight_bytes(model, config_of(folder))
    assert found == WeightBytes(always=2 * weights, row=2 * D)
    assert found.of_step() == 2 * (weights + D)
    assert found.of_step(batch=5) == 2 * (weights + 5 * D)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_of_experts_only_the_active_ones(tmp_path: Path, family: str) -> None:
    """Two of four; a shared expert, and its gate, are read always."""
    folder = make(tmp_path / "model", family)
    model, _ = load(folder)
    config = config_of(folder)
    wide = MLP if family == "mixtral" else config["moe_intermediate_size"]
    layer = attention() + 4 * D + 2 * D  # a router of four rows, two norms
    if family == "qwen2_moe":
        layer += 3 * D * config["shared_expert_intermediate_size"] + D
        layer += HEADS * WIDTH + 2 * KV * WIDTH  # biases of q, k and v
    always = LAYERS * layer + D + V * D
    found = weight_bytes(model, config)
    assert found.always == 2 * always
    assert found.experts == ((4, 2 * D * wide),) * 3 * LAYERS
    assert found.active == 2
    assert found.of_step() == 2 * (always + D + LAYERS * 2 * 3 * D * wide)


def test_distinct_experts() -> None:
    assert distinct_experts(8, 2, 1) == 2
    assert distinct_experts(8, 8, 3) == 8
    assert distinct_experts(4, 1, 2) == pytest.approx(4 * (1 - (3 / 4) ** 2))
    # Of 8 experts 2 are not hit by 2 tokens of 2 each with probability (6/8)² each: 8 · 7/16.
    assert distinct_experts(8, 2, 2) == pytest.approx(3.5)
    assert distinct_experts(8, 2, 10_000) == pytest.approx(8)


def test_packed_weights_with_their_scales(tmp_path: Path) -> None:
    """4 bits and two bfloat16 a group of 64: 4.5 bits a weight; the norms stay as they are."""
    quantize(output=tmp_path / "model", bits=4, group_size=64)
    model, _ = load(tmp_path / "model")
    norms = (2 * 8 + 1) * 256
    packed = (7_344_384 - norms) * 4.5 / 8
    found = weight_bytes(model, config_of(tmp_path / "model"))
    assert found == WeightBytes(always=int(packed) + 2 * norms, row=0)


@pytest.mark.parametrize(
    ("name", "kernels", "grows"),
    [("TQ2_0", "on", 1), ("Q8_0", "on", 1), ("Q8_0", "off", 40 / 34)],
)
def test_blocks_of_a_gguf_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    kernels: str,
    grows: float,
) -> None:
    """Where this processor has a kernel, blocks stay as they are in the file; without it Q8_0
    becomes MLX's, with scale and bias in float32: 40 bytes for 32 weights where the file has 34.
    Norms are float32 there and bfloat16 here."""
    norms = (2 * 8 + 1) * 256
    file = tmp_path / f"{name}.gguf"
    quantize_gguf(output=file, request=name)
    monkeypatch.setenv("MLXQUANT_KERNELS", kernels)
    host.forget()
    checkpoint = open_checkpoint(file)
    kept = sum(tensor.nbytes for tensor in checkpoint.stored.values()) - 4 * norms
    model, _ = load(file)
    host.forget()
    found = weight_bytes(model, checkpoint.config)
    assert found == WeightBytes(always=round(kept * grows) + 2 * norms, row=0)


def test_a_sliding_window_ends_the_growth(tmp_path: Path) -> None:
    """gemma3: every second layer looks back 64 tokens."""
    model, _ = load(make(tmp_path / "model", "gemma3_text"))
    token = 2 * KV * WIDTH * 2
    cache = cache_bytes(model)
    assert sorted(cache.layers, key=str) == [(token, 64), (token, None)]
    assert cache.at(1000) == token * (64 + 1000)


def test_latent_attention(tmp_path: Path) -> None:
    """DeepSeek keeps 64 numbers of latent and 32 of rotated key a token and layer."""
    model, _ = load(make(tmp_path / "model", "deepseek_v3"), dtype="float32")
    assert cache_bytes(model).at(10) == 3 * (64 + 32) * 4 * 10
