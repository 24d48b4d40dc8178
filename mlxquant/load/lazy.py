"""Tensors that are computed when a few of their rows are asked for.

A `Node` is one array of a small expression graph whose leaves are byte ranges of files. A region of
it (one `range` per axis) is evaluated by asking each operation which region of its inputs it needs,
so that a row of a stack of 256 experts reads one row of one expert. This is what keeps memory
bounded by a chunk where an architecture stacks, splits, transposes or unpacks its weights.

    region   tuple[range, …]        one a axis, positive steps, never empty
    result   ndarray                shape = len of each range; bfloat16 travels as uint16

Operations carry MLX's primitive names; `models/trace.py` builds graphs from what MLX traces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..formats.base import Array
from .checkpoint import StoredTensor, carrier_of

__all__ = ["Node", "Region", "cover", "leaf", "region_of_flat"]

Region = tuple[range, ...]

#: a strided or transposed read takes its rows in blocks of at most this many bytes
BLOCK_BYTES = 8 << 20


class Node:
    """One array: its shape, its element type (safetensors' name), and how to compute a region.

    `compute(region)` returns an array of the region's shape, in the carrier type of `dtype`;
    `origin` is (file, byte offset) of the first of the leaves behind it, to read in disk order.
    """

    __slots__ = ("compute", "dtype", "label", "origin", "shape")

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        compute: Callable[[Region], Array],
        label: str,
        origin: tuple[str, int] = ("", 0),
    ) -> None:
        self.shape, self.dtype, self.compute, self.label = shape, dtype, compute, label
        self.origin = origin

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * carrier_of(self.dtype).itemsize

    def flat(self, begin: int, end: int) -> Array:
        """Elements [begin, end) in row-major order, 1-D; at most two rows more are computed."""
        parts = []
        for first, last in _pieces(self.shape, begin, end):
            region, offset = cover(self.shape, first, last)
            values = np.ascontiguousarray(self.compute(region)).reshape(-1)
            parts.append(values[first - offset : last - offset])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def rows(self, begin: int, end: int) -> Array:
        """Rows [begin, end) of the array seen as [prod(shape[:-1]), shape[-1]]."""
        width = self.shape[-1] if self.shape else 1
        return self.flat(begin * width, end * width).reshape(end - begin, width)


def leaf(tensor: StoredTensor) -> Node:
    """The node of a tensor as its file holds it."""

    def compute(region: Region) -> Array:
        return region_of_flat(tensor.shape, region, tensor.read, carrier_of(tensor.dtype))

    return Node(tensor.shape, tensor.dtype, compute, "Load", (str(tensor.file), tensor.start))


def cover(shape: tuple[int, ...], begin: int, end: int) -> tuple[Region, int]:
    """The smallest row-major contiguous region that holds the flat elements [begin, end).

    Returns the region and the flat index of its first element.
    """
    region: list[range] = []
    offset = 0
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        low, high = (begin - offset) // inner, -(-(end - offset) // inner)
        region.append(range(low, high))
        offset += low * inner
        if high - low > 1:
            region.extend(range(m) for m in shape[axis + 1 :])
            break
    return tuple(region), offset


def _pieces(
    shape: tuple[int, ...], begin: int, end: int, axis: int = 0
) -> Iterator[tuple[int, int]]:
    """Cut flat elements [begin, end) so that `cover` of each piece is hardly more than the piece.

    The last rows of one matrix of a stack and the first rows of the next are two pieces: one region
    that holds them is both matrices whole.
    """
    if begin == end:
        return
    if axis >= len(shape) - 2:
        yield begin, end
        return
    inner = math.prod(shape[axis + 1 :])
    low, high = -(-begin // inner) * inner, end // inner * inner
    if low > high:
        yield from _pieces(shape, begin, end, axis + 1)
        return
    yield from _pieces(shape, begin, low, axis + 1)
    if low < high:
        yield low, high
    yield from _pieces(shape, high, end, axis + 1)


def region_of_flat(
    shape: tuple[int, ...],
    region: Region,
    read: Callable[[int, int], Array],
    carrier: np.dtype[Any],
) -> Array:
    """A region of an array that can only be read by flat element ranges.

    Leading axes of length one are stepped over; the first longer axis is read in blocks, each a
    contiguous run of its indices with everything behind it, from which the region is picked.
    """
    lead = 0
    offset = 0
    while lead < len(region) - 1 and len(region[lead]) == 1:
        offset += region[lead][0] * math.prod(shape[lead + 1 :])
        lead += 1
    if not region:
        return read(0, 1).reshape(())
    first, rest = region[lead], region[lead + 1 :]
    inner_shape = shape[lead + 1 :]
    inner = math.prod(inner_shape)
    picks = tuple(slice(r[0], r[-1] + 1, r.step) for r in rest)
    whole = all(len(r) == n for r, n in zip(rest, inner_shape, strict=True))
    if whole and first.step == 1:
        out = read(offset + first[0] * inner, offset + (first[-1] + 1) * inner)
        return out.reshape([len(r) for r in region])
    result = np.empty((len(first), *(len(r) for r in rest)), dtype=carrier)
    block = max(1, BLOCK_BYTES // max(1, inner * carrier.itemsize * first.step))
    for at in range(0, len(first), block):
        part = first[at : at + block]
        data = read(offset + part[0] * inner, offset + (part[-1] + 1) * inner)
        data = data.reshape(part[-1] + 1 - part[0], *inner_shape)
        result[at : at + len(part)] = data[(slice(None, None, first.step), *picks)]
    return result.reshape([len(r) for r in region])
