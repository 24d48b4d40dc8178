"""Doing the units of a layout on threads, and hashing what goes in and what comes out.

    workers (n)      unit → rows → wire bytes → their place in the shard
    source hasher    the SHA-256 of every source file, read once beside the workers
    output hasher    the SHA-256 of every shard, read back from the file behind the workers
    the caller       syncs, writes the journal, reports progress

Bytes have their places before work starts, so neither the number of threads nor the order in which
units finish changes anything. Every loop stops when one of them fails, or at Ctrl-C.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FileFormatError, ModelError, WriteError
from ..files.atomic import write_at
from .partial import write_error

if TYPE_CHECKING:
    from .journal import Journal
    from .layout import Layout, Unit
    from .source_hash import SourceHashes

__all__ = ["Progress", "Work"]

Progress = Callable[[int, int, str], None]

#: the journal is written, and the shards synced, each time so many bytes of output are new
SYNC_BYTES = 128 << 20

#: what a core keeps in its own cache between the copy from the kernel and the hash
HASH_BYTES = 256 << 10


class _Stopped(Exception):
    """Another thread failed or the user interrupted; nothing of one's own to report."""


class Work:
    """One run over the units that are not finished yet.

    Args:
        folder: where the layout's shards are written.
        hashes: of the sources, under way. With them the shards are hashed too.

    After `run`, `output_hashes` and `source_hashes` hold SHA-256 hex digests by file name.
    """

    def __init__(
        self, layout: Layout, folder: Path, journal: Journal, hashes: SourceHashes | None
    ) -> None:
        self._layout, self._folder, self._journal = layout, folder, journal
        self._hashes = hashes
        self._changed = threading.Condition()
        self._done: SimpleQueue[int | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._stop = False
        self._fresh: list[int] = []
        self._recording = False
        self._pending = [0] * len(layout.outputs)
        for unit in layout.units:
            if unit.number not in journal.finished:
                for output in unit.job.outputs:
                    self._pending[output] += 1
        self._queue = iter([u for u in layout.units if u.number not in journal.finished])
        self.output_hashes: dict[str, str] = {}
        self.source_hashes: dict[str, str] = {}

    def run(self, threads: int, progress: Progress | None) -> None:
        """Do everything.

        Raises:
            WriteError: the disk is full or failed. ModelError: a weight is NaN or infinite.
            FileFormatError: the source changed or cannot be read.
        """
        self._handles: list[int] = []
        jobs = [self._guard(self._encode) for _ in range(threads)]
        if self._hashes is not None:
            jobs.append(self._guard(self._hash_outputs))
            jobs.append(self._guard(partial(self._await_sources, self._hashes)))
        running = [threading.Thread(target=job, daemon=True) for job in jobs]
        with self._ctrl_c_is_a_request():
            try:
                self._prepare()
                for thread in running:
                    thread.start()
                self._watch(len(running), progress)
            except BaseException as problem:
                self._stop = True
                _join(running)
                if not isinstance(problem, ModelError | FileFormatError):
                    self._record_the_last()
                if isinstance(problem, OSError):
                    raise write_error(self._folder, problem) from problem
                raise
            finally:
                for handle in self._handles:
                    os.close(handle)
        self._raise_failure()

    @contextmanager
    def _ctrl_c_is_a_request(self) -> Iterator[None]:
        """Ctrl-C stops the work like a failure in a thread; it does not strike out of the blue.

        An exception on the way out of another one would leave threads behind that go on writing to
        files that are closed. A handler that is not Python's own is left in place.
        """
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        if self._failure is None:
            self._failure = KeyboardInterrupt()
        self._done.put(None)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _prepare(self) -> None:
        """The headers, and the files' full (sparse) length."""
        for shard in self._layout.shards:
            handle = os.open(self._folder / shard.name, os.O_RDWR | os.O_CREAT, 0o644)
            self._handles.append(handle)
            os.ftruncate(handle, shard.size)
            write_at(handle, memoryview(shard.header), 0)

    def _watch(self, threads: int, progress: Progress | None) -> None:
        """Journal and report until every thread has ended; raise the first failure."""
        total = sum(self._unit_bytes(unit) for unit in self._layout.units)
        count = total - sum(
            self._unit_bytes(unit)
            for unit in self._layout.units
            if unit.number not in self._journal.finished
        )
        synced = count
        while threads:
            number = self._done.get()
            self._raise_failure()
            if number is None:
                threads -= 1
                continue
            unit = self._layout.units[number]
            self._fresh.append(number)
            count += self._unit_bytes(unit)
            if progress is not None:
                progress(count, total, unit.job.name)
            if count - synced >= SYNC_BYTES:
                self._record()
                synced = count
        self._record()
        if progress is not None:
            progress(total, total, "")

    def _record(self) -> None:
        """Sync the shards, then note which units that makes safe.

        A sync that fails is told so once only: of what was written before it nothing may be noted
        any more, although another sync would succeed.
        """
        self._recording = True
        for handle in self._handles:
            os.fsync(handle)
        if self._fresh:
            self._journal.add(self._fresh)
        self._fresh = []
        self._recording = False

    def _record_the_last(self) -> None:
        """As `_record`, on the way out of a failure that is reported anyway."""
        if self._recording:
            return
        while not self._done.empty():
            number = self._done.get()
            if number is not None:
                self._fresh.append(number)
        with suppress(OSError):
            self._record()

    def _unit_bytes(self, unit: Unit) -> int:
        """Float bytes that a unit stands for, for progress."""
        return (unit.end - unit.begin) * unit.job.step_bytes

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
            finally:
                self._done.put(None)

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
                job = unit.job
                arrays = job.produce(unit.begin, unit.end)
                for output, array in zip(job.outputs, arrays, strict=True):
                    place = self._layout.outputs[output]
                    step = (place.stop - place.start) // job.steps
                    write_at(
                        self._handles[place.shard],
                        np.ascontiguousarray(array).view(np.uint8).data.cast("B"),
                        place.start + unit.begin * step,
                    )
                with self._changed:
                    for output in job.outputs:
                        self._pending[output] -= 1
                    if not all(self._pending[output] for output in job.outputs):
                        self._changed.notify_all()
                self._done.put(unit.number)

    def _await_sources(self, hashes: SourceHashes) -> None:
        found = hashes.wait(lambda: self._stop)
        if found is None:
            raise _Stopped
        self.source_hashes.update(found)

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
                        self._changed.wait(0.1)  # who sets `_stop` wakes nobody
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


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for every thread that was started, whatever the user presses: they use our files."""
    while any(thread.is_alive() for thread in threads):
        with suppress(KeyboardInterrupt):
            for thread in threads:
                if thread.is_alive():
                    thread.join()
