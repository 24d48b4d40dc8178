"""One format judged on one machine, and which of several judged ones to take.

How one is picked among those that fit:

    quality   the smallest of those that divergence cannot tell from the original (HARMLESS); where
              there is none, the one that loses least
    speed     the one that reads least for a token, of those that lose little (LITTLE)
    size      the smallest, of those whose answers are still alike (MUCH)

Where none is within the bound, the one that loses least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .candidates import AS_IT_IS, Candidate
from .expected_loss import Loss, estimated, measured
from .gather import Measured
from .machine_classes import Target
from .memory_model import PREFILL, Footprint, Memory

__all__ = ["GOALS", "HARMLESS", "LITTLE", "MUCH", "Judge", "Judged", "longest_context", "pick"]

GOALS = ("quality", "speed", "size")

#: mean divergences, nats a token. Llama 3 8B in llama.cpp's types: at the first (Q6_K) 4 tokens in
#: 100 have another likeliest token than the original's; at the second (Q3_K_M) 15; at the third
#: (Q2_K) 29.
HARMLESS, LITTLE, MUCH = 0.005, 0.1, 0.5

#: a context that no machine has room for
_MOST_TOKENS = 1 << 24


@dataclass(frozen=True)
class Judged:
    """A format, judged on a machine.

    Attributes:
        candidate: the format.
        memory: what it takes; fits: whether that is within the machine's budget.
        token_bytes: that a token reads; rate: tokens a second that the bandwidth allows, or None.
        loss: measured or estimated.
        command: that makes it.
    """

    candidate: Candidate
    memory: Memory
    fits: bool
    token_bytes: int
    rate: float | None
    loss: Loss
    command: str

    @property
    def name(self) -> str:
        """The format's."""
        return self.candidate.name

    def to_json(self) -> dict[str, Any]:
        """As plain data; sizes in bytes."""
        return {
            "format": self.name,
            "bits_per_weight": self.candidate.bits_per_weight,
            "weights": self.memory.weights,
            "cache": self.memory.cache,
            "working": self.memory.working,
            "total": self.memory.total,
            "fits": self.fits,
            "bytes_per_token": self.token_bytes,
            "tokens_per_second": self.rate,
            "kl": dataclasses.asdict(self.loss),
            "command": self.command,
        }


@dataclass(frozen=True)
class Judge:
    """Who judges the formats of one model on one machine.

    Attributes:
        footprint: of the model. target: the machine. context: tokens. kv_bits: of the cache.
        stored: the model as it is on disk.
        model: what the user typed; also: options for every command.
        names: what results may call the model; records: eval records.
    """

    footprint: Footprint
    target: Target
    context: int
    kv_bits: int | None
    stored: Candidate
    model: str | None = None
    also: Sequence[str] = ()
    names: frozenset[str] = frozenset()
    records: Sequence[Measured] = ()

    def __call__(self, candidate: Candidate) -> Judged:
        """The verdict on a format."""
        memory = self.memory(candidate)
        read = self.footprint.token_bytes(
            candidate.parts, self.context, candidate.itemsize, self.kv_bits
        )
        rate = self.target.bandwidth / read if self.target.bandwidth else None
        return Judged(
            candidate,
            memory,
            memory.total <= self.target.budget,
            read,
            rate,
            self.loss(candidate),
            candidate.command(self.model, self.also),
        )

    def memory(self, candidate: Candidate, **changes: Any) -> Memory:
        """What a format takes, under these circumstances or with changes of them.

        Args:
            changes: `context`, `kv_bits` or `prefill`.
        """
        given = {"context": self.context, "kv_bits": self.kv_bits, "prefill": PREFILL, **changes}
        return self.footprint.memory(
            candidate.weights, itemsize=candidate.itemsize, device=self.target.device, **given
        )

    def fits(self, candidate: Candidate, **changes: Any) -> bool:
        """Whether that is within the machine's budget."""
        return self.memory(candidate, **changes).total <= self.target.budget

    def loss(self, candidate: Candidate) -> Loss:
        """What a format loses; what the stored model has lost already is added to an estimate."""
        found = measured(candidate, self.names, self.records)
        if found is not None:
            return found
        own = estimated(candidate)
        if candidate.name == AS_IT_IS or not self.stored.formats:
            return own
        before = estimated(self.stored)
        return dataclasses.replace(
            own,
            kl=own.kl + before.kl,
            low=(own.low or 0.0) + (before.low or 0.0),
            high=(own.high or 0.0) + (before.high or 0.0),
        )


def rank(judged: Judged, goal: str) -> tuple[float, ...]:
    """What a goal sorts by, the best first."""
    loss, size = judged.loss.kl, judged.memory.weights
    return {
        "quality": (loss, size),
        "speed": (judged.token_bytes, loss),
        "size": (size, loss),
    }[goal]


def pick(judged: Iterable[Judged], goal: str) -> Judged | None:
    """The format to take; None where none fits."""
    fitting = [each for each in judged if each.fits]
    if not fitting:
        return None
    bound = {"quality": HARMLESS, "speed": LITTLE, "size": MUCH}[goal]
    good = [each for each in fitting if each.loss.kl <= bound]
    if not good:
        return min(fitting, key=lambda each: rank(each, "quality"))
    return min(good, key=lambda each: rank(each, "size" if goal == "quality" else goal))


def longest_context(judge: Judge, candidate: Candidate, most: int | None) -> int:
    """Tokens of context that there is room for, in steps of 256; 0 where not even one step is.

    Args:
        most: the model's own limit.
    """
    low, high = 0, (most or _MOST_TOKENS) // 256
    if most and judge.fits(candidate, context=most):
        return most
    while low < high:
        middle = (low + high + 1) // 2
        if judge.fits(candidate, context=middle * 256):
            low = middle
        else:
            high = middle - 1
    return low * 256
