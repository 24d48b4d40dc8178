"""Nodes of multiplied weights give the numbers of the whole product, region by region."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize.folded_models import made, source_of

from mlxquant.errors import RequestError, WriteError
from mlxquant.load.lazy import Node, Region
from mlxquant.quantize import transform
from mlxquant.quantize.orthogonal import Rotation, random_rotation
from mlxquant.quantize.transform import Scratch, scaled, turned_columns, turned_rows, untied


class Counted:
    """A node over an array that counts what is asked of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.read = values, 0
        self.node = Node(values.shape, "F32", self._compute, "Counted")

    def _compute(self, region: Region) -> np.ndarray:
        picked = self.values[tuple(slice(r[0], r[-1] + 1, r.step) for r in region)]
        self.read += picked.size
        return picked


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rotation(size: int, block: int | None = None) -> Rotation:
    return random_rotation(size, np.random.default_rng(9), block=block)


def region_of(data: st.DataObject, shape: tuple[int, ...]) -> Region:
    axes = []
    for n in shape:
        first = data.draw(st.integers(0, n - 1))
        axes.append(
            range(first, data.draw(st.integers(first + 1, n)), data.draw(st.integers(1, 3)))
        )
    return tuple(axes)


def check(data: st.DataObject, node: Node, expected: np.ndarray) -> None:
    region = region_of(data, expected.shape)
    found = node.compute(region)
    wanted = expected[tuple(slice(r.start, r.stop, r.step) for r in region)]
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert np.allclose(found, wanted, atol=1e-5)


@given(data=st.data(), stack=st.sampled_from([(), (3,)]))
@settings(max_examples=60, deadline=None)
def test_scaled(data: st.DataObject, stack: tuple[int, ...]) -> None:
    w = random(*stack, 10, 12)
    rows, columns = random(*stack, 10, seed=1), random(*stack, 12, seed=2)
    node = scaled(Counted(w).node, rows=rows, columns=columns)
    check(data, node, rows[..., None] * w * columns[..., None, :])
    check(
        data,
        scaled(Counted(w).node, columns=columns[(0,) * len(stack)]),
        w * columns[(0,) * len(stack)],
    )
    check(data, scaled(Counted(rows).node, columns=rows), rows * rows)


@given(data=st.data(), stack=st.sampled_from([(), (3,)]), first=st.sampled_from([0, 4]))
@settings(max_examples=60, deadline=None)
def test_turned_columns(data: st.DataObject, stack: tuple[int, ...], first: int) -> None:
    w, gains, turn = random(*stack, 6, 16), random(16, seed=1), rotation(12)
    whole = np.eye(16, dtype=np.float32)
    whole[first : first + 12, first : first + 12] = turn.matrix
    node = turned_columns(Counted(w).node, turn, gains, first)
    check(data, node, (w * gains) @ whole)


@pytest.mark.parametrize("kept", [False, True], ids=["direct", "kept"])
@pytest.mark.parametrize("block", [None, 4])
@given(data=st.data(), stack=st.sampled_from([(), (3,)]), first=st.sampled_from([0, 3, 8]))
@settings(max_examples=40, deadline=None)
def test_turned_rows(
    kept: bool, block: int | None, data: st.DataObject, stack: tuple[int, ...], first: int
) -> None:
    w, turn = random(*stack, 20, 9), rotation(12, block)
    whole = np.eye(20, dtype=np.float32)
    whole[first : first + 12, first : first + 12] = turn.matrix
    with pytest.MonkeyPatch.context() as patch:
        if kept:
            patch.setattr(transform, "_DIRECT_BYTES", 0)
            patch.setattr(transform, "_PANEL_BYTES", 20 * 4 * 2)
        node = turned_rows(Counted(w).node, turn, Scratch(), first)
        check(data, node, whole.T @ w)
        check(data, node, whole.T @ w)


def test_a_kept_matrix_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several threads in pieces cost one pass over the weight."""
    monkeypatch.setattr(transform, "_DIRECT_BYTES", 0)
    counted = Counted(random(2, 64, 40))
    turn = rotation(64)
    node = turned_rows(counted.node, turn, Scratch())
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda at: node.rows(at, at + 4), range(0, 128, 4)))
    assert np.allclose(
        np.concatenate(parts), (turn.matrix.T @ counted.values).reshape(128, 40), atol=1e-5
    )
    assert counted.read == counted.values.size


def test_old_matrices_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit two stay; what was dropped is computed again."""
    monkeypatch.setattr(transform, "_DIRECT_BYTES", 0)
    monkeypatch.setattr(transform, "_KEPT_BYTES", 1)
    counted = Counted(random(4, 8, 8))
    node = turned_rows(counted.node, rotation(8), Scratch())
    for row in (0, 8, 16, 24):
        node.rows(row, row + 8)
    assert counted.read == 4 * 64
    node.rows(24, 32)
    assert counted.read == 4 * 64
    node.rows(0, 8)
    assert counted.read == 5 * 64


def test_memory_is_bounded() -> None:
    """128 MiB of weights are turned with a third of that in memory, and rows come from a file."""
    n, k = 4096, 8192

    def compute(region: Region) -> np.ndarray:
        rows, columns = (np.array(axis, dtype=np.float32) for axis in region)
        return np.sin(rows[:, None] * np.float32(0.37)) + columns * np.float32(1e-4)

    node = turned_rows(Node((n, k), "F32", compute, "Made"), rotation(n), Scratch())
    tracemalloc.start()
    try:
        for begin in (0, 100, n - 50):
            found = node.rows(begin, begin + 50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 << 20, f"{peak / 2**20:.0f} MiB"
    columns = slice(8000, 8192)
    expected = rotation(n).rows(compute((range(n), range(k)[columns])))[n - 50 :]
    assert np.allclose(found[:, columns], expected, atol=1e-3)


def test_no_room_for_scratch_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "_DIRECT_BYTES", 0)
    node = turned_rows(Counted(random(8, 8)).node, rotation(8), Scratch(tmp_path / "nowhere"))
    with pytest.raises(WriteError, match="nowhere: a scratch file of 256 bytes.*TMPDIR"):
        node.rows(0, 1)


def test_untied_head_is_the_embedding(tmp_path: Path) -> None:
    source = source_of(made(tmp_path / "source", "llama"))
    own = untied(source)
    assert own.config["tie_word_embeddings"] is False and source.config["tie_word_embeddings"]
    assert set(own.modules) - set(source.modules) == {"lm_head"}
    parameters = own.parameters
    assert parameters["lm_head.weight"] is parameters["model.embed_tokens.weight"]
    assert untied(own) is own


def test_a_head_that_is_always_the_embedding(tmp_path: Path) -> None:
    source = source_of(made(tmp_path / "source", "gemma2", tie_word_embeddings=True))
    with pytest.raises(RequestError, match="always shares its head"):
        untied(source)
