"""A model over windows: the logits that predict the scored tokens, some rows of float64 at a time.

    tokens [batch, length - 1] ──model──▶ logits [batch, length - 1, vocabulary]
                                              └─ one window, its scored positions ──▶ Logits
                                                     └─ some rows ──▶ float64 [n, vocabulary]

While one batch is scored in NumPy, on threads, MLX computes the next. In memory are the logits of
a batch, those of the next if they are small, and a few arrays of CHUNK numbers a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..formats.base import Array
from ..formats.floats import to_float32
from .windows import Windows

__all__ = ["CHUNK", "Blame", "Logits", "NotFinite", "each_window"]

Float64 = NDArray[np.float64]
T = TypeVar("T")

#: where NaN came from, in words, or None: asked with the tokens [length] of the window concerned
Blame = Callable[[NDArray[np.int32]], str | None]

#: logits that a thread works on at a time
CHUNK = 1 << 18

#: bytes of logits that are computed at once, if a window's are not more
BATCH_BYTES = 32 << 20

#: windows of a batch at most, as mlx_lm.perplexity has them
BATCH = 8

_DTYPES = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}

_THREADS = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="measure")


class NotFinite(Exception):
    """Logits that are no finite numbers; `refuse` raises the error that says whose, and where."""

    def __init__(self, refuse: Callable[[], None]) -> None:
        super().__init__()
        self.refuse = refuse


@dataclass(eq=False)
class Logits:
    """One window's logits where they predict scored tokens, until the next window is asked for.

    Attributes:
        stored: [scored, vocabulary] in the element type of the model (bfloat16 as uint16).
        dtype: its name, `BF16`, `F16` or `F32`.
        refuse: called for numbers that are not finite; raises.
    """

    stored: Array
    dtype: str
    refuse: Callable[[], None]

    @property
    def scored(self) -> int:
        """Rows: predictions."""
        return int(self.stored.shape[0])

    @property
    def vocabulary(self) -> int:
        """Columns: numbers of a prediction."""
        return int(self.stored.shape[1])

    def rows(self, begin: int, end: int) -> Float64:
        """Rows [begin, end) as float64 [n, vocabulary], all finite, a copy; to be used in `each`.

        Raises:
            NotFinite: a NaN or an infinity.
        """
        rows = to_float32(self.stored[begin:end], self.dtype)
        if not np.isfinite(rows).all():
            raise NotFinite(self.refuse)
        return rows.astype(np.float64)

    def release(self) -> None:
        """Let go of the memory, whoever still holds this object (`enumerate` and `zip` do)."""
        self.stored = self.stored[:0].copy()

    @property
    def step(self) -> int:
        """Rows that are worked on at a time: CHUNK numbers, or one row."""
        return max(1, CHUNK // self.vocabulary)

    def each(self, work: Callable[[int, int, Float64], T], step: int | None = None) -> Iterator[T]:
        """`work(begin, end, rows)` for all rows, `step` at a time, on threads; in order.

        Raises:
            ModelError: a NaN or an infinity.
        """
        rows = self.step if step is None else step

        def one(begin: int) -> T:
            end = min(begin + rows, self.scored)
            return work(begin, end, self.rows(begin, end))

        try:
            yield from _THREADS.map(one, range(0, self.scored, rows))
        except NotFinite as found:
            # Whom to blame is asked here: threads that end with the process must not use MLX.
            found.refuse()
            raise


def each_window(
    model: Any,
    windows: Windows,
    *,
    start: int = 0,
    batch: int | None = None,
    blame: Blame | None = None,
    name: str = "the model",
) -> Iterator[Logits]:
    """Run a model over windows, from number `start`, in order.

    Args:
        model: token ids [b, t] → logits [b, t, vocabulary], as mlx-lm's models are called.
        batch: windows that the model is given at once; None for as many as BATCH and BATCH_BYTES
            allow. It changes the last bits of the logits, no more.
        blame: asked where numbers that are not finite come from; its answer ends the error.
        name: what errors call the model.

    Raises:
        ModelError: a NaN or an infinity among the logits of the window that is being looked at, or
            logits of another shape or element type than can be scored.
    """
    size = batch or 1
    coming: mx.array | None = None
    while start < windows.count:
        logits = _start(model, windows, start, size) if coming is None else coming
        begin, start = start, start + logits.shape[0]
        mx.eval(logits)
        if batch is None:
            size = max(1, min(BATCH, BATCH_BYTES * len(logits) // max(1, logits.nbytes)))
        # Large logits wait until those before are gone: two at a time would double the peak.
        early = logits.nbytes <= BATCH_BYTES and start < windows.count
        coming = _start(model, windows, start, size) if early else None
        _check_ids(name, windows, logits.shape[-1])
        stored, dtype = _carried(logits)
        del logits
        for i in range(len(stored)):
            refuse = _refusal(name, windows, begin + i, blame)
            window = Logits(stored[i, windows.predictions], dtype, refuse)
            yield window
            window.release()
        del stored


def _start(model: Any, windows: Windows, begin: int, size: int) -> mx.array:
    """Have MLX compute the logits of some windows, and do not wait for them."""
    inputs = windows.inputs[begin : begin + size]
    logits: mx.array = model(mx.array(inputs))
    if logits.ndim != 3 or logits.shape[:2] != inputs.shape:
        raise ModelError(
            f"logits of shape {list(logits.shape)} for tokens of shape {list(inputs.shape)}: not a "
            "language model that predicts each next token"
        )
    if logits.dtype not in _DTYPES:
        logits = logits.astype(mx.float32)
    mx.async_eval(logits)  # type: ignore[no-untyped-call]
    return logits


def _check_ids(name: str, windows: Windows, vocabulary: int) -> None:
    largest = int(windows.tokens.max())
    if largest >= vocabulary:
        raise ModelError(
            f"{name} predicts among {vocabulary} tokens, the text has token {largest}; the "
            "tokenizer is another model's"
        )


def _carried(logits: mx.array) -> tuple[Array, str]:
    """Computed logits as a NumPy array over the same memory, and the name of their type."""
    dtype = _DTYPES[logits.dtype]
    if dtype == "BF16":
        logits = logits.view(mx.uint16)
    return np.array(logits, copy=False), dtype


def _refusal(name: str, windows: Windows, index: int, blame: Blame | None) -> Callable[[], None]:
    def refuse() -> None:
        where = blame(windows.tokens[index]) if blame else None
        raise ModelError(
            f"{name}: logits that are no finite numbers in window {index + 1} of {windows.count}"
            + (f", {where}" if where else "")
            + "; mlxquant inspect --verify finds damaged weights"
        )

    return refuse
