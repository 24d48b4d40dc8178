"""Products with packed weights, and rows of them, of MLX's arrays.

    metal   a lazy node, as of any operation of MLX
    cpu     x is evaluated and a compiled kernel multiplies at once; the result is an array
    mlx     MLX's operations decode some rows at a time (operations.py), lazily

In a function that MLX compiles x has no values yet: MLX's operations then, whatever the processor
has. Where MLX differentiates there are values. mx.vmap makes rows of whatever it maps over, of one
product: matrices that it maps over are chosen by `gather`.

An id that names no matrix gives a row of NaN, and so does one that names no row of an embedding:
on a GPU nobody looks at ids before they are used, and elsewhere it is to be the same.

The vector-Jacobian product is the product with the matrix that is not transposed, decoded anew some
rows at a time, so that nothing is kept between the two; it can be differentiated itself.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.errors import RequestError
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
    """As of kernels.matmul. Layers call it: a kernel on a processor would read what is not x's."""
    on_numpy.checked(x, wire, fmt, 2)
    if not (x.size and wire.size):
        return mx.zeros((*x.shape[:-1], wire.shape[0]), x.dtype)
    out: mx.array = _matmul(fmt, threads)[0](x, wire)
    return out


def gather(
    x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None = None
) -> mx.array:
    """As of kernels.gather; there is an id for each row."""
    on_numpy.checked(x, wire, fmt, 3)
    ids = ids if isinstance(ids, mx.array) else mx.array(ids)
    _check_ids(ids)
    if not (x.size and wire.size):
        nothing = 0.0 if wire.shape[0] else math.nan
        return mx.full((x.shape[0], wire.shape[1]), nothing, x.dtype)
    out: mx.array = _gather(fmt, threads)[0](x, ids, wire)
    return out


def rows(wire: mx.array, ids: mx.array, fmt: GgmlFormat, dtype: mx.Dtype) -> mx.array:
    """Rows of weights, as an embedding looks them up.

    Args:
        wire: uint8 [n, bytes].
        ids: integers [m]; -1 is the last row, and so on.
        dtype: float32, float16 or bfloat16.

    Returns: [m, k] of dtype; NaN for an id of no row.

    Raises:
        RequestError: ids that are no integers.
    """
    _check_ids(ids)
    out: mx.array = _rows(fmt, dtype)(wire, ids)
    return out


def _check_ids(ids: mx.array) -> None:
    """On a GPU floats would be rounded down.

    Raises:
        RequestError: ids are no integers.
    """
    if not mx.issubdtype(ids.dtype, mx.integer):
        raise RequestError(f"ids are {ids.dtype}; integers needed")


@cache
def _matmul(fmt: GgmlFormat, threads: int | None) -> tuple[Any, Any]:
    """x [..., k], wire [n, bytes] → [..., n], and y [..., n] → y · w [..., k]; differentiable."""
    product = mx.custom_function(lambda x, wire: _product(x, wire, fmt, threads))
    transposed = mx.custom_function(lambda y, wire: _transposed(y, wire, fmt, threads))
    for number, (function, adjoint) in enumerate(((product, transposed), (transposed, product))):
        _differentiate(function, adjoint)
        _map_rows(function, number, fmt, threads)
    return product, transposed


@cache
def _gather(fmt: GgmlFormat, threads: int | None) -> tuple[Any, Any]:
    """x [p, k], ids [p], wire [e, n, bytes] → [p, n], and the other way; differentiable."""
    product = mx.custom_function(lambda x, ids, wire: _gathered(x, ids, wire, fmt, threads))
    transposed = mx.custom_function(
        lambda y, ids, wire: _gathered_transposed(y, ids, wire, fmt, threads)
    )
    for function, adjoint in ((product, transposed), (transposed, product)):
        _differentiate(function, adjoint)
        _map_pairs(function)
    return product, transposed


