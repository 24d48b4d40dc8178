"""What metal.py gives MLX, given to the checker instead: from MLX's arrays to MLX's arrays."""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from checked import assert_product, decoded, rounded, run, weights, widened
from formats.ggml_golden import ggml_format
from mlxquant.kernels import launch, metal, operations, search
from mlxquant.kernels.host import compiler, entries
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS

from mlxquant.errors import RequestError
from mlxquant.formats.affine import Affine

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


@pytest.fixture
def none_works(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """A new process, in which a kernel is tried for the first time; it fails."""
    monkeypatch.setattr(metal, "_launched", lambda *_: fail("no GPU"))
    metal.KNOWN.forget()
    yield
    metal.KNOWN.forget()


def fail(message: str) -> mx.array:
    raise RuntimeError(message)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Q4_K", "IQ4_NL", "MXFP4"])
def test_without_kernels(
    name: str, dtype: str, none_works: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX's operations give the same; one warning for each kernel that is tried."""
    monkeypatch.setattr(operations, "CHUNK_BYTES", 512 * 4 * 3)
    fmt, packed = ggml_format(name), weights(name, 3, 7, 512 // ggml_format(name).block_size)
    w = decoded(name, packed.reshape(21, -1)).reshape(3, 7, 512)
    whole = mx.array(packed[0])
    with pytest.warns(RuntimeWarning, match="its work is done without it") as said:
        for _ in range(2):
            out = metal.dequantize(whole, fmt, DTYPES[dtype])
            np.testing.assert_array_equal(np.array(out.astype(mx.float32)), rounded(w[0], dtype))
            ids = mx.array([6, 0, 7, 3], mx.uint32)
            out = metal.dequantize_rows(whole, ids, fmt, DTYPES[dtype])
            wanted = np.concatenate((rounded(w[0], dtype), np.full((1, 512), np.nan)))[ids]
            np.testing.assert_array_equal(np.array(out.astype(mx.float32)), wanted)
            for m in (1, 4, 20):
                x = mx.random.normal((m, 512), key=mx.random.key(m)).astype(DTYPES[dtype])
                out = metal.matmul(x, whole, fmt)
                assert (out.shape, out.dtype) == ((m, 7), x.dtype)
                assert_product(stored(out), stored(x), rounded(w[0], dtype), dtype, 512, f"{m}")
            for m in (5, 30):
                x = mx.random.normal((m, 512), key=mx.random.key(m)).astype(DTYPES[dtype])
                chosen = np.arange(m) * 7 % 4
                out = stored(metal.gather(x, mx.array(chosen), mx.array(packed), fmt))
                for i, matrix in enumerate(chosen):
                    if matrix == 3:
                        assert np.isnan(widened(out[i])).all()
                        continue
                    row, by = stored(x)[i : i + 1], rounded(w[matrix], dtype)
                    assert_product(out[i : i + 1], row, by, dtype, 512, f"row {i}")
    kernels = [re.search(r"the kernel (\w+) of", str(each.message)) for each in said]
    names = [found[1] for found in kernels if found]
    assert len(names) == len(said) == len(set(names)) == 7
    with warnings.catch_warnings(action="error"):
        metal.matmul(x, whole, fmt)


def test_this_machine_s_gpu(fresh_cache: Path) -> None:
    """Every format gives its known answers on a GPU; where there is none, MLX computes."""
    metal.KNOWN.forget()
    for name in FORMATS if mx.metal.is_available() else ("Q4_K",):
        fmt = ggml_format(name)
        wire = mx.zeros((3, 256 // fmt.block_size * fmt.block_bytes), mx.uint8)
        for m in (1, 3, 20):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                out = metal.matmul(mx.ones((m, 256)), wire, fmt)
            assert out.shape == (m, 3)
            if mx.metal.is_available():
                assert not said
            else:
                assert "fails on this machine: ValueError: " in str(said[0].message)
                assert "without gpu backend" in str(said[0].message)
                assert not out.any()
    metal.KNOWN.forget()


@pytest.mark.parametrize("pragma", [True, False])
def test_products_and_sums_are_not_fused(
    pragma: bool, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metal compiles as clang does with -ffp-contract=on; what MLX gets turns that off."""
    before = "#pragma clang fp contract(off)\n"
    assert before in metal.PREAMBLE
    flags = tuple(flag.replace("contract=off", "contract=on") for flag in compiler._FLAGS)
    assert flags != compiler._FLAGS
    monkeypatch.setattr(compiler, "_FLAGS", flags)
    text = entries.search_program(4, 64)
    monkeypatch.setattr(entries, "search_program", lambda *_: before * pragma + text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (search.reason(Affine(4, 64)) is None) == pragma


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
