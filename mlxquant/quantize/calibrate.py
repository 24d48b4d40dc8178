"""Calibration: what a model does with a text, and weights quantized by it, layer by layer.

    quantize_layers   every weight encoded with the moments of its input, behind predecessors that
                      are quantized already

What is measured of inputs, here and in the model as it is: measuring.py.

One layer is in memory at a time, with the moments of one input; hidden states, statistics and wire
bytes are steps of a workspace, so that a stopped run goes on where it was.

Within a layer, modules that share an input are measured and quantized together, then the layer runs
again for the next ones: what a module is fitted to is what it will be given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..formats.base import STORAGE, Array, Format
from ..formats.floats import to_float32
from ..models.roles import role_of
from ..models.source_model import SourceModel
from .blocks import OUTSIDE, TABLES, BlockModel, assembled
from .measuring import Progress, experts_at_a_time, measure, measure_together
from .statistics import Statistics, blended
from .streams import Stream, Tokens
from .workspace import Workspace

__all__ = [
    "Encode",
    "Target",
    "array_of",
    "quantize_layers",
    "real_values",
    "value_rows",
    "values_of",
    "wire_step",
]

#: rows and what is known of their input → wire arrays of the format
Encode = Callable[[Format, NDArray[np.float32], Statistics | None], tuple[Array, ...]]

#: rows [begin, end) of a weight, float32 [end - begin, k]
Rows = Callable[[int, int], NDArray[np.float32]]

#: weights that are encoded in one go
_PIECE = 1 << 22

#: tokens below which an expert is said to have seen too few, and filled up with the average input
FEW_TOKENS = 256


@dataclass(frozen=True)
class Target:
    """A weight that is to be encoded.

    Attributes:
        name: the parameter, `<module>.weight`.
        format: what it becomes.
        shape: of the weight.
        rows: rows [begin, end) as float32 [end - begin, k].
    """

    name: str
    format: Format
    shape: tuple[int, ...]
    rows: Rows = field(repr=False)

    @property
    def path(self) -> str:
        """Of the module."""
        return self.name.removesuffix(".weight")

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(first, last) of rows that are worked on in one go."""
        rows, step = math.prod(self.shape[:-1]), max(1, _PIECE // self.shape[-1])
        for first in range(0, rows, step):
            yield first, min(first + step, rows)


def wire_step(name: str) -> str:
    """The workspace's step that holds a weight's wire arrays."""
    return f"wire.{name}"


def quantize_layers(
    source: SourceModel,
    targets: Mapping[str, Target],
    tokens: Tokens,
    work: Workspace,
    encode: Encode,
    *,
    known: Mapping[str, Statistics] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Encode every target, each with the moments of the input that the quantized model gives it.

    The wire arrays are steps of the workspace (`wire_step`).

    Args:
        targets: by the module's path.
        encode: encodes rows, given the statistics of their input.
        known: statistics that are needed before their layer is reached: those of a tied embedding,
            which is the first that is used and the last that is measured.

    Returns: what a user should know, a line each.

    Raises:
        ModelError: as `measuring.collect`.
    """
    model = BlockModel(source)
    stream = Stream(model, tokens, work, "quantized")
    modules = stream.modules
    notes: list[str] = []
    total = sum(target.size for target in targets.values())
    done = 0

    def finished(target: Target) -> None:
        nonlocal done
        done += target.size
        if progress is not None:
            progress(done, total, target.name)

    outside = [t for p, t in targets.items() if p in modules[OUTSIDE]]
    early = [t for t in outside if hasattr(modules[OUTSIDE][t.path], "as_linear")]
    for target in early:
        _encode_one(target, (known or {}).get(target.path), work, encode)
        finished(target)
    if stream.reached() is None:
        values = {t.name: array_of(t, work) for t in early}
        with model.loaded(OUTSIDE, values, without=("head",)):
            stream.embed()
        del values
    for index in range(model.count):
        here = {p: targets[p] for p in modules[index] if p in targets}
        if work.has(stream.at(index + 1)) or (stream.reached() or 0) > index:
            for target in here.values():
                notes += _noted(target, work)
                finished(target)
            continue
        with model.loaded(index):
            _quantize_segment(stream, index, modules[index], here, work, encode, notes, finished)
            stream.advance(index)
    late = {t.path: t for t in outside if t not in early}
    if late:
        with model.loaded(OUTSIDE, without=TABLES):
            _quantize_segment(
                stream, OUTSIDE, modules[OUTSIDE], late, work, encode, notes, finished
            )
    return notes


def _quantize_segment(
    stream: Stream,
    index: int,
    modules: Mapping[str, Any],
    targets: Mapping[str, Target],
    work: Workspace,
    encode: Encode,
    notes: list[str],
    finished: Callable[[Target], None],
) -> None:
    """Encode the weights of one layer, group by group, and leave their values in the model."""
    for group in stream.groups(index, modules):
        members = [targets[path] for path in group if path in targets]
        if not members:
            continue
        if all(work.has(wire_step(target.name)) for target in members):
            notes += _noted(members[0], work)
        else:
            shared = {path: modules[path] for path in group}
            if len(members[0].shape) == 3:
                notes += _encode_experts(stream, index, shared, members, work, encode)
            else:
                (found,) = measure(stream, index, shared, full=True)
                for target in members:
                    _encode_one(target, found, work, encode)
                del found
        for target in members:
            kind = modules[target.path].weight.dtype
            if role_of(target.name) != "head":  # after which nothing comes
                stream.model.put(target.name, array_of(target, work).astype(kind))
            finished(target)


def _encode_one(
    target: Target, statistics: Statistics | None, work: Workspace, encode: Encode
) -> None:
    """One matrix, some rows at a time."""
    step = wire_step(target.name)
    if work.has(step):
        return
    with work.writing(step, _specs(target)) as write:
        _encode_rows(target, 0, math.prod(target.shape[:-1]), statistics, encode, write)


def _encode_rows(
    target: Target,
    offset: int,
    count: int,
    statistics: Statistics | None,
    encode: Encode,
    write: Any,
) -> None:
    """Rows [offset, offset + count) of a weight."""
    step = max(1, _PIECE // target.shape[-1])
    for first in range(offset, offset + count, step):
        last = min(first + step, offset + count)
        wire = encode(target.format, target.rows(first, last), statistics)
        for part, array in zip(target.format.parts, wire, strict=True):
            write(part.suffix, first, array)


def _encode_experts(
    stream: Stream,
    index: int,
    modules: Mapping[str, Any],
    members: list[Target],
    work: Workspace,
    encode: Encode,
) -> list[str]:
    """The stacked weights of experts, each with the tokens that were routed to it."""
    count, rows, width = members[0].shape
    at_a_time = experts_at_a_time(width)
    few: list[int] = []
    steps = [work.writing(wire_step(target.name), _specs(target)) for target in members]
    writers = [step.__enter__() for step in steps]
    try:
        everyone = None
        if at_a_time < count:  # what stands in for missing tokens is of all, whoever comes first
            everyone = measure_together(stream, index, modules, width)
        for first in range(0, count, at_a_time):
            some = range(first, min(first + at_a_time, count))
            found = measure(stream, index, modules, full=True, experts=some)
            if everyone is None:
                everyone = sum(found[1:], replace(found[0]))
            for expert, own in zip(some, found, strict=True):
                if own.count < FEW_TOKENS:
                    few.append(own.count)
                filled = blended(own, everyone, FEW_TOKENS)
                for target, write in zip(members, writers, strict=True):
                    _encode_rows(target, expert * rows, rows, filled, encode, write)
        notes = []
        if few:
            notes = [
                f"{members[0].path}: {len(few)} of {count} experts saw fewer than {FEW_TOKENS} "
                f"tokens of the calibration text (the least {min(few)}); the average input stood "
                "in for the rest; a longer text would serve them better"
            ]
            work.put(_notes_step(members[0]), {}, notes)
    except BaseException as problem:
        for step in steps:
            step.__exit__(type(problem), problem, problem.__traceback__)
        raise
    for step in steps:
        step.__exit__(None, None, None)
    return notes


def _notes_step(target: Target) -> str:
    """What a user should know of a weight that is encoded; there before the weight is."""
    return f"{wire_step(target.name)}.notes"


def _noted(target: Target, work: Workspace) -> list[str]:
    """What was said of a weight that is encoded already."""
    step = _notes_step(target)
    notes: list[str] = work.facts(step) if work.has(step) else []
    return notes


def _specs(target: Target) -> dict[str, tuple[Any, tuple[int, ...]]]:
    rows = math.prod(target.shape[:-1])
    blocks = target.shape[-1] // target.format.block_size
    return {
        part.suffix: (STORAGE[part.dtype], (rows, blocks * part.per_block))
        for part in target.format.parts
    }


def values_of(target: Target, work: Workspace) -> NDArray[np.float32]:
    """What a target's wire bytes mean, float32 of the weight's shape."""
    parts = [value_rows(target, work, first, last) for first, last in target.pieces()]
    return np.concatenate(parts).reshape(target.shape)


def array_of(target: Target, work: Workspace) -> mx.array:
    """`values_of` as an MLX array."""
    return assembled(target.shape, (value_rows(target, work, *piece) for piece in target.pieces()))


def value_rows(target: Target, work: Workspace, first: int, last: int) -> NDArray[np.float32]:
    """Some rows of `values_of`, float32 [last - first, k]."""
    step = wire_step(target.name)
    wire = tuple(work.rows(step, part.suffix, first, last) for part in target.format.parts)
    return real_values(target.format, wire)


def real_values(fmt: Format, wire: tuple[Array, ...]) -> NDArray[np.float32]:
    """What runtimes multiply with: scale · code + bias in float32, not rounded to the model's type.

    Args:
        wire: as `fmt.encode` returns it.

    Returns: float32 [n, k].
    """
    from ..formats.mlx_format import MlxFormat

    if not isinstance(fmt, MlxFormat) or fmt.dtype == "F32":
        return fmt.decode(wire)
    exact = fmt.with_dtype("F32")
    arrays = [
        to_float32(array, part.dtype) if part.dtype == fmt.dtype else array
        for part, array in zip(fmt.parts, wire, strict=True)
    ]
    return exact.decode(tuple(arrays))
