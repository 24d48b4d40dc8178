"""Running an architecture's `sanitize` without reading a weight.

mlx-lm's `sanitize` turns a checkpoint's names and layouts into its own: it stacks experts, splits
fused projections, unpacks fp8 blocks. Here it runs once under MLX's tracer, over placeholders that
hold no data, and the traced primitives become lazy nodes (see `load.lazy`), so that any few rows
of any result can be computed later from the few bytes that they depend on.

Where `sanitize` looks at values, or uses a primitive without a rule, the tensors concerned are
computed whole by MLX when they are needed: correct all the same, with one tensor in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from ..formats.base import Array
from ..load.checkpoint import carrier_of
from ..load.lazy import Node, Region
from ..load.operations import Untraceable, apply, constant, from_mx, mx_dtype_name
from .virtual_file import lazy_array

__all__ = ["LOADED", "sanitized"]

Sanitize = Callable[[dict[str, Any]], Mapping[str, Any]]

#: how MLX loads each element type of a safetensors file
LOADED = {
    "BOOL": mx.bool_,
    "U8": mx.uint8,
    "I8": mx.int8,
    "F8_E4M3": mx.uint8,
    "F8_E8M0": mx.uint8,
    "F8_E5M2": mx.uint8,
    "U16": mx.uint16,
    "I16": mx.int16,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U32": mx.uint32,
    "I32": mx.int32,
    "F32": mx.float32,
    "U64": mx.uint64,
    "I64": mx.int64,
    "F64": mx.float64,
    "C64": mx.complex64,
}


def sanitized(given: Mapping[str, Node], sanitize: Sanitize) -> dict[str, Node]:
    """What `sanitize` makes of a checkpoint's tensors, as lazy nodes by name.

    Args:
        given: the tensors by name, in file order.
        sanitize: takes and returns a dict of arrays; may raise whatever it likes.
    """
    whole = _WholeTensors(given, sanitize)
    try:
        return _traced(given, sanitize, whole)
    except (Untraceable, ValueError, RuntimeError, TypeError):
        # The tracer could not follow (values were looked at, or a primitive has no exported
        # state). What `sanitize` itself raises comes back from the run over real arrays.
        return whole.nodes()


def _traced(given: Mapping[str, Node], sanitize: Sanitize, whole: _WholeTensors) -> dict[str, Node]:
    names: list[str] = []
    records: list[dict[str, Any]] = []

    def function(**weights: Any) -> list[Any]:
        result = sanitize(dict(sorted(weights.items(), key=lambda item: order[item[0]])))
        names[:] = list(result)
        return list(result.values())

    order = {name: i for i, name in enumerate(given)}
    placeholders = {name: mx.zeros(x.shape, dtype=LOADED[x.dtype]) for name, x in given.items()}
    with _exportable():
        mx.export_function(records.append, function, **placeholders)  # type: ignore[arg-type]

    nodes: dict[str, Node] = {}
    failed: set[str] = set()
    keywords: list[tuple[str, str]] = []
    outputs: list[tuple[str, Any, Any]] = []
    for record in records:
        kind = record["type"]
        if kind == "keyword_inputs":
            keywords = record["keywords"]
            for name, letter in keywords:
                nodes[letter] = _as_loaded(given[name])
        elif kind == "outputs":
            outputs = record["outputs"]
        elif kind == "constants":
            for letter, array in record["constants"]:
                nodes[letter] = constant(array)
        elif kind == "primitive":
            _add_primitive(record, nodes, failed)
    result: dict[str, Node] = {}
    for name, (letter, shape, dtype) in zip(names, outputs, strict=True):
        if letter in nodes:
            result[name] = nodes[letter]
        else:
            result[name] = whole.node(name, tuple(shape), mx_dtype_name(dtype))
    return result


def _add_primitive(record: dict[str, Any], nodes: dict[str, Node], failed: set[str]) -> None:
    """Add the nodes of one traced primitive; where it has no rule, what depends on it has none."""
    letters = [letter for letter, _, _ in record["outputs"]]
    inputs = [letter for letter, _, _ in record["inputs"]]
    if failed.intersection(inputs):
        failed.update(letters)
        return
    specs = [(tuple(shape), mx_dtype_name(dtype)) for _, shape, dtype in record["outputs"]]
    try:
        made = apply(record["name"], record["arguments"], [nodes[i] for i in inputs], specs)
    except Untraceable:
        failed.update(letters)
        return
    nodes.update(zip(letters, made, strict=True))


def _as_loaded(node: Node) -> Node:
    """MLX loads the 8-bit floats as their bytes."""
    if not node.dtype.startswith("F8"):
        return node
    return Node(node.shape, "U8", node.compute, node.label, node.origin)


@contextmanager
def _exportable() -> Iterator[None]:
    """Give two functions that the exporter cannot write an equivalent that it can.

    `contiguous` changes no value. `from_fp8` is a function of one byte, hence a table look-up.
    """
    originals = mx.contiguous, mx.from_fp8
    codes = mx.arange(256, dtype=mx.uint8)
    tables = {str(d): mx.from_fp8(codes, dtype=d) for d in (mx.bfloat16, mx.float16, mx.float32)}
    mx.eval(tables)

    def from_fp8(x: Any, dtype: Any = mx.bfloat16, **_: Any) -> Any:
        return mx.take(tables[str(dtype)], x)

    try:
        mx.contiguous = lambda x, *_, **__: x
        mx.from_fp8 = from_fp8
        yield
    finally:
        mx.contiguous, mx.from_fp8 = originals


class _WholeTensors:
    """The tensors that only a run over real arrays can give, one held at a time.

    A run's inputs are read when an array asks for them, and MLX asks for those behind one result.
    """

    def __init__(self, given: Mapping[str, Node], sanitize: Sanitize) -> None:
        self._given, self._sanitize = given, sanitize
        self._lock = threading.Lock()
        self._held: tuple[str, Array] | None = None

    def _load(self) -> dict[str, Any]:
        return {name: lazy_array(node) for name, node in self._given.items()}

    def nodes(self) -> dict[str, Node]:
        """Every result as a node; those that `sanitize` passes through stay as they were."""
        loaded = self._load()
        origin = {id(array): name for name, array in loaded.items()}
        kept = list(loaded.values())  # keeps the identities unique
        result: dict[str, Node] = {}
        for name, array in self._sanitize(dict(loaded)).items():
            if id(array) in origin:
                result[name] = _as_loaded(self._given[origin[id(array)]])
            else:
                result[name] = self.node(name, tuple(array.shape), mx_dtype_name(array.dtype))
        kept.clear()
        return result

    def node(self, name: str, shape: tuple[int, ...], dtype: str) -> Node:
        """One result, computed whole when a region of it is first asked for."""

        def compute(region: Region) -> Array:
            with self._lock:
                if self._held is None or self._held[0] != name:
                    self._held = None
                    self._held = (name, from_mx(self._sanitize(self._load())[name]))
                values = self._held[1]
            picked = values[tuple(slice(r[0], r[-1] + 1, r.step) for r in region)]
            return picked.astype(carrier_of(dtype), copy=False)

        return Node(shape, dtype, compute, "Whole")