@cache
def _rows(fmt: GgmlFormat, dtype: mx.Dtype) -> Any:
    """wire [n, bytes], ids [m] → [m, k]."""
    function: Any = mx.custom_function(lambda wire, ids: _looked_up(wire, ids, fmt, dtype))

    def mapped(inputs: Any, axes: Any) -> tuple[mx.array, int]:
        batch = _batch(inputs, axes)
        wire, ids = inputs
        chosen = _first(ids, axes[1], batch)
        if axes[0] is not None:
            wire = mx.moveaxis(wire, axes[0], 0)
            chosen = _numbered(mx.where(chosen < 0, chosen + wire.shape[1], chosen), wire.shape[1])
            wire = wire.reshape(-1, wire.shape[-1])
        found = function(wire, chosen.reshape(-1))
        return found.reshape(*chosen.shape, -1), 0

    function.vmap(mapped)
    return function


def _differentiate(function: Any, adjoint: Any) -> None:
    """A function that is linear in its first argument and constant in the others."""

    def vjp(primals: Any, cotangent: mx.array, _: mx.array) -> Any:
        return (adjoint(cotangent, *primals[1:]), *map(mx.zeros_like, primals[1:]))

    def jvp(primals: Any, tangents: Any) -> Any:
        return function(tangents[0], *primals[1:])

    function.vjp(vjp)
    function.jvp(jvp)


def _map_rows(function: Any, number: int, fmt: GgmlFormat, threads: int | None) -> None:
    """mx.vmap of one of `_matmul`'s two functions: more rows, or a matrix for some of them."""

    def mapped(inputs: Any, axes: Any) -> tuple[mx.array, int]:
        x, wire = inputs
        x = _first(x, axes[0], _batch(inputs, axes))
        if axes[1] is None:
            return function(x, wire), 0
        each = x.reshape(x.shape[0], -1, x.shape[-1])
        ids = mx.repeat(mx.arange(each.shape[0]), each.shape[1])
        wire = mx.moveaxis(wire, axes[1], 0)
        out = _gather(fmt, threads)[number](each.reshape(-1, x.shape[-1]), ids, wire)
        return out.reshape(*x.shape[:-1], -1), 0

    function.vmap(mapped)


def _map_pairs(function: Any) -> None:
    """mx.vmap of one of `_gather`'s two functions: more pairs, and more matrices."""

    def mapped(inputs: Any, axes: Any) -> tuple[mx.array, int]:
        batch = _batch(inputs, axes)
        x, ids = (_first(*each, batch) for each in zip(inputs[:2], axes[:2], strict=True))
        wire = inputs[2]
        if axes[2] is not None:
            wire = mx.moveaxis(wire, axes[2], 0)
            ids = _numbered(ids, wire.shape[1])
            wire = wire.reshape(-1, *wire.shape[2:])
        out = function(x.reshape(-1, x.shape[-1]), ids.reshape(-1), wire)
        return out.reshape(*ids.shape, -1), 0

    function.vmap(mapped)


def _batch(inputs: Any, axes: Any) -> int:
    """How many mx.vmap maps over."""
    sizes = (each.shape[axis] for each, axis in zip(inputs, axes, strict=True) if axis is not None)
    return int(next(sizes))


def _first(array: mx.array, axis: int | None, batch: int) -> mx.array:
    """The same with what is mapped over in front."""
    if axis is None:
        return mx.broadcast_to(array, (batch, *array.shape))
    return mx.moveaxis(array, axis, 0)


def _numbered(ids: mx.array, count: int) -> mx.array:
    """Ids [b, ...] of `count` things each as ids of all b · count; of none, as the next one."""
    ids = ids.astype(mx.int64)
    before = count * mx.arange(ids.shape[0]).reshape(-1, *(1,) * (ids.ndim - 1))
    return mx.where((ids >= 0) & (ids < count), ids + before, count * ids.shape[0])


