"""Products with packed weights on this processor: compiled, checked on known answers, and called.

Few rows of x go through `multiply` of product.h, which decodes weights into registers. For many, a
tile of weights is decoded, which stays in the processor's cache, and NumPy's BLAS multiplies it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

import numpy as np

from mlxquant.formats.base import STORAGE, Array
from mlxquant.formats.floats import Float32, from_float32, to_float32
from mlxquant.formats.ggml_format import GgmlFormat

from ..source import FORMATS, resolve
from . import known_answer
from .library import cores, held, prepared
from .pool import pool

__all__ = ["FEW", "Product", "bounds", "check", "product", "program", "reason"]

#: rows of x that `multiply` takes; with more BLAS is faster, the decoding of tiles included
FEW = 16
#: rows of a piece, see product.h
_PIECE = 8
#: fewer weights times rows than this are not worth a thread
_SHARE = 1 << 17
#: bytes of a decoded tile
_TILE = 2 << 20
#: what gives product.h a format's weights
_DECODERS = ("wide.h", "wide_formats.h", "wide_codebooks.h")
#: of product.h, in its order
_TYPES = {"F32": 0, "F16": 1, "BF16": 2}

_ENTRIES = """
extern "C" __attribute__((visibility("default"))) void multiply_few(
    const device uchar* wire, ulong n, ulong row_bytes, const void* x, ulong m, int type,
    const Piece* pieces, ulong count, float* widened, device void* out, Share* share, int threads
) {
    multiply<FORMAT>(
        wire, n, row_bytes, x, m, type, pieces, count, widened, out, share, threads
    );
}
extern "C" __attribute__((visibility("default"))) void decode_tile(
    const device uchar* wire, ulong n, ulong row_bytes, device float* out, Share* share, int threads
) {
    decode<FORMAT>(wire, n, row_bytes, out, share, threads);
}
"""


class Product:
    """The product of one format.

    Args:
        fmt: the format.
        loaded: its library.
    """

    def __init__(self, fmt: GgmlFormat, loaded: ctypes.CDLL) -> None:
        self.fmt = fmt
        pointer, size, number = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int32
        self._multiply = loaded.multiply_few
        self._multiply.restype = None
        self._multiply.argtypes = (
            *(pointer, size, size, pointer, size, number),
            *(pointer, size, pointer, pointer, pointer, number),
        )
        self._decode = loaded.decode_tile
        self._decode.restype = None
        self._decode.argtypes = (pointer, size, size, pointer, pointer, number)
        self._pool = pool()

    def matmul(self, x: Array, wire: Array, dtype: str, threads: int | None = None) -> Array:
        """x · wᵀ.

        Args:
            x: [m, k] of STORAGE[dtype], C-contiguous.
            wire: uint8 [n, bytes], C-contiguous.
            threads: at most so many, but for BLAS's own; None for one a core.

        Returns: [m, n] of STORAGE[dtype].
        """
        m = len(x)
        if m > FEW:
            return from_float32(self._many(to_float32(x, dtype), wire, threads), dtype)
        out = np.empty((m, wire.shape[0]), STORAGE[dtype])
        self._few(x, wire, _whole(m), out, dtype, threads)
        return out

    def gather(
        self, x: Array, ids: Array, wire: Array, dtype: str, threads: int | None = None
    ) -> Array:
        """x · wᵀ with a matrix for each row of x.

        Args:
            x: [p, k] of STORAGE[dtype], C-contiguous.
            ids: integers [p], ascending, of matrices that are there.
            wire: uint8 [e, n, bytes], C-contiguous.

        Returns: [p, n] of STORAGE[dtype].
        """
        out = np.empty((len(x), wire.shape[1]), STORAGE[dtype])
        pieces: list[tuple[int, int, int]] = []
        for first, last in bounds(ids):
            expert = int(ids[first])
            if last - first > FEW:
                rows = to_float32(x[first:last], dtype)
                out[first:last] = from_float32(self._many(rows, wire[expert], threads), dtype)
            else:
                pieces += ((expert, *piece) for piece in _pieces(first, last))
        if pieces:
            self._few(x, wire, np.array(pieces, np.int32), out, dtype, threads)
        return out

    def transposed(self, rows: Float32, wire: Array, threads: int | None = None) -> Float32:
        """rows · w: float32 [m, n], uint8 [n, bytes] → float32 [m, k]."""
        out = np.zeros((len(rows), self.columns(wire)), np.float32)
        with np.errstate(all="ignore"):
            for first, last, tile in self.tiles(wire, threads):
                out += rows[:, first:last] @ tile
        return out

    def tiles(self, wire: Array, threads: int | None = None) -> Iterator[tuple[int, int, Float32]]:
        """(first, last, weights float32 [last - first, k]) of rows; the memory is used again."""
        k = self.columns(wire)
        step = max(1, _TILE // (4 * k))
        tile = np.empty((min(step, len(wire)), k), np.float32)
        for first in range(0, len(wire), step):
            rows = wire[first : first + step]
            self._decode(
                rows.ctypes.data,
                *rows.shape,
                tile.ctypes.data,
                self._pool,
                self._threads(threads, rows.shape[0] * k),
            )
            yield first, first + len(rows), tile[: len(rows)]

    def columns(self, wire: Array) -> int:
        """Weights of a row."""
        return int(wire.shape[-1] // self.fmt.block_bytes * self.fmt.block_size)

    def _threads(self, threads: int | None, weights: int) -> int:
        return 1 if self._pool is None else max(1, min(threads or cores(), weights // _SHARE + 1))

    def _few(
        self, x: Array, wire: Array, pieces: Array, out: Array, dtype: str, threads: int | None
    ) -> None:
        m, k = x.shape
        n, row_bytes = wire.shape[-2:]
        widened = None if dtype == "F32" else np.empty((m, k), np.float32)
        self._multiply(
            wire.ctypes.data,
            n,
            row_bytes,
            x.ctypes.data,
            m,
            _TYPES[dtype],
            pieces.ctypes.data,
            len(pieces),
            None if widened is None else widened.ctypes.data,
            out.ctypes.data,
            self._pool,
            self._threads(threads, m * n * k),
        )

    def _many(self, x: Float32, wire: Array, threads: int | None) -> Float32:
        out = np.empty((len(x), len(wire)), np.float32)
        with np.errstate(all="ignore"):
            for first, last, tile in self.tiles(wire, threads):
                np.matmul(x, tile.T, out=out[:, first:last])
        return out


def bounds(ids: Array) -> list[tuple[int, int]]:
    """(first, last) of runs of equal numbers."""
    ends = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(ids)]
    return list(pairwise(ends)) if len(ids) else []


def _pieces(first: int, last: int) -> Iterator[tuple[int, int]]:
    """(first row, rows) of pieces."""
    for begin in range(first, last, _PIECE):
        yield begin, min(_PIECE, last - begin)


@lru_cache(maxsize=FEW)
def _whole(m: int) -> Array:
    """Pieces of m rows that are multiplied by one matrix."""
    return np.array([(0, *piece) for piece in _pieces(0, m)], np.int32)


def product(fmt: GgmlFormat) -> Product | None:
    """The checked product of a format, or None; the first call may compile for a moment."""
    found = _held(fmt)
    return found if isinstance(found, Product) else None


def reason(fmt: GgmlFormat) -> str | None:
    """Why `product` gives None; None where it gives one."""
    found = _held(fmt)
    return found if isinstance(found, str) else None


def program(name: str) -> str:
    """The translation unit of a format's product."""

    def read(file: str) -> str:
        return files(__package__).joinpath(file).read_text(encoding="utf-8")

    decoders = (f'#include "{name.lower()}.metal"\n', *map(read, _DECODERS))
    parts = (read("shim.h"), resolve("".join(decoders)), read("product.h"))
    return "\n".join((*parts, _ENTRIES.replace("FORMAT", name)))


