"""A language model whose every prediction is known: the logits depend on the last token alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxquant.measure.reference import write_reference
from mlxquant.measure.windows import Windows

__all__ = ["TableModel", "random_table", "write_slowly"]


class TableModel:
    """Token ids [b, t] → logits [b, t, vocabulary], row `token` of a table.

    Args:
        table: [vocabulary, vocabulary].
        dtype: element type of the logits.
    """

    def __init__(self, table: NDArray[np.float32], dtype: mx.Dtype = mx.float32) -> None:
        self.table = mx.array(table).astype(dtype)
        #: shapes that it was called with
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, tokens: mx.array) -> mx.array:
        self.calls.append(tuple(tokens.shape))
        return self.table[tokens]

    def rows(self, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
        """The logits behind tokens [...], exactly: [..., vocabulary]."""
        return np.array(self.table.astype(mx.float32)).astype(np.float64)[tokens]


def random_table(vocabulary: int, seed: int, spread: float = 3.0) -> NDArray[np.float32]:
    """A table of normally distributed logits."""
    generator = np.random.default_rng(seed)
    return (spread * generator.standard_normal((vocabulary, vocabulary))).astype(np.float32)


def write_slowly(
    path: Path,
    table: NDArray[np.float32],
    windows: Windows,
    origin: dict[str, str],
    ready: Any,
    go: Any,
) -> None:
    """Write a table's predictions; behind the first window, set `ready` and wait for `go`.

    For a process of its own, which imports it by this module's name.
    """

    def progress(done: int, _: int) -> None:
        if done == 1:
            ready.set()
            go.wait(60)

    write_reference(path, TableModel(table), windows, origin, progress=progress)
