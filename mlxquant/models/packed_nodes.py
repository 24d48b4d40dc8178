"""MLX's packed weights as nodes: of ggml's blocks where a type holds them, and of floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .. import formats
from ..files.gguf_types import tensor_type
from ..formats.base import Array
from ..formats.floats import FLOATS
from ..formats.mlx_format import MlxFormat
from ..formats.repack import from_mlx, held_by_ggml
from ..load.lazy import Node, Region

__all__ = ["as_blocks", "as_floats", "packed_format"]

#: scales looked at in one go
_CHUNK = 1 << 18


def as_blocks(fmt: MlxFormat, parts: Sequence[Node]) -> tuple[Node | None, str]:
    """A packed weight as blocks of the ggml type that holds its codes and scales exactly.

    Reads the scales.

    Args:
        fmt: its format; parts: the nodes of the format's parts.

    Returns: the node, or None and why no type holds them.
    """
    *lead, groups = parts[1].shape
    rows = math.prod(lead)
    step = max(1, _CHUNK // groups)
    held = None
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        numbers = [part.rows(begin, end) for part in parts[1:]]

        def words(begin: int = begin, end: int = end) -> Array:
            return parts[0].rows(begin, end)

        biases = numbers[1] if len(numbers) > 1 else None
        found = held_by_ggml(fmt, numbers[0], biases, words)
        held = found if held is None else held + found
        if not held:
            return None, held.reason
    assert held is not None  # a weight has rows
    kind = tensor_type(held.types[0])
    width = groups * fmt.block_size // kind.block_size * kind.block_bytes

    def wire(arrays: tuple[Array, ...]) -> Array:
        return from_mlx(fmt, kind.name, arrays)

    return _rows_node(parts, (*lead, width), kind.name, wire), ""


def as_floats(fmt: MlxFormat, parts: Sequence[Node]) -> Node:
    """A packed weight as F32, the values that MLX's dequantize gives in the type of its scales."""
    *lead, groups = parts[1].shape
    return _rows_node(parts, (*lead, groups * fmt.block_size), "F32", fmt.decode)


def packed_format(name: str, scales: Node) -> MlxFormat:
    """The format of that name for scales of this type."""
    return formats.get_mlx(name, scales.dtype if scales.dtype in FLOATS else "BF16")


def _rows_node(
    parts: Sequence[Node],
    shape: tuple[int, ...],
    dtype: str,
    made: Callable[[tuple[Array, ...]], Array],
) -> Node:
    """A node whose rows are made of the same rows of several others."""

    def compute(region: Region) -> Array:
        arrays = []
        for part in parts:
            rows = part.compute((*region[:-1], range(part.shape[-1])))
            arrays.append(np.ascontiguousarray(rows).reshape(-1, part.shape[-1]))
        columns = region[-1]
        picked = made(tuple(arrays))[:, columns[0] : columns[-1] + 1 : columns.step]
        return picked.reshape([len(each) for each in region])

    return Node(shape, dtype, compute, dtype, parts[0].origin)
