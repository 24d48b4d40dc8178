"""Memory as foreseen, against real runs, real files, and figures that others published."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import architectures
import mlx.core as mx
import pytest
import tiny_models
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step

from mlxquant import quantize, quantize_gguf
from mlxquant.files.gguf import read_gguf
from mlxquant.files.safetensors import read_header
from mlxquant.load.from_hf import open_folder
from mlxquant.measure.candidates import Candidate, as_it_is, gguf_candidates, mlx_candidates
from mlxquant.measure.kv_cache import cache_shape
from mlxquant.measure.memory_model import Footprint
from mlxquant.models.header_model import header_model

#: of a run's peak on a CPU, how far below and above it may be what is foreseen
BELOW, ABOVE = 0.90, 1.25

_SMALL = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "layer_types": None,
    "sliding_window": 256,
    "sliding_window_pattern": 4,
}


def footprint(folder: Path) -> Footprint:
    return Footprint(header_model(open_folder(folder, quick=True)))


def candidates(of: Footprint) -> dict[str, Candidate]:
    return {each.name: each for each in (as_it_is(of), *mlx_candidates(of)[0])}


def stored_bytes(folder: Path) -> int:
    """Bytes of all arrays of a folder's weight files."""
    return sum(
        entry.stop - entry.start
        for file in folder.glob("*.safetensors")
        for entry in read_header(file).entries.values()
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("affine4-g64", {"bits": 4}),
        ("affine3-g32", {"bits": 3, "group_size": 32}),
        ("mxfp4", {"mode": "mxfp4"}),
        ("nvfp4", {"mode": "nvfp4"}),
        ("mixed_3_6", {"recipe": "mixed_3_6"}),
    ],
)
def test_weights_take_the_bytes_that_quantize_writes(
    name: str, options: dict[str, Any], bundled: Path, tmp_path: Path
) -> None:
    quantize(None, tmp_path / "q", **options)
    foreseen = candidates(footprint(bundled))[name]
    assert foreseen.weights == stored_bytes(tmp_path / "q")
    assert as_it_is(footprint(tmp_path / "q")).weights == foreseen.weights
    index = json.loads((tmp_path / "q" / "model.safetensors.index.json").read_text())
    assert foreseen.parameters == index["metadata"]["total_parameters"]


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_weights_of_experts_take_the_bytes_that_quantize_writes(
    family: str, tmp_path: Path
) -> None:
    source = tiny_models.make(tmp_path / "m", family)
    quantize(source, tmp_path / "q", bits=4)
    foreseen = candidates(footprint(source))["affine4-g64"]
    assert foreseen.weights == stored_bytes(tmp_path / "q")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_a_gguf_file_has_the_bytes(kind: str, bundled: Path, tmp_path: Path) -> None:
    quantize_gguf(None, tmp_path / "q.gguf", kind)
    found = {each.name: each for each in gguf_candidates(footprint(bundled))}[kind]
    entries = read_gguf(tmp_path / "q.gguf").entries
    assert {part.name: part.bytes for part in found.parts} == {
        name: entry.stop - entry.start for name, entry in entries.items()
    }


def peak(config: dict[str, Any], context: int, prefill: int, kv_bits: int | None) -> int:
    """Bytes at most in use while a model of random weights reads a prompt and says a token."""
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    model = architectures.build(config)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    options = {} if kv_bits is None else {"kv_bits": kv_bits, "quantized_kv_start": 0}
    prompt = mx.array([1] * (context - 1))
    steps = generate_step(prompt, model, max_tokens=1, prefill_step_size=prefill, **options)
    assert len(list(steps)) == 1
    mx.synchronize()
    return int(mx.get_peak_memory()) - before


