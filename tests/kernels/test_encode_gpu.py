"""Encoders as a GPU runs them, where weights are quantized: NumPy's bytes, or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from checked import run as run_checked
from formats.ggml_golden import ggml_format, same_blocks
from mlxquant.kernels import answers, encode, launch, metal
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.known import KnownAnswers
from mlxquant.kernels.launch import Launch
from mlxquant.kernels.source import ENCODERS

from mlxquant.formats.base import NonFiniteError

Arrays = Sequence[np.ndarray]
SLOW = pytest.mark.slow


def replace_gpu(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Launch, Arrays], np.ndarray]
) -> list[str]:
    """What runs in place of a GPU, in a new process; what was launched."""
    launched: list[str] = []

    def counted(started: Launch, inputs: Arrays) -> np.ndarray:
        launched.append(f"{started.kernel.name} of {started.format}")
        return run(started, inputs)

    monkeypatch.setattr(encode, "there_is_one", lambda: True)
    monkeypatch.setattr(metal, "on_arrays", counted)
    monkeypatch.setattr(metal, "KNOWN", KnownAnswers(counted, lambda: "M9"))
    return launched


def on_checker(started: Launch, inputs: Arrays) -> np.ndarray:
    return run_checked(started, *inputs)


def rows_of(name: str) -> np.ndarray:
    """Float32 [3, 512]; a block of zeros among them."""
    rows = np.random.default_rng(1).standard_normal((3, 512), dtype=np.float32)
    rows[1, : ggml_format(name).block_size] = 0
    return rows


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("Q4_0", "Q6_K") else pytest.param(name, marks=SLOW)
        for name in sorted(ENCODERS)
    ],
)
def test_the_bytes_are_numpy_s(
    name: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = replace_gpu(monkeypatch, on_checker)
    fmt, rows = ggml_format(name), rows_of(name)
    importance = np.random.default_rng(2).random(512, dtype=np.float32) ** 4
    with warnings.catch_warnings(action="error"):
        assert encode.reason(fmt) is None
        for given in (None, importance):
            same_blocks(fmt, rows, encode.encode(rows, fmt, given), fmt.encode(rows, given)[0])
    plain, weighted = f"encode of {name}", f"encode_weighted of {name}"
    assert launched == [plain, plain, weighted, weighted]


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_known_answer(name: str, weighted: bool) -> None:
    """Nothing subnormal is added up in it; it has all that the processor's has otherwise."""
    fmt = ggml_format(name)
    started = launch.encode(fmt, (64, 1024), weighted)
    known = answers.answer(started)
    assert known is not None
    assert known.launch.kernel == started.kernel
    rows, importance = (*known.inputs, None)[:2]
    assert np.isfinite(rows).all()
    assert answers.sums_are_normal(rows, importance).all()
    assert (rows == 0).any()
    assert np.abs(rows).max() > 1e37


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_far_from_subnormal(weighted: bool) -> None:
    rows = np.zeros((8, 32), np.float32)
    rows[1:] = np.float32(2.0**-30)
    rows[2, 3] = np.float32(2.0**-149)
    rows[3, :16] = np.float32(2.0**-45)
    rows[4, 16:] = np.float32(2.0**-149)
    rows[5, 20] = np.nan
    rows[6, :] = np.float32(2.0**120)
    importance = np.ones(32, np.float32) if weighted else None
    found = answers.sums_are_normal(rows, importance).tolist()
    yes, first, second = [True, True], [False, True], [True, False]
    assert found == [yes, yes, yes, first, second, second, yes, yes]
    if importance is not None:
        importance[16:] = 0
        found = answers.sums_are_normal(rows, importance).tolist()
        assert found == [yes, yes, yes, first, yes, yes, yes, yes]
        importance[:16] = np.float32(2.0**-60)
        assert answers.sums_are_normal(rows, importance)[:3].tolist() == [yes, first, first]


def test_small_numbers_are_encoded_elsewhere(
    clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = replace_gpu(monkeypatch, on_checker)
    fmt, rows = ggml_format("Q4_0"), rows_of("Q4_0")
    rows[2, 32:64] *= np.float32(1e-20)
    same_blocks(fmt, rows, encode.encode(rows, fmt), fmt.encode(rows)[0])
    assert launched == []


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(
    wrong: float, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = replace_gpu(monkeypatch, on_checker)
    rows = rows_of("Q8_0")
    rows[2, 100] = wrong
    with pytest.raises(NonFiniteError, match="100"):
        encode.encode(rows, ggml_format("Q8_0"))
    assert launched == []


def test_a_gpu_that_is_wrong(
    clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning; the processor's kernel does its work."""
    replace_gpu(monkeypatch, lambda started, inputs: on_checker(started, inputs) ^ np.uint8(1))
    fmt, rows = ggml_format("Q4_0"), rows_of("Q4_0")
    with pytest.warns(RuntimeWarning, match="encode of Q4_0 is wrong on this machine: ") as said:
        for _ in range(2):
            same_blocks(fmt, rows, encode.encode(rows, fmt), fmt.encode(rows)[0])
        assert encode.available(fmt)
    assert len(said) == 1
    assert "encode of Q4_0 is wrong" in str(encode.on_gpu(fmt))


def test_what_has_no_kernel() -> None:
    assert encode.on_gpu(ggml_format("IQ3_S")) == "encoder of IQ3_S has no kernel"
    if not encode.there_is_one():
        assert encode.on_gpu(ggml_format("Q4_0")) == "there is no GPU that MLX knows"
