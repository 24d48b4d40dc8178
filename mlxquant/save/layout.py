"""Where every byte of the output goes, known before the first weight is read.

    arrays, in order ──▶ Shards (header, byte ranges) ──▶ Jobs, one a tensor ──▶ Units of work

A unit is a run of rows of one job, small enough that memory is bounded by the units in flight.
Units do not depend on the number of threads, so a run may be resumed with another number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from ..formats.base import Array

__all__ = ["UNIT_BYTES", "Job", "Layout", "Output", "Shard", "Unit", "cut"]

#: bytes of float source that one unit reads; about what a core keeps in its own cache
UNIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Output:
    """One array of the output.

    Attributes:
        name, dtype, shape: as in the file.
        shard: index of its file; start, stop: absolute byte range there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """One file: its name, its header, and its size when it is complete."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True)
class Job:
    """One tensor's work.

    Attributes:
        name: of the tensor, for progress.
        outputs: indices of the output arrays that it fills.
        place: (file, offset) of its bytes in the source, to read in disk order.
        steps: rows or elements in all; every output has a whole number of bytes a step.
        step_bytes: bytes of float source that a step stands for.
        produce: steps [begin, end) → the bytes of each output, as arrays.
    """

    name: str
    outputs: tuple[int, ...]
    place: tuple[str, int]
    steps: int
    step_bytes: int
    produce: Callable[[int, int], tuple[Array, ...]]


@dataclass(frozen=True)
class Unit:
    """Steps [begin, end) of a job; `number` is its place in the journal."""

    number: int
    job: Job
    begin: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The whole output: arrays, files, and the work in the order in which the source is read.

    Attributes:
        parameters: number of weights.
    """

    outputs: tuple[Output, ...]
    shards: tuple[Shard, ...]
    units: tuple[Unit, ...]
    parameters: int

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(shard.size for shard in self.shards)

    def described(self) -> list[object]:
        """All that a journal's numbers mean, as plain data."""
        return [
            [sha256(shard.header).hexdigest() for shard in self.shards],
            [(unit.job.outputs, unit.begin, unit.end) for unit in self.units],
        ]


def cut(jobs: Iterable[Job]) -> tuple[Unit, ...]:
    """The units of some jobs, in the order in which the source's bytes lie on disk."""
    units: list[Unit] = []
    for job in sorted(jobs, key=lambda job: job.place):
        step = max(1, UNIT_BYTES // max(1, job.step_bytes))
        for begin in range(0, job.steps, step):
            units.append(Unit(len(units), job, begin, min(begin + step, job.steps)))
    return tuple(units)
