"""Scales folded into weights: what is divided and what is multiplied, as lazy nodes.

Which groups an architecture has, and which scales do good, is decided in `awq.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..load.blocks import floats_of
from ..load.lazy import Node
from ..load.operations import constant, to_mx
from ..models.source_model import SourceModel
from .decoder import Pair
from .transform import replaced, scaled

__all__ = ["Folding", "Group", "fold", "of_rows", "vector"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """Modules that share an input, and what makes it.

    Attributes:
        kind: `attention`, `feed forward`, `output` or `down`.
        norm: path of the norm that makes the input, which multiplies by `unit + w`; or
        pair: the rows that make it.
        readers: paths of all that read it.
        heads, key_heads, head_width: where heads share the scales of the values that they read.
    """

    kind: str
    norm: str | None
    pair: Pair | None
    readers: tuple[str, ...]
    unit: int = 0
    heads: int = 1
    key_heads: int = 1
    head_width: int = 0

    @property
    def maker(self) -> str:
        """Path of the module whose output is divided."""
        if self.norm is not None:
            return self.norm
        assert self.pair is not None
        return self.pair.rows.path


@dataclass(frozen=True)
class Folding:
    """Scales that were folded.

    Attributes:
        group: where.
        scales: float32 [k], or [experts, k]: the new input of `group.readers` is x / scales.
        alpha: float32 [] or [experts]: the exponent; 0 for scales of one.
        error, before: squared error of the readers' outputs over their square, with and without
            the scales, on the rows that were looked at.
    """

    group: Group
    scales: Float32 = field(repr=False)
    alpha: Float32
    error: float
    before: float

    @property
    def gain(self) -> float:
        """How much of the error is left, 1 where nothing was gained."""
        return self.error / self.before if self.before else 1.0


def fold(source: SourceModel, found: Sequence[Folding]) -> SourceModel:
    """The model with these scales folded in; nothing is computed before it is asked for."""
    nodes: dict[str, Node] = {}

    def node(name: str) -> Node:
        return nodes.get(name) or source.parameters[name]

    for folding in found:
        group, scales = folding.group, folding.scales
        if (scales == 1).all():
            continue
        for path in group.readers:
            nodes[f"{path}.weight"] = scaled(node(f"{path}.weight"), columns=scales)
        if group.norm is not None:
            for name in (f"{group.norm}.weight", f"{group.norm}.bias"):
                if name in source.parameters:
                    unit = group.unit if name.endswith("weight") else 0
                    nodes[name] = _divided_norm(node(name), scales, unit)
            continue
        assert group.pair is not None
        rows = group.pair.rows
        weight, bias = f"{rows.path}.weight", f"{rows.path}.bias"
        factors = np.ones(source.parameters[weight].shape[:-1], dtype=np.float32)
        factors[..., rows.start : rows.stop] = 1 / of_rows(group, scales)
        nodes[weight] = scaled(node(weight), rows=factors)
        if bias in source.parameters:
            nodes[bias] = scaled(node(bias), columns=factors)
    return replaced(source, nodes, ())


def of_rows(group: Group, scales: Float32) -> Float32:
    """A number for each row that makes the input: one a value, where heads share them."""
    if group.heads == group.key_heads:
        return scales
    return scales.reshape(group.key_heads, -1, group.head_width)[:, 0].reshape(-1)


def _divided_norm(node: Node, scales: Float32, unit: int) -> Node:
    values = vector(node) + np.float32(unit)
    made = constant(to_mx(values / scales - np.float32(unit), "F32"))
    return Node(node.shape, "F32", made.compute, made.label, node.origin)


def vector(node: Node) -> Float32:
    """A small node's values, whole."""
    floats = floats_of(node)
    return np.array(floats.flat(0, floats.size), dtype=np.float32).reshape(node.shape)
