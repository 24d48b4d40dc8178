"""Perplexity: how many equally likely tokens a model's surprise is worth.

    loss of a token   = log Σ exp(logits) - logit of the token that came      (nats)
    perplexity        = exp(mean loss)
    standard error    = perplexity · s / √n      s: standard deviation of the n losses (n - 1)

All of it in float64. The standard error is what mlx_lm.perplexity and llama-perplexity report; it
takes tokens as independent. The interval (statistics.py) does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scoring import Blame, Logits, each_window
from .statistics import Estimate, mean
from .windows import Windows

__all__ = ["Perplexity", "log_sums", "measure_perplexity", "token_losses"]

Float64 = NDArray[np.float64]
Ids = NDArray[np.int32]

#: called with (windows done, windows in all)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Perplexity:
    """What a model's surprise at a text was.

    Attributes:
        windows: what was scored.
        losses: float64 [windows, scored], nats: of every scored token.
    """

    windows: Windows
    losses: Float64

    @property
    def loss(self) -> float:
        """Mean loss, nats."""
        return math.fsum(self.losses.ravel()) / self.losses.size

    @property
    def value(self) -> float:
        """The perplexity; infinite where it exceeds every float64."""
        return _exp(self.loss)

    @property
    def standard_error(self) -> float | None:
        """Of `value`, tokens taken as independent; None for a single token."""
        n = self.losses.size
        return None if n < 2 else self.value * float(self.losses.std(ddof=1)) / math.sqrt(n)

    @property
    def estimate(self) -> Estimate:
        """`value` with its bootstrap interval."""
        return mean(self.losses).map(_exp)


def measure_perplexity(
    model: Any,
    windows: Windows,
    *,
    batch: int | None = None,
    blame: Blame | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Score windows by a model.

    Args: as `scoring.each_window`, and
        progress: called with (windows done, windows in all).

    Raises:
        ModelError: logits that are not finite, or not a language model's.
    """
    losses = np.empty((windows.count, windows.scored), np.float64)
    for i, logits in enumerate(each_window(model, windows, batch=batch, blame=blame)):
        losses[i] = window_losses(logits, windows.targets[i])
        if progress:
            progress(i + 1, windows.count)
    return Perplexity(windows, losses)


def window_losses(logits: Logits, targets: Ids) -> Float64:
    """Losses [scored] of one window."""
    parts = logits.each(lambda begin, end, rows: token_losses(rows, targets[begin:end]))
    return np.concatenate(list(parts))


def token_losses(logits: Float64, targets: Ids, sums: Float64 | None = None) -> Float64:
    """Losses [n] of tokens `targets` [n] under logits [n, vocabulary]; `sums`: their `log_sums`."""
    found = log_sums(logits) if sums is None else sums
    return found - np.asarray(logits[np.arange(len(targets)), targets])


def log_sums(logits: Float64) -> Float64:
    """log Σ exp of each row of [n, vocabulary], without overflow: [n]."""
    top = logits.max(axis=1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
