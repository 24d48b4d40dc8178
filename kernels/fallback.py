"""What a launch computes, for a GPU's kernel that may not be used: in MLX's operations, but that
NumPy encodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat

from .launch import Launch

if TYPE_CHECKING:
    import mlx.core as mx

    MxArray = mx.array
    MxDtype = mx.Dtype
else:
    MxArray = MxDtype = Any

__all__ = ["computed"]


def computed(started: Launch, inputs: list[MxArray], dtype: MxDtype) -> MxArray:
    """The result of the launch on its kernel's inputs, of its type.

    Weights are decoded some rows at a time (operations.py), and rounded to the type before they are
    multiplied.
    """
    import mlx.core as mx

    from . import operations

    fmt = formats.get(started.format)
    assert isinstance(fmt, GgmlFormat)
    kind = started.kernel.file
    if kind == "encode":
        rows, *importance = map(np.array, inputs)
        return mx.array(fmt.encode(rows, *importance)[0])
    if kind == "dequantize":
        wire = inputs[0]
        if "ids" not in started.kernel.inputs:
            return operations.rows(wire, mx.arange(wire.shape[0]), fmt, dtype)
        ids = inputs[1][: started.shape[0]]
        there = ids < wire.shape[0]
        out = operations.rows(wire, mx.where(there, ids, 0), fmt, dtype)
    elif kind == "gather":
        x, ids, wire = inputs
        ids = ids[: x.shape[0]]
        there = ids < wire.shape[0]
        out = operations.gather(x, mx.where(there, ids, 0), wire, fmt)
    else:
        x, wire = inputs
        return operations.product(x, wire, fmt)
    return mx.where(there[:, None], out, mx.array(float("nan"), dtype))
