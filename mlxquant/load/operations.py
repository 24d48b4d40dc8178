"""How each of MLX's primitives answers for a region of its output.

One function a primitive: `(arguments, inputs, outputs' shapes and dtypes) -> list[Node]`. Moving
data (stack, split, slice, transpose, reshape, view, pad) is NumPy on carriers and exact. Arithmetic
is MLX's own, so that results equal what MLX would compute for the whole tensor.
A primitive that is not here raises Untraceable; the tensors behind it are then computed whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..formats.base import Array
from .checkpoint import carrier_of
from .lazy import Node, Region, region_of_flat

__all__ = ["MX_DTYPES", "Untraceable", "apply", "constant", "from_mx", "to_mx"]

Spec = tuple[tuple[int, ...], str]

#: MLX's type name → safetensors' name, as MLX saves them
MX_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}


class Untraceable(Exception):
    """This operation cannot be computed by regions."""


def to_mx(carrier: Array, dtype: str) -> Any:
    """A carrier array as an MLX array of that element type."""
    import mlx.core as mx

    if dtype == "BOOL":
        return mx.array(carrier.astype(np.bool_))
    array = mx.array(carrier)
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def from_mx(array: Any) -> Array:
    """An MLX array as its carrier; the two share their memory."""
    import mlx.core as mx

    return np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def constant(array: Any) -> Node:
    """The node of a small MLX array."""
    values = from_mx(array)

    def compute(region: Region) -> Array:
        return np.asarray(values[tuple(slice(r[0], r[-1] + 1, r.step) for r in region)])

    return Node(tuple(array.shape), mx_dtype_name(array.dtype), compute, "Constant")


def mx_dtype_name(dtype: Any) -> str:
    """safetensors' name of an MLX element type."""
    return MX_DTYPES[str(dtype).rsplit(".", 1)[-1]]


def apply(
    name: str, arguments: Sequence[Any], inputs: list[Node], outputs: list[Spec]
) -> list[Node]:
    """The nodes that a primitive makes from its inputs.

    Raises:
        Untraceable: the primitive, or this use of it, has no rule here.
    """
    origin = inputs[0].origin if inputs else ("", 0)
    if name == "Split":
        pieces = zip(outputs, _split(arguments, inputs[0], outputs), strict=True)
        return [Node(shape, dtype, compute, name, origin) for (shape, dtype), compute in pieces]
    rule = _RULES.get(name)
    if rule is None or len(outputs) != 1:
        raise Untraceable(name)
    shape, dtype = outputs[0]
    return [Node(shape, dtype, rule(arguments, inputs, shape, dtype), name, origin)]


Compute = Callable[[Region], Array]


def _lengths(region: Region) -> list[int]:
    return [len(r) for r in region]


