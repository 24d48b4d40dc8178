"""Nodes of ggml blocks: a quantized tensor as the bytes of its rows, and as the floats they mean.

    dtype   Q4_K, MXFP4, …        a ggml type where other nodes have an element type
    shape   [..., rows, bytes]    elements are bytes

Whatever moves whole rows moves them undecoded; `floats_of` is for whatever computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import formats
from ..files.gguf_types import TENSOR_TYPES, GgmlType, tensor_type
from ..formats.base import Array
from ..formats.floats import FLOATS, to_float32
from .lazy import Node, Region

if TYPE_CHECKING:
    from ..formats.ggml_format import GgmlFormat

__all__ = ["BLOCK_TYPES", "decoder", "floats_of", "is_blocks", "weight_shape"]

#: ggml types of more than one weight a block
BLOCK_TYPES = frozenset(each.name for each in TENSOR_TYPES.values() if each.block_size > 1)


def is_blocks(node: Node) -> bool:
    """Whether a node's elements are bytes of blocks."""
    return node.dtype in BLOCK_TYPES


def weight_shape(node: Node) -> tuple[int, ...]:
    """The shape of the weights that a node stands for."""
    if not is_blocks(node):
        return node.shape
    kind = tensor_type(node.dtype)
    return (*node.shape[:-1], node.shape[-1] // kind.block_bytes * kind.block_size)


def decoder(type_name: str) -> GgmlFormat:
    """The format of a ggml type.

    Raises:
        ValueError: none decodes it.
    """
    from ..formats.ggml_format import GgmlFormat

    found = formats.get(type_name) if type_name in formats.names() else None
    if not isinstance(found, GgmlFormat):
        raise ValueError(f"type {type_name} cannot be decoded")
    return found


def floats_of(node: Node) -> Node:
    """A node of weights as F32: exact for every ggml type but F64, I32 and I64.

    Raises:
        ValueError: a type that has no decoder, packed words for example.
    """
    dtype = node.dtype
    if dtype == "F32":
        return node
    if is_blocks(node):
        return _decoded(node, decoder(dtype), tensor_type(dtype))
    if dtype not in FLOATS and dtype not in ("F64", "I8", "I16", "I32", "I64"):
        raise ValueError(f"type {dtype} cannot be decoded")

    def compute(region: Region) -> Array:
        values = np.ascontiguousarray(node.compute(region))
        if dtype in FLOATS:
            return to_float32(values, dtype)
        with np.errstate(over="ignore"):
            return values.astype(np.float32)

    return Node(node.shape, "F32", compute, "AsType", node.origin)


def _decoded(node: Node, block: GgmlFormat, kind: GgmlType) -> Node:
    from ..kernels import dequantize

    def compute(region: Region) -> Array:
        columns = region[-1]
        first, last = columns[0] // kind.block_size, columns[-1] // kind.block_size + 1
        wire = node.compute(
            (*region[:-1], range(first * kind.block_bytes, last * kind.block_bytes))
        )
        # one thread: whoever works through a model has threads of its own
        blocks = np.ascontiguousarray(wire).reshape(-1, wire.shape[-1])
        rows: Array = dequantize(blocks, block, threads=1)
        start = first * kind.block_size
        picked = rows[:, columns[0] - start : columns[-1] + 1 - start : columns.step]
        return picked.reshape([len(each) for each in region])

    return Node(weight_shape(node), "F32", compute, node.dtype, node.origin)
