"""Products with packed weights, and rows of them, of MLX's arrays.

    metal   a lazy node, as of any operation of MLX
    cpu     x is evaluated and a compiled kernel multiplies at once; the result is an array
    mlx     MLX's operations decode some rows at a time (operations.py), lazily

In a function that MLX compiles x has no values yet: MLX's operations then, whatever the processor
has. Where MLX differentiates there are values. mx.vmap is not served: MLX has no rule for what
keeps the memory of operations bounded.

The vector-Jacobian product is the product with the matrix that is not transposed, decoded anew some
rows at a time, so that nothing is kept between the two; it can be differentiated itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.floats import from_float32, to_float32
from mlxquant.formats.ggml_format import GgmlFormat

from . import dequantize_rows, metal, operations
from . import product as on_numpy
from .backend import backend
from .host import product as host

__all__ = ["gather", "matmul", "rows"]

#: the project's names of the element types of x
_DTYPES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}


def matmul(x: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None = None) -> mx.array:
    """As of kernels.matmul; the arrays fit together."""
    if not (x.size and wire.size):
        return mx.zeros((*x.shape[:-1], wire.shape[0]), x.dtype)
    out: mx.array = _matmul(fmt, threads)(x, wire)
    return out


def gather(
    x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None = None
) -> mx.array:
    """As of kernels.gather; the arrays fit together."""
    if not (x.size and wire.size):
        return mx.zeros((x.shape[0], wire.shape[1]), x.dtype)
    out: mx.array = _gather(fmt, threads)(x, ids, wire)
    return out


def rows(wire: mx.array, ids: mx.array, fmt: GgmlFormat, dtype: mx.Dtype) -> mx.array:
    """Rows of weights, as an embedding looks them up.

    Args:
        wire: uint8 [n, bytes].
        ids: integers [m]; -1 is the last row, and so on.
        dtype: float32, float16 or bfloat16.

    Returns: [m, k] of dtype.

    Raises:
        RequestError: on a processor, an id of no row.
    """
    chosen = backend("dequantize_rows", fmt).name if ids.size and wire.size else "mlx"
    if chosen == "metal":
        return metal.dequantize_rows(wire, mx.where(ids < 0, ids + wire.shape[0], ids), fmt, dtype)
    if chosen == "cpu" and _evaluated(wire, ids):
        numbers = np.asarray(ids)
        numbers = np.where(numbers < 0, numbers + len(wire), numbers)
        decoded = dequantize_rows(_view(wire), numbers, fmt, _DTYPES[dtype])
        return _array(decoded, _DTYPES[dtype])
    return operations.rows(wire, ids, fmt, dtype)


@cache
def _matmul(fmt: GgmlFormat, threads: int | None) -> Any:
    """x [..., k], wire [n, bytes] → [..., n], differentiable in x."""
    product = mx.custom_function(lambda x, wire: _product(x, wire, fmt, threads))
    transposed = mx.custom_function(lambda y, wire: _transposed(y, wire, fmt, threads))
    _differentiate(product, transposed)
    _differentiate(transposed, product)
    return product


@cache
def _gather(fmt: GgmlFormat, threads: int | None) -> Any:
    """x [p, k], ids [p], wire [e, n, bytes] → [p, n], differentiable in x."""
    product = mx.custom_function(lambda x, ids, wire: _gathered(x, ids, wire, fmt, threads))
    transposed = mx.custom_function(
        lambda y, ids, wire: _gathered_transposed(y, ids, wire, fmt, threads)
    )
    _differentiate(product, transposed)
    _differentiate(transposed, product)
    return product


def _differentiate(function: Any, adjoint: Any) -> None:
    """A function that is linear in its first argument and constant in the others."""

    def vjp(primals: Any, cotangent: mx.array, _: mx.array) -> Any:
        return (adjoint(cotangent, *primals[1:]), *map(mx.zeros_like, primals[1:]))

    def jvp(primals: Any, tangents: Any) -> Any:
        return function(tangents[0], *primals[1:])

    function.vjp(vjp)
    function.jvp(jvp)


def _product(x: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None) -> mx.array:
    chosen = backend("matmul", fmt).name
    if chosen == "cpu" and _evaluated(x, wire):
        dtype, values = _DTYPES[x.dtype], _view(x)
        rows = values.reshape(-1, values.shape[-1])
        out = on_numpy.multiplied(rows, _view(wire), fmt, dtype, threads)
        return _array(out.reshape(*values.shape[:-1], -1), dtype)
    by = metal.matmul if chosen == "metal" else operations.product
    return by(x.reshape(-1, x.shape[-1]), wire, fmt).reshape(*x.shape[:-1], -1)


def _transposed(y: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None) -> mx.array:
    """y [..., n] · w → [..., k]."""
    made = host.product(fmt) if backend("matmul", fmt).name == "cpu" else None
    if made is not None and _evaluated(y, wire):
        dtype = _DTYPES[y.dtype]
        values = to_float32(_view(y), dtype).reshape(-1, y.shape[-1])
        out = from_float32(made.transposed(values, _view(wire), threads), dtype)
        return _array(out.reshape(*y.shape[:-1], -1), dtype)
    rows = operations.transposed(y.reshape(-1, y.shape[-1]), wire, fmt)
    return rows.reshape(*y.shape[:-1], -1)


def _gathered(
    x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None
) -> mx.array:
    chosen = backend("gather", fmt).name
    if chosen == "cpu" and _evaluated(x, ids, wire):
        dtype, arrays = _DTYPES[x.dtype], (_view(x), np.asarray(ids), _view(wire))
        return _array(on_numpy.gathered(*arrays, fmt, dtype, threads), dtype)
    if chosen == "metal":
        return metal.gather(x, ids, wire, fmt)
    return operations.gather(x, ids, wire, fmt)


def _gathered_transposed(
    y: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None
) -> mx.array:
    """y [p, n], each row times the matrix of its id → [p, k]."""
    made = host.product(fmt) if backend("gather", fmt).name == "cpu" else None
    if made is None or not _evaluated(y, ids, wire):
        return operations.gather_transposed(y, ids, wire, fmt)
    dtype = _DTYPES[y.dtype]
    values, packed, numbers = to_float32(_view(y), dtype), _view(wire), np.asarray(ids)
    out = np.empty((len(values), made.columns(packed)), np.float32)
    for matrix in np.unique(numbers):
        at = numbers == matrix
        out[at] = made.transposed(values[at], packed[matrix], threads)
    return _array(from_float32(out, dtype), dtype)


def _evaluated(*arrays: mx.array) -> bool:
    """Whether there are values; they are computed. MLX refuses inside of what it traces."""
    try:
        mx.eval(arrays)
    except ValueError:
        # whatever else may be wrong with x is wrong in MLX's operations too
        return False
    return True


def _view(array: mx.array) -> Array:
    """An evaluated array as NumPy's, bfloat16 as uint16, without a copy if it is in one piece."""
    if array.dtype != mx.bfloat16:
        return np.asarray(array)
    bits: Any = array
    if memoryview(bits).c_contiguous:
        return np.frombuffer(bits, np.uint16).reshape(array.shape)
    return np.asarray(mx.contiguous(array).view(mx.uint16))


def _array(values: Array, dtype: str) -> mx.array:
    """NumPy's array as MLX's."""
    made = mx.array(values)
    return made.view(mx.bfloat16) if dtype == "BF16" else made
