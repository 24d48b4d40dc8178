"""The kernels that clang compiled for this processor, against NumPy over a grid.

    dequantize        every format, to every type; 1 to 67 rows of 1 to 9 blocks, any bytes and what
                      the format's encoder makes; from odd addresses; a large one shared by threads
    dequantize_rows   the same, rows in any order and several times
    matmul, gather    1 to 33 rows of x, every type, weights of odd numbers of rows and of blocks
    encode            encoding.py; the affine search: searching.py

What is decoded has NumPy's bits, but that a NaN may be another NaN; products: products.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from .. import formats, kernels
from ..errors import RequestError
from ..formats.affine import Affine
from ..formats.base import Array
from ..formats.floats import FLOATS, from_float32
from ..formats.ggml_format import GgmlFormat
from ..kernels.host.affine import reason_for
from ..kernels.host.encode import encoder_for
from ..kernels.host.known_answer import same
from ..kernels.host.product import Product, product
from ..kernels.source import FORMATS
from ..measure.tables import counted
from . import encoding, products, searching
from .checks import Case

__all__ = ["any_bytes", "cases", "count", "difference", "every", "ggml", "served", "wires"]

#: (rows, blocks of a row)
_SHAPES = ((1, 1), (1, 9), (3, 5), (33, 1), (67, 2))
#: rows of x, rows of x that have a matrix each, and shapes of weights
_ROWS, _PAIRS = (1, 2, 5, 8, 9, 16, 17, 33), (3, 50)
_WEIGHTS = ((1, 1), (7, 3), (65, 2))
#: weights of the case that threads share, at least
_SHARED = 1 << 20


def served() -> tuple[list[GgmlFormat], list[Affine]]:
    """The formats that have a compiled kernel here; those that are not built yet are built."""
    blocks = [fmt for fmt in every() if kernels.available(fmt)]
    return blocks, [target for target in searching.every() if reason_for(target) is None]


def every() -> list[GgmlFormat]:
    """The formats that kernels are written for."""
    return [ggml(name) for name in FORMATS]


def ggml(name: str) -> GgmlFormat:
    """The format of that name, which is one of GGUF's."""
    found = formats.get(name)
    assert isinstance(found, GgmlFormat)
    return found


def count(blocks: list[GgmlFormat], affine: list[Affine]) -> int:
    """How many cases `cases` gives."""
    kinds = [2 if _encoded(fmt, 1, 1) is not None else 1 for fmt in blocks]
    of_blocks = sum(2 * len(FLOATS) * (len(_SHAPES) * kind + 1) for kind in kinds)
    products_of_each = len(FLOATS) * len(_WEIGHTS) * (len(_ROWS) + len(_PAIRS))
    of_products = products_of_each * sum(product(fmt) is not None for fmt in blocks)
    of_encoders = encoding.count(encoders(blocks))
    return of_blocks + of_products + of_encoders + searching.count(affine)


def encoders(blocks: list[GgmlFormat]) -> list[GgmlFormat]:
    """Those of the formats that are encoded by a compiled kernel here."""
    return [fmt for fmt in blocks if encoder_for(fmt) is not None]


def cases(blocks: list[GgmlFormat], affine: list[Affine]) -> Iterator[Case]:
    """Every case of these formats."""
    for fmt in blocks:
        yield from _of_blocks(fmt)
        yield from _of_products(fmt)
    yield from encoding.cases(encoders(blocks), encoding.by_processor)
    yield from searching.cases(affine, searching.by_processor)


def wires(fmt: GgmlFormat, n: int, blocks: int) -> dict[str, Array]:
    """Rows of blocks, uint8 [n, blocks · block_bytes], by what they are."""
    found = {"any bytes": any_bytes(fmt, n, blocks)}
    encoded = _encoded(fmt, n, blocks)
    if encoded is not None:
        found["encoded"] = encoded
    return found


def any_bytes(fmt: GgmlFormat, n: int, blocks: int) -> Array:
    """Rows of blocks, uint8 [n, blocks · block_bytes]."""
    random = np.random.default_rng((n, blocks))
    return random.integers(0, 256, (n, blocks * fmt.block_bytes), np.uint8)