def _expand_dims(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    axes = {a % len(shape) for a in arguments[0]}
    (x,) = inputs
    return lambda region: x.compute(
        tuple(r for i, r in enumerate(region) if i not in axes)
    ).reshape(_lengths(region))


def _squeeze(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    axes = {a % len(x.shape) for a in arguments[0]}

    def compute(region: Region) -> Array:
        rest = iter(region)
        wanted = tuple(range(1) if i in axes else next(rest) for i in range(len(x.shape)))
        return x.compute(wanted).reshape(_lengths(region))

    return compute


def _transpose(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    order = list(arguments[0])
    inverse = [order.index(i) for i in range(len(order))]
    return lambda region: np.transpose(x.compute(tuple(region[i] for i in inverse)), order)


def _slice(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    start, stop, strides = arguments
    if any(step < 1 for step in strides):
        raise Untraceable("Slice with a negative stride")
    axes = [range(*t) for t in zip(start, stop, strides, strict=True)]
    return lambda region: x.compute(
        tuple(a[r.start : r[-1] + 1 : r.step] for a, r in zip(axes, region, strict=True))
    )


def _split(arguments: Sequence[Any], x: Node, outputs: list[Spec]) -> list[Compute]:
    axis = arguments[-1] % len(x.shape)
    pieces, at = [], 0
    for shape, dtype in outputs:
        begin = [0] * len(shape)
        begin[axis] = at
        end = [b + n for b, n in zip(begin, shape, strict=True)]
        pieces.append(_slice((begin, end, [1] * len(shape)), [x], shape, dtype))
        at += shape[axis]
    return pieces


def _concatenate(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    axis = arguments[0] % len(shape)

    def compute(region: Region) -> Array:
        wanted = region[axis]
        pieces, at = [], 0
        for x in inputs:
            n = x.shape[axis]
            first = max(0, -(-(at - wanted.start) // wanted.step))
            last = min(len(wanted), -(-(at + n - wanted.start) // wanted.step))
            if first < last:
                part = wanted[first:last]
                inner = range(part.start - at, part[-1] + 1 - at, part.step)
                pieces.append(x.compute((*region[:axis], inner, *region[axis + 1 :])))
            at += n
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)

    return compute


def _reshape(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    return lambda region: region_of_flat(shape, region, x.flat, carrier_of(dtype))


def _view(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    new, old = carrier_of(dtype), carrier_of(x.dtype)

    def read(begin: int, end: int) -> Array:
        low, high = begin * new.itemsize, end * new.itemsize
        first, last = low // old.itemsize, -(-high // old.itemsize)
        raw = x.flat(first, last).view(np.uint8)
        base = first * old.itemsize
        return np.ascontiguousarray(raw[low - base : high - base]).view(new)

    return lambda region: region_of_flat(shape, region, read, new)


def _broadcast(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    extra = len(shape) - len(x.shape)

    def compute(region: Region) -> Array:
        wanted = tuple(
            range(1) if n == 1 else r for n, r in zip(x.shape, region[extra:], strict=True)
        )
        return np.broadcast_to(x.compute(wanted), _lengths(region))

    return compute


def _pad(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    x, fill = inputs
    axes, low, high = arguments
    del high
    before = [0] * len(shape)
    for axis, n in zip(axes, low, strict=True):
        before[axis] = n

    def compute(region: Region) -> Array:
        out = np.empty(_lengths(region), dtype=carrier_of(dtype))
        out[...] = fill.compute(())
        into, wanted = [], []
        for r, b, n in zip(region, before, x.shape, strict=True):
            first = max(0, -(-(b - r.start) // r.step))
            last = min(len(r), -(-(b + n - r.start) // r.step))
            if first >= last:
                return out
            part = r[first:last]
            into.append(slice(first, last))
            wanted.append(range(part.start - b, part[-1] + 1 - b, part.step))
        out[tuple(into)] = x.compute(tuple(wanted))
        return out

    return compute


def _gather(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    """`x[3]`, or a look-up in a small one-dimensional table, as `from_fp8` is traced."""
    x, index = inputs[0], inputs[-1]
    axes, sizes = list(arguments[0]), tuple(arguments[1])
    if len(inputs) != 2 or len(axes) != 1:
        raise Untraceable("Gather")
    if index.label == "Constant" and index.shape == ():
        start = int(index.compute(())) % x.shape[axes[0]]

        def one(region: Region) -> Array:
            wanted = list(region)
            wanted[axes[0]] = range(start, start + 1)
            return x.compute(tuple(wanted))

        if sizes[axes[0]] == 1:
            return one
    if len(x.shape) != 1 or x.size > 65536 or sizes != (1,):
        raise Untraceable("Gather")

    def look_up(region: Region) -> Array:
        table = x.compute((range(x.size),))
        picked = table[index.compute(region[:-1]).astype(np.int64)]
        return picked.reshape(_lengths(region))

    return look_up


def _elementwise(function: str) -> Callable[..., Compute]:
    def rule(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
        if arguments or any(x.dtype in ("F64", "C64") for x in inputs):
            raise Untraceable(function)

        def compute(region: Region) -> Array:
            import mlx.core as mx

            values = [to_mx(np.ascontiguousarray(x.compute(region)), x.dtype) for x in inputs]
            return from_mx(getattr(mx, function)(*values))

        return compute

    return rule


def _as_type(arguments: Sequence[Any], inputs: list[Node], shape: Any, dtype: str) -> Compute:
    (x,) = inputs
    return lambda region: cast(x.compute(region), x.dtype, dtype)


def cast(carrier: Array, old: str, new: str) -> Array:
    """An array of one element type as another, rounded as MLX rounds."""
    if old == new:
        return carrier
    import mlx.core as mx

    target = next(k for k, v in MX_DTYPES.items() if v == new)
    name = "bool_" if target == "bool" else target
    return from_mx(to_mx(np.ascontiguousarray(carrier), old).astype(getattr(mx, name)))


_RULES: dict[str, Callable[..., Compute]] = {
    "ExpandDims": _expand_dims,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Concatenate": _concatenate,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Unflatten": _reshape,
    "View": _view,
    "Broadcast": _broadcast,
    "Pad": _pad,
    "Gather": _gather,
    "AsType": _as_type,
    "Add": _elementwise("add"),
    "Subtract": _elementwise("subtract"),
    "Multiply": _elementwise("multiply"),
    "Divide": _elementwise("divide"),
    "Negative": _elementwise("negative"),
    "Maximum": _elementwise("maximum"),
    "Minimum": _elementwise("minimum"),
    "Exp": _elementwise("exp"),
    "Abs": _elementwise("abs"),
    "Square": _elementwise("square"),
}
