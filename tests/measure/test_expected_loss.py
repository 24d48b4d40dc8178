"""Losses: those that were measured, found again; and the estimate, against what was measured."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest

from mlxquant import formats
from mlxquant.formats.floats import round_to
from mlxquant.formats.mlx_format import MlxFormat
from mlxquant.load.from_hf import open_folder
from mlxquant.measure.candidates import Candidate, as_it_is, gguf_candidates, mlx_candidates
from mlxquant.measure.expected_loss import (
    SENSITIVITY,
    WEIGHT_ERROR,
    estimated,
    label_of,
    measured,
    relative_error,
    shipped_records,
)
from mlxquant.measure.gather import Measured
from mlxquant.measure.memory_model import Footprint
from mlxquant.models.header_model import header_model
from mlxquant.quantize.search import search

#: llama.cpp's tools/perplexity/README.md (revision f364eb6f), Llama 3 8B on WikiText-2: file type,
#: GiB, mean divergence; f16's own of 0.00055, the loss of its stored logits, is taken off
LLAMA_3_8B = [
    ("Q8_0", 7.96, 0.001355),
    ("Q6_K", 6.14, 0.005452),
    ("Q5_K_M", 5.33, 0.010762),
    ("Q5_K_S", 5.21, 0.016595),
    ("Q4_K_M", 4.58, 0.031273),
    ("Q4_K_S", 4.37, 0.043136),
    ("Q4_0", 4.34, 0.071940),
    ("Q3_K_L", 4.03, 0.087176),
    ("Q3_K_M", 3.74, 0.101913),
    ("Q3_K_S", 3.41, 0.228217),
    ("Q2_K", 2.96, 0.445132),
]
LOGITS = 0.000551


def footprint(folder: Path) -> Footprint:
    return Footprint(header_model(open_folder(folder, quick=True)))


def llama_3_8b() -> Footprint:
    shapes = {
        "model.embed_tokens.weight": (128256, 4096),
        "model.norm.weight": (4096,),
        "lm_head.weight": (128256, 4096),
    }
    for n in range(32):
        layer = f"model.layers.{n}"
        for name, shape in {
            "self_attn.q_proj": (4096, 4096),
            "self_attn.k_proj": (1024, 4096),
            "self_attn.v_proj": (1024, 4096),
            "self_attn.o_proj": (4096, 4096),
            "mlp.gate_proj": (14336, 4096),
            "mlp.up_proj": (14336, 4096),
            "mlp.down_proj": (4096, 14336),
            "input_layernorm": (4096,),
            "post_attention_layernorm": (4096,),
        }.items():
            shapes[f"{layer}.{name}.weight"] = shape
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    }
    return Footprint(header_model(architectures.of_shapes(config, shapes)))


@pytest.mark.parametrize("name", WEIGHT_ERROR)
def test_the_table_of_weight_errors(name: str) -> None:
    values = np.random.default_rng(7).standard_normal((256, 2048)).astype(np.float32)
    rows, fmt = round_to(values, "BF16"), formats.get(name)
    wire = search(fmt, rows) if isinstance(fmt, MlxFormat) else fmt.encode(rows)
    lost = fmt.decode(wire) - rows
    error = float(np.square(lost, dtype=np.float64).sum() / np.square(rows, dtype=np.float64).sum())
    assert WEIGHT_ERROR[name] == pytest.approx(error, rel=0.01)


def test_every_candidate_is_in_the_table(bundled: Path) -> None:
    found = footprint(bundled)
    named = {name for each in mlx_candidates(found)[0] for name in each.formats}
    named |= {name for each in gguf_candidates(llama_3_8b()) for name in each.formats}
    assert named <= set(WEIGHT_ERROR)


@pytest.mark.parametrize(("kind", "gigabytes", "divergence"), LLAMA_3_8B)
def test_what_llama_cpp_published_of_llama_3_8b(
    kind: str, gigabytes: float, divergence: float
) -> None:
    found = {each.name: each for each in gguf_candidates(llama_3_8b())}[kind]
    assert found.weights / (1 << 30) == pytest.approx(gigabytes, abs=0.015)  # 8 MB of vocabulary
    loss = estimated(found)
    assert loss.low < divergence - LOGITS < loss.high * (1.6 if kind == "Q8_0" else 1.0)


def test_the_bundled_models_own_losses_are_shipped_and_within_the_estimates(bundled: Path) -> None:
    found, records = footprint(bundled), shipped_records()
    for each in (*mlx_candidates(found)[0], *gguf_candidates(found)):
        loss = measured(each, {"books-7m"}, records)
        assert loss is not None, each.name
        assert loss.source == "measured"
        foreseen = estimated(each)
        assert foreseen.low / 1.2 < loss.kl < foreseen.high, each.name
        sensitivity = loss.kl / relative_error(each)
        assert SENSITIVITY[0] / 1.2 < sensitivity < SENSITIVITY[1]


def record(**changes: Any) -> Measured:
    kl = {
        name: {"value": 0.02, "low": 0.01, "high": 0.03}
        for name in ("mean", "median", "p90", "p99")
    }
    model = {
        "name": "books-7m-4bit",
        "base": "books-7m",
        "format": "affine4-g64",
        "tool": "mlxquant",
        "method": "search",
        "parameters": 7344384,
        **changes.pop("model", {}),
    }
    content = {
        "model": model,
        "text": {"name": "eval.txt"},
        "windows": {"scored": 1000},
        "kl": {**kl, "max": 1.0},
        **changes,
    }
    made = datetime(2026, 11, 24, tzinfo=UTC).isoformat()
    return Measured(content, {"made": made}, "results.json")


@pytest.fixture(scope="module")
def four_bits(bundled: Path) -> Candidate:
    return {each.name: each for each in mlx_candidates(footprint(bundled))[0]}["affine4-g64"]


def test_a_record_of_the_same_model_and_format_counts(four_bits: Candidate) -> None:
    found = measured(four_bits, {"books-7m"}, [record()])
    assert found is not None
    assert (found.kl, found.low, found.high, found.source) == (0.02, 0.01, 0.03, "measured")
    assert found.told == "measured on eval.txt (results.json)"


@pytest.mark.parametrize(
    "changes",
    [
        {"kl": None},
        {"model": {"format": "affine4-g32"}},
        {"model": {"base": "another"}},
        {"model": {"method": "gptq"}},
        {"model": {"method": "rtn"}},
        {"model": {"tool": "somebody"}},
        {"model": {"parameters": 8_000_000}},
    ],
)
def test_other_records_do_not(changes: dict[str, Any], four_bits: Candidate) -> None:
    assert measured(four_bits, {"books-7m"}, [record(**changes)]) is None


def test_the_record_of_most_tokens_counts(four_bits: Candidate) -> None:
    more = record(windows={"scored": 2000}, text={"name": "other.txt"})
    found = measured(four_bits, {"books-7m"}, [record(), more, record()])
    assert found is not None
    assert "other.txt" in found.told


def test_a_quantized_model_as_it_is_is_found_by_its_own_name(four_bits: Candidate) -> None:
    stored = Candidate("as it is", four_bits.parts, four_bits.formats, 7344384, 2, None)
    assert measured(stored, {"books-7m-4bit"}, [record()]) is not None
    assert measured(stored, {"books-7m"}, [record()]) is None


def test_what_loses_nothing(bundled: Path) -> None:
    loss = estimated(as_it_is(footprint(bundled)))
    assert (loss.kl, loss.low, loss.high) == (0, 0, 0)


def test_the_label_of_a_mixture() -> None:
    mixture = Candidate("mixed_4_6", (), {"affine6-g64": 10, "affine4-g64": 90}, 100, 2, ())
    assert label_of(mixture) == "affine4-g64+affine6-g64"
