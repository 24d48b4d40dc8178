"""Products on this processor: within the bound of float32 sums, of any shape, by any threads."""

from __future__ import annotations

import os
import platform
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from checked import assert_product, decoded, numbers, weights, widened
from formats.ggml_golden import ggml_format
from mlxquant.kernels.host import product
from mlxquant.kernels.host.compiler import Compiler, cpu
from mlxquant.kernels.source import FORMATS

from mlxquant import kernels
from mlxquant.errors import RequestError
from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import FLOATS

every_format = pytest.mark.parametrize("name", FORMATS)


def columns(name: str, wire: np.ndarray) -> int:
    fmt = ggml_format(name)
    return wire.shape[-1] // fmt.block_bytes * fmt.block_size


def check(name: str, m: int, n: int, blocks: int, dtype: str, threads: int | None = 1) -> None:
    """Fail unless a kernel serves the format and its product is what float32 gives.

    Few rows: of 32 neighbours each goes to another of 32 sums, which are added up in halves.
    """
    fmt, wire = ggml_format(name), weights(name, n, blocks)
    made = product.product(fmt)
    assert made is not None, product.reason(fmt)
    k = columns(name, wire)
    x = numbers(m, k, dtype)
    depth = k if m > product.FEW else -(-k // 32) + 5
    ours = made.matmul(x, wire, dtype, threads)
    assert (ours.dtype, ours.shape) == (STORAGE[dtype], (m, n))
    what = f"{name} {dtype}, {m} by {n} by {k}"
    assert_product(ours, x, decoded(name, wire), dtype, depth, what)


@every_format
def test_products(name: str, clang: Compiler) -> None:
    """One row of each, odd numbers of them, pieces of every size, more rows than a tile's."""
    for number, (m, n, blocks) in enumerate(
        (
            (1, 1, 1),
            (1, 33, 7),
            (2, 17, 3),
            (3, 64, 2),
            (8, 5, 9),
            (9, 16, 1),
            (16, 40, 5),
            (17, 9, 2),
        )
    ):
        check(name, m, n, blocks, FLOATS[number % 3])
    for dtype in FLOATS:
        check(name, 5, 31, 4, dtype)


@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "IQ3_S"])
def test_long_rows_and_tall_matrices(name: str, clang: Compiler) -> None:
    """Slices of x, units of work for several threads, and tiles of many rows."""
    blocks = 8192 // ggml_format(name).block_size
    for m in (1, 8, 40):
        check(name, m, 150, blocks, "F32", 3)
    check(name, 33, 2500, max(1, blocks // 8), "BF16", 2)


@every_format
def test_a_row_has_the_same_product_in_any_company(name: str, clang: Compiler) -> None:
    """And by any number of threads: exact speculation and replies that repeat depend on it."""
    wire = weights(name, 200, 6)
    made = product.product(ggml_format(name))
    assert made is not None
    x = numbers(product.FEW, columns(name, wire), "F32")
    alone = np.concatenate([made.matmul(row[None], wire, "F32", 1) for row in x])
    for m in range(2, product.FEW + 1):
        for threads in (1, 3):
            together = made.matmul(x[:m], wire, "F32", threads)
            np.testing.assert_array_equal(together, alone[:m], f"{m} rows, {threads} threads")


@every_format
def test_tiles_are_numpy_s(name: str, clang: Compiler) -> None:
    made = product.product(ggml_format(name))
    assert made is not None
    wire = weights(name, 77, 3)
    for _, last, tile in made.tiles(wire, 2):
        np.testing.assert_array_equal(tile, decoded(name, wire)[last - len(tile) : last])


@pytest.mark.parametrize("name", ["Q4_K", "Q5_0", "IQ1_S"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_matrix_for_each_row(name: str, dtype: str, clang: Compiler) -> None:
    """Runs of one, of more than a piece, of so many that BLAS multiplies; in any order."""
    fmt, wire = ggml_format(name), weights(name, 5, 19, 3)
    k = columns(name, wire)
    for ids in ([3], [0, 4, 2, 2, 1, 0], [1] * 11 + [4] * 30, [4, 1] * 20):
        chosen = np.array(ids)
        x = numbers(len(ids), k, dtype)
        ours = kernels.product.gathered(x, chosen, wire, fmt, dtype, 2)
        for matrix in set(ids):
            at = chosen == matrix
            w = decoded(name, wire[matrix])
            assert_product(ours[at], x[at], w, dtype, k, f"{name} {dtype}, matrix {matrix}")


def test_the_transposed_product(clang: Compiler) -> None:
    wire = weights("Q6_K", 300, 2)
    made = product.product(ggml_format("Q6_K"))
    assert made is not None
    y = numbers(7, 300, "F32")
    assert_product(made.transposed(y, wire), y, decoded("Q6_K", wire).T, "F32", 300, "transposed")


def test_wherever_the_bytes_lie(clang: Compiler) -> None:
    """Odd addresses, strides, read-only memory, for x and the weights."""
    wire, x = weights("Q8_0", 9, 3), numbers(3, 96, "F32")
    wanted = kernels.matmul(x, wire, "Q8_0")
    for shift in range(4):
        wide = np.pad(wire, ((0, 0), (shift, 3)))[:, shift:-3]
        flat = np.concatenate((np.zeros(shift, np.uint8), wire.reshape(-1)))[shift:]
        flat.flags.writeable = False
        for moved in (wide, flat.reshape(wire.shape)):
            np.testing.assert_array_equal(kernels.matmul(x, moved, "Q8_0"), wanted)
    np.testing.assert_array_equal(kernels.matmul(x[::-1], wire[::-2], "Q8_0"), wanted[::-1, ::-2])
    columns_first = np.asfortranarray(x)
    np.testing.assert_array_equal(kernels.matmul(columns_first, wire, "Q8_0"), wanted)
    turned = np.ascontiguousarray(x.T).view(">f4" if sys.byteorder == "big" else "<f4").T
    np.testing.assert_array_equal(kernels.matmul(turned, wire, "Q8_0"), wanted)


def test_weights_that_are_no_numbers(clang: Compiler) -> None:
    """NaN and infinity go where they would in NumPy, and no further; nothing is said."""
    wire = weights("Q8_0", 4, 2).copy()
    wire[1, :2] = np.array([np.nan], np.float16).view(np.uint8)
    wire[2, :2] = np.array([np.inf], np.float16).view(np.uint8)
    with warnings.catch_warnings(action="error"):
        for m in (2, 20):
            out = kernels.matmul(np.ones((m, 64), np.float32), wire, "Q8_0")
            assert np.isfinite(out[:, [0, 3]]).all()
            assert not np.isfinite(out[:, 1:3]).any()


def test_results_too_large_for_the_type(clang: Compiler) -> None:
    wire = weights("Q8_0", 4, 2)
    for m in (1, 20):
        x = np.full((m, 64), 60000, np.float16)
        ours = kernels.matmul(x, wire, "Q8_0")
        with np.errstate(over="ignore"):
            wanted = (widened(x) @ decoded("Q8_0", wire).T.astype(np.float64)).astype(np.float16)
        assert np.isinf(wanted).any()
        np.testing.assert_array_equal(np.isinf(ours), np.isinf(wanted))


@pytest.mark.parametrize("named", [None, ""])
@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 256), (2, 0, 256), (2, 3, 0), (0, 0, 0)])
def test_nothing_to_sum_up(
    m: int, n: int, k: int, named: str | None, clang: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    if named is not None:
        monkeypatch.setenv("MLXQUANT_CLANG", named)
    x, wire = np.ones((m, k), np.float32), np.zeros((n, k // 256 * 144), np.uint8)
    np.testing.assert_array_equal(kernels.matmul(x, wire, "Q4_K"), np.zeros((m, n), np.float32))
    out = kernels.gather(x, np.zeros(m, np.int32), wire[None], "Q4_K")
    np.testing.assert_array_equal(out, np.zeros((m, n), np.float32))


def test_a_number_of_threads_that_makes_no_sense_is_one(clang: Compiler) -> None:
    wire = weights("Q4_K", 600, 4)
    x = np.random.default_rng(1).standard_normal((2, 1024)).astype(np.float32)
    wanted = kernels.matmul(x, wire, "Q4_K")
    for threads in (-1, -(2**32), 2**40):
        np.testing.assert_array_equal(kernels.matmul(x, wire, "Q4_K", threads), wanted)


@pytest.mark.parametrize("shape", [(512,), (1, 512), (2, 3, 512), (0, 512), (2, 0, 512)])
@pytest.mark.parametrize("named", [None, ""])
def test_numpy_s_arrays(
    shape: tuple[int, ...], named: str | None, clang: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a kernel and without."""
    if named is not None:
        monkeypatch.setenv("MLXQUANT_CLANG", named)
    assert kernels.backend("matmul", "Q4_K", "numpy").name == ("numpy" if named == "" else "cpu")
    wire = weights("Q4_K", 11, 2)
    for kind in (np.float32, np.float16):
        x = np.random.default_rng(1).standard_normal(shape).astype(kind)
        ours = kernels.matmul(x, wire, "Q4_K")
        assert (ours.shape, ours.dtype) == ((*shape[:-1], 11), kind)
        dtype = "F32" if kind == np.float32 else "F16"
        flat = ours.reshape(-1, 11), x.reshape(-1, 512)
        if x.size:
            assert_product(*flat, decoded("Q4_K", wire), dtype, 512, str(shape))
    ids = np.array([1, 0, 1])
    experts = weights("Q4_K", 2, 7, 1)
    ours = kernels.gather(numbers(3, 256, "F32"), ids, experts, "Q4_K")
    for i, matrix in enumerate(ids):
        w = decoded("Q4_K", experts[matrix])
        assert_product(ours[i : i + 1], numbers(3, 256, "F32")[i : i + 1], w, "F32", 256, "gather")
    none = kernels.matmul(np.zeros((2, 256), np.float32), wire[:0, :144], "Q4_K")
    assert none.shape == (2, 0)


def test_refusals() -> None:
    x, wire = np.zeros((2, 256), np.float32), np.zeros((4, 144), np.uint8)
    for wrong in (wire[0], wire.astype(np.int8), wire[:, :-1], wire[None]):
        with pytest.raises(RequestError, match="whole blocks of 144 bytes, needed"):
            kernels.matmul(x, wrong, "Q4_K")
    for wrong in (x[:, :255], x.astype(np.float64), x.astype(np.int8), np.float32(1.0) + x[0, 0]):
        with pytest.raises(RequestError, match=r"\[..., 256\] of float32, float16"):
            kernels.matmul(np.asarray(wrong), wire, "Q4_K")
    with pytest.raises(RequestError, match="kernels are for the formats of GGUF files"):
        kernels.matmul(x, wire, "affine4-g64")
    for ids in (np.zeros(3, np.int64), np.zeros((2, 1), np.int64)):
        with pytest.raises(RequestError, match="a matrix for each row"):
            kernels.gather(x, ids, wire[None], "Q4_K")
    for row in (-1, 1):
        with pytest.raises(RequestError, match=f"matrix {row} asked for; there are 1"):
            kernels.gather(x, np.array([0, row]), wire[None], "Q4_K")
    with pytest.raises(RequestError, match="integers needed"):
        kernels.gather(x, np.zeros(2), wire[None], "Q4_K")
    with pytest.raises(RequestError, match="operation 'guess': choose one of"):
        kernels.backend("guess", "Q4_K")
    with pytest.raises(RequestError, match="arrays 'lists': choose one of"):
        kernels.backend("matmul", "Q4_K", "lists")


def older() -> list[str]:
    """What this processor can pass for."""
    if platform.machine() != "x86_64":
        return ["-mcpu=generic"]
    levels = ["-march=x86-64", "-march=x86-64-v2"]
    return [*levels, "-march=x86-64-v3"] if "avx2" in cpu() else levels


@pytest.mark.parametrize("level", older())
@pytest.mark.parametrize("name", ["Q4_0", "IQ4_NL", "NVFP4", "IQ1_S"])
def test_older_processors(
    name: str, level: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks values up has another text for each."""
    monkeypatch.setattr(Compiler, "flags", (*clang.flags, level))
    check(name, 3, 17, 4, "F32")
    wire = weights(name, 9, 3)
    made = product.product(ggml_format(name))
    assert made is not None
    tiles = [tile.copy() for *_, tile in made.tiles(wire)]
    np.testing.assert_array_equal(np.concatenate(tiles), decoded(name, wire))


def test_threads_that_call_at_the_same_time(clang: Compiler) -> None:
    wire = weights("Q4_K", 600, 4)
    made = product.product(ggml_format("Q4_K"))
    assert made is not None
    x = numbers(4, 1024, "F32")
    wanted = made.matmul(x, wire, "F32", 1)
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(40):
            if not np.array_equal(made.matmul(x, wire, "F32", number), wanted):
                wrong.append(number)

    calling = [threading.Thread(target=call, args=(number,)) for number in (1, 2, 3, 4)]
    for thread in calling:
        thread.start()
    for thread in calling:
        thread.join()
    assert not wrong


def test_a_child_has_threads_of_its_own(clang: Compiler) -> None:
    """After fork() the parent's are not there."""
    wire, x = weights("Q4_K", 600, 4), numbers(4, 1024, "F32")
    made = product.product(ggml_format("Q4_K"))
    assert made is not None
    wanted = made.matmul(x, wire, "F32", 3)
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if child == 0:
        same = all(np.array_equal(made.matmul(x, wire, "F32", 3), wanted) for _ in range(20))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(made.matmul(x, wire, "F32", 3), wanted)


def test_without_threads(clang: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "pool", lambda: None)
    assert product.reason(ggml_format("Q4_K")) is None
    check("Q4_K", 3, 700, 4, "F32", 4)
