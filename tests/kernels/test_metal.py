"""What metal.py gives MLX, given to the checker instead: from MLX's arrays to MLX's arrays."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from checked import assert_product, decoded, rounded, run, weights
from formats.ggml_golden import ggml_format
from mlxquant.kernels import launch, metal
from mlxquant.kernels.host.compiler import Compiler

from mlxquant.errors import RequestError

DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


def stored(array: mx.array) -> np.ndarray:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


@pytest.fixture
def launches(clang: Compiler, monkeypatch: pytest.MonkeyPatch) -> list[launch.Launch]:
    """The checker in place of a GPU; what was launched."""
    started: list[launch.Launch] = []

    def on_checker(given: launch.Launch, inputs: list[mx.array]) -> mx.array:
        started.append(given)
        out = mx.array(run(given, *(stored(array) for array in inputs)))
        return out.view(mx.bfloat16) if given.dtype == "BF16" else out

    monkeypatch.setattr(metal, "run", on_checker)
    return started


@pytest.mark.parametrize(("m", "dtype"), [(1, "F32"), (6, "BF16"), (19, "F16")])
def test_matmul(m: int, dtype: str, launches: list[launch.Launch]) -> None:
    wire = weights("Q4_1", 21, 5)
    x = mx.random.normal((m, 160), dtype=mx.float32, key=mx.random.key(1)).astype(DTYPES[dtype])
    out = metal.matmul(x, mx.array(wire), ggml_format("Q4_1"))
    assert (out.shape, out.dtype) == ((m, 21), x.dtype)
    w = decoded("Q4_1", wire)
    if m > launch.ROWS_AT_ONCE:
        w = rounded(w, dtype)
    assert_product(stored(out), stored(x), w, dtype, 160, launches[0].kernel.name)
    assert len(launches) == 1


@pytest.mark.parametrize("count", [3, 14])
@pytest.mark.parametrize("in_order", [False, True])
def test_gather(count: int, in_order: bool, launches: list[launch.Launch]) -> None:
    """The same rows, whether ids are in order or brought in order; few or in tiles."""
    wire = weights("Q4_1", 3, 21, 5)
    x = mx.random.normal((count, 160), dtype=mx.float32, key=mx.random.key(1))
    ids = np.random.default_rng(3).integers(0, 3, count)
    if in_order:
        ids.sort()
    out = metal.gather(x, mx.array(ids), mx.array(wire), ggml_format("Q4_1"), in_order)
    assert ("matmul" in launches[0].kernel.name) == (count == 14)
    for i, matrix in enumerate(ids):
        w = decoded("Q4_1", wire[matrix])
        assert_product(np.array(out[i : i + 1]), np.array(x[i : i + 1]), w, "F32", 160, f"row {i}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dequantize(dtype: str, launches: list[launch.Launch]) -> None:
    """The kernels without barriers give the checker no reason to fail either."""
    wire = weights("Q5_K", 5, 2)
    wanted = rounded(decoded("Q5_K", wire), dtype)
    whole = metal.dequantize(mx.array(wire), ggml_format("Q5_K"), DTYPES[dtype])
    np.testing.assert_array_equal(np.array(whole.astype(mx.float32)), wanted)
    ids = mx.array([4, 0, 0])
    rows = metal.dequantize_rows(mx.array(wire), ids, ggml_format("Q5_K"), DTYPES[dtype])
    np.testing.assert_array_equal(np.array(rows.astype(mx.float32)), wanted[[4, 0, 0]])


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 256), (2, 0, 256), (2, 3, 0)])
def test_nothing_to_sum_up_needs_no_gpu(m: int, n: int, k: int) -> None:
    wire = mx.zeros((n, k // 256 * 144), mx.uint8)
    out = metal.matmul(mx.ones((m, k), mx.float16), wire, ggml_format("Q4_K"))
    assert (out.shape, out.dtype) == ((m, n), mx.float16)
    assert not out.any()


def test_refusals() -> None:
    fmt, wire = ggml_format("Q4_K"), mx.zeros((3, 144), mx.uint8)
    with pytest.raises(RequestError, match="x of int32; choose one of float32, float16, bfloat16"):
        metal.matmul(mx.zeros((1, 256), mx.int32), wire, fmt)
    with pytest.raises(RequestError, match=r"ids \[2\] for x \[1, 256\]"):
        metal.gather(mx.zeros((1, 256)), mx.array([0, 1]), wire[None], fmt)
