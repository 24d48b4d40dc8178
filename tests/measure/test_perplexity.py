"""Perplexity against closed forms, SciPy and mlx_lm.perplexity."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from measure.table_model import TableModel, random_table
from mlx_lm.perplexity import eval_ppl
from scipy.special import logsumexp

from mlxquant import ModelError, load
from mlxquant.measure import scoring
from mlxquant.measure.perplexity import log_sums, measure_perplexity
from mlxquant.measure.windows import cut, like_llama_cpp, like_mlx_lm, tokenize

TEXT = Path(__file__).parent.parent / "data" / "text" / "eval-excerpt.txt"


def test_a_model_that_knows_nothing() -> None:
    found = measure_perplexity(TableModel(np.zeros((50, 50), np.float32)), cut(range(50), 10))
    assert math.isclose(found.value, 50, rel_tol=1e-14)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.estimate.low == pytest.approx(50)


def test_two_points() -> None:
    """After an even token 0 comes with 3/4, after an odd one with 1/2."""
    odds = np.log(np.array([[3, 1], [1, 1]], np.float32))
    tokens = [0, 1, 0, 0, 1, 1, 0, 1]
    found = measure_perplexity(TableModel(odds), cut(tokens, 4))
    expected = -np.log([[1 / 4, 1 / 2, 3 / 4], [1 / 2, 1 / 2, 1 / 4]])
    assert np.allclose(found.losses, expected, rtol=1e-7, atol=0)
    assert math.isclose(found.value, math.exp(expected.mean()), rel_tol=1e-7)
    spread = expected.std(ddof=1) / math.sqrt(6)
    assert math.isclose(found.standard_error or 0, found.value * spread, rel_tol=1e-7)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("chunk", [scoring.CHUNK, 1000, 1])
def test_against_scipy(dtype: mx.Dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    model = TableModel(random_table(300, seed=1, spread=20), dtype)
    tokens = np.random.default_rng(2).integers(0, 300, 1000)
    windows = like_llama_cpp(tokens, 64, bos=3)
    found = measure_perplexity(model, windows)
    rows = model.rows(windows.inputs[:, windows.predictions])
    at = np.take_along_axis(rows, windows.targets[..., None], -1)[..., 0]
    assert np.allclose(found.losses, logsumexp(rows, axis=-1) - at, rtol=1e-13, atol=1e-13)


def test_logits_beyond_the_range_of_exp() -> None:
    rows = np.array([[1e4, 1e4 - 1, -1e4], [-3e38, -3e38, -3e38]])
    assert np.allclose(log_sums(rows), logsumexp(rows, axis=1), rtol=1e-15)
    certain = np.where(np.eye(4) > 0, np.float32(1e4), np.float32(0))
    found = measure_perplexity(TableModel(certain), cut([0, 0, 1, 1], 4))
    assert found.losses.tolist() == [[0, 1e4, 0]]
    assert found.value == math.inf


@pytest.mark.parametrize("batch", [None, 1, 3, 100])
@pytest.mark.parametrize("limit", [scoring.BATCH_BYTES, 1])
def test_batches_change_nothing(
    batch: int | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_BYTES", limit)
    model = TableModel(random_table(40, seed=3))
    windows = cut(np.random.default_rng(4).integers(0, 40, 230), 23)
    seen: list[tuple[int, int]] = []
    found = measure_perplexity(model, windows, batch=batch, progress=lambda *n: seen.append(n))
    rows = model.rows(windows.inputs)
    at = np.take_along_axis(rows, windows.targets[..., None], -1)[..., 0]
    assert np.allclose(found.losses, logsumexp(rows, axis=-1) - at, rtol=1e-13)
    assert seen == [(i + 1, 10) for i in range(10)]
    sizes = [shape[0] for shape in model.calls]
    expected = {None: [1, 8, 1] if limit > 1 else [1] * 10, 1: [1] * 10, 3: [3, 3, 3, 1]}
    assert sizes == expected.get(batch, [10])


def test_large_logits_are_gone_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a model is called, nothing of what it made before is in memory; small logits may be."""
    model = TableModel(random_table(500, seed=6))
    windows = cut(np.arange(1000) % 500, 100)
    one = 99 * 500 * 4
    for limit, alive in ((1, 0), (one, 1)):
        seen: list[int] = []

        def watched(tokens: mx.array, seen: list[int] = seen) -> mx.array:
            seen.append(mx.get_active_memory())
            return model(tokens)

        monkeypatch.setattr(scoring, "BATCH_BYTES", limit)
        measure_perplexity(watched, windows, batch=1)
        assert len(seen) == 10
        assert alive * one <= max(seen) - seen[0] < (alive + 0.5) * one


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(bad: float) -> None:
    table = random_table(16, seed=5)
    table[9, 2] = bad
    windows = cut([*range(8), *range(8, 16)], 4)
    assert measure_perplexity(TableModel(table), cut(range(8), 4)).value < math.inf
    with pytest.raises(ModelError, match="the model: .* in window 3 of 4; mlxquant inspect"):
        measure_perplexity(TableModel(table), windows)
    with pytest.raises(ModelError, match=r"window 3 of 4, first behind \[8, 9, 10, 11\];"):
        measure_perplexity(
            TableModel(table), windows, blame=lambda tokens: f"first behind {tokens.tolist()}"
        )


def test_not_a_language_model() -> None:
    with pytest.raises(ModelError, match=r"logits of shape \[1, 4\] for tokens of shape \[1, 3\]"):
        measure_perplexity(lambda tokens: mx.zeros((1, 4)), cut(range(8), 4))
    with pytest.raises(ModelError, match="predicts among 5 tokens, the text has token 7"):
        measure_perplexity(lambda tokens: mx.zeros((*tokens.shape, 5)), cut(range(8), 4))


@pytest.mark.slow
def test_against_mlx_lm(bundled: Path) -> None:
    model, tokenizer = load(bundled)
    windows = like_mlx_lm(tokenize(tokenizer, TEXT.read_text(encoding="utf-8")), 96, most=6)
    found = measure_perplexity(model, windows)
    value, error = eval_ppl(model, mx.array(windows.tokens))
    assert math.isclose(found.value, value, rel_tol=1e-4)
    assert math.isclose(found.standard_error or 0, error, rel_tol=1e-4)
