"""Weight errors against a plain computation over whole arrays."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_models
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, load_model

from mlxquant import ModelError, open_checkpoint, quantize
from mlxquant.measure import weights as module
from mlxquant.measure.weights import weight_errors


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_against_whole_arrays(
    tmp_path: Path, family: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 1000)
    source = tiny_models.make(tmp_path / "source", family)
    quantize(source, tmp_path / "small", mode=mode)
    found = {
        error.name: error
        for error in weight_errors(open_checkpoint(source), open_checkpoint(tmp_path / "small"))
    }
    before = dict(tree_flatten(load_model(source)[0].parameters()))
    after = dict(tree_flatten(dequantize_model(load_model(tmp_path / "small")[0]).parameters()))
    assert set(found) == set(before)
    for name, array in before.items():
        w, v = array.astype(mx.float32), after[name].astype(mx.float32)
        exact, stored = (np.array(a).astype(np.float64) for a in (w, v))
        expected = np.linalg.norm(exact - stored) / np.linalg.norm(exact)
        assert math.isclose(found[name].relative, expected, rel_tol=1e-9, abs_tol=1e-12), name
        assert found[name].largest == mx.abs(w - v).max().item()
    total = sum(error.nbytes for error in found.values())
    assert total == open_checkpoint(tmp_path / "small").nbytes


def test_different_models_are_refused(tmp_path: Path) -> None:
    one = tiny_models.make(tmp_path / "one", "llama")
    two = tiny_models.make(tmp_path / "two", "qwen2")
    wide = tiny_models.make(tmp_path / "wide", "llama", intermediate_size=512)
    with pytest.raises(ModelError, match="is another model than"):
        list(weight_errors(open_checkpoint(one), open_checkpoint(two)))
    with pytest.raises(ModelError, match="has shape"):
        list(weight_errors(open_checkpoint(one), open_checkpoint(wide)))
