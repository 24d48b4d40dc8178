"""Encoders as a GPU runs them, a block a thread, with every access watched: NumPy's bytes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from checked import run
from formats.ggml_golden import ggml_format, same_blocks
from mlxquant.kernels import launch, metal
from mlxquant.kernels.host.check import CheckedKernel, CheckFailure
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.host.encode import example, importances
from mlxquant.kernels.source import ENCODE_WEIGHTED, ENCODERS, call, header

from mlxquant.errors import RequestError

every = pytest.mark.parametrize("name", ENCODERS)


def rows_of(name: str, blocks: int) -> np.ndarray:
    """A few of the known answer's rows, `blocks` blocks in each: float32 [4, k]."""
    size = ggml_format(name).block_size
    return example(size)[[9, 16, 21, 40], : blocks * size]


@every
@pytest.mark.parametrize("which", ["no", "some", "zero"])
def test_a_block_a_thread(name: str, which: str, clang: Compiler) -> None:
    """Of 12 blocks no more than there are, each by its own columns' importance."""
    fmt = ggml_format(name)
    rows, importance = rows_of(name, 3), importances(fmt.block_size)[which]
    started = launch.encode(fmt, rows.shape, importance is not None)
    assert started.grid == (12, 1, 1)
    out = run(started, *(rows,) if importance is None else (rows, importance))
    same_blocks(fmt, rows, out, fmt.encode(rows, importance)[0])


@pytest.mark.parametrize("blocks", [1, 63, 64, 65, 200])
def test_any_number_of_blocks(blocks: int, clang: Compiler) -> None:
    fmt = ggml_format("Q8_0")
    rows = np.random.default_rng(1).standard_normal((1, 32 * blocks), dtype=np.float32)
    started = launch.encode(fmt, rows.shape, weighted=False)
    assert started.threadgroup[0] <= min(64, blocks)
    same_blocks(fmt, rows, run(started, rows), fmt.encode(rows)[0])


@pytest.mark.parametrize(
    ("right", "wrong", "what"),
    [
        ("block * Format::weights + begin", "(block + 1) * Format::weights + begin", "OUTSIDE"),
        ("block % columns", "block", "OUTSIDE"),
        ("wire + first * Format::bytes", "wire + (first + 1) * Format::bytes", "OUTSIDE"),
        ("at * LANES;", "at / 2 * LANES;", "RACE"),
        ("i < bytes / 2;", "i < bytes / 2 - 1;", "NEVER_WRITTEN"),
        (
            "reinterpret_cast<device ushort*>(to)",
            "reinterpret_cast<device uint*>(to)",
            "MISALIGNED",
        ),
    ],
)
def test_what_must_not_be_done_is_noticed(
    right: str, wrong: str, what: str, clang: Compiler
) -> None:
    fmt, rows = ggml_format("Q4_0"), rows_of("Q4_0", 3)
    before = header("Q4_0", ENCODE_WEIGHTED)
    assert right in before
    body = call("Q4_0", ENCODE_WEIGHTED)
    kernel = CheckedKernel(
        "broken", ["rows", "importance"], ["out"], body, before.replace(right, wrong)
    )
    started = launch.encode(fmt, rows.shape, weighted=True)
    given = [rows, importances(32)["some"]]
    with pytest.raises(CheckFailure) as failure:
        kernel(given, started.grid, started.threadgroup, [started.shape], ["uint8"])
    assert failure.value.what == what, failure.value


@pytest.mark.parametrize("weighted", [False, True])
def test_mlx_s_arrays(weighted: bool, clang: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """What metal.py gives MLX, given to the checker instead."""

    def on_checker(started: launch.Launch, inputs: list[mx.array]) -> mx.array:
        return mx.array(run(started, *map(np.array, inputs)))

    monkeypatch.setattr(metal, "run", on_checker)
    fmt, rows = ggml_format("Q5_1"), rows_of("Q5_1", 3)
    importance = importances(32)["some"] if weighted else None
    given = None if importance is None else mx.array(importance)
    out = metal.encode(mx.array(rows), fmt, given)
    assert out.dtype == mx.uint8
    same_blocks(fmt, rows, np.array(out), fmt.encode(rows, importance)[0])


def test_refusals() -> None:
    fmt = ggml_format("Q4_0")
    with pytest.raises(RequestError, match="rows of mlx.core.float16 cannot be encoded"):
        metal.encode(mx.zeros((1, 32), mx.float16), fmt)
    with pytest.raises(RequestError, match=r"rows \[1, 31\] in Q4_0 given"):
        metal.encode(mx.zeros((1, 31)), fmt)
    with pytest.raises(RequestError, match=r"rows \[1, 256\] in IQ3_S given; .* one of Q4_0,"):
        metal.encode(mx.zeros((1, 256)), ggml_format("IQ3_S"))
    with pytest.raises(RequestError, match=r"importance \[32\] for rows \[1, 64\]"):
        metal.encode(mx.zeros((1, 64)), fmt, mx.ones(32))


def test_no_rows_need_no_gpu() -> None:
    out = metal.encode(mx.zeros((0, 64)), ggml_format("Q4_0"))
    assert (out.shape, out.dtype) == ((0, 36), mx.uint8)


@every
def test_mlx_takes_the_kernels(name: str) -> None:
    """The object is made from the same text; it is compiled on a Mac, when it is called."""
    for weighted in (False, True):
        started = launch.encode(ggml_format(name), (1, 512), weighted)
        assert callable(metal.kernel_of(name, started.kernel, "uint8"))
