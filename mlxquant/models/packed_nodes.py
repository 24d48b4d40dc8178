"""MLX's packed weights as nodes: of ggml's blocks where a type holds them, and of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .. import formats
from ..files.gguf_types import tensor_type
from ..formats.base import Array
from ..formats.floats import FLOATS
from ..formats.mlx_format import MlxFormat
from ..formats.repack import from_mlx, held_by_ggml
from ..load.lazy import Node, Region

if TYPE_CHECKING:
    from .mlx_lm import SourceModel

__all__ = ["as_blocks", "as_floats"]

#: scales looked at in one go
_CHUNK = 1 << 18


def as_blocks(source: SourceModel, path: str) -> tuple[Node | None, str]:
    """A packed weight as blocks of the ggml type that holds its codes and scales exactly.

    Reads the module's scales. Returns: the node, or None and why no type holds them.
    """
    fmt, parts = _parts(source, path)
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


def as_floats(source: SourceModel, path: str) -> Node:
    """A packed weight as F32, the values that MLX's dequantize gives in the type of its scales."""
    fmt, parts = _parts(source, path)
    *lead, groups = parts[1].shape
    return _rows_node(parts, (*lead, groups * fmt.block_size), "F32", fmt.decode)


def _parts(source: SourceModel, path: str) -> tuple[MlxFormat, list[Node]]:
    """The format of a module, with the type of its scales, and its stored arrays."""
    fmt = formats.get_mlx(str(source.modules[path].quantized))
    parts = [source.parameters[f"{path}.{part.suffix}"] for part in fmt.parts]
    return fmt.with_dtype(parts[1].dtype if parts[1].dtype in FLOATS else "BF16"), parts


def _rows_node(
    parts: list[Node],
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
