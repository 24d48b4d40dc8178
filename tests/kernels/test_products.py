"""Products with packed weights: every kernel on the checker, against NumPy and one another.

Checked threads cannot race, wait apart or reach outside of an array unnoticed (test_check.py), so a
launch that ends here did none of it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from checked import assert_product, decoded, numbers, rounded, run, weights, widened
from formats.ggml_golden import ggml_format
from mlxquant.kernels import launch
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS
from support import REPOSITORY

from mlxquant.formats.floats import FLOATS
from mlxquant.formats.ggml_format import GgmlFormat

Shape = tuple[int, int]
#: rows of x, the weights' shape, and the width of tiles where it is not `launch`'s choice
Case = tuple[int, Shape, int | None]

#: rows of x
MANY = (1, 2, 3, 5, 8, 9, 16, 17, 32, 33, 64, 65)
#: (rows of weights, parts of 32 in a row): one of each, odd ones, more parts than lanes take in a
#: turn, tiles and one more; then K shared by 2, 4 and 8 simdgroups
SHAPES = ((1, 1), (7, 3), (17, 33), (64, 8), (65, 40), (5, 65), (9, 129), (3, 257))
#: of many rows none with long ones; few rows of weights would never take wide tiles
CASES: list[Case] = [
    *((m, shape, None) for m in MANY for shape in SHAPES if shape[1] < 64 or m <= 8),
    *((m, shape, launch.WIDTH) for m in MANY for shape in SHAPES[1:5] if m > 8),
]
#: (matrices, ids): short and long runs, more than a tile, no such matrix, out of order
GROUPS = (
    (3, [0] * 3 + [1] * 20 + [2] * 2),
    (2, [1] * 65),
    (5, [0, 2, 2, 4, 4, 4, 9, 9, 2**32 - 1]),
    (4, [3, 1, 1, 0, 3, 0, 7, 2, 2, 2, 1]),
)


def blocks_of(fmt: GgmlFormat, parts: int) -> int:
    """Blocks of a row that has so many parts, or the next number of them that there is."""
    return -(-parts * launch.PART // fmt.block_size)


def grouped(name: str) -> tuple[int, bool]:
    """How many weights share a scale, and whether a bias comes with it, as the kernel has it."""
    text = (REPOSITORY / "kernels" / f"{name.lower()}.metal").read_text(encoding="utf-8")
    return int(re.findall(r"group = (\d+);", text)[0]), "biased = true" in text


def started(fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str, width: int | None) -> launch.Launch:
    if width is None:
        return launch.product(fmt, x, wire, dtype)
    return launch.matmul(fmt, x, wire, dtype, width)


def name_of(name: str, case: Case, dtype: str) -> str:
    """Of the kernel that a case takes."""
    m, (n, parts), width = case
    fmt = ggml_format(name)
    blocks = blocks_of(fmt, parts)
    x, wire = (m, blocks * fmt.block_size), (n, blocks * fmt.block_bytes)
    return started(fmt, x, wire, dtype, width).kernel.name


def depth(fmt: GgmlFormat, run_by: launch.Launch, n: int, k: int) -> int:
    """Roundings that a number goes through, at most, on its way into a sum."""
    if "matmul" in run_by.kernel.name:
        return k
    split, (group, biased) = launch.split_of(fmt, n, k), grouped(fmt.name)
    turns = -(-k // (launch.PART * 32 * split))
    # a group's products, a lane's groups and their biases, the lanes in halves, the simdgroups
    roundings = group + turns * launch.PART // group * (1 + biased) + 5 + split
    # codes · scale and bias may cancel: together, in `weights`, at most some times the weight
    return roundings * (4 if biased else 1)


def check_product(name: str, case: Case, dtype: str) -> None:
    """Fail unless the product by the kernel that `launch` chooses is right."""
    m, (n, parts), width = case
    fmt = ggml_format(name)
    wire = weights(name, n, blocks_of(fmt, parts))
    w = decoded(name, wire)
    x = numbers(m, w.shape[1], dtype)
    chosen = started(fmt, x.shape, wire.shape, dtype, width)
    if "matmul" in chosen.kernel.name:
        w = rounded(w, dtype)
    what = f"{chosen.kernel.name} of {name} {dtype}, {m} x {n} x {w.shape[1]}"
    out = run(chosen, x, wire)
    assert_product(out, x, w, dtype, depth(fmt, chosen, n, w.shape[1]), what)


def check_gather(name: str, matrices: int, ids: list[int], shape: Shape, dtype: str) -> None:
    """Fail unless both kernels give each row what `launch.product`'s give it; NaN for no matrix."""
    fmt, n = ggml_format(name), shape[0]
    wire = weights(name, matrices, n, blocks_of(fmt, shape[1]))
    k = wire.shape[2] // fmt.block_bytes * fmt.block_size
    x, chosen = numbers(len(ids), k, dtype), np.array(ids, np.uint32)
    few = run(launch.gather_matvec(fmt, x.shape, wire.shape, dtype), x, chosen, wire)
    width = launch.NARROW if n < 32 else launch.WIDTH
    many = run(launch.gather_matmul(fmt, x.shape, wire.shape, dtype, width), x, chosen, wire)
    for i, matrix in enumerate(ids):
        if matrix >= matrices:
            assert np.isnan(widened(few[i])).all()
            assert np.isnan(widened(many[i])).all()
    for matrix in range(matrices):
        rows = x[chosen == matrix]
        if not len(rows):
            continue
        each = [row[None] for row in rows]
        one = launch.matvec(fmt, each[0].shape, wire[matrix].shape, dtype)
        wanted = np.concatenate([run(one, row, wire[matrix]) for row in each])
        np.testing.assert_array_equal(few[chosen == matrix], wanted)
        whole = launch.matmul(fmt, rows.shape, wire[matrix].shape, dtype)
        np.testing.assert_array_equal(many[chosen == matrix], run(whole, rows, wire[matrix]))