@pytest.mark.parametrize(
    ("kind", "context", "prefill", "kv_bits"),
    [
        ("llama", 128, 2048, None),
        ("llama", 512, 2048, None),
        ("llama", 512, 128, None),
        ("llama", 512, 128, 8),
        ("qwen3", 512, 2048, None),
        ("gemma3_text", 768, 256, None),
        ("phi3", 384, 2048, None),
        ("qwen3_moe", 256, 2048, None),
        ("deepseek_v3", 256, 2048, None),
    ],
)
def test_peak_memory_of_a_run(kind: str, context: int, prefill: int, kv_bits: int | None) -> None:
    config = architectures.settings(kind, **_SMALL)
    model = architectures.build(config)
    found = Footprint(header_model(architectures.checkpoint(config, model, "F32")))
    weights = sum(4 * array.size for _, array in tree_flatten(model.parameters()))
    assert as_it_is(found).weights == weights
    del model
    foreseen = found.memory(
        weights, context, itemsize=4, kv_bits=kv_bits, device="cpu", prefill=prefill
    )
    measured = peak(config, context, prefill, kv_bits)
    assert BELOW < foreseen.total / measured < ABOVE, (foreseen, measured)


def qwen3(**changes: int) -> Footprint:
    """The shapes of Qwen3-4B, or of another model of its kind."""
    size = {"hidden": 2560, "inner": 9728, "layers": 36, "heads": 32, "keys": 8, **changes}
    vocabulary, hidden, inner = 151936, size["hidden"], size["inner"]
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(size["layers"]):
        matrices = {
            "self_attn.q_proj": (size["heads"] * 128, hidden),
            "self_attn.k_proj": (size["keys"] * 128, hidden),
            "self_attn.v_proj": (size["keys"] * 128, hidden),
            "self_attn.o_proj": (hidden, size["heads"] * 128),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for name, shape in matrices.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (hidden,)
        for name in ("q_norm", "k_norm"):
            shapes[f"model.layers.{layer}.self_attn.{name}.weight"] = (128,)
    config = {
        "model_type": "qwen3",
        "torch_dtype": "bfloat16",
        "hidden_size": hidden,
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["keys"],
        "head_dim": 128,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
    }
    return Footprint(header_model(architectures.of_shapes(config, shapes)))


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("as it is", 9.02),
        ("affine8-g64", 5.254),
        ("affine6-g64", 4.25),
        ("affine5-g32", 4.00),
        ("affine5-g64", 3.86),
        ("affine4-g32", 3.603),
        ("affine4-g64", 3.35),
    ],
)
def test_what_mlx_lm_published_of_qwen3_4b_on_an_m4_max(name: str, gigabytes: float) -> None:
    # mlx_lm's BENCHMARKS.md: mlx_lm.benchmark -p 2048 -g 128, mlx 0.29.2, 64 GB M4 Max
    model = qwen3()
    weights = candidates(model)[name].weights
    assert model.memory(weights, 2048 + 128).total / (gigabytes * 1e9) == pytest.approx(
        1.02, abs=0.03
    )


def test_a_token_reads_what_bench_says() -> None:
    from mlxquant.measure.bytes_per_token import cache_bytes, weight_bytes

    for kind in ("llama", "qwen3_moe", "gemma3_text", "deepseek_v3", "qwen2_moe", "qwen3_next"):
        config = architectures.settings(kind)
        model = architectures.build(config)
        model.set_dtype(mx.float32)
        found = Footprint(header_model(architectures.checkpoint(config, model, "F32")))
        read = found.token_bytes(as_it_is(found).parts, 100, 4)
        cache = cache_bytes(model).at(100)
        assert read - found.cache.read(100, 4) == weight_bytes(model, config).of_step(), kind
        assert found.cache.read(100, 4) == cache, kind


def test_a_longer_context_takes_more() -> None:
    model = qwen3(layers=2)
    sizes = [model.memory(0, context).total for context in (128, 1024, 2048, 4096, 65536)]
    assert sizes == sorted(set(sizes))
    assert model.memory(0, 65536, kv_bits=4).cache < model.memory(0, 65536).cache / 3
    assert model.memory(0, 65536, prefill=512).working < model.memory(0, 65536).working
    assert model.memory(0, 4096, device="cpu").working != model.memory(0, 4096).working


def test_caches_of_the_header_alone(bundled: Path) -> None:
    found = cache_shape(header_model(open_folder(bundled, quick=True)))
    assert [layer.width for layer in found.layers] == [256] * 8
    assert found.quantizable
    assert found.groups_of_64
