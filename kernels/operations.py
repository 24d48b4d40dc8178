"""Products with packed weights in MLX's operations: decoded some rows at a time, then multiplied.

This serves where no kernel does, and where MLX traces a function. Everything is lazy. CHUNK_BYTES
of decoded weights are held at a time, each batch being decoded after the product with the one
before, so that memory does not grow with the matrix.

Weights are rounded to the element type of x before the product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from mlxquant.formats.ggml_format import GgmlFormat

__all__ = ["CHUNK_BYTES", "columns", "gather", "gather_transposed", "product", "rows", "transposed"]

#: of decoded float32 weights held at a time; what the decoding itself takes is about as much again
CHUNK_BYTES = 8 << 20


def product(
    x: mx.array, wire: mx.array, fmt: GgmlFormat, before: Sequence[mx.array] = ()
) -> mx.array:
    """x [m, k], uint8 [n, bytes] → [m, n], when the last of `before` is computed."""
    parts: list[mx.array] = []
    for first, last in _chunks(wire.shape[0], x.shape[-1]):
        packed = _after(wire[first:last], parts or before)
        parts.append(x @ _decoded(packed, fmt, x.dtype).T)
    return mx.concatenate(parts, axis=-1)


def transposed(y: mx.array, wire: mx.array, fmt: GgmlFormat) -> mx.array:
    """y [m, n], uint8 [n, bytes] → y · w [m, k]."""
    sums: list[mx.array] = []
    for first, last in _chunks(wire.shape[0], columns(wire, fmt)):
        packed = _after(wire[first:last], sums)
        part = y[:, first:last].astype(mx.float32) @ _decoded(packed, fmt, mx.float32)
        sums = [sums[0] + part if sums else part]
    return sums[0].astype(y.dtype)


def rows(wire: mx.array, ids: mx.array, fmt: GgmlFormat, dtype: mx.Dtype) -> mx.array:
    """Rows `ids` [m] of uint8 [n, bytes], n > 0, → [m, k]; NaN where there is no such row."""
    parts: list[mx.array] = []
    k, nan = columns(wire, fmt), mx.array(math.nan, dtype)
    named = (ids >= 0) & (ids < wire.shape[0])
    ids = mx.where(named, ids, 0)
    for first, last in _chunks(ids.size, k):
        packed = wire[_after(ids[first:last], parts)]
        parts.append(mx.where(named[first:last, None], _decoded(packed, fmt, dtype), nan))
    return mx.concatenate(parts) if parts else mx.zeros((0, k), dtype)


def gather(x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat) -> mx.array:
    """x [p, k], ids [p], uint8 [e, n, bytes] → [p, n].

    Where there are many ids they are evaluated if that can be, and each matrix is decoded once.
    """
    order = None if 2 * ids.size <= wire.shape[0] else _order(ids)
    if order is None:
        return _each_pair(x, ids, wire, fmt, transpose=True)
    numbers = np.asarray(ids)[order]
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    parts: list[mx.array] = []
    ordered = x[mx.array(order)]
    for first, last in pairwise(bounds):
        parts.append(product(ordered[first:last], wire[int(numbers[first])], fmt, parts))
    return mx.concatenate(parts)[mx.array(np.argsort(order))]


def gather_transposed(y: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat) -> mx.array:
    """y [p, n], ids [p], uint8 [e, n, bytes] → [p, k]."""
    return _each_pair(y, ids, wire, fmt, transpose=False)


def _each_pair(
    x: mx.array, ids: mx.array, wire: mx.array, fmt: GgmlFormat, transpose: bool
) -> mx.array:
    """A matrix is decoded for every row of x, which it multiplies from the right, transposed or
    not."""
    k = columns(wire, fmt)
    parts: list[mx.array] = []
    step = max(1, CHUNK_BYTES // (4 * wire.shape[1] * k))
    for begin in range(0, ids.size, step):
        few, chosen = x[begin : begin + step, None], ids[begin : begin + step]
        found: list[mx.array] = []
        for first, last in _chunks(wire.shape[1], k):
            packed = wire[:, first:last][_after(chosen, found or parts)]
            if transpose:
                weights = _decoded(packed, fmt, x.dtype)
                found.append(few @ weights.swapaxes(-1, -2))
            else:
                weights = _decoded(packed, fmt, mx.float32)
                part = few[..., first:last].astype(mx.float32) @ weights
                found = [found[0] + part if found else part]
        parts.append(mx.concatenate(found, axis=-1).astype(x.dtype)[:, 0])
    return mx.concatenate(parts)


def _order(ids: mx.array) -> np.ndarray | None:
    """What brings ids in order, or None while MLX traces."""
    try:
        mx.eval(ids)
    except ValueError:
        return None
    return np.argsort(np.asarray(ids), kind="stable")


def _decoded(wire: mx.array, fmt: GgmlFormat, dtype: mx.Dtype) -> mx.array:
    """uint8 [..., bytes] → weights [..., k]."""
    found = fmt.decode_mx(wire.reshape(-1, fmt.block_bytes)).astype(dtype)
    return found.reshape(*wire.shape[:-1], columns(wire, fmt))


def columns(wire: mx.array, fmt: GgmlFormat) -> int:
    """Weights of a row."""
    return int(wire.shape[-1] // fmt.block_bytes * fmt.block_size)


def _chunks(count: int, k: int) -> Iterator[tuple[int, int]]:
    """(first, last) of the rows that are decoded together."""
    step = max(1, CHUNK_BYTES // (4 * k))
    for first in range(0, count, step):
        yield first, min(first + step, count)


def _after(whole: mx.array, parts: Sequence[mx.array]) -> mx.array:
    """Whole numbers, not to be looked at before the last of `parts` is computed.

    MLX would otherwise decode every batch of rows before it multiplies by the first. mx.depends
    says the same, but cannot be mapped over; no number is less than itself.
    """
    if not parts:
        return whole
    last = mx.stop_gradient(parts[-1].reshape(-1)[:1])
    return whole | (last < last).astype(whole.dtype)
