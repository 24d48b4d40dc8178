"""Distillation: scales, biases and norms trained until predictions are closest to the original's.

    loss = mean over tokens of Σ p·(log p - log q)     p the original's predictions, q the student's

Codes and formats stay as they were; what is trained, and in which units, says `student.py`. The
original's last hidden states are kept in the workspace and its head makes p of them, which holds
all of p in as many numbers as the model is wide. Adam (Kingma, Ba, arXiv:1412.6980) with a rate
that falls along a cosine; the gradient of a step is of some windows, one after the other.

Windows that are held out decide: the state of least divergence on them is kept, and where that is
the state before training, nothing is changed. Hinton, Vinyals, Dean, "Distilling the knowledge in
a neural network", arXiv:1503.02531.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..formats.base import Array
from ..load.lazy import Node
from ..load.operations import constant, to_mx
from ..models.source_model import SourceModel
from .blocks import BlockModel
from .calibrate import Target, wire_step
from .measuring import Progress, begin
from .outcome import kl_of
from .rows import float32_rows
from .schedule import Schedule
from .spending import rounded
from .streams import Stream, Tokens
from .student import Student, Trained, is_norm
from .transform import replaced
from .workspace import Workspace

if TYPE_CHECKING:
    from ..save.folder import Staged
    from .policy import Plan

__all__ = ["Distilled", "distill", "distill_plan", "held_out"]

_STATE, _RESULT = "distill-state", "distilled"

#: Adam's
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-10

#: below this many windows none can be held out
FEWEST_WINDOWS = 4


@dataclass(frozen=True)
class Distilled:
    """What was trained.

    Attributes:
        scales: by the weight's name scales and biases [rows, k / group_size] in the carriers of
            their types.
        norms: float32 by parameter.
        before, after: divergence on the held-out windows, nats a token.
        steps: after how many steps it was best; 0 where nothing was gained.
    """

    scales: Mapping[str, tuple[Array, Array]] = field(default_factory=dict, repr=False)
    norms: Mapping[str, Array] = field(default_factory=dict, repr=False)
    before: float = 0.0
    after: float = 0.0
    steps: int = 0


def held_out(windows: int) -> list[int]:
    """The windows that decide: one of every eight, at least two, spread over the text."""
    count = max(2, windows // 8)
    return [(2 * i + 1) * windows // (2 * count) for i in range(count)]


def distill(
    source: SourceModel,
    targets: Sequence[Target],
    norms: Mapping[str, str],
    tokens: Tokens,
    work: Workspace,
    schedule: Schedule | None = None,
    progress: Progress | None = None,
) -> Distilled | None:
    """Train a quantized model's scales, biases and norms against the original's predictions.

    Args:
        source: the original.
        targets: weights whose wire arrays are in `work`; only scales and biases of affine formats
            are trained.
        norms: parameters of norms → element type that the file holds them in.
        tokens: int32 [windows, length].

    Returns: None where there are fewer than FEWEST_WINDOWS windows.

    Raises:
        ModelError: layers that cannot be run one by one; NaN or infinity, with the layer's name.
    """
    schedule = schedule or Schedule()
    if len(tokens) < FEWEST_WINDOWS:
        return None
    if not work.has(_RESULT):
        model = BlockModel(source, "float32")
        stream = Stream(model, tokens, work, "float")
        begin(stream)
        for index in range(stream.reached() or 0, model.count):
            with model.loaded(index):
                stream.advance(index)
        student = Student(model, targets, norms, work)
        with student.loaded():
            _train(student, stream, tokens, work, schedule, progress)
        work.drop(_STATE)
    arrays, facts = work.arrays(_RESULT), work.facts(_RESULT)
    names = [target.name for target in targets if f"scales.{target.name}" in arrays]
    return Distilled(
        {name: (arrays[f"scales.{name}"], arrays[f"biases.{name}"]) for name in names},
        {name: arrays[name] for name in norms if name in arrays},
        **facts,
    )


def distill_plan(
    source: SourceModel,
    plan: Plan,
    staged: Mapping[str, Staged],
    tokens: Tokens,
    work: Workspace,
    schedule: Schedule,
    progress: Progress | None = None,
) -> tuple[tuple[SourceModel, dict[str, Staged]] | None, str, dict[str, float]]:
    """`distill` for the weights of a plan that are encoded already.

    Args:
        staged: by the item's name, as `calibrated` made them in `work`.

    Returns: the model with other norms, and what takes the place of `staged` where scales were
        trained, or None where nothing was gained; a line for the user; and for the manifest after
        how many steps it was best, of how many windows held out, with what divergence on them.
    """
    modules = dict(source.model.named_modules())
    targets = [
        Target(item.name, item.target, item.shape, partial(float32_rows, source, item))
        for item in plan.items
        if item.target is not None and item.name in staged
    ]
    norms = {
        item.name: item.dtype
        for item in plan.items
        if item.target is None and is_norm(modules.get(item.name.rpartition(".")[0]))
    }
    found = distill(source, targets, norms, tokens, work, schedule, progress)
    if found is None:
        return (
            None,
            (
                f"scales were not trained: {len(tokens)} windows of text are too few, "
                f"{FEWEST_WINDOWS} are needed"
            ),
            {"steps": 0},
        )
    facts = {
        "steps": found.steps,
        "windows_held_out": len(held_out(len(tokens))),
        "kl_before": rounded(found.before),
        "kl_after": rounded(found.after),
    }
    if not found.steps:
        note = "scales stay as they were: training gained nothing on the windows that were held out"
        return None, note, facts

    def trained(name: str, begin: int, end: int) -> tuple[Array, ...]:
        codes = work.rows(wire_step(name), "weight", begin, end)
        scales, biases = found.scales[name]
        return codes, scales[begin:end], biases[begin:end]

    nodes = {name: _node(source.parameters[name], values) for name, values in found.norms.items()}
    note = (
        "scales, biases and norms were trained: on the windows that were held out, predictions "
        f"diverge by {found.after:.4g} nats a token instead of {found.before:.4g}"
    )
    changed: dict[str, Staged] = {name: partial(trained, name) for name in found.scales}
    return (replaced(source, nodes, ()), changed), note, facts


def _node(before: Node, values: Array) -> Node:
    made = constant(to_mx(values, "F32"))
    return Node(before.shape, "F32", made.compute, made.label, before.origin)


def _train(
    student: Student,
    stream: Stream,
    tokens: Tokens,
    work: Workspace,
    schedule: Schedule,
    progress: Progress | None,
) -> None:
    """Until the last step, then write what was best."""
    kept = held_out(len(tokens))
    seen = [i for i in range(len(tokens)) if i not in set(kept)]
    steps = schedule.steps(len(seen))
    every = max(1, steps // schedule.checks)
    state = _State(student.start)
    if work.has(_STATE):
        state.restore(work)
    else:
        state.judge(_divergence(student, stream, tokens, kept, state.now))
    gradient = mx.value_and_grad(
        lambda trained, ids, p: kl_of(p, student.logits(trained, ids)).mean()
    )
    for step in range(state.step, steps):
        total: Trained = {}
        chosen = schedule.windows_of(step, len(seen))
        for place in chosen:
            ids, p = _window(student, stream, tokens, seen[place])
            _, found = gradient(state.now, ids, p)
            total = {k: total[k] + g if total else g for k, g in found.items()}
            mx.eval(total)
        state.advance(total, len(chosen), schedule.rate_of(step, steps))
        if state.step % every == 0 or state.step == steps:
            state.judge(_divergence(student, stream, tokens, kept, state.now))
            state.keep(work)
        if progress is not None:
            progress(state.step, steps, "training scales")
    arrays: dict[str, Array] = {}
    if state.best_step:
        scales, arrays = student.stored(state.best)
        for name, (scale, bias) in scales.items():
            arrays[f"scales.{name}"], arrays[f"biases.{name}"] = scale, bias
    facts = {"before": state.before, "after": state.after, "steps": state.best_step}
    work.put(_RESULT, arrays, facts)


def _window(
    student: Student, stream: Stream, tokens: Tokens, number: int
) -> tuple[mx.array, mx.array]:
    """A window's ids, and the original's logits for it."""
    ids = mx.array(tokens[number : number + 1])
    hidden = stream.window(student.model.count, number).astype(mx.float32)
    logits = student.teacher(ids, hidden)
    mx.eval(logits)
    return ids, logits


def _divergence(
    student: Student, stream: Stream, tokens: Tokens, numbers: Sequence[int], trained: Trained
) -> float:
    """Mean over the tokens of some windows, nats."""
    total = 0.0
    for number in numbers:
        ids, p = _window(student, stream, tokens, number)
        found = kl_of(p, student.logits(trained, ids)).mean()
        total += float(np.asarray(found))
    return total / len(numbers)


class _State:
    """What is trained, Adam's moments of it, and the best so far."""

    def __init__(self, start: Trained) -> None:
        self.now, self.best = dict(start), dict(start)
        self._first = {key: mx.zeros_like(value) for key, value in start.items()}
        self._second = {key: mx.zeros_like(value) for key, value in start.items()}
        self.step = self.best_step = 0
        self.before = self.after = math.inf

    def advance(self, gradient: Trained, count: int, rate: float) -> None:
        """One step of Adam with the mean of `count` gradients."""
        self.step += 1
        first, second = 1 - _BETA1**self.step, 1 - _BETA2**self.step
        for key, total in gradient.items():
            g = total / count
            self._first[key] = _BETA1 * self._first[key] + (1 - _BETA1) * g
            self._second[key] = _BETA2 * self._second[key] + (1 - _BETA2) * g * g
            size = mx.sqrt(self._second[key] / second) + _EPSILON
            self.now[key] = self.now[key] - rate * (self._first[key] / first) / size
        mx.eval(self.now, self._first, self._second)

    def judge(self, divergence: float) -> None:
        """Remember the state if it is the best; a NaN never is."""
        if self.step == 0:
            self.before = divergence
        if divergence < self.after:
            self.after, self.best, self.best_step = divergence, dict(self.now), self.step

    def keep(self, work: Workspace) -> None:
        """Write all of it."""
        parts = zip("nbfs", (self.now, self.best, self._first, self._second), strict=True)
        arrays = {f"{p}.{k}": np.array(v) for p, part in parts for k, v in part.items()}
        facts = [self.step, self.best_step, self.before, self.after]
        work.put(_STATE, arrays, facts)

    def restore(self, work: Workspace) -> None:
        """Read what was written last."""
        self.step, self.best_step, self.before, self.after = work.facts(_STATE)
        arrays: dict[str, Any] = work.arrays(_STATE)
        for letter, part in zip(
            "nbfs", (self.now, self.best, self._first, self._second), strict=True
        ):
            for key in part:
                part[key] = mx.array(arrays[f"{letter}.{key}"])
