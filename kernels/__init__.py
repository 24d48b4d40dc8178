"""Kernels for ggml's formats: one Metal source for a GPU and for this processor.

>>> wire = np.zeros((2, 144), np.uint8)
>>> dequantize(wire, "Q4_K").shape
(2, 256)

    <format>.metal      a struct: what a block's bytes mean, as in mlxquant/formats
    dequantize.metal    kernels for any such struct
    source.py           puts a kernel's source together; tables.py writes the codebooks
    affine_search.metal the search for the scales of MLX's affine formats, in lanes (lanes.metal)
    search.py           calls it
    encode_….metal      encoders, in lanes too
    encode.py           calls them
    metal.py            on a GPU, through mx.fast.metal_kernel
    host/               on this processor, through clang
    product.py          x times packed weights, of NumPy's arrays or MLX's (on_mlx.py), by a kernel
                        or by MLX's operations (operations.py)
    backend.py          which of all these an operation takes, and why

Here are the calls. Those that decode take NumPy's arrays, and use a compiled kernel where there is
one and NumPy where there is none; the values are the same, bit for bit, but that a NaN may be
another NaN.
"""

from __future__ import annotations

import numpy as np

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats.base import STORAGE, Array
from mlxquant.formats.floats import check_dtype, from_float32
from mlxquant.formats.ggml_format import GgmlFormat

from . import host
from .backend import Backend, backend
from .product import gather, matmul

__all__ = [
    "Backend",
    "available",
    "backend",
    "dequantize",
    "dequantize_rows",
    "gather",
    "matmul",
    "reason",
]

#: sizes that a kernel counts in 32 bits
_LIMIT = 2**31


def dequantize(
    wire: Array,
    fmt: str | GgmlFormat,
    dtype: str = "F32",
    threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Weights from blocks.

    Args:
        wire: uint8 [n, bytes], rows of whole blocks.
        fmt: one of ggml's formats, or its name.
        dtype: `F32`, `F16` or `BF16` (as uint16) of the result, rounded to nearest, ties to even.
        threads: at most so many; None for one a core.
        out: C-contiguous [n, k] of STORAGE[dtype] for the result, where memory is to be reused;
            new pages cost as much time as the kernel.

    Returns: [n, k] of STORAGE[dtype]; `out`, if it is given.

    Raises:
        RequestError: an unknown format or dtype, or arrays that are not as above.
    """
    fmt = _checked(wire, fmt, dtype)
    kernels = host.library(fmt) if _fits(wire) else None
    if kernels is None and out is None:
        return _by_numpy(wire, fmt, dtype)
    out = _result(out, len(wire), wire, fmt, dtype)
    if kernels is None:
        out[:] = _by_numpy(wire, fmt, dtype)
    else:
        kernels.dequantize(wire, dtype, out, threads)
    return out


def dequantize_rows(
    wire: Array,
    ids: Array,
    fmt: str | GgmlFormat,
    dtype: str = "F32",
    threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Weights of some rows, as an embedding looks them up.

    Args:
        wire: uint8 [n, bytes], rows of whole blocks.
        ids: integers [m], each from 0 to n - 1; in any order, any of them several times.
        fmt, dtype, threads: as of `dequantize`.
        out: C-contiguous [m, k] of STORAGE[dtype] for the result.

    Returns: [m, k] of STORAGE[dtype]; row i is row `ids[i]`.

    Raises:
        RequestError: as of `dequantize`, or `ids` names a row that is not there.
    """
    fmt = _checked(wire, fmt, dtype)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise RequestError(
            f"ids are {ids.dtype} {list(ids.shape)}; integers in one dimension needed"
        )
    if ids.size and not (ids.min() >= 0 and ids.max() < len(wire)):
        wrong = int(ids[(ids < 0) | (ids >= len(wire))][0])
        raise RequestError(f"row {wrong} asked for; there are {len(wire)}, counted from 0")
    kernels = host.library(fmt) if _fits(wire) and len(ids) < _LIMIT else None
    if kernels is None and out is None:
        return _by_numpy(wire[ids], fmt, dtype)
    out = _result(out, len(ids), wire, fmt, dtype)
    if kernels is None:
        out[:] = _by_numpy(wire[ids], fmt, dtype)
    else:
        kernels.dequantize_rows(wire, ids, dtype, out, threads)
    return out


def available(fmt: str | GgmlFormat) -> bool:
    """Whether a compiled and checked kernel serves the format here; the first call compiles it."""
    return reason(fmt) is None


def reason(fmt: str | GgmlFormat) -> str | None:
    """Why no kernel serves the format here, in one line; None where one does."""
    return host.reason(_ggml(fmt))


def _ggml(fmt: str | GgmlFormat) -> GgmlFormat:
    found = formats.get(fmt) if isinstance(fmt, str) else fmt
    if not isinstance(found, GgmlFormat):
        raise RequestError(f"format {found.name!r}: kernels are for the formats of GGUF files")
    return found


def _checked(wire: Array, fmt: str | GgmlFormat, dtype: str) -> GgmlFormat:
    found = _ggml(fmt)
    check_dtype(dtype)
    if wire.ndim != 2 or wire.dtype != np.uint8 or wire.shape[1] % found.block_bytes:
        raise RequestError(
            f"{found.name}: {wire.dtype} {list(wire.shape)} given; uint8 rows of whole blocks "
            f"of {found.block_bytes} bytes needed"
        )
    return found


def _result(out: Array | None, rows: int, wire: Array, fmt: GgmlFormat, dtype: str) -> Array:
    """Where the result goes: `out` if it is what is needed, or a new array."""
    shape = (rows, wire.shape[1] // fmt.block_bytes * fmt.block_size)
    if out is None:
        return np.empty(shape, dtype=STORAGE[dtype])
    good = out.flags.c_contiguous and out.flags.writeable
    if out.shape != shape or out.dtype != STORAGE[dtype] or not good:
        raise RequestError(
            f"out is {out.dtype} {list(out.shape)}; writeable, C-contiguous "
            f"{np.dtype(STORAGE[dtype])} {list(shape)} needed"
        )
    return out


def _fits(wire: Array) -> bool:
    """Whether there is something to do, and 32 bits count it."""
    return wire.size > 0 and max(wire.shape) < _LIMIT and wire.size < 16 * _LIMIT


def _by_numpy(wire: Array, fmt: GgmlFormat, dtype: str) -> Array:
    with np.errstate(all="ignore"):
        return from_float32(fmt.decode((wire,)), dtype)
