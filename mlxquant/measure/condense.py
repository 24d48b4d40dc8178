"""Predictions made small: what of them is kept, what a comparison with that loses, their bytes.

Kept of each prediction are the likeliest tokens, until all others together have at most the
probability `tail`; of those others only their sum is kept. A comparison takes them as one token:

    KL' = Σ kept p·(log p - log q) + P·log(P / Q)          P, Q: the sums of the others

That is never more than KL, and less by P times the divergence among the others. A kept token's
log p is a 16-bit code:

    log p = c - step·code       step = (log of the largest p - log of the smallest kept p) / 65535

with c such that the kept p and P sum to 1. No log p is then off by more than `step`, and KL' by no
more than (e^step - 1)·Σ p·|log(p / q) - KL'| + step², which is nothing beside the first loss.

The bytes of n predictions, m tokens kept in all, little-endian:

    losses    8n     float64: of the tokens that came, exact
    others    8n     float64: P
    steps     8n     float64
    counts    4n     uint32: tokens kept
    top       4nk    uint32: the k = min(5, vocabulary) likeliest
    codes     2m     uint16: of the kept tokens, by id
    gaps      m + …  uint8: from one id to the next, a prediction's first from -1; a byte of 255 has
                     no token behind it, the gap goes on with the next byte
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .divergence import TOP, likeliest
from .perplexity import log_sums, token_losses

__all__ = ["Condensed", "condense", "decode", "encode"]

Float64 = NDArray[np.float64]
Ids = NDArray[np.int64]

#: the largest code
_CODES = 65535

#: probabilities are sorted into bins of 1/_BINS nat below the largest; the last has all the rest
_BINS, _DEPTH = 64, 64 * 64

#: a sum of others below this is summed anew: 1 - (the sum of the kept) has lost its digits
_SMALL = 1e-9


@dataclass(frozen=True, eq=False)
class Condensed:
    """n predictions over a vocabulary, made small; a `Part` of a reference.

    Attributes:
        losses, others, steps, counts, top: [n] and [n, k], as above.
        codes: uint16 [m]; ids: int64 [m], ascending within a prediction.
    """

    losses: Float64
    others: Float64
    steps: Float64
    counts: Ids
    top: Ids
    codes: NDArray[np.uint16]
    ids: Ids

    def divergence(self, rows: Float64, sums: Float64) -> Float64:
        """KL' [n] from the model's logits [n, vocabulary] and their `log_sums`."""
        line = np.repeat(np.arange(len(self.counts)), self.counts)
        log_p = self._log_p(line)
        log_q = rows[line, self.ids] - sums[line]
        total = np.add.reduceat(np.exp(log_p) * (log_p - log_q), self._starts)
        theirs = 1 - np.add.reduceat(np.exp(log_q), self._starts)
        for i in np.flatnonzero((self.others > 0) & (theirs < _SMALL)):
            left = np.exp(rows[i] - sums[i])
            left[self.ids[line == i]] = 0
            theirs[i] = max(left.sum(), np.finfo(np.float64).tiny)
        some = self.others > 0
        total[some] += self.others[some] * np.log(self.others[some] / theirs[some])
        return np.maximum(total, 0.0)

    def log_p(self) -> Float64:
        """log p [m] of the kept tokens."""
        return self._log_p(np.repeat(np.arange(len(self.counts)), self.counts))

    @property
    def _starts(self) -> Ids:
        return np.cumsum(self.counts) - self.counts

    def _log_p(self, line: Ids) -> Float64:
        below = self.codes * -self.steps[line]
        kept = np.add.reduceat(np.exp(below), self._starts)
        return np.asarray(below + (np.log1p(-self.others) - np.log(kept))[line])


def condense(rows: Float64, targets: NDArray[np.int32], tail: float) -> Condensed:
    """Logits [n, vocabulary] and the tokens [n] that came → predictions, made small.

    Args:
        tail: probability that may be left out of each prediction, below 1; 0 keeps every token.
    """
    sums = log_sums(rows)
    losses, top = token_losses(rows, targets, sums), likeliest(rows)
    below = rows.max(axis=1)[:, None] - rows
    if tail > 0:
        p = np.exp(rows - sums[:, None])
        keep = _likely(below, p, tail)
        others = np.where(keep, 0.0, p).sum(axis=1)
    else:
        keep, others = np.ones(rows.shape, np.bool_), np.zeros(len(rows))
    counts = keep.sum(axis=1)
    line, ids = np.nonzero(keep)
    kept = below[line, ids]
    steps = np.maximum.reduceat(kept, np.cumsum(counts) - counts) / _CODES
    codes = np.rint(kept / np.where(steps > 0, steps, 1.0)[line]).astype(np.uint16)
    return Condensed(losses, others, steps, counts, top, codes, ids)


def _likely(below: Float64, p: Float64, tail: float) -> NDArray[np.bool_]:
    """Which tokens [n, vocabulary] to keep: all but some least likely ones of together ≤ `tail`."""
    n = len(below)
    bins = np.minimum(below * _BINS, _DEPTH - 1).astype(np.int64)
    places = (bins + np.arange(n)[:, None] * _DEPTH).ravel()
    mass = np.bincount(places, p.ravel(), n * _DEPTH).reshape(n, _DEPTH)
    from_here = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
    # the bin of the likeliest token stays whatever `tail` is
    bound = np.maximum((from_here > tail).sum(axis=1), 1)
    return np.asarray(bins < bound[:, None])


def encode(part: Condensed) -> bytes:
    """The bytes of predictions, as drawn above."""
    before = np.concatenate([[-1], part.ids[:-1]])
    before[(np.cumsum(part.counts) - part.counts)] = -1
    more, rest = np.divmod(part.ids - before, 255)
    gaps = np.full(len(part.ids) + int(more.sum()), 255, np.uint8)
    gaps[np.cumsum(more + 1) - 1] = rest
    columns = (
        part.losses.astype("<f8"),
        part.others.astype("<f8"),
        part.steps.astype("<f8"),
        part.counts.astype("<u4"),
        part.top.astype("<u4"),
        part.codes.astype("<u2"),
        gaps,
    )
    return b"".join(column.tobytes() for column in columns)


def decode(payload: bytes, n: int, vocabulary: int) -> Condensed:
    """The bytes of n predictions → the predictions.

    Raises:
        ValueError: the bytes are no such predictions; says why.
    """
    k, offset = min(TOP, vocabulary), 0

    def take(kind: str, count: int) -> NDArray[np.generic]:
        nonlocal offset
        begin, offset = offset, offset + count * np.dtype(kind).itemsize
        if offset > len(payload):
            raise ValueError(f"{len(payload)} bytes for what takes {offset} or more")
        return np.frombuffer(payload, kind, count, begin)

    losses, others, steps = (take("<f8", n).astype(np.float64) for _ in range(3))
    counts = take("<u4", n).astype(np.int64)
    top = take("<u4", n * k).astype(np.int64).reshape(n, k)
    if counts.min() < 1 or counts.max() > vocabulary:
        raise ValueError(f"{counts.max()} tokens kept of {vocabulary}")
    codes = take("<u2", int(counts.sum())).astype(np.uint16)
    ids = _ids(take("u1", len(payload) - offset).astype(np.uint8), counts)
    numbers = np.concatenate([losses, others, steps])
    if not np.isfinite(numbers).all() or others.min() < 0 or others.max() >= 1 or steps.min() < 0:
        raise ValueError("numbers that no prediction has")
    if ids.max() >= vocabulary or top.max() >= vocabulary:
        raise ValueError(f"a token id that is not below {vocabulary}")
    return Condensed(losses, others, steps, counts, top, codes, ids)


def _ids(gaps: NDArray[np.uint8], counts: Ids) -> Ids:
    """Bytes of gaps → ids [m], ascending within each prediction."""
    ends = np.flatnonzero(gaps != 255)
    if len(ends) != counts.sum() or ends[-1] != len(gaps) - 1:
        raise ValueError(f"ids of {len(ends)} tokens for {counts.sum()} kept")
    reached = np.cumsum(gaps, dtype=np.int64)[ends]
    if (np.diff(reached, prepend=0) < 1).any():
        raise ValueError("ids that do not ascend")
    starts = np.cumsum(counts) - counts
    base = np.concatenate([[0], reached[starts[1:] - 1]])
    return np.asarray(reached - np.repeat(base, counts) - 1)
