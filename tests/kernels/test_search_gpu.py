"""The search for affine scales as a GPU runs it, a group a thread, gives NumPy's bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from checked import run as run_checked
from mlxquant.kernels import answers, launch, metal, search
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.known import KnownAnswers
from mlxquant.kernels.launch import Launch
from mlxquant.kernels.source import SEARCHED_BITS

from mlxquant.formats.affine import GROUP_SIZES, Affine
from mlxquant.formats.base import NonFiniteError
from mlxquant.formats.floats import FLOATS, round_to
from mlxquant.quantize import search as search_module
from mlxquant.quantize.search_affine import search_affine

Arrays = Sequence[np.ndarray]
TARGETS = [Affine(bits, size) for bits in SEARCHED_BITS for size in GROUP_SIZES]
#: each width and each size once or twice
FEW = [Affine(2, 128, "F16"), Affine(3, 64, "F32"), Affine(4, 64), Affine(8, 32, "F16")]
SLOW = pytest.mark.slow


@pytest.fixture
def gpu(clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checker in place of a GPU, in a new process; what was launched."""
    launched: list[str] = []

    def on_checker(started: Launch, inputs: Arrays) -> np.ndarray:
        launched.append(started.kernel.name)
        return run_checked(started, *inputs)

    replace_gpu(monkeypatch, on_checker)
    return launched


def replace_gpu(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Launch, Arrays], np.ndarray]
) -> None:
    monkeypatch.setattr(search, "there_is_one", lambda: True)
    monkeypatch.setattr(metal, "on_arrays", run)
    monkeypatch.setattr(metal, "KNOWN", KnownAnswers(run, lambda: "M9"))


def same(ours: tuple[np.ndarray, ...] | None, wanted: tuple[np.ndarray, ...]) -> None:
    assert ours is not None
    for one, other in zip(ours, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def groups_of(target: Affine, n: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng((n, b))
    groups = random.standard_normal((n, b, target.group_size), dtype=np.float32)
    groups[0, 0] = 0
    weights = random.random((b, target.group_size), dtype=np.float32) ** 8
    weights[:, 3] = 1
    return round_to(groups, target.dtype), weights


@pytest.mark.parametrize(
    "target",
    [*FEW, *(pytest.param(each, marks=SLOW) for each in TARGETS)],
    ids=lambda target: f"{target.name}-{target.dtype}",
)
def test_the_bytes_are_numpy_s(target: Affine, gpu: list[str]) -> None:
    with warnings.catch_warnings(action="error"):
        assert search.on_gpu(target) is None
        for n, b in ((1, 1), (5, 3)):
            groups, weights = groups_of(target, n, b)
            for given in (None, weights):
                ours = search.search_affine(target, groups, given)
                same(ours, search_affine(target, groups, given))
    dtype = target.dtype.lower()
    assert gpu == [
        f"affine_search_{dtype}",
        f"affine_search_{dtype}",
        f"affine_search_{dtype}_weighted",
        f"affine_search_{dtype}_weighted",
        f"affine_search_{dtype}",
        f"affine_search_{dtype}_weighted",
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_known_answer(dtype: str) -> None:
    """Groups of every kind, but none where subnormal numbers count."""
    for target, weighted in ((Affine(4, 64, dtype), False), (Affine(5, 32, dtype), True)):
        started = launch.affine_search(target, 9, 9, weighted)
        known = answers.answer(started)
        assert known is not None
        assert known.launch.kernel == started.kernel
        groups = known.inputs[0]
        np.testing.assert_array_equal(groups, round_to(groups, dtype))
        largest = np.abs(groups).max(axis=1)
        assert ((largest == 0) | (largest >= answers.SMALLEST)).all()
        assert (largest == 0).any()
        assert len(known.inputs) == 1 + weighted


def test_small_numbers_are_searched_elsewhere(gpu: list[str]) -> None:
    """A GPU may take them for zero."""
    target = Affine(4, 64, "F32")
    groups, _ = groups_of(target, 4, 2)
    groups[2, 1] *= np.float32(2.0**-100)
    same(search.search_affine(target, groups, None), search_affine(target, groups, None))
    assert gpu == []


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(wrong: float, gpu: list[str]) -> None:
    rows = np.ones((64, 1024), np.float32)
    rows[63, 1000] = wrong
    groups = rows.reshape(64, 16, 64)[-2:]
    assert search.search_affine(Affine(4, 64), groups, None) is None
    with pytest.raises(NonFiniteError, match="1000"):
        search_module.search(Affine(4, 64), rows)


def test_quantize_takes_it(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From several threads, too."""
    monkeypatch.setattr(search_module, "_WORTH_A_KERNEL", 1)
    rows, _ = groups_of(Affine(4, 64), 3, 2)
    rows = rows.reshape(3, 128)
    importance = np.random.default_rng(1).random(128, dtype=np.float32)
    with ThreadPoolExecutor(3) as pool:
        found = list(
            pool.map(lambda _: search_module.search(Affine(4, 64), rows, importance), range(4))
        )
    assert len(gpu) == 5
    monkeypatch.setattr(search, "there_is_one", lambda: False)
    for each in found:
        same(each, search_module.search(Affine(4, 64), rows, importance))
    assert len(gpu) == 5


def test_a_gpu_that_is_wrong(
    clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning; the processor's kernel does its work."""

    def off(started: Launch, inputs: Arrays) -> np.ndarray:
        known = answers.answer(started)
        assert known is not None
        return known.wanted ^ np.uint32(1)

    replace_gpu(monkeypatch, off)
    groups, weights = groups_of(Affine(4, 64), 3, 2)
    words = "affine_search_bf16_weighted of affine4-g64 is wrong on this machine: "
    with pytest.warns(RuntimeWarning, match=words) as said:
        for _ in range(2):
            ours = search.search_affine(Affine(4, 64), groups, weights)
    assert len(said) == 1
    same(ours, search_affine(Affine(4, 64), groups, weights))
    with pytest.warns(RuntimeWarning, match="affine_search_bf16 of affine4-g64 is wrong"):
        assert search.available(Affine(4, 64))


def test_there_is_none_here() -> None:
    if search.there_is_one():
        assert search.on_gpu(Affine(4, 64)) is None
    else:
        assert search.on_gpu(Affine(4, 64)) == "there is no GPU that MLX knows"
    assert search.on_gpu(Affine(1, 64)) == "search of affine1-g64 has no kernel"
