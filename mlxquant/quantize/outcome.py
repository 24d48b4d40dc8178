"""What a quantized model's predictions are worth on the text that it was calibrated on.

Both models' last hidden states are in the workspace when the last layer is done, so that the
divergence costs no more than two output heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from ..models.source_model import SourceModel
from .blocks import OUTSIDE, BlockModel
from .calibrate import Target, values_of, wire_step
from .streams import Stream, Tokens
from .workspace import Workspace

__all__ = ["WINDOWS", "kl_of", "whole_divergence"]

#: windows that the divergence is measured on
WINDOWS = 8

#: bytes of logits at a time
_LOGITS = 128 << 20


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

    Returns: None where the states of one of the two models are not there.
    """
    model = BlockModel(source)
    plain, ours = (Stream(model, tokens, work, name) for name in ("float", "quantized"))
    if any(stream.reached() != model.count for stream in (plain, ours)):
        return None
    ends = [t for p, t in targets.items() if t.name in model.names[OUTSIDE]]
    heads = [target for target in ends if work.has(wire_step(target.name))]
    some = tokens[:windows]
    total = 0.0
    with model.loaded(OUTSIDE):
        stored = {target.name: model.get(target.name) for target in heads}
        rounded = {
            target.name: mx.array(values_of(target, work)).astype(stored[target.name].dtype)
            for target in heads
        }
        for number in range(len(some)):
            window = mx.array(some[number : number + 1])
            states = [each.window(model.count, number) for each in (plain, ours)]
            step = max(1, _LOGITS // (4 * _vocabulary(model, window, states[0])))
            for first in range(0, window.shape[1], step):
                at = slice(first, first + step)
                logits = []
                for weights, hidden in zip((stored, rounded), states, strict=True):
                    for name, array in weights.items():
                        model.put(name, array)
                    logits.append(model.tail(window[:, at], hidden[:, at]))
                total += float(np.asarray(kl_of(*logits)).astype(np.float64).sum())
    return total / some.size


def kl_of(reference: mx.array, logits: mx.array) -> mx.array:
    """Σ p·(log p - log q) of each prediction: logits [..., vocabulary] twice → float32 [...]."""
    p, q = (_log_probabilities(each.astype(mx.float32)) for each in (reference, logits))
    return (mx.exp(p) * (p - q)).sum(axis=-1)


def _log_probabilities(logits: mx.array) -> mx.array:
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _vocabulary(model: BlockModel, tokens: mx.array, hidden: mx.array) -> int:
    return int(model.tail(tokens[:, :1], hidden[:, :1]).shape[-1])