def difference(ours: Array, wanted: Array, dtype: str) -> str:
    """Empty, or where one [n, k] differs from the other: in its bits, but NaN equals NaN."""
    if same(ours, wanted, dtype):
        return ""
    for row, column in np.ndindex(wanted.shape):
        at = (slice(row, row + 1), slice(column, column + 1))
        if not same(ours[at].copy(), wanted[at].copy(), dtype):
            return f"row {row}, column {column}: {ours[row, column]}, not {wanted[row, column]}"
    raise AssertionError("they differ, and nowhere")


def _encoded(fmt: GgmlFormat, n: int, blocks: int) -> Array | None:
    """What the format's encoder makes of normal weights; None for one that is only read."""
    rows = np.random.default_rng((n, blocks)).standard_normal((n, blocks * fmt.block_size))
    try:
        return fmt.encode((rows * 0.02).astype(np.float32))[0]
    except RequestError:
        return None


def _of_blocks(fmt: GgmlFormat) -> Iterator[Case]:
    for n, blocks in _SHAPES:
        for what, wire in wires(fmt, n, blocks).items():
            yield from _decoded(
                fmt, wire, f"{counted(n, 'row')} of {counted(blocks, 'block')}, {what}", 1
            )
    wire = any_bytes(fmt, 64, 3)
    copies = -(-_SHARED // (wire.size // fmt.block_bytes * fmt.block_size))
    yield from _decoded(fmt, wire, f"{64 * copies} rows on three threads", copies)


def _decoded(fmt: GgmlFormat, wire: Array, where: str, copies: int) -> Iterator[Case]:
    """Cases on copies of the wire below one another; more than one are shared by threads."""
    with np.errstate(all="ignore"):
        decoded = fmt.decode((wire,))
    # a copy at an odd address
    flat = np.concatenate((np.zeros(1, np.uint8), np.tile(wire, (copies, 1)).reshape(-1)))
    given = flat[1:].reshape(copies * len(wire), -1)
    threads = 1 if copies == 1 else 3
    ids = np.random.default_rng(len(wire)).integers(0, len(given), len(given) + 3)

    def whole(dtype: str) -> str:
        wanted = np.tile(from_float32(decoded, dtype), (copies, 1))
        return difference(kernels.dequantize(given, fmt, dtype, threads), wanted, dtype)

    def rows(dtype: str) -> str:
        wanted = from_float32(decoded, dtype)[ids % len(wire)]
        ours = kernels.dequantize_rows(given, ids, fmt, dtype, threads)
        return difference(ours, wanted, dtype)

    for dtype in FLOATS:
        yield Case("dequantize", fmt.name, f"{dtype}, {where}", partial(whole, dtype))
        yield Case("dequantize_rows", fmt.name, f"{dtype}, {where}", partial(rows, dtype))


def _of_products(fmt: GgmlFormat) -> Iterator[Case]:
    kernel = product(fmt)
    if kernel is None:
        return
    for dtype in FLOATS:
        multiply = partial(_multiplied, kernel, dtype)
        gather = partial(_gathered, kernel, dtype)
        for n, blocks in _WEIGHTS:
            k = blocks * fmt.block_size
            for m in _ROWS:
                check = partial(products.multiplied, multiply, fmt, m, n, k, dtype, False)
                yield Case("matmul", fmt.name, f"{dtype}, {m} × {k} by {n} × {k}", check)
            for p in _PAIRS:
                ids = products.ids_of(p, absent=False)
                check = partial(products.gathered, gather, fmt, ids, n, k, dtype, False)
                where = f"{dtype}, {p} × {k} by {products.MATRICES} × {n} × {k}"
                yield Case("gather", fmt.name, where, check)


def _multiplied(kernel: Product, dtype: str, x: Array, wire: Array) -> Array:
    """On one thread if x has an even number of rows, else on three."""
    out: Array = kernel.matmul(x, wire, dtype, 1 + 2 * (len(x) % 2))
    return out


def _gathered(kernel: Product, dtype: str, x: Array, ids: Array, wire: Array) -> Array:
    out: Array = kernel.gather(x, ids, wire, dtype, 1 + 2 * (len(x) % 2))
    return out
