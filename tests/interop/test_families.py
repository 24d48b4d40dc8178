"""Every family, exported and run by llama.cpp: mlx-lm's logits. Read back, it is as it was."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from interop import llama
from interop.family_models import (
    CASES,
    export,
    make_case,
    model_nodes,
    read_back,
    tokens,
    values_of,
)
from mlx_lm.utils import load_model

from mlxquant import quantize_gguf
from mlxquant.models.families import family_of_metadata

#: one case a family, for what does not depend on its settings
FIRST_CASES = list({kind: name for name, (kind, _) in reversed(CASES.items())}.values())
#: rows that hold a super-block of 256, and no expert left out for a small difference of its score
WIDE = {
    "hidden_size": 256,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "num_experts_per_tok": 4,
    "n_group": 1,
}

#: largest difference of a logit; they are of the order of 1 to 10
_LIMIT = 1e-3


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_computes_what_mlx_lm_does(tmp_path: Path, name: str) -> None:
    folder = make_case(tmp_path / "model", name)
    file = export(folder, tmp_path / "model.gguf")

    ids = tokens()
    theirs = llama.logits(file, ids)
    model, _ = load_model(folder)
    ours = np.array(model(mx.array([ids]))[0])
    assert ours.std() > 0.3  # else the limit below would say nothing
    assert np.abs(ours - theirs).max() <= _LIMIT

    metadata, tensors = read_back(file)
    family = family_of_metadata(metadata, tensors)
    back = family.to_hf(tensors, family.config(metadata, tensors))
    nodes = model_nodes(folder)
    assert back.keys() == nodes.keys()
    for key, node in nodes.items():
        assert np.array_equal(values_of(back[key]), values_of(node)), key


@pytest.mark.parametrize(
    ("file_type", "likeness"),
    [
        pytest.param("Q8_0", 0.998, id="Q8_0"),
        pytest.param("Q4_K_M", 0.8, id="Q4_K_M", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", FIRST_CASES)
def test_llama_cpp_runs_it_quantized(
    tmp_path: Path, name: str, file_type: str, likeness: float
) -> None:
    """Rows of blocks are where floats were: what is left is the error of the blocks."""
    folder = make_case(tmp_path / "model", name, **WIDE)
    file = export(folder, tmp_path / "exact.gguf")
    quantize_gguf(file, tmp_path / "coarse.gguf", file_type)
    exact = llama.logits(file, tokens())
    coarse = llama.logits(tmp_path / "coarse.gguf", tokens())
    assert np.corrcoef(exact.reshape(-1), coarse.reshape(-1))[0, 1] > likeness
