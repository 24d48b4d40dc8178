"""Products with packed weights, of NumPy's arrays or MLX's, by the backend that serves here.

Of MLX's arrays the result can be differentiated in x, as often as one likes, and x may be traced:
in a function that MLX compiles, MLX's own operations multiply.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats.base import STORAGE, Array
from mlxquant.formats.floats import from_float32, to_float32
from mlxquant.formats.ggml_format import GgmlFormat

from .host import product

__all__ = ["gather", "matmul"]

_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}


def matmul(x: Any, wire: Any, fmt: str | GgmlFormat, threads: int | None = None) -> Any:
    """x · wᵀ with packed weights; sums are float32, decoded weights are not rounded.

    Args:
        x: [..., k] of float32 or float16, or of bfloat16 in MLX; an array of NumPy or of MLX.
        wire: uint8 [n, bytes], n rows of k weights in whole blocks; the same kind of array.
        fmt: one of ggml's formats, or its name.
        threads: at most so many on a processor; None for one a core.

    Returns: [..., n] of x's type, the kind of array that x is. A row's bits do not depend on how
        many others there are, up to 16.

    Raises:
        RequestError: an unknown format, or arrays that are not as above.
    """
    fmt = checked(x, wire, fmt, 2)
    if not isinstance(x, np.ndarray):
        from . import on_mlx

        return on_mlx.matmul(x, wire, fmt, threads)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    out = _by_numpy(rows, wire, fmt, threads)
    return out.reshape(*x.shape[:-1], len(wire))


def gather(x: Any, ids: Any, wire: Any, fmt: str | GgmlFormat, threads: int | None = None) -> Any:
    """x · wᵀ with a matrix for each row of x, as a mixture of experts has it.

    Args:
        x: [p, k] as of `matmul`.
        ids: integers [p], each the number of a matrix.
        wire: uint8 [e, n, bytes], e matrices of n rows of k weights.
        fmt, threads: as of `matmul`.

    Returns: [p, n] of x's type; of MLX's arrays NaN where an id names a matrix that is not there.

    Raises:
        RequestError: as of `matmul`, or `ids` that are not one integer for each row; of NumPy's
            arrays also where one names a matrix that is not there.
    """
    fmt = checked(x, wire, fmt, 3)
    if x.ndim != 2 or tuple(ids.shape) != (x.shape[0],):
        raise RequestError(
            f"x is {list(x.shape)} and ids {list(ids.shape)}; [p, k] and [p] needed, a matrix for "
            "each row"
        )
    if not isinstance(x, np.ndarray):
        from . import on_mlx

        return on_mlx.gather(x, ids, wire, fmt, threads)
    return gathered(x, ids, wire, fmt, _DTYPES[x.dtype], threads)


def gathered(
    x: Array, ids: Array, wire: Array, fmt: GgmlFormat, dtype: str, threads: int | None
) -> Array:
    """`gather` of NumPy's arrays, bfloat16 as uint16; rows are brought in the order of matrices.

    Raises:
        RequestError: an id of no matrix.
    """
    if ids.dtype.kind not in "iu":
        raise RequestError(f"ids are {ids.dtype}; integers needed")
    if ids.size and not (ids.min() >= 0 and ids.max() < len(wire)):
        wrong = int(ids[(ids < 0) | (ids >= len(wire))][0])
        raise RequestError(f"matrix {wrong} asked for; there are {len(wire)}, counted from 0")
    if not (x.size and wire.size):
        return np.zeros((len(x), wire.shape[1]), STORAGE[dtype])
    out = np.empty((len(x), wire.shape[1]), STORAGE[dtype])
    order = np.argsort(ids, kind="stable")
    made = product.product(fmt)
    if made is not None:
        rows = np.ascontiguousarray(x[order])
        out[order] = made.gather(rows, ids[order], _packed(wire), dtype, threads)
        return out
    for first, last in product.bounds(ids[order]):
        chosen = order[first:last]
        rows = to_float32(x[chosen], dtype)
        out[chosen] = from_float32(_decoded(rows, wire[ids[chosen[0]]], fmt), dtype)
    return out


def multiplied(x: Array, wire: Array, fmt: GgmlFormat, dtype: str, threads: int | None) -> Array:
    """`matmul` of x [m, k] of NumPy, bfloat16 as uint16."""
    made = product.product(fmt)
    if made is None or not (x.size and wire.size):
        return from_float32(_decoded(to_float32(x, dtype), wire, fmt), dtype)
    return made.matmul(np.ascontiguousarray(x), _packed(wire), dtype, threads)


def _by_numpy(x: Array, wire: Array, fmt: GgmlFormat, threads: int | None) -> Array:
    return multiplied(x, wire, fmt, _DTYPES[x.dtype], threads)


def _decoded(x: Array, wire: Array, fmt: GgmlFormat) -> Array:
    """Float32 rows times what NumPy decodes, some rows of weights at a time."""
    out = np.zeros((len(x), len(wire)), np.float32)
    step = max(1, (1 << 21) // max(1, x.shape[1]))
    with np.errstate(all="ignore"):
        for first in range(0, len(wire) if x.shape[1] else 0, step):
            rows = fmt.decode((np.ascontiguousarray(wire[first : first + step]),))
            out[:, first : first + step] = x @ rows.T
    return out


def _packed(wire: Array) -> Array:
    """The same bytes in one piece, at a multiple of 4."""
    return wire if wire.flags.c_contiguous and wire.ctypes.data % 4 == 0 else wire.copy()


def checked(x: Any, wire: Any, fmt: str | GgmlFormat, axes: int) -> GgmlFormat:
    """The format, if x and wire [...] of so many axes fit together.

    Raises:
        RequestError: they do not.
    """
    found = formats.get(fmt) if isinstance(fmt, str) else fmt
    if not isinstance(found, GgmlFormat):
        raise RequestError(f"format {found.name!r}: kernels are for the formats of GGUF files")
    if isinstance(x, np.ndarray) != isinstance(wire, np.ndarray):
        raise RequestError("one array is NumPy's and the other MLX's; give two of a kind")
    blocks, rest = divmod(wire.shape[-1] if wire.ndim else 0, found.block_bytes)
    if wire.ndim != axes or str(wire.dtype).rpartition(".")[2] != "uint8" or rest:
        raise RequestError(
            f"{found.name}: {wire.dtype} {list(wire.shape)} given; uint8 in {axes} dimensions, "
            f"rows of whole blocks of {found.block_bytes} bytes, needed"
        )
    known = ("float32", "float16", "bfloat16")
    name = str(x.dtype).rpartition(".")[2]
    if not x.ndim or name not in known or x.shape[-1] != blocks * found.block_size:
        raise RequestError(
            f"x is {x.dtype} {list(x.shape)}; [..., {blocks * found.block_size}] of "
            f"{', '.join(known)} needed"
        )
    return found
