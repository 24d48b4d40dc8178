"""Hidden states of a calibration text, carried through a model layer by layer.

    states-0 ──layer 0──▶ states-1 ──layer 1──▶ … ──layer n-1──▶ states-n ──tail──▶ logits

Each is a step of a workspace: float32 [windows, tokens, …], read and written a batch at a time. A
step is dropped when the next one is finished, so that a stopped run goes on with the layer that it
was at.

A layer runs several times, each time as far as the modules that are looked at. An input that was
seen is kept, and given to its modules when the layer runs again: MLX evaluates nothing that nothing
asks for, so what came before that input, the attention above all, is not computed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..formats.base import Array
from .blocks import OUTSIDE, BlockModel, Reached
from .taps import can_be_tapped, tapped
from .workspace import Workspace

__all__ = ["Stream"]

#: tokens that go through a layer together
_BATCH = 2048

Tokens = NDArray[np.int32]
Show = Callable[[mx.array, mx.array | None], None]


class Stream:
    """The states of some windows of tokens, in one workspace, under one name.

    Args:
        model: what they go through.
        tokens: int32 [windows, length].
        work: where they are kept.
        name: of this stream's steps.
        batch: tokens that go through a layer together.
    """

    def __init__(
        self, model: BlockModel, tokens: Tokens, work: Workspace, name: str, batch: int = _BATCH
    ) -> None:
        self.model, self._tokens, self._work, self._name = model, tokens, work, name
        self._step = max(1, batch // tokens.shape[1])
        self._watched: int | None = None
        self._kept: dict[str, tuple[Any, str]] = {}  # path → module, step that holds its input

    @property
    def modules(self) -> dict[int, dict[str, Any]]:
        """Of each segment the modules whose inputs can be watched, by path."""
        found: dict[int, dict[str, Any]] = {}
        named = dict(self.model.model.named_modules())
        for segment, names in self.model.names.items():
            paths = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
            found[segment] = {p: named[p] for p in paths if can_be_tapped(named.get(p))}
        return found

    def at(self, index: int) -> str:
        """The step that holds a layer's input; at the number of layers, the last one's output."""
        return f"{self._name}-{index}"

    def reached(self) -> int | None:
        """The last layer whose input is there; None before `embed`."""
        for index in range(self.model.count, -1, -1):
            if self._work.has(self.at(index)):
                return index
        return None

    def embed(self) -> None:
        """Write the first layer's input. OUTSIDE must be loaded."""
        self._write(0, lambda tokens, _: self.model.embed(tokens), None)

    def advance(self, index: int) -> None:
        """Write a layer's output and drop its input. The layer must be loaded.

        Raises:
            ModelError: a state is NaN or infinite; the layer is named.
        """
        self._write(index + 1, lambda t, h: self.model.layer(index, t, h), index)
        for step in {step for _, step in self._kept.values()}:
            self._work.drop(step)
        self._kept = {}
        self._work.drop(self.at(index))

    def watch(self, index: int, modules: Mapping[str, Any], show: Show) -> None:
        """Run a layer, or OUTSIDE's tail, as far as modules that share an input, and show that.

        Nothing that the input depends on may change between here and `advance`.

        Args:
            modules: of a group, by path.
            show: called with a batch's input, and the experts' indices or None.
        """
        (path, module), *_ = modules.items()
        # the first group's input is the layer's own, or little more than that
        worth_keeping = index != OUTSIDE and self._watched == index and path not in self._kept
        self._watched = index
        found: list[tuple[mx.array, mx.array | None]] = []

        def see(_: str, x: mx.array, indices: mx.array | None) -> mx.array:
            found.append((x, indices))
            raise Reached

        with ExitStack() as stack:
            keep = None
            for begin, tokens, hidden in self._batches(index):
                run = self.model.tail if index == OUTSIDE else None
                with self._continued(begin, len(tokens), without=path), tapped({path: module}, see):
                    try:
                        y = run(tokens, hidden) if run else self.model.layer(index, tokens, hidden)
                        del y
                    except Reached:
                        pass
                for x, indices in found:
                    show(x, indices)
                    if begin == 0 and worth_keeping and indices is None and _is_small(x, hidden):
                        keep = stack.enter_context(self._keeping(index, modules, x))
                    if keep is not None:
                        keep("x", begin, np.asarray(x.astype(mx.float32)))
                found.clear()
        if keep is not None:
            step = self._step_of(index, path)
            self._kept.update({each: (one, step) for each, one in modules.items()})

    def _step_of(self, index: int, path: str) -> str:
        return f"{self.at(index)}.{path}"

    def _keeping(self, index: int, modules: Mapping[str, Any], x: mx.array) -> Any:
        """A step for the input of some modules."""
        shape = (len(self._tokens), *x.shape[1:])
        kind = str(x.dtype).rsplit(".", 1)[-1]
        step = self._step_of(index, next(iter(modules)))
        return self._work.writing(step, {"x": (np.float32, shape)}, kind)

    @contextmanager
    def _continued(self, begin: int, count: int, without: str | None = None) -> Iterator[None]:
        """Within, modules whose inputs are kept are given those of some windows."""
        read: dict[str, mx.array] = {}

        def see(path: str, _: mx.array, __: mx.array | None) -> mx.array:
            step = self._kept[path][1]
            if step not in read:
                states = self._work.rows(step, "x", begin, begin + count)
                read[step] = mx.array(states).astype(getattr(mx, self._work.facts(step)))
            return read[step]

        modules = {path: module for path, (module, _) in self._kept.items() if path != without}
        with tapped(modules, see):
            yield

    def groups(self, index: int, modules: Mapping[str, Any]) -> list[list[str]]:
        """The modules that are given the same array, in the order in which they are used."""
        seen: list[tuple[int, list[str]]] = []
        kept: list[Any] = []  # while these live, no other array has their identity

        def see(path: str, x: mx.array, indices: mx.array | None) -> mx.array:
            kept.append(x)
            for key, paths in seen:
                if key == id(x):
                    if path not in paths:
                        paths.append(path)
                    return x
            if not any(path in paths for _, paths in seen):
                seen.append((id(x), [path]))
            return x

        with tapped(modules, see):
            for _, tokens, hidden in self._batches(index):
                if index == OUTSIDE:
                    self.model.tail(tokens[:1, :2], hidden[:1, :2])
                else:
                    self.model.layer(index, tokens[:1], hidden[:1])
                break
        return [paths for _, paths in seen]

    def hidden(self, index: int) -> mx.array:
        """A layer's input, all windows at once."""
        states = self._batch(slice(0, len(self._tokens)), index)[1]
        assert states is not None
        return states

    def window(self, index: int, number: int) -> mx.array:
        """A layer's input of one window, [1, length, …]."""
        states = self._batch(slice(number, number + 1), index)[1]
        assert states is not None
        return states

    def _batches(self, index: int) -> Iterator[tuple[int, mx.array, mx.array]]:
        """(first window, tokens, states) of every batch."""
        at = self.model.count if index == OUTSIDE else index
        for begin in range(0, len(self._tokens), self._step):
            tokens, hidden = self._batch(slice(begin, begin + self._step), at)
            assert hidden is not None
            yield begin, tokens, hidden

    def _batch(self, rows: slice, index: int | None) -> tuple[mx.array, mx.array | None]:
        tokens = mx.array(self._tokens[rows])
        if index is None:
            return tokens, None
        end = min(rows.stop, len(self._tokens))
        states = self._work.rows(self.at(index), "h", rows.start, end)
        kind = getattr(mx, self._work.facts(self.at(index)))
        return tokens, mx.array(states).astype(kind)

    def _write(self, to: int, run: Any, index: int | None) -> None:
        """Compute a step batch by batch."""
        if self._work.has(self.at(to)):
            return

        def states_of(begin: int) -> mx.array:
            tokens, hidden = self._batch(slice(begin, begin + self._step), index)
            with self._continued(begin, len(tokens)):
                return run(tokens, hidden)  # type: ignore[no-any-return]

        first = states_of(0)
        shape = (len(self._tokens), *first.shape[1:])
        kind = str(first.dtype).rsplit(".", 1)[-1]
        with self._work.writing(self.at(to), {"h": (np.float32, shape)}, kind) as write:
            for begin in range(0, len(self._tokens), self._step):
                states = np.asarray((states_of(begin) if begin else first).astype(mx.float32))
                self._check(states, index)
                write("h", begin, states)

    def _check(self, states: Array, index: int | None) -> None:
        if np.isfinite(states).all():
            return
        where = "the embedding" if index is None else self.model.paths[index]
        bad = self.model.not_finite(OUTSIDE if index is None else index)
        why = f", whose {bad} has such numbers" if bad else ""
        raise ModelError(
            f"{self.model.origin}: NaN or infinity in the output of {where}{why}, on the "
            "calibration text; `mlxquant inspect --verify` lists every such weight"
        )


def _is_small(x: mx.array, states: mx.array) -> bool:
    """Whether an input of a batch takes no more room than its states."""
    return x.shape[:-1] == states.shape[:-1] and x.shape[-1] <= states.shape[-1]
