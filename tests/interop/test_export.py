"""Exported files in llama.cpp: the same numbers, the same ids, the same words."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from interop import llama
from mlx_lm.utils import load_model
from tokenizers import Tokenizer

from mlxquant import export, quantize
from mlxquant.assets import BUNDLED_MODEL

TEXTS = (
    "It was the best of times, it was the worst of times.",
    "  Two spaces, a tab\tand\n\nlines; 1234567 x²  naïve — 東京 🙂",
    "<|begin_of_text|>special<|eot_id|>",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("export") / "books.gguf"
    export(None, file, outtype="f32")
    return file


def test_the_vocabulary_is_the_folder_s(exported: Path) -> None:
    ours = Tokenizer.from_file(str(BUNDLED_MODEL / "tokenizer.json"))
    for text in TEXTS:
        theirs = llama.tokenize(exported, text)
        assert theirs == ours.encode(text).ids


def test_the_logits_are_mlx_lm_s(exported: Path) -> None:
    ids = [int(n) for n in np.random.default_rng(5).integers(0, 4000, 64)]
    model, _ = load_model(BUNDLED_MODEL)
    model.set_dtype(mx.float32)
    ours = np.array(model(mx.array([ids]))[0])
    assert ours.std() > 0.3
    assert np.abs(ours - llama.logits(exported, ids)).max() <= 1e-3


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_packed_weights_compute_the_same(tmp_path: Path, mode: str) -> None:
    """llama.cpp rounds activations to 8 bits for such types: near, not equal."""
    quantize(None, tmp_path / "mlx", mode=mode)
    export(tmp_path / "mlx", tmp_path / "out.gguf")
    ids = [int(n) for n in np.random.default_rng(5).integers(0, 4000, 64)]
    model, _ = load_model(tmp_path / "mlx")
    ours = np.array(model(mx.array([ids]))[0].astype(mx.float32))
    theirs = llama.logits(tmp_path / "out.gguf", ids)
    assert np.corrcoef(ours.reshape(-1), theirs.reshape(-1))[0, 1] > 0.999
