"""How far a model's predictions are from a reference's, token by token.

    divergence of a token   KL(p ‖ q) = Σ p·(log p - log q), nats     p: the reference, q: the model
    top-1 agreement         both have the same likeliest token, of equals the first
    top-5 agreement         share of the reference's five likeliest tokens that are among the
                            model's five; what is as likely as the fifth counts as among them

Computed in float64 from the logits. The reference is a model that runs alongside (`LiveReference`),
or a file of its predictions (reference.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .perplexity import Perplexity, Progress, log_sums, token_losses
from .scoring import Blame, Logits, each_window
from .statistics import Estimate, largest, mean, quantiles
from .windows import Windows

__all__ = [
    "TOP",
    "Divergence",
    "LiveReference",
    "Part",
    "Reference",
    "ReferenceWindow",
    "divergences",
    "likeliest",
    "measure_divergence",
]

Float64 = NDArray[np.float64]
Ids = NDArray[np.int64]

#: likeliest tokens that are compared
TOP = 5


class Part(Protocol):
    """A reference's predictions at some positions of a window.

    Attributes:
        losses: float64 [n], of the tokens that came.
        top: int64 [n, TOP or the vocabulary], the likeliest tokens, the likeliest first.
    """

    @property
    def losses(self) -> Float64: ...  # noqa: D102
    @property
    def top(self) -> Ids: ...  # noqa: D102
    def divergence(self, rows: Float64, sums: Float64) -> Float64:
        """KL(reference ‖ model) [n] from the model's logits [n, vocabulary] and `log_sums`."""
        ...


class ReferenceWindow(Protocol):
    """A reference's predictions for one window.

    Attributes:
        vocabulary: tokens that are predicted among.
        rows: positions of a part; the last part may have fewer.
    """

    @property
    def vocabulary(self) -> int: ...  # noqa: D102
    @property
    def rows(self) -> int: ...  # noqa: D102
    def part(self, begin: int, end: int) -> Part:
        """Scored positions [begin, end), `begin` a multiple of `rows`; called from threads."""
        ...


class Reference(Protocol):
    """What a model is compared with."""

    @property
    def windows(self) -> Windows: ...  # noqa: D102
    def __iter__(self) -> Iterator[ReferenceWindow]:
        """Its windows, in order."""
        ...


@dataclass(frozen=True, eq=False)
class Divergence:
    """What a comparison found, token by token.

    Attributes:
        windows: what was scored.
        losses, reference_losses: float64 [windows, scored], nats.
        kl: float64 [windows, scored], nats.
        top1: bool [windows, scored]; top5: float64 [windows, scored], shares.
    """

    windows: Windows
    losses: Float64
    reference_losses: Float64
    kl: Float64
    top1: NDArray[np.bool_]
    top5: Float64

    @property
    def perplexity(self) -> Perplexity:
        """The model's."""
        return Perplexity(self.windows, self.losses)

    @property
    def reference_perplexity(self) -> Perplexity:
        """The reference's."""
        return Perplexity(self.windows, self.reference_losses)

    @property
    def perplexity_ratio(self) -> Estimate:
        """The model's perplexity over the reference's. Both are of the same windows, so that its
        interval is far narrower than theirs."""
        return mean(self.losses - self.reference_losses).map(lambda x: float(np.exp(x)))

    @property
    def kl_summary(self) -> dict[str, Estimate]:
        """`mean`, `median`, `p90`, `p99` and `max` of the tokens' divergences, nats."""
        median, p90, p99 = quantiles(self.kl, [0.5, 0.9, 0.99])
        return {
            "mean": mean(self.kl),
            "median": median,
            "p90": p90,
            "p99": p99,
            "max": largest(self.kl),
        }

    @property
    def agreement(self) -> dict[str, Estimate]:
        """`top1` and `top5`, shares."""
        return {"top1": mean(self.top1.astype(np.float64)), "top5": mean(self.top5)}