def _held(fmt: GgmlFormat) -> object:
    def prepare() -> Product | str:
        if fmt.name not in FORMATS:
            return f"{fmt.name} has no kernels"
        return prepared(
            f"product-{fmt.name.lower()}",
            program(fmt.name),
            lambda loaded: Product(fmt, loaded),
            lambda made: check(fmt, made),
        )

    return held(f"product of {fmt.name}", prepare)


def check(fmt: GgmlFormat, made: Product) -> str:
    """Empty, or what is wrong: `product of Q4_K in F16 is wrong on this machine`.

    Decoded tiles have NumPy's bits. A product lies between what the exact one gives that is less,
    and more, by the bound for sums in float32.
    """
    wire = known_answer.blocks(fmt)
    with np.errstate(all="ignore"):
        weights = fmt.decode((wire,))
    for first, last, tile in made.tiles(wire, 3):
        if not known_answer.same(tile, weights[first:last], "F32"):
            return f"product of {fmt.name}: the decoded tile is wrong on this machine"
    wire, weights = _finite(wire, weights)
    for dtype in _TYPES:
        random = np.random.default_rng(2)
        x = from_float32(random.standard_normal((FEW + 1, weights.shape[1]), np.float32), dtype)
        k = x.shape[1]
        for m in (*range(1, 10), FEW + 1):
            ours = to_float32(made.matmul(x[:m], wire, dtype, 2), dtype)
            depth = k if m > FEW else k // 32 + 6
            both = limits(to_float32(x[:m], dtype), weights, depth)
            least, most = (to_float32(from_float32(y, dtype), dtype) for y in both)
            if not ((ours >= least) & (ours <= most)).all():
                return f"product of {fmt.name} in {dtype} is wrong on this machine"
    return ""


def _finite(wire: Array, weights: Float32) -> tuple[Array, Float32]:
    """The rows with which no sum overflows."""
    fine = np.isfinite(weights).all(axis=1) & (np.nan_to_num(np.abs(weights)).max(axis=1) < 1e30)
    return np.ascontiguousarray(wire[fine]), weights[fine]


def limits(x: Float32, weights: Float32, depth: int) -> tuple[Float32, Float32]:
    """The least and the largest that x · weightsᵀ may be in float32: [m, n] twice.

    A sum of which no number goes through more than `depth` roundings is off by depth · 2^-24
    of the sum of magnitudes at most, to first order; and by what subnormal numbers lose.
    """
    wide, rows = x.astype(np.float64), weights.astype(np.float64).T
    exact = wide @ rows
    off = (np.abs(wide) @ np.abs(rows)) * (depth * 2.0**-24 * 1.001) + x.shape[1] * 2.0**-149
    with np.errstate(over="ignore"):
        return (exact - off).astype(np.float32), (exact + off).astype(np.float32)
