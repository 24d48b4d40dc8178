"""Every family, exported and run by llama.cpp: mlx-lm's logits. Read back, it is as it was."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from interop import llama
from interop.family_models import (
    CASES,
    export_f32,
    make_case,
    model_nodes,
    read_back,
    tokens,
    values_of,
)
from mlx_lm.utils import load_model

from mlxquant.models.families import family_of_metadata

#: largest difference of a logit; they are of the order of 1 to 10
_LIMIT = 1e-3


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_computes_what_mlx_lm_does(tmp_path: Path, name: str) -> None:
    folder = make_case(tmp_path / "model", name)
    file = export_f32(folder, tmp_path / "model.gguf")

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
