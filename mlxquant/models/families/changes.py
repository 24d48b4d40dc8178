"""What happens to a tensor on its way between an MLX folder and a GGUF file, and back.

A change maps lazy nodes to lazy nodes, so that a few rows of its result cost a few rows of its
input. All but those marked `values` move whole rows only, whatever a row holds: they do the same to
float weights [rows, columns] and to a block format's wire bytes [rows, bytes] (`load.blocks`), as
long as all parts are of one format. The others decode blocks first.

    Same               x                                    x
    RopePairs          rows [h, 2, d/2]                     rows [h, d/2, 2]      d rows a head
    Stack              n of [rows, …]                       [n, rows, …]
    Joined             [a, …], [b, …]                       [a + b, …]
    Row                [1, n]                               [n]
    OnePlus            w                                    1 + w                 values
    KeyValueHalves     [h·(k+v), rank]                      [h, rank, k], [h, v, rank]   values
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ModelError
from ...formats.base import Array
from ...load.blocks import floats_of, is_blocks
from ...load.lazy import Node, Region
from ...load.operations import apply

__all__ = [
    "SAME",
    "Change",
    "Joined",
    "KeyValueHalves",
    "OnePlus",
    "RopePairs",
    "Row",
    "Stack",
    "as_float32",
    "constant",
]

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One tensor on either side, the same."""

    @property
    def values(self) -> bool:
        """Whether the change computes with weights, so that they must be floats."""
        return False

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """The GGUF's tensors of the model's."""
        return nodes

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """The model's tensors of the GGUF's: the exact inverse."""
        return nodes


SAME = Change()