def measure_divergence(
    model: Any,
    windows: Windows,
    reference: Reference,
    *,
    batch: int | None = None,
    blame: Blame | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """Compare a model with a reference on the same windows.

    Args:
        model, batch, blame: as of `scoring.each_window`.
        windows: of the model's own tokens.
        progress: called with (windows done, windows in all).

    Raises:
        RequestError: the reference's tokens, windows or vocabulary are others.
        ModelError: logits that are not finite, or not a language model's.
        FileFormatError: the reference is a file, and damaged.
    """
    _check_same(windows, reference.windows)
    shape = (windows.count, windows.scored)
    columns = _Compared(
        losses=np.empty(shape),
        reference_losses=np.empty(shape),
        kl=np.empty(shape),
        top1=np.empty(shape, np.bool_),
        top5=np.empty(shape),
    )
    scored = each_window(model, windows, batch=batch, blame=blame)
    for i, (theirs, logits) in enumerate(zip(reference, scored, strict=True)):
        if theirs.vocabulary != logits.vocabulary:
            raise RequestError(
                f"the model predicts among {logits.vocabulary} tokens, the reference among "
                f"{theirs.vocabulary}; compare models of one vocabulary"
            )
        parts = _compared(logits, theirs, windows.targets[i])
        for column, values in zip(columns, zip(*parts, strict=True), strict=True):
            column[i] = np.concatenate(values)
        if progress:
            progress(i + 1, windows.count)
    return Divergence(windows, **columns._asdict())


class _Compared(NamedTuple):
    """The columns of a Divergence, for some tokens."""

    losses: Float64
    reference_losses: Float64
    kl: Float64
    top1: NDArray[np.bool_]
    top5: Float64


def _compared(
    logits: Logits, theirs: ReferenceWindow, targets: NDArray[np.int32]
) -> Iterator[_Compared]:
    """`_Compared` of each part of a window."""

    def work(begin: int, end: int, rows: Float64) -> _Compared:
        part = theirs.part(begin, end)
        sums = log_sums(rows)
        ahead = [
            (rows > rows[np.arange(end - begin), top][:, None]).sum(axis=1) for top in part.top.T
        ]
        return _Compared(
            token_losses(rows, targets[begin:end], sums),
            part.losses,
            part.divergence(rows, sums),
            rows.argmax(axis=1) == part.top[:, 0],
            np.mean(np.array(ahead) < len(ahead), axis=0),
        )

    return logits.each(work, theirs.rows)


def divergences(reference: Float64, model: Float64) -> Float64:
    """KL(reference ‖ model) [n] of the predictions behind logits [n, vocabulary]."""
    return _divergences(reference, log_sums(reference), model, log_sums(model))


def _divergences(a: Float64, a_sums: Float64, b: Float64, b_sums: Float64) -> Float64:
    p = np.exp(a - a_sums[:, None])
    p *= a - b
    # Rounding may leave -1e-16 where the two are equal.
    return np.asarray(np.maximum(p.sum(axis=1) - a_sums + b_sums, 0.0))


def likeliest(rows: Float64) -> Ids:
    """The TOP largest of each row's logits, the largest first, of equals the first: int64 [n, TOP].

    `rows` is changed on the way, and as before at the end.
    """
    n, vocabulary = rows.shape
    lines = np.arange(n)
    top = np.empty((n, min(TOP, vocabulary)), np.int64)
    kept = np.empty(top.shape, np.float64)
    for k in range(top.shape[1]):
        top[:, k] = rows.argmax(axis=1)
        kept[:, k] = rows[lines, top[:, k]]
        rows[lines, top[:, k]] = -np.inf
    rows[lines[:, None], top] = kept
    return top


@dataclass(frozen=True)
class LiveReference:
    """A model that runs alongside.

    Attributes:
        model, batch, blame: as of `scoring.each_window`.
        windows: of its own tokens.
    """

    model: Any
    windows: Windows
    batch: int | None = None
    blame: Blame | None = None

    def __iter__(self) -> Iterator[ReferenceWindow]:
        """Runs the model."""
        logits = each_window(
            self.model, self.windows, batch=self.batch, blame=self.blame, name="the reference"
        )
        for i, window in enumerate(logits):
            yield _LiveWindow(window, self.windows.targets[i])


@dataclass(frozen=True)
class _LiveWindow:
    logits: Logits
    targets: NDArray[np.int32]

    @property
    def vocabulary(self) -> int:
        return self.logits.vocabulary

    @property
    def rows(self) -> int:
        return self.logits.step

    def part(self, begin: int, end: int) -> Part:
        return _LivePart(self.logits.rows(begin, end), self.targets[begin:end])


class _LivePart:
    def __init__(self, rows: Float64, targets: NDArray[np.int32]) -> None:
        self._rows = rows
        self._sums = log_sums(rows)
        self.losses = token_losses(rows, targets, self._sums)
        self.top = likeliest(rows)

    def divergence(self, rows: Float64, sums: Float64) -> Float64:
        return _divergences(self._rows, self._sums, rows, sums)


def _check_same(ours: Windows, theirs: Windows) -> None:
    if ours.fingerprint == theirs.fingerprint:
        return
    facts = ("length", "stride", "first_scored", "bos", "windows")
    a, b = ours.facts(), theirs.facts()
    for fact in facts:
        if a[fact] != b[fact]:
            what = f"{fact.replace('_', ' ')} {a[fact]}, the reference {b[fact]}"
            raise RequestError(f"the model is measured with {what}; take the same for both")
    raise RequestError(
        f"the model's tokens (fingerprint {ours.fingerprint}) are not the reference's "
        f"({theirs.fingerprint}); compare models of one tokenizer on one text"
    )
