"""What goes into a model's linear modules, while it runs.

A tapped module is of a class that hands its input to the watcher before it multiplies, and
multiplies what the watcher gives back; everything else about it is unchanged. Modules that are
given the same array form a group (q, k and v; gate and up): their inputs are measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from .statistics import Statistics

__all__ = ["Moments", "See", "can_be_tapped", "tapped"]

_LINEAR = (nn.Linear, nn.QuantizedLinear)
_EMBEDDING = (nn.Embedding, nn.QuantizedEmbedding)
_SWITCH = (SwitchLinear, QuantizedSwitchLinear)

#: (module's path, input, experts' indices or None) → what is multiplied
See = Callable[[str, mx.array, mx.array | None], mx.array]


def can_be_tapped(module: Any) -> bool:
    """Whether a module's input is known to be what its weight's rows multiply."""
    return isinstance(module, (*_LINEAR, *_EMBEDDING, *_SWITCH))


@contextmanager
def tapped(modules: Mapping[str, Any], see: See) -> Iterator[None]:
    """Within, every one of these modules multiplies what `see` makes of its input.

    Of an embedding it is the input of the output head that it also is, where it is one.
    """
    kinds = {path: type(module) for path, module in modules.items()}
    # classes are garbage that waits for the collector: what the watcher holds must not
    held = [see]
    try:
        for path, module in modules.items():
            module.__class__ = _tapping(kinds[path], path, held)
        yield
    finally:
        for path, module in modules.items():
            module.__class__ = kinds[path]
        held.clear()


def _tapping(kind: Any, path: str, held: list[See]) -> type:
    def linear(self: Any, x: mx.array) -> mx.array:
        return kind.__call__(self, held[0](path, x, None))  # type: ignore[no-any-return]

    def as_linear(self: Any, x: mx.array) -> mx.array:
        return kind.as_linear(self, held[0](path, x, None))  # type: ignore[no-any-return]

    def switch(self: Any, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        seen = held[0](path, x, indices)
        return kind.__call__(self, seen, indices, *args, **kwargs)  # type: ignore[no-any-return]

    if issubclass(kind, _EMBEDDING):
        return type(kind.__name__, (kind,), {"as_linear": as_linear})
    call = switch if issubclass(kind, _SWITCH) else linear
    return type(kind.__name__, (kind,), {"__call__": call})


class Moments:
    """The second moments of one input, summed up batch by batch.

    Args:
        full: keep Σ x·xᵀ and not only its diagonal.
        experts: (first, last) of the experts to measure, or None for a module without.
    """

    def __init__(self, *, full: bool, experts: range | None = None) -> None:
        self._full, self._experts = full, experts
        self._parts: dict[int, Statistics] = {}
        self._sum: mx.array | None = None
        self._squares: Any = 0.0
        self._count = 0

    def add(self, x: mx.array, indices: mx.array | None) -> None:
        """Take a batch's inputs.

        Args:
            x: [..., k]; of experts what mlx-lm's SwitchLinear is given, [..., 1, k].
            indices: of experts, which each row goes to.
        """
        if indices is not None:
            self._add_routed(x, indices)
            return
        rows = x.reshape(-1, x.shape[-1]).astype(mx.float32)
        self._count += rows.shape[0]
        if self._full:
            product = rows.T @ rows
            self._sum = product if self._sum is None else self._sum + product
            mx.eval(self._sum)
        else:
            squares = (rows * rows).sum(axis=0)
            mx.eval(squares)
            self._squares = self._squares + np.asarray(squares).astype(np.float64)

    def _add_routed(self, x: mx.array, indices: mx.array) -> None:
        width = x.shape[-1]
        routed = mx.broadcast_to(x, (*indices.shape, *x.shape[-2:])).reshape(-1, width)
        rows = np.asarray(routed.astype(mx.float32))
        owners = np.asarray(indices.reshape(-1))
        assert self._experts is not None
        for expert in self._experts:
            own = rows[owners == expert]
            self._parts[expert] = self._parts.get(expert, self._empty(width)) + _of(own, self._full)

    def _empty(self, width: int) -> Statistics:
        moments = np.zeros((width, width), np.float32) if self._full else None
        return Statistics(0, np.zeros(width), moments)

    def statistics(self) -> Statistics:
        """Of a module without experts."""
        if self._full:
            moments = np.asarray(self._sum)
            return Statistics(self._count, np.diagonal(moments).astype(np.float64), moments)
        return Statistics(self._count, self._squares, None)

    def of_experts(self) -> dict[int, Statistics]:
        """By expert."""
        return self._parts


def _of(rows: Any, full: bool) -> Statistics:
    moments = rows.T @ rows if full else None
    squares = np.einsum("tk,tk->k", rows, rows, dtype=np.float64)
    return Statistics(len(rows), squares, moments)