@dataclass(frozen=True)
class RopePairs(Change):
    """The rows of q or k, whose halves rotate together in the one and neighbours in the other.

    Args:
        heads: the key of config.json that says how many heads the rows make.
    """

    heads: str

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """Row j of a head's first half becomes row 2j, of its second half row 2j + 1."""
        (x,) = nodes
        rows = self._rows_of_a_head(x, config)
        order = np.arange(rows).reshape(2, rows // 2).T.reshape(-1)
        return [_reorder(x, order)]

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """Even rows of a head become its first half, odd rows its second."""
        (x,) = nodes
        rows = self._rows_of_a_head(x, config)
        order = np.arange(rows).reshape(rows // 2, 2).T.reshape(-1)
        return [_reorder(x, order)]

    def _rows_of_a_head(self, x: Node, config: Config) -> int:
        heads: int = config[self.heads]
        rows, rest = divmod(x.shape[0], heads)
        if rest or rows % 2:
            raise ModelError(f"{x.shape[0]} rows do not make {heads} even heads")
        return rows


@dataclass(frozen=True)
class Stack(Change):
    """Experts, apart in the one and stacked in the other."""

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """Several [rows, …] → one [n, rows, …]."""
        nodes = _alike(nodes)
        first = nodes[0]
        for x in nodes:
            if x.shape != first.shape or x.dtype != first.dtype:
                raise ModelError(
                    f"experts differ: {first.dtype} {list(first.shape)} and "
                    f"{x.dtype} {list(x.shape)}"
                )

        def compute(region: Region) -> Array:
            return np.stack([nodes[i].compute(region[1:]) for i in region[0]])

        return [Node((len(nodes), *first.shape), first.dtype, compute, "Stack", first.origin)]

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """One [n, rows, …] → n of [rows, …]."""
        (x,) = nodes
        return [_index(x, i) for i in range(x.shape[0])]


@dataclass(frozen=True)
class Joined(Change):
    """Several matrices in the one, all their rows in one matrix of the other.

    Args:
        keys: of config.json; the parts' rows are in the proportion of their values. Without, all
            parts have as many.
        changes: of each part, before it is joined. axis: of the rows.
    """

    changes: tuple[Change, ...]
    keys: tuple[str, ...] = ()
    axis: int = 0

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """Several [a, …], [b, …] → one [a + b, …]."""
        parts = [
            change.to_gguf([node], config)[0]
            for change, node in zip(self.changes, _alike(nodes), strict=True)
        ]
        shape = [*parts[0].shape]
        shape[self.axis] = sum(part.shape[self.axis] for part in parts)
        return [_apply("Concatenate", (self.axis,), parts, shape)]

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """One [a + b, …] → [a, …], [b, …]."""
        (x,) = nodes
        shares: list[int] = [config[key] for key in self.keys] or [1] * len(self.changes)
        unit, rest = divmod(x.shape[self.axis], sum(shares))
        if rest:
            raise ModelError(f"{x.shape[self.axis]} rows do not make {shares} parts")
        found, begin = [], [0] * len(x.shape)
        for share, change in zip(shares, self.changes, strict=True):
            end = [*x.shape]
            end[self.axis] = begin[self.axis] + unit * share
            shape = [e - b for b, e in zip(begin, end, strict=True)]
            part = _apply("Slice", (tuple(begin), tuple(end), (1,) * len(shape)), [x], shape)
            found += change.to_hf([part], config)
            begin[self.axis] = end[self.axis]
        return found


@dataclass(frozen=True)
class Row(Change):
    """A matrix of one row, which GGUF holds as a vector."""

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """[1, n] → [n]."""
        (x,) = nodes
        if len(x.shape) != 2 or x.shape[0] != 1:
            raise ModelError(f"shape {list(x.shape)}, one row expected")
        return [_index(x, 0)]

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """[n] or [1, n] → [1, n]."""
        (x,) = nodes
        if len(x.shape) == 2:
            return [x]
        return Stack().to_gguf([x], config)


@dataclass(frozen=True)
class OnePlus(Change):
    """Gemma's norms: the model stores w and multiplies by 1 + w, GGUF stores 1 + w.

    In float32, where 1 + w is exact for a bfloat16 w of at least 2^-16 in size.
    """

    @property
    def values(self) -> bool:
        """It adds."""
        return True

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """w → 1 + w, F32."""
        return [_map(as_float32(nodes[0]), lambda w: np.float32(1) + w)]

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """w → w - 1, F32."""
        return [_map(as_float32(nodes[0]), lambda w: w - np.float32(1))]


@dataclass(frozen=True)
class KeyValueHalves(Change):
    """Multi-head latent attention's second key-value matrix, [heads · (k + v), rank].

    GGUF keeps its key half transposed, ready to be applied to queries.
    """

    @property
    def values(self) -> bool:
        """Transposing moves weights across rows, which blocks do not allow."""
        return True

    def to_gguf(self, nodes: list[Node], config: Config) -> list[Node]:
        """[heads · (k + v), rank] → [heads, rank, k] and [heads, v, rank]."""
        x = as_float32(nodes[0]) if is_blocks(nodes[0]) else nodes[0]
        heads, k, v = self._sizes(config)
        rank = x.shape[-1]
        if x.shape[0] != heads * (k + v):
            raise ModelError(f"{x.shape[0]} rows, {heads} heads of {k} + {v} expected")
        joined = _apply("Reshape", (), [x], (heads, k + v, rank))
        keys = _apply("Slice", ((0, 0, 0), (heads, k, rank), (1, 1, 1)), [joined], (heads, k, rank))
        return [
            _apply("Transpose", ((0, 2, 1),), [keys], (heads, rank, k)),
            _apply(
                "Slice", ((0, k, 0), (heads, k + v, rank), (1, 1, 1)), [joined], (heads, v, rank)
            ),
        ]

    def to_hf(self, nodes: list[Node], config: Config) -> list[Node]:
        """[heads, rank, k] and [heads, v, rank] → [heads · (k + v), rank]."""
        keys, values = (as_float32(x) if is_blocks(x) else x for x in nodes)
        heads, k, v = self._sizes(config)
        rank = values.shape[-1]
        turned = _apply("Transpose", ((0, 2, 1),), [keys], (heads, k, rank))
        joined = _apply("Concatenate", (1,), [turned, values], (heads, k + v, rank))
        return [_apply("Reshape", (), [joined], (heads * (k + v), rank))]

    def _sizes(self, config: Config) -> tuple[int, int, int]:
        return config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]


def _alike(nodes: list[Node]) -> list[Node]:
    """Parts that are put together: blocks of different formats become floats."""
    if len({x.dtype for x in nodes}) > 1 and any(map(is_blocks, nodes)):
        return [as_float32(x) for x in nodes]
    return nodes


def as_float32(x: Node) -> Node:
    """A node of floats or of blocks as F32.

    Raises:
        ModelError: the node holds something else, such as packed words.
    """
    try:
        return floats_of(x)
    except ValueError as problem:
        raise ModelError(
            f"{problem} where floats are needed: dequantize this tensor first"
        ) from problem


def constant(values: Array) -> Node:
    """A small float32 array as a node."""

    def compute(region: Region) -> Array:
        return np.asarray(values[tuple(slice(r.start, r[-1] + 1, r.step) for r in region)])

    return Node(values.shape, "F32", compute, "Constant")


def _reorder(x: Node, order: Array) -> Node:
    """Rows in blocks of len(order); row i of a block is row order[i] of the same block of `x`.

    Reads whole blocks, of which the rows asked for are picked.
    """
    block = len(order)

    def compute(region: Region) -> Array:
        wanted = np.asarray(region[0])
        first, last = wanted[0] // block, wanted[-1] // block + 1
        part = x.compute((range(int(first) * block, int(last) * block), *region[1:]))
        picked: Array = part[(wanted // block - first) * block + order[wanted % block]]
        return picked

    return Node(x.shape, x.dtype, compute, "Reorder", x.origin)


def _index(x: Node, i: int) -> Node:
    """`x[i]`."""
    one = range(i, i + 1)
    file, offset = x.origin
    size = math.prod(x.shape[1:]) * (x.nbytes // max(x.size, 1))
    return Node(
        x.shape[1:],
        x.dtype,
        lambda region: x.compute((one, *region))[0],
        "Index",
        (file, offset + i * size),
    )


def _map(x: Node, function: Callable[[Array], Array]) -> Node:
    return Node(x.shape, x.dtype, lambda region: function(x.compute(region)), "Map", x.origin)


def _apply(name: str, arguments: tuple[Any, ...], inputs: list[Node], shape: Any) -> Node:
    return apply(name, arguments, inputs, [(tuple(shape), inputs[0].dtype)])[0]
