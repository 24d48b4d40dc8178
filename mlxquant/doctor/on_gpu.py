"""The kernels of a GPU, run by a runner, against NumPy over a grid.

    dequantize, dequantize_rows   any bytes, to every type
    matvec, matvec_rows, matmul   1 2 5 8 9 33 64 rows of x, every type, weights of odd numbers of
                                  rows and of blocks, of more than a tile, and with K split 2, 4 and
                                  8 times
    gather_matvec, gather_matmul  the same of three matrices, one that is not there among the ids

What is right: products.py; of encode and affine search: encoding.py, searching.py.

What runs them takes a launch and NumPy's arrays and gives NumPy's: MLX on a Mac, and in tests the
checker that watches every access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..formats.affine import Affine
from ..formats.base import Array
from ..formats.floats import FLOATS, Float32, from_float32
from ..formats.ggml_format import GgmlFormat
from ..kernels import launch
from ..kernels.answers import difference
from ..kernels.known import Runner
from ..kernels.launch import Launch
from . import encoding, products, searching
from .checks import Case
from .on_processor import any_bytes

__all__ = ["GRID", "Gpu", "Grid", "cases", "count", "family"]


@dataclass(frozen=True)
class Grid:
    """What is combined.

    Attributes:
        rows: of x.
        weights: rows of weights, and parts of 32 weights in each, at least.
        pairs: rows of x that have a matrix each, few and many.
        dtypes: of x and of results.
    """

    rows: tuple[int, ...] = (1, 2, 5, 8, 9, 33, 64)
    weights: tuple[tuple[int, int], ...] = ((1, 1), (7, 3), (65, 40), (17, 65), (9, 129), (3, 257))
    pairs: tuple[int, ...] = (3, 50)
    dtypes: tuple[str, ...] = FLOATS

    def long(self, m: int, parts: int) -> bool:
        """Whether a case is left out: many rows by long ones say nothing new."""
        return m > launch.ROWS_AT_ONCE and parts > 64


GRID = Grid()


@dataclass(frozen=True)
class Gpu:
    """What runs kernels.

    Attributes:
        run: gives the result of a launch.
        timed: seconds that a launch takes, its kernel compiled and its arrays in memory.
        reason: why a launch's kernel is not used, or None.
        grid: what is checked.
        size: bytes of weights that speeds are measured on.
    """

    run: Runner
    timed: Callable[[Launch, Sequence[Array]], float]
    reason: Callable[[Launch], str | None]
    grid: Grid = GRID
    size: int = 1 << 26


def count(grid: Grid, formats: list[GgmlFormat], affine: list[Affine]) -> int:
    """How many cases `cases` gives."""
    products = sum(not grid.long(m, parts) for m in grid.rows for _, parts in grid.weights)
    gathers = sum(not grid.long(p, parts) for p in grid.pairs for _, parts in grid.weights)
    decoded = 2 * len(grid.weights)
    of_blocks = len(formats) * len(grid.dtypes) * (products + gathers + decoded)
    return of_blocks + encoding.count(encoding.encoded_formats(formats)) + searching.count(affine)


def cases(
    grid: Grid, formats: list[GgmlFormat], affine: list[Affine], run: Runner
) -> Iterator[Case]:
    """Every case of these formats, each run by `run`."""
    for fmt in formats:
        for dtype in grid.dtypes:
            for n, parts in grid.weights:
                blocks = -(-parts * launch.PART // fmt.block_size)
                yield from _decoding(fmt, n, blocks, dtype, run)
                for m in grid.rows:
                    if not grid.long(m, parts):
                        yield _product(fmt, m, n, blocks, dtype, run)
                for p in grid.pairs:
                    if not grid.long(p, parts):
                        yield _gather(fmt, p, n, blocks, dtype, run)
    yield from encoding.cases(encoding.encoded_formats(formats), encoding.by_runner(run))
    yield from searching.cases(affine, searching.by_runner(run))


def _decoding(fmt: GgmlFormat, n: int, blocks: int, dtype: str, run: Runner) -> Iterator[Case]:
    wire = any_bytes(fmt, n, blocks)
    ids = np.random.default_rng(n).integers(0, n, 11).astype(np.uint32)

    def whole() -> str:
        started = launch.dequantize(fmt, wire.shape, dtype)
        wanted = from_float32(_decoded(fmt, wire), dtype)
        return str(difference(run(started, [wire]), wanted, dtype))

    def rows() -> str:
        started = launch.dequantize_rows(fmt, wire.shape, len(ids), dtype)
        wanted = from_float32(_decoded(fmt, wire), dtype)[ids]
        return str(difference(run(started, [wire, ids]), wanted, dtype))

    where = f"{dtype}, {list(wire.shape)} bytes"
    yield Case("dequantize", fmt.name, where, whole)
    yield Case("dequantize_rows", fmt.name, where, rows)


def _product(fmt: GgmlFormat, m: int, n: int, blocks: int, dtype: str, run: Runner) -> Case:
    k = blocks * fmt.block_size
    started = launch.product(fmt, (m, k), (n, blocks * fmt.block_bytes), dtype)

    def multiply(x: Array, wire: Array) -> Array:
        out: Array = run(started, [x, wire])
        return out

    rounded = started.kernel.file == "matmul"
    check = partial(products.multiplied, multiply, fmt, m, n, k, dtype, rounded)
    return Case(family(started.kernel.name), fmt.name, f"{dtype}, {m} × {k} by {n} × {k}", check)


def _gather(fmt: GgmlFormat, p: int, n: int, blocks: int, dtype: str, run: Runner) -> Case:
    k, e = blocks * fmt.block_size, products.MATRICES
    started = launch.gather(fmt, (p, k), (e, n, blocks * fmt.block_bytes), dtype)

    def gather(x: Array, ids: Array, wire: Array) -> Array:
        filled = np.zeros(max(p, launch.DEVICE), np.uint32)
        filled[:p] = ids
        out: Array = run(started, [x, filled, wire])
        return out

    kernel = family(started.kernel.name)
    ids, rounded = products.ids_of(p, absent=True), "matmul" in kernel
    check = partial(products.gathered, gather, fmt, ids, n, k, dtype, rounded)
    return Case(kernel, fmt.name, f"{dtype}, {p} × {k} by {e} × {n} × {k}", check)


def family(kernel: str) -> str:
    """`gather_matvec` of `gather_matvec_1x4_split2`: without its numbers."""
    return "_".join(part for part in kernel.split("_") if part.isalpha())


def _decoded(fmt: GgmlFormat, wire: Array) -> Float32:
    with np.errstate(all="ignore"):
        return fmt.decode((wire,))
