"""Doing the units of a layout on threads, and hashing what goes in and what comes out.

    workers (n)      unit → rows → wire bytes → their place in the shard
    source hasher    the SHA-256 of every source file, read once beside the workers
    output hasher    the SHA-256 of every shard, read back from the file behind the workers
    the caller       syncs, writes the journal, reports progress

Bytes have their places before work starts, so neither the number of threads nor the order in which
units finish changes anything. Every loop stops when one of them fails.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FileFormatError, ModelError, WriteError, one_line
from ..files.atomic import write_at
from ..formats.base import Array, NonFiniteError
from ..quantize.rows import encode_rows, float_rows, stored_rows

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Plan
    from .journal import Journal
    from .layout import Layout, Unit

__all__ = ["Progress", "Work"]

Progress = Callable[[int, int, str], None]

#: the journal is written, and the shards synced, each time so many bytes of output are new
SYNC_BYTES = 128 << 20

HASH_BYTES = 4 << 20


class _Stopped(Exception):
    """Another thread failed or the user interrupted; nothing of one's own to report."""


class Work:
    """One run over the units that are not finished yet.

    After `run`, `output_hashes` and `source_hashes` hold SHA-256 hex digests by file name.
    """

    def __init__(
        self, plan: Plan, source: SourceModel, layout: Layout, folder: Path, journal: Journal
    ) -> None:
        self._plan, self._source, self._layout = plan, source, layout
        self._folder, self._journal = folder, journal
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._stop = False
        self._fresh: list[int] = []
        self._pending = [0] * len(layout.outputs)
        for unit in layout.units:
            if unit.number not in journal.finished:
                for output in unit.outputs:
                    self._pending[output] += 1
        self._queue = iter([u for u in layout.units if u.number not in journal.finished])
        self.output_hashes: dict[str, str] = {}
        self.source_hashes: dict[str, str] = {}

    def run(self, sources: Sequence[Path], threads: int, progress: Progress | None) -> None:
        """Do everything.

        Raises:
            WriteError: the disk is full or failed. ModelError: a weight is NaN or infinite.
            FileFormatError: the source changed or cannot be read.
        """
        self._handles = [
            os.open(self._folder / shard.name, os.O_RDWR | os.O_CREAT, 0o644)
            for shard in self._layout.shards
        ]
        jobs = [self._guard(self._encode) for _ in range(threads)]
        jobs.append(self._guard(self._hash_outputs))
        jobs.append(self._guard(lambda: self._hash_sources(sources)))
        running = [threading.Thread(target=job, daemon=True) for job in jobs]
        try:
            self._prepare()
            for thread in running:
                thread.start()
            self._watch(running, progress)
        except BaseException as problem:
            with self._changed:
                self._stop = True
            for thread in running:
                if thread.ident is not None:
                    thread.join()
            if isinstance(problem, KeyboardInterrupt):
                self._record()
            if isinstance(problem, OSError):
                raise _write_error(self._folder, problem) from problem
            raise
        finally:
            for handle in self._handles:
                os.close(handle)

    def _prepare(self) -> None:
        """The headers, and the files' full (sparse) length."""
        for handle, shard in zip(self._handles, self._layout.shards, strict=True):
            os.ftruncate(handle, shard.size)
            write_at(handle, memoryview(shard.header), 0)

    def _watch(self, running: list[threading.Thread], progress: Progress | None) -> None:
        """Journal and report until every thread is done; raise the first failure."""
        total = sum(self._unit_bytes(unit) for unit in self._layout.units)
        done = sum(
            self._unit_bytes(unit)
            for unit in self._layout.units
            if unit.number in self._journal.finished
        )
        synced = done
        while True:
            with self._changed:
                self._changed.wait(0.1)
                if self._failure is not None:
                    break
                new = self._fresh[:]
            count = done + sum(self._unit_bytes(self._layout.units[n]) for n in new)
            if progress is not None:
                name = self._plan.items[self._layout.units[new[-1]].item].name if new else ""
                progress(count, total, name)
            if count - synced >= SYNC_BYTES:
                done += sum(self._unit_bytes(self._layout.units[n]) for n in self._record())
                synced = done
            if not any(thread.is_alive() for thread in running):
                break
        if self._failure is not None:
            if not isinstance(self._failure, ModelError | FileFormatError):
                self._record_quietly()
            raise self._failure
        self._record()
        if progress is not None:
            progress(total, total, "")

    def _record(self) -> list[int]:
        """Sync the shards, then note which units that makes safe; returns their numbers."""
        with self._changed:
            numbers, self._fresh = self._fresh, []
        for handle in self._handles:
            os.fsync(handle)
        if numbers:
            self._journal.add(numbers)
        return numbers

    def _record_quietly(self) -> None:
        """As `_record`, on the way out of a failure that is reported anyway."""
        try:
            self._record()
        except OSError as problem:
            if problem.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG):
                raise

    def _unit_bytes(self, unit: Unit) -> int:
        """Float bytes that a unit stands for, for progress."""
        item = self._plan.items[unit.item]
        width = item.shape[-1] if item.target is not None and item.shape else 1
        return 2 * (unit.end - unit.begin) * width

    def _guard(self, job: Callable[[], None]) -> Callable[[], None]:
        """A thread's main function: the first failure of any is kept for the caller."""

        def run() -> None:
            try:
                job()
            except _Stopped:
                return
            except BaseException as problem:
                with self._changed:
                    self._stop = True
                    if self._failure is None:
                        self._failure = problem
                    self._changed.notify_all()

        return run

    def _encode(self) -> None:
        import mlx.core as mx

        # A CPU stream of its own: the bits do not depend on the machine's GPU, and MLX runs one
        # operation at a time in a stream.
        with mx.stream(mx.new_stream(mx.cpu)):
            while True:
                with self._changed:
                    unit = None if self._stop else next(self._queue, None)
                if unit is None:
                    return
                for output, array in zip(unit.outputs, self._arrays(unit), strict=True):
                    place = self._layout.outputs[output]
                    step = (place.stop - place.start) // self._length(unit, output)
                    write_at(
                        self._handles[place.shard],
                        np.ascontiguousarray(array).view(np.uint8).data.cast("B"),
                        place.start + unit.begin * step,
                    )
                with self._changed:
                    self._fresh.append(unit.number)
                    for output in unit.outputs:
                        self._pending[output] -= 1
                    self._changed.notify_all()

    def _length(self, unit: Unit, output: int) -> int:
        """How many of the unit's steps (rows or elements) the whole output has."""
        shape = self._layout.outputs[output].shape
        size = int(np.prod(shape, dtype=np.int64))
        return size // shape[-1] if self._is_decoded(unit) else size

    def _is_decoded(self, unit: Unit) -> bool:
        item = self._plan.items[unit.item]
        return item.target is not None or item.decoded

    def _arrays(self, unit: Unit) -> tuple[Array, ...]:
        """The wire arrays of one unit."""
        item = self._plan.items[unit.item]
        if not self._is_decoded(unit):
            output = self._layout.outputs[unit.outputs[0]]
            rows = stored_rows(self._source, output.name, output.dtype, unit.begin, unit.end)
            return (rows,)
        rows = float_rows(self._source, item, unit.begin, unit.end)
        if item.target is None:
            return (rows,)
        try:
            return encode_rows(item.target, rows, item.dtype)
        except NonFiniteError as problem:
            raise ModelError(
                f"{self._source.checkpoint.path}: tensor {one_line(item.name, 80)!r}: "
                f"{problem.value} at row {unit.begin + problem.row}, column {problem.column}: "
                f"{item.target.name} cannot hold it (`mlxquant inspect --verify` lists every "
                f"such weight; --tensor '{item.module}=keep' leaves this one as it is)"
            ) from problem

    def _hash_sources(self, sources: Sequence[Path]) -> None:
        for path in sources:
            digest = hashlib.sha256()
            buffer = bytearray(HASH_BYTES)
            with path.open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    if self._stop:
                        raise _Stopped
                    digest.update(memoryview(buffer)[:got])
            self.source_hashes[path.name] = digest.hexdigest()

    def _hash_outputs(self) -> None:
        """Follow the workers through each shard, reading back what is in the file."""
        buffer = bytearray(HASH_BYTES)
        for number, shard in enumerate(self._layout.shards):
            digest = hashlib.sha256(shard.header)
            for index, output in enumerate(self._layout.outputs):
                if output.shard != number:
                    continue
                with self._changed:
                    while self._pending[index] and not self._stop:
                        self._changed.wait()
                    if self._stop:
                        raise _Stopped
                at = output.start
                while at < output.stop:
                    view = memoryview(buffer)[: output.stop - at]
                    got = os.preadv(self._handles[number], [view], at)
                    if not got:
                        raise WriteError(f"{self._folder / shard.name}: shorter than was written")
                    digest.update(view[:got])
                    at += got
            self.output_hashes[shard.name] = digest.hexdigest()


def _write_error(folder: Path, problem: OSError) -> WriteError:
    """What a user can do about a failed write."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full; free some space"
    else:
        what = f"writing failed: {problem.strerror}"
    return WriteError(f"{folder}: {what}, then run the same command with --resume")
