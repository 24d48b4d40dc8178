"""What quantizing one tensor alone does to the predictions, for every tensor, in one pass.

Each probe is the model with one weight rounded to a few bits. Behind that weight's layer all probes
go through the same float weights, so their hidden states travel together, as more windows of one
batch: every layer is read once, whatever the number of probes.

    layer i      probes of earlier layers advance; one begins for each weight of this layer
    tail         logits of every probe against those of the model as it is: KL divergence

In the same pass every format of the menu is tried on some rows of each weight, and its error is
weighed by the second moments of the input: from the divergence at a few points of error, the
divergence at every format's error follows (sensitivity.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..formats.affine import GROUP_SIZES, Affine
from ..formats.mlx_format import MlxFormat
from ..models.roles import role_of
from ..models.source_model import SourceModel
from .blocks import OUTSIDE, BlockModel, assembled
from .calibrate import Encode, Target, real_values
from .measuring import Progress, begin, measure_together
from .outcome import kl_of
from .sensitivity import Sensitivity, relative_error
from .statistics import Statistics
from .streams import Stream, Tokens
from .workspace import Workspace

__all__ = ["BITS", "probe"]

#: what weights are rounded to
BITS = (2, 4)

#: windows that the divergence is measured on
WINDOWS = 4

#: rows of a weight on which the formats are tried
_ROWS = 256

#: bytes of logits at a time
_LOGITS = 128 << 20

Float32 = NDArray[np.float32]


def probe(
    source: SourceModel,
    targets: Mapping[str, Target],
    menu: Mapping[str, Sequence[MlxFormat]],
    tokens: Tokens,
    work: Workspace,
    encode: Encode,
    *,
    levels: Sequence[int] = BITS,
    windows: int = WINDOWS,
    progress: Progress | None = None,
) -> dict[str, Sensitivity]:
    """Probe every target.

    Args:
        targets: by the module's path; their formats do not matter.
        menu: the formats to try, by path.
        tokens: int32 [windows, length], of which the first are for the probes.
        encode: how formats will be encoded; given rows, and statistics of their input.

    Returns: by path the errors of the menu's formats, and beside them, as `rounded-4`, what was
        measured; nothing measured of modules whose inputs cannot be.

    Raises:
        ModelError: as `measuring.collect`.
    """
    if not work.has("probes"):
        _Pass(source, targets, menu, tokens, work, encode, levels, windows).run(progress)
    found = work.facts("probes")
    return {
        path: Sensitivity(each["errors"], each["measured"], role_of(path))
        for path, each in found.items()
    }


class _Pass:
    """One pass over the layers; every layer's results are a step of the workspace."""

    def __init__(
        self,
        source: SourceModel,
        targets: Mapping[str, Target],
        menu: Mapping[str, Sequence[MlxFormat]],
        tokens: Tokens,
        work: Workspace,
        encode: Encode,
        levels: Sequence[int],
        windows: int,
    ) -> None:
        self._model = BlockModel(source)
        self._few = tokens[:windows]
        self._text = Stream(self._model, tokens, work, "float")
        self._plain = Stream(self._model, self._few, work, "plain")
        self._targets, self._menu, self._work = targets, menu, work
        self._encode, self._levels = encode, levels
        self._modules = self._text.modules

    def run(self, progress: Progress | None) -> None:
        """All layers, then the tail."""
        total = self._model.count + 1
        self._embed()
        for index in range(self._model.count):
            if not self._is_behind(index):
                self._layer(index)
            self._work.drop(_step(index))
            if progress is not None:
                progress(index + 1, total, self._model.paths[index])
        self._tail()
        if progress is not None:
            progress(total, total, "the head")

    def _reached(self) -> int:
        """The last layer whose input is there of all probes; -1 before there are probes."""
        layers = range(self._model.count, -1, -1)
        return next((i for i in layers if self._work.has(_step(i))), -1)

    def _is_behind(self, index: int) -> bool:
        """Whether a layer's output is there, of all probes and of the texts: a run may have been
        stopped between the one and the other."""
        texts = (self._text.reached() or 0, self._plain.reached() or 0)
        return min(self._reached(), *texts) > index

    def _here(self, index: int) -> list[Target]:
        return [self._targets[path] for path in self._modules[index] if path in self._targets]

    def _embed(self) -> None:
        begin(self._text)
        begin(self._plain)
        if self._reached() >= 0:
            return
        early = [t for t in self._here(OUTSIDE) if self._is_embedding(t)]
        with self._model.loaded(OUTSIDE, without=("head",)):
            tokens = mx.array(self._few)
            self._write(0, [], early, lambda _: self._model.embed(tokens))

    def _is_embedding(self, target: Target) -> bool:
        return hasattr(self._modules[OUTSIDE][target.path], "as_linear")

    def _layer(self, index: int) -> None:
        with self._model.loaded(index):
            if self._reached() <= index:
                self._try_formats(index)
                tokens = mx.array(self._few)
                plain = self._plain.hidden(index)

                def run(hidden: mx.array | None) -> mx.array:
                    return self._model.layer(index, tokens, plain if hidden is None else hidden)

                self._write(index + 1, self._work.facts(_step(index)), self._here(index), run)
            for stream in (self._text, self._plain):
                if (stream.reached() or 0) <= index:
                    stream.advance(index)

    def _write(self, to: int, before: list[Any], new: Sequence[Target], run: Any) -> None:
        """The states of all probes before a layer: those there were, advanced, and new ones."""
        labels = before + [[t.path, level] for t in new for level in self._levels]
        count, length = self._few.shape
        first = run(None)
        shape = (count * len(labels), *first.shape[1:])
        with self._work.writing(_step(to), {"h": (np.float32, shape)}, labels) as write:
            for number in range(len(before)):
                write("h", number * count, _floats(run(self._states(to - 1, number, first.dtype))))
            number = len(before)
            for target in new:
                for level in self._levels:
                    with self._rounded(target, level):
                        write("h", number * count, _floats(run(None)))
                    number += 1

    def _states(self, index: int, number: int, dtype: mx.Dtype) -> mx.array:
        """A probe's input of a layer."""
        count = len(self._few)
        rows = self._work.rows(_step(index), "h", number * count, (number + 1) * count)
        return mx.array(rows).astype(dtype)

    @contextmanager
    def _rounded(self, target: Target, level: int) -> Iterator[None]:
        """Within, the model has this weight rounded."""
        module = self._module(target)
        before = module.weight
        fmt = _level(target.shape[-1], level)

        def piece(first: int, last: int) -> mx.array:
            rows = target.rows(first, last)
            values = real_values(fmt, fmt.encode(rows)) if fmt else rows
            return mx.array(values).astype(before.dtype)

        module.weight = assembled(target.shape, (piece(*each) for each in target.pieces()))
        try:
            yield
        finally:
            module.weight = before

    def _module(self, target: Target) -> Any:
        return next(each[target.path] for each in self._modules.values() if target.path in each)

    def _try_formats(self, index: int) -> None:
        """The error of every format, and of what probes round to, on the weights of a layer."""
        step = f"errors-{index}"
        if self._work.has(step):
            return
        found: dict[str, Any] = {}
        modules = self._modules[index]
        for group in self._text.groups(index, modules):
            members = [self._targets[path] for path in group if path in self._targets]
            if not members:
                continue
            shared = {path: modules[path] for path in group}
            whole = measure_together(self._text, index, shared, members[0].shape[-1])
            hessian = whole.hessian
            for target in members:
                if index == OUTSIDE and self._is_embedding(target):
                    whole = replace(whole, looked_up=True)
                found[target.path] = self._errors(target, whole, hessian)
        self._work.put(step, {}, found)

    def _errors(
        self, target: Target, statistics: Statistics, hessian: Float32 | None = None
    ) -> dict[str, Any]:
        count = math.prod(target.shape[:-1])
        picked = np.unique(np.linspace(0, count - 1, min(_ROWS, count)).astype(int))
        rows = np.concatenate([target.rows(int(i), int(i) + 1) for i in picked])
        found = {}
        for level in self._levels:
            fmt = _level(target.shape[-1], level)
            values = real_values(fmt, fmt.encode(rows)) if fmt else rows
            found[_name(level)] = relative_error(rows, values, hessian)
        for each in self._menu[target.path]:
            values = real_values(each, self._encode(each, rows, statistics))
            found[each.name] = relative_error(rows, values, hessian)
        return found

    def _tail(self) -> None:
        labels = [tuple(each) for each in self._work.facts(_step(self._model.count))]
        late = [t for t in self._here(OUTSIDE) if not self._is_embedding(t)]
        labels += [(t.path, level) for t in late for level in self._levels]
        head = self._model.head
        unused = () if head is None or role_of(head) != "head" else ("embedding",)
        with self._model.loaded(OUTSIDE, without=unused):
            self._try_formats(OUTSIDE)
            divergence = self._divergences(labels, {t.path: t for t in self._here(OUTSIDE)})
        errors: dict[str, Any] = {}
        for index in [*range(self._model.count), OUTSIDE]:
            errors |= self._work.facts(f"errors-{index}")
        nothing = Statistics(0, np.zeros(0))
        for path, target in self._targets.items():
            if path not in errors:  # an embedding that is no head, a module of a rare kind
                errors[path] = self._errors(target, nothing)
        found = {
            path: {
                "errors": each,
                "measured": {
                    _name(level): divergence[path, level]
                    for level in self._levels
                    if (path, level) in divergence
                },
            }
            for path, each in errors.items()
        }
        self._work.put("probes", {}, found)
        self._work.drop(_step(self._model.count))

    def _divergences(
        self, labels: Sequence[tuple[str, int]], outside: Mapping[str, Target]
    ) -> dict[tuple[str, int], float]:
        """Mean KL divergence of each probe's predictions from the model's own, nats a token."""
        count, length = self._few.shape
        plain = self._plain.hidden(self._model.count)
        step = max(1, min(length, _LOGITS // (4 * count * self._vocabulary())))
        total = dict.fromkeys(labels, 0.0)
        behind = len(self._work.facts(_step(self._model.count)))
        for first in range(0, length, step):
            some = slice(first, min(first + step, length))
            tokens = mx.array(self._few[:, some])
            own = self._model.tail(tokens, plain[:, some])
            mx.eval(own)
            for number, (path, level) in enumerate(labels):
                hidden = plain
                if number < behind:
                    hidden = self._states(self._model.count, number, plain.dtype)
                changed = self._rounded(outside[path], level) if path in outside else nullcontext()
                with changed:
                    divergence = kl_of(own, self._model.tail(tokens, hidden[:, some]))
                    mx.eval(divergence)
                total[path, level] += float(np.asarray(divergence).astype(np.float64).sum())
        return {label: each / (count * length) for label, each in total.items()}

    def _vocabulary(self) -> int:
        one = mx.array(self._few[:1, :1])
        return int(self._model.tail(one, self._plain.hidden(self._model.count)[:1, :1]).shape[-1])


def _name(level: int) -> str:
    return f"rounded-{level}"


def _step(index: int) -> str:
    return f"probes-{index}"


def _floats(states: mx.array) -> Float32:
    return np.asarray(states.astype(mx.float32))


def _level(width: int, bits: int) -> Affine | None:
    """What a probe rounds rows of this width to; None if no group divides them."""
    group = next((size for size in (64, *GROUP_SIZES) if width % size == 0), None)
    return None if group is None else Affine(bits, group, "F32")