def check_same_bits(name: str, shape: Shape, dtype: str) -> None:
    """Fail unless each row of x has the same product, whatever rows come with it."""
    fmt = ggml_format(name)
    wire = weights(name, shape[0], blocks_of(fmt, shape[1]))
    k = wire.shape[1] // fmt.block_bytes * fmt.block_size
    x = numbers(launch.ROWS_AT_ONCE, k, dtype)
    one = launch.matvec(fmt, (1, k), wire.shape, dtype)
    alone = np.concatenate([run(one, row[None], wire) for row in x])
    for m in (2, 3, 5, 8):
        together = run(launch.matvec(fmt, (m, k), wire.shape, dtype), x[:m], wire)
        np.testing.assert_array_equal(together, alone[:m], f"{name} {dtype}, {m} rows")


@cache
def kernels_taken() -> Counter[str]:
    """By the whole grid, and by how many of its cases."""
    return Counter(name_of(f, case, dtype) for f in FORMATS for case in CASES for dtype in FLOATS)


@cache
def sample() -> dict[str, tuple[str, list[Case]]]:
    """For every format a type of x and two cases: kernels that no format before has, rare ones."""
    chosen, taken, counts = {}, set(), kernels_taken()
    for i, name in enumerate(FORMATS):
        dtype, cases = FLOATS[i % 3], []
        rest = CASES[7 * i % len(CASES) :] + CASES[: 7 * i % len(CASES)]
        for _ in range(2):
            kernels = [name_of(name, case, dtype) for case in rest]
            ranks = [(kernel in taken, counts[kernel]) for kernel in kernels]
            best = ranks.index(min(ranks))
            taken.add(kernels[best])
            cases.append(rest.pop(best))
        chosen[name] = dtype, cases
    return chosen


def test_the_sample_takes_every_kernel() -> None:
    taken = {
        name_of(name, case, dtype) for name, (dtype, cases) in sample().items() for case in cases
    }
    assert taken == set(kernels_taken())
    # one row and more, each with K whole and shared by three numbers of simdgroups; tiles
    assert len(taken) == 2 * 4 + 3 * 4 + 3 * 2


@pytest.mark.parametrize("name", FORMATS)
def test_products(name: str, clang: Compiler) -> None:
    dtype, cases = sample()[name]
    for case in cases:
        check_product(name, case, dtype)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("Q4_0", (17, 33), "F16"),
        ("Q4_K", (7, 33), "BF16"),
        ("Q6_K", (3, 257), "F32"),
        ("IQ2_XXS", (5, 65), "F16"),
    ],
)
def test_rows_have_the_bits_of_one(name: str, shape: Shape, dtype: str, clang: Compiler) -> None:
    check_same_bits(name, shape, dtype)


@pytest.mark.parametrize(
    ("name", "group", "shape", "dtype"),
    [
        ("Q8_0", 0, (7, 3), "F32"),
        ("Q5_K", 1, (65, 8), "F16"),
        ("MXFP4", 2, (9, 129), "BF16"),
        ("IQ1_S", 3, (17, 33), "F16"),
    ],
)
def test_experts(name: str, group: int, shape: Shape, dtype: str, clang: Compiler) -> None:
    check_gather(name, *GROUPS[group], shape, dtype)


@pytest.mark.parametrize("m", [4, 20])
def test_what_is_not_finite_stays_where_it_is(m: int, clang: Compiler) -> None:
    """NaN in one row of x, and infinity in one row of weights, reach no other row."""
    fmt, wire = ggml_format("Q8_0"), weights("Q8_0", 11, 3)
    wire[5, :2] = 0x00, 0x7C
    w, x = decoded("Q8_0", wire), numbers(m, 96, "F32")
    x[2, 50] = np.nan
    out = run(launch.product(fmt, x.shape, wire.shape, "F32"), x, wire)
    assert np.isnan(out[2]).all()
    assert not np.isfinite(out[:, 5]).any()
    rows, columns = np.delete(np.arange(m), 2), np.delete(np.arange(11), 5)
    finite = out[np.ix_(rows, columns)]
    assert_product(finite, x[rows], w[columns], "F32", 96, "the others")


@pytest.mark.full
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FORMATS)
class TestWholeGrid:
    def test_products(self, name: str, dtype: str, clang: Compiler) -> None:
        for case in CASES:
            check_product(name, case, dtype)

    def test_rows_have_the_bits_of_one(self, name: str, dtype: str, clang: Compiler) -> None:
        for shape in ((7, 3), (17, 33), (5, 65), (9, 129), (3, 257)):
            check_same_bits(name, shape, dtype)

    def test_experts(self, name: str, dtype: str, clang: Compiler) -> None:
        for group in GROUPS:
            for shape in ((7, 3), (65, 40), (9, 129), (3, 257)):
                check_gather(name, *group, shape, dtype)
