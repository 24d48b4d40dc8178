"""What quantization did to each weight: the error of the stored values, tensor by tensor.

    relative error of a tensor  =  ‖w − ŵ‖ / ‖w‖      (Frobenius norms, float64 sums)

It says where the damage to the weights is, not what it does to the model's answers: those are the
business of perplexity and divergence.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..formats.floats import to_float32
from ..quantize.policy import make_plan
from ..quantize.request import Request
from ..quantize.rows import float_rows, stored_rows

if TYPE_CHECKING:
    from ..formats.base import Array
    from ..load.checkpoint import Checkpoint
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Item

__all__ = ["Floats", "WeightError", "weight_errors"]

#: weights that a thread compares at a time
CHUNK = 1 << 18


@dataclass(frozen=True)
class WeightError:
    """One weight's error.

    Attributes:
        name: of the weight; `role`: by its name; `format`: what it is stored as.
        size: number of weights. nbytes: stored, scales included.
        squared_error, squared_norm: the sums behind `relative`.
        largest: largest absolute difference.
    """

    name: str
    role: str
    format: str
    size: int
    nbytes: int
    squared_error: float
    squared_norm: float
    largest: float

    @property
    def relative(self) -> float:
        """‖w − ŵ‖ / ‖w‖; 0 for two tensors of zeros."""
        if not self.squared_norm:
            return math.inf if self.squared_error else 0.0
        return math.sqrt(self.squared_error / self.squared_norm)


def weight_errors(
    original: Checkpoint, quantized: Checkpoint, *, threads: int | None = None
) -> Iterator[WeightError]:
    """Compare two checkpoints of one model, in the model's order and in bounded memory.

    Args:
        threads: that compare; None for one a core. The sums do not depend on it.

    Raises:
        ModelError: they have different weights.
    """
    from ..models.mlx_lm import resolve_model

    before, after = Floats(resolve_model(original)), Floats(resolve_model(quantized))
    if set(before.items) != set(after.items):
        odd = sorted(set(before.items) ^ set(after.items))
        raise ModelError(f"{quantized.path} is another model than {original.path}: {odd[0]!r}")
    for name, item in before.items.items():
        other = after.items[name]
        if item.shape != other.shape:
            raise ModelError(
                f"{quantized.path}: {name!r} has shape {list(other.shape)}, "
                f"{original.path} has {list(item.shape)}"
            )
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    own = threading.local()

    def compare(name: str, begin: int, end: int) -> tuple[float, float, float]:
        """Squared error, squared norm and largest difference of rows [begin, end)."""
        import mlx.core as mx

        if not hasattr(own, "stream"):  # MLX does one operation at a time in a stream
            own.stream = mx.new_stream(mx.cpu)
        with mx.stream(own.stream):
            w = before.rows(before.items[name], begin, end)
            difference = w - after.rows(after.items[name], begin, end)
        return (
            float(np.sum(np.square(difference, dtype=np.float64))),
            float(np.sum(np.square(w, dtype=np.float64))),
            float(np.abs(difference).max()),
        )

    try:
        pending = {
            name: [pool.submit(compare, name, *rows) for rows in _pieces(item)]
            for name, item in before.items.items()
        }
        for name, item in before.items.items():
            parts = [part.result() for part in pending.pop(name)]
            errors, norms, largest = zip(*parts, strict=True)
            other = after.items[name]
            yield WeightError(
                name,
                item.role,
                other.source,
                item.size,
                after.nbytes(other),
                sum(errors),
                sum(norms),
                max(largest),
            )
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(item: Item) -> Iterator[tuple[int, int]]:
    """Ranges of an item's rows, CHUNK weights each."""
    width = item.shape[-1] if item.shape else 1
    rows = item.size // width
    step = max(1, CHUNK // width)
    for begin in range(0, rows, step):
        yield begin, min(begin + step, rows)


class Floats:
    """A model's weights as float32 rows, whatever they are stored as.

    Args:
        source: the model.
        dtype: what packed weights are decoded in: `float32` for what scale · code + bias is; None
            for the type of their scales, which is what MLX's dequantize gives.

    Attributes:
        items: by name, in the model's order.
    """

    def __init__(self, source: SourceModel, dtype: str | None = None) -> None:
        self._source = source
        packed = any(module.quantized for module in source.modules.values())
        plan = make_plan(source, Request(dequantize=packed, dtype=dtype))
        self.items: dict[str, Item] = {item.name: item for item in plan.items}

    def rows(self, item: Item, begin: int, end: int) -> Array:
        """Rows [begin, end) as float32."""
        if item.decoded:
            return to_float32(float_rows(self._source, item, begin, end), item.dtype)
        node = self._source.parameters[item.name]
        width = item.shape[-1] if item.shape else 1
        values = stored_rows(self._source, item.name, node.dtype, begin * width, end * width)
        return to_float32(values, node.dtype).reshape(end - begin, width)

    def nbytes(self, item: Item) -> int:
        """Stored bytes of a weight, scales included."""
        parameters = self._source.parameters
        if not item.decoded:
            return parameters[item.name].nbytes
        parts = (f"{item.module}.{suffix}" for suffix in ("weight", "scales", "biases"))
        return sum(parameters[name].nbytes for name in parts if name in parameters)
