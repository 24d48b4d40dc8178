"""Divergence against closed forms and SciPy, and what cannot be compared."""

from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from measure.table_model import TableModel, random_table
from mlx import nn
from scipy.special import log_softmax, rel_entr

from mlxquant import ModelError, RequestError, load
from mlxquant.measure import scoring
from mlxquant.measure.divergence import (
    Divergence,
    LiveReference,
    divergences,
    likeliest,
    measure_divergence,
)
from mlxquant.measure.perplexity import measure_perplexity
from mlxquant.measure.windows import Windows, cut, like_llama_cpp, like_mlx_lm, tokenize

TEXT = Path(__file__).parent.parent / "data" / "text" / "eval-excerpt.txt"


def compare(reference: TableModel, model: TableModel, windows: Windows) -> Divergence:
    return measure_divergence(model, windows, LiveReference(reference, windows))


def test_two_points() -> None:
    """The reference says 3/4 to 1/4, the model 1/2 to 1/2, or the other way round."""
    reference = TableModel(np.log(np.array([[3, 1], [1, 1]], np.float32)))
    model = TableModel(np.log(np.array([[1, 1], [3, 1]], np.float32)))
    found = compare(reference, model, cut([0, 1, 0, 1], 4))
    there = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert np.allclose(found.kl, [[there, back, there]], rtol=1e-7)
    assert found.top1.all()  # of equals the first
    assert found.top5.tolist() == [[1, 1, 1]]


def test_uniform_against_anything() -> None:
    table = random_table(64, seed=1)
    found = compare(
        TableModel(np.zeros((64, 64), np.float32)), TableModel(table), cut(range(64), 64)
    )
    expected = -math.log(64) - log_softmax(table.astype(np.float64), axis=1).mean(axis=1)
    assert np.allclose(found.kl[0], expected[:-1], rtol=1e-12)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("chunk", [scoring.CHUNK, 777])
def test_against_scipy(dtype: mx.Dtype, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    one, two = random_table(300, seed=2), random_table(300, seed=3)
    reference, model = TableModel(one, dtype), TableModel(one + np.float32(0.2) * two)
    windows = like_llama_cpp(np.random.default_rng(4).integers(0, 300, 1000), 64, bos=3)
    found = compare(reference, model, windows)
    inputs = windows.inputs[:, windows.predictions]
    p, q = (log_softmax(m.rows(inputs), axis=-1) for m in (reference, model))
    assert np.allclose(found.kl, rel_entr(np.exp(p), np.exp(q)).sum(-1), rtol=1e-10)
    for column, rows in ((found.losses, q), (found.reference_losses, p)):
        at = np.take_along_axis(rows, windows.targets[..., None], -1)[..., 0]
        assert np.allclose(column, -at, rtol=1e-13)
    assert np.array_equal(found.top1, p.argmax(-1) == q.argmax(-1))
    ours, theirs = (np.argsort(-rows, axis=-1, kind="stable")[..., :5] for rows in (p, q))
    shares = (ours[..., :, None] == theirs[..., None, :]).any(-1).mean(-1)
    assert np.array_equal(found.top5, shares)
    assert 0.2 < found.top5.mean() < 0.99
    assert measure_perplexity(model, windows).value == found.perplexity.value
    ratio = found.perplexity.value / found.reference_perplexity.value
    assert found.perplexity_ratio.value == pytest.approx(ratio)


def test_a_model_against_itself() -> None:
    model = TableModel(random_table(100, seed=5, spread=30))
    found = compare(model, model, cut(range(100), 20))
    assert found.kl.max() == 0
    assert found.kl_summary["max"].value == 0
    assert found.agreement["top1"].value == found.agreement["top5"].value == 1
    assert found.perplexity_ratio.value == 1


def test_a_shift_of_all_logits_is_no_divergence() -> None:
    rows = random_table(50, seed=6).astype(np.float64)
    assert divergences(rows, rows + 1000).max() < 1e-12


def test_summary() -> None:
    windows = cut(range(100), 20)
    found = compare(
        TableModel(random_table(100, seed=7)), TableModel(random_table(100, seed=8)), windows
    )
    summary = found.kl_summary
    assert list(summary) == ["mean", "median", "p90", "p99", "max"]
    assert summary["mean"].value == pytest.approx(found.kl.mean())
    assert summary["p90"].value == np.quantile(found.kl, 0.9, method="inverted_cdf")
    assert summary["max"].value == found.kl.max()
    assert summary["max"].low is None
    for name in ("mean", "median", "p90", "p99"):
        low, high = summary[name].low, summary[name].high
        assert low is not None
        assert high is not None
        assert low <= summary[name].value <= high


def test_likeliest_are_the_first_of_equals() -> None:
    rows = np.array([[1.0, 5, 5, 0, 5, 2, 5], [0, 0, 0, 0, 0, 0, 0]])
    before = rows.copy()
    assert likeliest(rows).tolist() == [[1, 2, 4, 6, 5], [0, 1, 2, 3, 4]]
    assert np.array_equal(rows, before)
    assert likeliest(np.array([[1.0, 2.0]])).tolist() == [[1, 0]]


def test_what_cannot_be_compared() -> None:
    small, large = (TableModel(random_table(n, seed=9)) for n in (40, 41))
    windows = cut(range(40), 8)
    with pytest.raises(RequestError, match="among 41 tokens, the reference among 40"):
        compare(small, large, windows)
    reference = LiveReference(small, windows)
    with pytest.raises(RequestError, match="with length 10, the reference 8"):
        measure_divergence(small, cut(range(40), 10, stride=8), reference)
    other = cut(range(39, -1, -1), 8)
    with pytest.raises(RequestError) as refused:
        measure_divergence(small, other, reference)
    assert other.fingerprint in str(refused.value)
    assert windows.fingerprint in str(refused.value)
    table = random_table(40, seed=9)
    table[20, 3] = math.nan
    with pytest.raises(ModelError, match="the reference: .* in window 3 of 5"):
        compare(TableModel(table), small, windows)


@pytest.mark.slow
def test_more_bits_are_nearer(bundled: Path) -> None:
    reference, tokenizer = load(bundled)
    reference.set_dtype(mx.float32)  # on a CPU, MLX's packed products take ten times as long else
    tokens = tokenize(tokenizer, TEXT.read_text(encoding="utf-8"))
    windows = like_mlx_lm(tokens, 64, most=2)
    means, agreements = [], []
    for bits in (8, 2):
        model, _ = load(bundled)
        model.set_dtype(mx.float32)
        nn.quantize(model, 64, bits)
        found = measure_divergence(model, windows, LiveReference(reference, windows))
        means.append(found.kl_summary["mean"].value)
        agreements.append(found.agreement["top1"].value)
    assert 0 < means[0] < 0.01 < 0.1 < means[1]
    assert agreements[0] > 0.9 > 0.6 > agreements[1] > 0.2
