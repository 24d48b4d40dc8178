"""Rows of a model's weights, before and after: what the sink writes and what the metrics compare.

`float_rows` gives the rows that an item is quantized from: read, computed where the architecture
rearranges, cast, and decoded where the source is quantized. `encode_rows` gives the wire arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import formats
from ..errors import ModelError, one_line
from ..formats import MlxFormat
from ..formats.base import Array, NonFiniteError
from ..formats.floats import Float32, to_float32
from ..load.operations import cast, from_mx, to_mx

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from .policy import Item

__all__ = ["check_finite", "encode_rows", "float32_rows", "float_rows", "stored_rows"]

#: element type → (signed carrier, bits of infinity)
_INFINITY: dict[str, tuple[np.dtype[Any], int]] = {
    "F16": (np.dtype("<i2"), 0x7C00),
    "BF16": (np.dtype("<i2"), 0x7F80),
    "F32": (np.dtype("<i4"), 0x7F800000),
}

#: formats that MLX's CPU code encodes faster than NumPy does; both give the same bits
_ENCODED_BY_MLX = ("affine", "mxfp8")


def float_rows(source: SourceModel, item: Item, begin: int, end: int) -> Array:
    """Rows [begin, end) of an item's weight as floats in the carrier of `item.dtype`.

    Returns: [end - begin, k]; k is the weight's last axis.
    """
    if item.module is None or source.modules[item.module].quantized is None:
        node = source.parameters[item.name]
        return cast(node.rows(begin, end), node.dtype, item.dtype)
    import mlx.core as mx

    fmt = formats.get_mlx(item.source)
    config = fmt.mlx_config()
    parts = []
    scale_type = item.dtype
    for part in fmt.parts:
        node = source.parameters[f"{item.module}.{part.suffix}"]
        carrier = node.rows(begin, end)
        if node.dtype in _INFINITY:
            carrier = cast(carrier, node.dtype, item.dtype)
            parts.append(to_mx(carrier, item.dtype))
        else:
            parts.append(to_mx(carrier, node.dtype))
            scale_type = "BF16"
    if config["mode"] == "affine":
        scale_type = item.dtype
    values = mx.dequantize(*parts, **config)
    return cast(from_mx(values), scale_type, item.dtype)


def float32_rows(source: SourceModel, item: Item, begin: int, end: int) -> Float32:
    """As `float_rows`, float32.

    Raises:
        ModelError: a weight is NaN or infinite, with its place.
    """
    rows = to_float32(float_rows(source, item, begin, end), item.dtype)
    if not np.isfinite(rows).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise ModelError(
            f"{source.checkpoint.path}: tensor {one_line(item.name, 80)!r}: {rows[row, column]} at "
            f"row {begin + row}, column {column}; `mlxquant inspect --verify` lists every such "
            f"weight, --tensor '{item.module}=keep' leaves this one as it is"
        )
    return rows


def stored_rows(source: SourceModel, name: str, dtype: str, begin: int, end: int) -> Array:
    """Elements [begin, end) of a parameter in row-major order, cast.

    Raises:
        ModelError: a finite value is out of the new type's range.
    """
    node = source.parameters[name]
    values = node.flat(begin, end)
    if node.dtype == dtype:
        return values
    result = cast(values, node.dtype, dtype)
    if _is_non_finite(result, dtype) and not _is_non_finite(values, node.dtype):
        raise ModelError(
            f"{source.checkpoint.path}: tensor {one_line(name, 80)!r} has values that "
            f"{dtype} cannot hold; choose another --dtype"
        )
    return result


def encode_rows(
    target: MlxFormat,
    rows: Array,
    dtype: str,
    *,
    method: str = "rtn",
    importance: Array | None = None,
) -> tuple[Array, ...]:
    """The wire arrays of float rows.

    Args:
        target: the format.
        rows: [n, k] in the carrier of `dtype`.
        method: `rtn` for plain rounding, `search` for the scales of least error.
        importance: float32 [k] or None, what an error in each column counts; rounding ignores it.

    Raises:
        NonFiniteError: a weight is NaN or infinite, or a scale overflows its type.
    """
    check_finite(rows, dtype)
    if method == "search":
        from .search import search

        parts = search(target.with_dtype(dtype), to_float32(rows, dtype), importance)
    elif target.name.startswith(_ENCODED_BY_MLX):
        import mlx.core as mx

        wire = mx.quantize(to_mx(rows, dtype), **target.mlx_config())
        mx.eval(wire)
        parts = tuple(from_mx(array) for array in wire)
    else:
        parts = target.encode(to_float32(rows, dtype))
    for part, array in zip(target.parts, parts, strict=True):
        if part.dtype in _INFINITY and _is_non_finite(array, part.dtype):
            check_finite(array, part.dtype)
    return parts


def check_finite(rows: Array, dtype: str) -> None:
    """Raises NonFiniteError, naming the first place, if a value is NaN or infinite."""
    if not _is_non_finite(rows, dtype):
        return
    signed, infinity = _INFINITY[dtype]
    bad = (rows.view(signed) & np.iinfo(signed).max) >= infinity
    row, column = (int(i) for i in np.argwhere(bad)[0])
    value = float(to_float32(rows[row : row + 1, column], dtype)[0])
    raise NonFiniteError(row, column, value, int(bad.sum()))


def _is_non_finite(values: Array, dtype: str) -> bool:
    if dtype not in _INFINITY or not values.size:
        return False
    # The bits of a non-finite value, its sign aside, are those of infinity or above: the largest
    # of the array as a signed integer if it is positive, as an unsigned one if it is negative.
    signed, infinity = _INFINITY[dtype]
    unsigned = np.dtype(signed.str.replace("i", "u"))
    negative = infinity + (1 << (8 * signed.itemsize - 1))
    return bool(values.view(signed).max() >= infinity or values.view(unsigned).max() >= negative)
