"""MLX on its CPU, in the arrays that mlxquant's formats speak.

Rows go to MLX twice over and come back once: on a CPU it takes nvfp4 only where the whole array has
a multiple of 32 weights.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlxquant.formats import MlxFormat

DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


def quantize(fmt: MlxFormat, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """mx.quantize of float32 [n, k], exact in `fmt.dtype` → arrays as a file holds them."""
    weights = mx.array(np.concatenate([rows, rows])).astype(DTYPES[fmt.dtype], stream=mx.cpu)
    wire = mx.quantize(weights, stream=mx.cpu, **fmt.mlx_config())
    return tuple(_stored(array)[: len(rows)] for array in wire)


def dequantize(fmt: MlxFormat, wire: tuple[np.ndarray, ...]) -> np.ndarray:
    """mx.dequantize in `fmt.dtype`, upcast to float32 [n, k]."""
    arrays = []
    for part, array in zip(fmt.parts, wire, strict=True):
        given = mx.array(np.concatenate([array, array]))
        arrays.append(given.view(mx.bfloat16, stream=mx.cpu) if part.dtype == "BF16" else given)
    rows = mx.dequantize(*arrays, dtype=DTYPES[fmt.dtype], stream=mx.cpu, **fmt.mlx_config())
    return np.array(rows.astype(mx.float32, stream=mx.cpu))[: len(wire[0])]


def _stored(array: mx.array) -> np.ndarray:
    return np.array(array.view(mx.uint16, stream=mx.cpu) if array.dtype == mx.bfloat16 else array)
