"""How long distillation trains, and how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    The bundled model at 3 bits in groups of 64, by gptq: two epochs leave 0.77 of the divergence on
    one text that was not trained on and 0.75 on another. On windows that were held out, one epoch
    leaves 0.76 with steps of one window, 0.78 of two and 0.80 of four; at half the rate 0.78; two
    epochs of single windows leave 0.71.

    Attributes:
        epochs: times that every window is seen.
        batch: windows of a step.
        rate: the highest step, in units of `student.py`; falls along half a cosine to 0.
        warmup: part of all steps in which the rate rises.
        checks: times that the held-out windows are looked at, and the state is kept for a resumed
            run, beside the one before the first step.
        seed: of the order of windows.
    """

    epochs: int = 2
    batch: int = 1
    rate: float = 3e-3
    warmup: float = 0.1
    checks: int = 4
    seed: int = 0

    def steps(self, windows: int) -> int:
        """Steps in all."""
        return self.epochs * -(-windows // self.batch)

    def rate_of(self, step: int, steps: int) -> float:
        """The rate of one of so many steps."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2

    def windows_of(self, step: int, windows: int) -> list[int]:
        """Which windows a step sees: every one once in an epoch, in an order of the seed."""
        per_epoch = -(-windows // self.batch)
        epoch, at = divmod(step, per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(windows)
        return [int(i) for i in order[at * self.batch : (at + 1) * self.batch]]
