"""What a quantized model's predictions are worth on the text that it was calibrated on.

Both models' last hidden states are in the workspace when the last layer is done, so that the
divergence costs no more than two output heads. A head is as large as many layers: some rows of it
are in memory at a time, and what they add to the sums is kept,

    KL = Σ e^a·(a - b) / Σ e^a  -  log Σ e^a  +  log Σ e^b      a, b: the two models' logits
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ..models.source_model import SourceModel
from .blocks import OUTSIDE, TABLES, BlockModel
from .calibrate import Target, value_rows, wire_step
from .streams import Stream, Tokens
from .workspace import Workspace

__all__ = ["WINDOWS", "kl_of", "whole_divergence"]

#: windows that the divergence is measured on
WINDOWS = 8

#: bytes of a head, or of logits, at a time
_PIECE = 64 << 20


def whole_divergence(
    source: SourceModel,
    targets: Mapping[str, Target],
    tokens: Tokens,
    work: Workspace,
    windows: int = WINDOWS,
) -> float | None:
    """Mean KL divergence of the quantized model's predictions, nats a token.

    Args:
        targets: what `quantize_layers` encoded, by the module's path.
        tokens: int32 [windows, length], of which the first are measured on.

    Returns: None where the states of one of the two models are not there, or the rows of no one
        matrix are the logits.
    """
    model = BlockModel(source)
    plain, ours = (Stream(model, tokens, work, name) for name in ("float", "quantized"))
    name = model.head
    if name is None or any(stream.reached() != model.count for stream in (plain, ours)):
        return None
    shape = source.parameters[name].shape
    coded = next((t for t in targets.values() if t.name == name), None)
    if coded is not None and not work.has(wire_step(name)):
        coded = None
    bias = f"{name.removesuffix('.weight')}.bias"
    some = tokens[:windows]
    sums = [_Sums() for _ in some]
    step = max(1, _PIECE // (4 * max(shape[-1], some.shape[1])))
    with model.loaded(OUTSIDE, without=TABLES), model.kept(name, bias):
        offsets = model.get(bias) if bias in source.parameters else None
        for first in range(0, shape[0], step):
            last = min(first + step, shape[0])
            stored = rounded = model.rows(name, first, last)
            if coded is not None:
                values = value_rows(coded, work, first, last)
                rounded = mx.array(values).astype(stored.dtype)
            if offsets is not None:
                model.put(bias, offsets[first:last])
            for number, total in enumerate(sums):
                window = mx.array(some[number : number + 1])
                logits = []
                for stream, rows in ((plain, stored), (ours, rounded)):
                    model.put(name, rows)
                    logits.append(model.tail(window, stream.window(model.count, number)))
                if logits[0].shape[-1] != last - first:
                    return None
                total.add(*logits)
    return sum(total.divergence() for total in sums) / some.size


class _Sums:
    """Sums over a part of the vocabulary, float64 [tokens], of each prediction of a window."""

    def __init__(self) -> None:
        self._peaks: list[Any] = [-math.inf, -math.inf]
        self._masses: list[Any] = [0.0, 0.0]
        self._difference: Any = 0.0

    def add(self, reference: mx.array, logits: mx.array) -> None:
        """Logits of some tokens of the vocabulary, [1, tokens, part] each."""
        a, b = (each.astype(mx.float32)[0] for each in (reference, logits))
        for place, each in enumerate((a, b)):
            top = each.max(axis=-1, keepdims=True)
            shares = mx.exp(each - top)
            parts = [top[..., 0], shares.sum(axis=-1)]
            if place == 0:
                parts.append((shares * (a - b)).sum(axis=-1))
            peak, mass, *difference = (np.asarray(part).astype(np.float64) for part in parts)
            before = self._peaks[place]
            self._peaks[place] = now = np.maximum(before, peak)
            old, new = np.exp(before - now), np.exp(peak - now)
            self._masses[place] = self._masses[place] * old + mass * new
            if difference:
                self._difference = self._difference * old + difference[0] * new

    def divergence(self) -> float:
        """Σ over the window's predictions, nats."""
        a, b = (np.log(m) + p for m, p in zip(self._masses, self._peaks, strict=True))
        return float((self._difference / self._masses[0] - a + b).sum())


def kl_of(reference: mx.array, logits: mx.array) -> mx.array:
    """Σ p·(log p - log q) of each prediction: logits [..., vocabulary] twice → float32 [...]."""
    p, q = (_log_probabilities(each.astype(mx.float32)) for each in (reference, logits))
    return (mx.exp(p) * (p - q)).sum(axis=-1)


def _log_probabilities(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
