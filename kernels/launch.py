"""What a kernel is run with, on a GPU or where it is checked: from shapes alone, without MLX.

>>> from mlxquant.formats import get
>>> run = product(get("Q4_K"), (1, 4096), (14336, 2304), "F16")
>>> run.kernel.name, run.grid, run.threadgroup
('matvec_1x2', (229376, 1, 1), (64, 1, 1))

`product` and `gather` choose a kernel; the functions named after kernels take that one. Every
threshold stands here. Which simdgroups sum up which parts (`split_of`) depends on the shape of the
weights alone, never on how many rows x has: so matvec_rows gives the bits of matvec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlxquant.errors import RequestError
from mlxquant.formats.affine import Affine
from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import check_dtype
from mlxquant.formats.ggml_format import GgmlFormat

from . import source
from .source import DEQUANTIZE, ENCODE, ENCODE_WEIGHTED, ENCODERS, ROWS, Kernel

__all__ = [
    "DEVICE",
    "NARROW",
    "PART",
    "ROWS_AT_ONCE",
    "WIDTH",
    "Launch",
    "affine_search",
    "dequantize",
    "dequantize_rows",
    "encode",
    "gather",
    "gather_in_tiles",
    "gather_matmul",
    "gather_matvec",
    "matmul",
    "matvec",
    "product",
    "split_of",
]

Shape = tuple[int, ...]

#: weights that one thread decodes, of every format
PART = 32
#: an input of fewer elements would come in constant memory: `ids` are filled up to so many
DEVICE = 8
#: rows of x that matvec_rows takes
ROWS_AT_ONCE = 8
#: threads of a threadgroup of dequantize, at most, and bytes that it reads: its core's cache
_THREADS, _CACHE = 256, 8192
#: threads of a threadgroup of encoders, at most; each holds a whole block
_ENCODING = 64
#: rows of weights that a simdgroup of matvec has: more share x, fewer hold less in registers
_HEIGHT = 4
_HEIGHTS = dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K"), 2)
#: the same where x has several rows
_HEIGHT_OF_ROWS = 2
#: with fewer simdgroups a GPU is not full, and K is split between as many as this at most
_SIMDGROUPS, _SPLIT = 1024, 8
#: threads of a threadgroup of the search; each has much to keep
_SEARCHING = 64
#: rows of weights of a tile of matmul, and where there are few tiles
WIDTH, NARROW = 64, 32
#: formats that always have narrow ones: a part of a block lies on so many lines of the cache that
#: with twice the rows they do not stay there until the block's next parts are read
_ALWAYS_NARROW = ("Q5_K", "Q6_K", "IQ3_S", "IQ2_S")
#: threads of its threadgroup
_TILE_THREADS = 128
#: threadgroups that fill a GPU of forty cores
_THREADGROUPS = 128
#: experts that have fewer rows each get lower tiles
_FEW, _SOME = 40, 384
#: rows an expert that are worth decoding its weights into tiles
_WORTH = 4
_LIMIT = 2**31


@dataclass(frozen=True)
class Launch:
    """A kernel and all that it is run with but for the arrays, which `kernel.inputs` names.

    Attributes:
        kernel: the kernel.
        format: name of the weights' format.
        grid: threads in all, as MLX counts them.
        threadgroup: threads of a threadgroup; divides `grid` where the kernel needs whole ones.
        shape: of the result.
        dtype: of the result, and of x: `F32`, `F16` or `BF16`; of the result of an encoder `U8`, of
            a search `U32`.
    """

    kernel: Kernel
    format: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    shape: Shape
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in ("U8", "U32"):
            check_dtype(self.dtype)
        if max(*self.grid, *self.shape) >= _LIMIT:
            raise RequestError(
                f"{self.kernel.name} of {self.format}: a result {list(self.shape)} takes a grid of "
                f"{list(self.grid)} threads; a GPU counts to 2^31"
            )


def dequantize(fmt: GgmlFormat, wire: Shape, dtype: str) -> Launch:
    """uint8 [n, bytes] of whole blocks → [n, k]."""
    n, row_bytes = wire
    return _decoding(DEQUANTIZE, fmt, (n * row_bytes // fmt.block_bytes, 1), (n, row_bytes), dtype)


def dequantize_rows(fmt: GgmlFormat, wire: Shape, m: int, dtype: str) -> Launch:
    """Of the same, the rows of ids uint32 [m] → [m, k]."""
    row_bytes = wire[1]
    return _decoding(ROWS, fmt, (row_bytes // fmt.block_bytes, m), (m, row_bytes), dtype)


def encode(fmt: GgmlFormat, rows: Shape, weighted: bool) -> Launch:
    """float32 [n, k], with importance float32 [k] if `weighted` → wire uint8 [n, bytes].

    Raises:
        RequestError: k is no multiple of the block size, or the format has no encoder.
    """
    n, k = rows
    if fmt.name not in ENCODERS or k % fmt.block_size:
        raise RequestError(
            f"rows {list(rows)} in {fmt.name} given; rows of whole blocks, of {fmt.block_size} "
            f"weights each, and one of {', '.join(ENCODERS)} needed"
        )
    blocks = n * k // fmt.block_size
    kernel = ENCODE_WEIGHTED if weighted else ENCODE
    shape = (n, k // fmt.block_size * fmt.block_bytes)
    return Launch(
        kernel, fmt.name, (blocks, 1, 1), (max(1, min(_ENCODING, blocks)), 1, 1), shape, "U8"
    )


def product(fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str) -> Launch:
    """x [m, k], wire uint8 [n, bytes] → [m, n]: by matvec for few rows, by matmul for many.

    Raises:
        RequestError: the shapes do not fit, as of every function here.
    """
    few = 0 < x[0] <= ROWS_AT_ONCE
    return (matvec if few else matmul)(fmt, x, wire, dtype)


def matvec(fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str) -> Launch:
    """The same for 1 to ROWS_AT_ONCE rows of x."""
    m, n, k = _sizes(fmt, x, wire)
    if not 1 <= m <= ROWS_AT_ONCE:
        raise RequestError(f"matvec takes 1 to {ROWS_AT_ONCE} rows; {m} given")
    rows = 1 << (m - 1).bit_length()
    height, split = _height(fmt), split_of(fmt, n, k)
    if rows > 1:
        height = min(height, _HEIGHT_OF_ROWS)
    kernel = source.matvec(rows, height, split)
    return Launch(kernel, fmt.name, *_simdgroups(n, height, split, 1), (m, n), dtype)


def matmul(fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str, width: int | None = None) -> Launch:
    """The same for any number of rows, in tiles of WIDTH or NARROW rows of weights."""
    m, n, _ = _sizes(fmt, x, wire)
    height = 16 if m <= 16 else 32 if m <= 32 else 64
    return _tiled(source.matmul, fmt, m, n, height, dtype, width)


def gather(fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str) -> Launch:
    """x [p, k], ids uint32 [p], wire uint8 [e, n, bytes] → [p, n]: row i by matrix ids[i].

    Where `gather_in_tiles` says so by gather_matmul, which is fast for ids in order.
    """
    tiles = gather_in_tiles(x[0], wire[0])
    return (gather_matmul if tiles else gather_matvec)(fmt, x, wire, dtype)


def gather_in_tiles(pairs: int, matrices: int) -> bool:
    """Whether `gather` takes tiles: then it is worth bringing ids in order."""
    return pairs > max(ROWS_AT_ONCE, _WORTH * matrices)


def gather_matvec(fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str) -> Launch:
    """The same, each row by itself: the bits of `matvec`."""
    p, n, k = _sizes(fmt, x, wire)
    height, split = _height(fmt), split_of(fmt, n, k)
    kernel = source.gather_matvec(height, split)
    return Launch(kernel, fmt.name, *_simdgroups(n, height, split, p), (p, n), dtype)


def gather_matmul(
    fmt: GgmlFormat, x: Shape, wire: Shape, dtype: str, width: int | None = None
) -> Launch:
    """The same in tiles."""
    p, n, _ = _sizes(fmt, x, wire)
    each = p / max(1, wire[0])
    height = 16 if each < _FEW else 32 if each < _SOME else 64
    return _tiled(source.gather_matmul, fmt, p, n, height, dtype, width)


def affine_search(target: Affine, n: int, b: int, weighted: bool) -> Launch:
    """Groups float32 [n · b, g], importance [b, g] if weighted → what `source.searching` says."""
    kernel = source.searching(target.bits, target.group_size, target.dtype, weighted)
    count, words = n * b, target.bits * target.group_size // 32
    shape = (count * (words + 2),)
    return Launch(kernel, target.name, (count, 1, 1), (min(_SEARCHING, count), 1, 1), shape, "U32")


def split_of(fmt: GgmlFormat, n: int, k: int) -> int:
    """Simdgroups that share the parts of a row of weights: a power of two, from 1 to 8."""
    simdgroups, split = -(-n // _height(fmt)), 1
    while split < _SPLIT and split * simdgroups < _SIMDGROUPS and 2 * split * 32 * PART <= k:
        split *= 2
    return split


def _height(fmt: GgmlFormat) -> int:
    return _HEIGHTS.get(fmt.name, _HEIGHT)


def _sizes(fmt: GgmlFormat, x: Shape, wire: Shape) -> tuple[int, int, int]:
    """(m, n, k) of x [m, k] and wire [n, bytes] or [e, n, bytes].

    Raises:
        RequestError: they do not fit.
    """
    n, row_bytes = wire[-2:]
    blocks, rest = divmod(row_bytes, fmt.block_bytes)
    if len(x) != 2 or rest or blocks * fmt.block_size != x[1]:
        raise RequestError(
            f"x {list(x)} and {fmt.name} {list(wire)} given; rows of k numbers and of k / "
            f"{fmt.block_size} blocks of {fmt.block_bytes} bytes needed"
        )
    return x[0], n, x[1]


def _simdgroups(
    n: int, height: int, split: int, pairs: int
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and threadgroup of matvec.metal."""
    threads, rows = (64, 2 * height) if split == 1 else (32 * split, height)
    return (threads * -(-n // rows), pairs, 1), (threads, 1, 1)


def _tiled(
    kernel: Callable[[int, int, int], Kernel],
    fmt: GgmlFormat,
    m: int,
    n: int,
    height: int,
    dtype: str,
    width: int | None,
) -> Launch:
    """A launch of matmul.metal or gather.metal, by tiles of at most so many rows of x."""
    size = np.dtype(STORAGE[dtype]).itemsize
    # of float, higher tiles do not fit in a threadgroup's 32 KiB, nor narrow ones of 32 rows
    height = min(height, 128 // size)
    down = -(-m // height)
    if width is None:
        few = down * -(-n // WIDTH) < _THREADGROUPS
        width = NARROW if few or fmt.name in _ALWAYS_NARROW else WIDTH
    if size == 4 and height == 32:
        width = WIDTH
    grid = (_TILE_THREADS * -(-n // width), down, 1)
    made = kernel(height, width, size)
    return Launch(made, fmt.name, grid, (_TILE_THREADS, 1, 1), (m, n), dtype)


def _decoding(
    kernel: Kernel, fmt: GgmlFormat, grid: tuple[int, int], rows: tuple[int, int], dtype: str
) -> Launch:
    """The grid (parts, *grid), for `rows` of so many bytes."""
    parts = fmt.block_size // PART
    blocks = _THREADS // parts
    if blocks * fmt.block_bytes > _CACHE:
        blocks //= 2
    threadgroup = (parts, max(1, min(blocks, grid[0])), 1)
    n, row_bytes = rows
    shape = (n, row_bytes // fmt.block_bytes * fmt.block_size)
    return Launch(kernel, fmt.name, (parts, *grid), threadgroup, shape, dtype)
