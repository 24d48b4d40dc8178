"""A vocabulary of 250,000 tokens: what measuring takes in memory is a few rows, not a window."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import log_softmax

from mlxquant.measure.divergence import measure_divergence
from mlxquant.measure.reference import write_reference
from mlxquant.measure.windows import cut

VOCABULARY = 250_000
TOKENS = 96

#: bytes of one window's logits in float64
WINDOW = (TOKENS - 1) * VOCABULARY * 8


class Table:
    """Token ids [1, t] → logits [1, t, VOCABULARY], a row of a table for each of some tokens."""

    def __init__(self, seed: int, table: mx.array | None = None) -> None:
        noise = mx.random.normal((16, VOCABULARY), key=mx.random.key(seed))
        self.table = (3 * noise if table is None else table + 0.3 * noise).astype(mx.bfloat16)
        mx.eval(self.table)

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.table[tokens]

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        return np.array(self.table.astype(mx.float32)).astype(np.float64)[tokens]


@pytest.mark.slow
def test_memory_is_that_of_a_few_rows(tmp_path: Path) -> None:
    reference = Table(1)
    model = Table(2, reference.table)
    windows = cut(np.random.default_rng(3).integers(0, 16, 2 * TOKENS), TOKENS)
    tracemalloc.start()  # NumPy's arrays are counted, MLX's logits are not
    try:
        against = write_reference(tmp_path / "ref", reference, windows, {})
        found = measure_divergence(model, windows, against)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < WINDOW / 3
    p, q = (log_softmax(each.rows(windows.inputs[0]), axis=-1) for each in (reference, model))
    exact = (np.exp(p) * (p - q)).sum(axis=-1)
    assert (found.kl[0] <= exact * (1 + 1e-9)).all()
    np.testing.assert_allclose(found.kl[0], exact, rtol=0.01)
    losses = -q[np.arange(TOKENS - 1), windows.targets[0]]
    np.testing.assert_allclose(found.losses[0], losses, rtol=1e-12)