def _looked_up(wire: mx.array, ids: mx.array, fmt: GgmlFormat, dtype: mx.Dtype) -> mx.array:
    if not wire.shape[0]:
        return mx.full((ids.size, operations.columns(wire, fmt)), math.nan, dtype)
    chosen = backend("dequantize_rows", fmt).name if ids.size and wire.size else "mlx"
    if chosen == "cpu" and _evaluated(wire, ids):
        numbers = np.asarray(ids)
        numbers = np.where(numbers < 0, numbers + len(wire), numbers)
        named = _named(numbers, len(wire))
        decoded = dequantize_rows(_view(wire), np.where(named, numbers, 0), fmt, _DTYPES[dtype])
        return _array(_nan_but(named, decoded, _DTYPES[dtype]), _DTYPES[dtype])
    by = metal.dequantize_rows if chosen == "metal" else operations.rows
    return by(wire, mx.where(ids < 0, ids + wire.shape[0], ids), fmt, dtype)


def _product(x: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None) -> mx.array:
    chosen = backend("matmul", fmt).name
    if chosen == "cpu" and _evaluated(x, wire):
        dtype, values = _DTYPES[x.dtype], _view(x)
        rows = values.reshape(-1, values.shape[-1])
        out = on_numpy.multiplied(rows, _view(wire), fmt, dtype, threads)
        return _array(out.reshape(*values.shape[:-1], -1), dtype)
    by = metal.matmul if chosen == "metal" else operations.product
    x = _constant(x) if chosen == "metal" else x
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
    if chosen == "metal":
        return metal.gather(_constant(x), ids, wire, fmt)
    if chosen == "cpu" and _evaluated(x, ids, wire):
        dtype, values, packed, numbers = _DTYPES[x.dtype], _view(x), _view(wire), np.asarray(ids)
        named = _named(numbers, len(packed))
        numbers = np.where(named, numbers, 0)
        out = on_numpy.gathered(values, numbers, packed, fmt, dtype, threads)
        return _array(_nan_but(named, out, dtype), dtype)
    return _in_operations(operations.gather, x, ids, wire, fmt)


def _gathered_transposed(
    y: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat, threads: int | None
) -> mx.array:
    """y [p, n], each row times the matrix of its id → [p, k]."""
    made = host.product(fmt) if backend("gather", fmt).name == "cpu" else None
    if made is None or not _evaluated(y, ids, wire):
        return _in_operations(operations.gather_transposed, y, ids, wire, fmt)
    dtype = _DTYPES[y.dtype]
    values, packed, numbers = to_float32(_view(y), dtype), _view(wire), np.asarray(ids)
    out = np.full((len(values), made.columns(packed)), np.nan, np.float32)
    for matrix in np.unique(numbers[_named(numbers, len(packed))]):
        at = numbers == matrix
        out[at] = made.transposed(values[at], packed[matrix], threads)
    return _array(from_float32(out, dtype), dtype)


def _constant(x: mx.array) -> mx.array:
    """The same for a GPU's kernel: mx.jvp would ask the kernel itself for its derivative, too."""
    return mx.stop_gradient(x)


def _in_operations(
    by: Any, x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat
) -> mx.array:
    """One of operations.py's, which take matrices that are there."""
    named = (ids >= 0) & (ids < wire.shape[0])
    out = by(x, mx.where(named, ids, 0), wire, fmt)
    return mx.where(named[:, None], out, mx.array(math.nan, out.dtype))


def _named(numbers: Array, count: int) -> Array:
    """Which of some ids are of one of so many things: bool."""
    found: Array = (numbers >= 0) & (numbers < count)
    return found


def _nan_but(named: Array, rows: Array, dtype: str) -> Array:
    """Rows [m, k], NaN where their id names nothing."""
    if not named.all():
        rows[~named] = from_float32(np.full(1, np.nan, np.float32), dtype)
    return rows


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
