"""A process that quantizes and dies, or whose disk fails, at a chosen change of the disk.

`Runner` starts this file as a program. It imports mlx-lm once and then forks a child for every
run, so that hundreds of real deaths cost a fraction of a second each. Units, shards and the stretch
between two syncs are made small, so that a small model goes through every phase many times.

What is counted is every call that changes the disk below the folder that holds the output: making,
opening for writing, renaming and removing (seen by Python's audit events), `os.pwrite`,
`os.ftruncate` and `os.fsync`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Fault", "Outcome", "Runner", "as_ordinary_user", "tree"]

UNIT_BYTES = 32 << 10
SHARD_BYTES = 80 << 10
SYNC_BYTES = 96 << 10

#: what every run needs; none of it starts a thread, which would not survive the fork
IMPORTED = (
    "mlx_lm.models.llama",
    "mlxquant.load.from_hf",
    "mlxquant.load.hub",
    "mlxquant.models.mlx_lm",
    "mlxquant.quantize.policy",
    "mlxquant.models.gguf_model",
    "mlxquant.quantize.gguf_plan",
    "mlxquant.save.to_gguf",
    "mlxquant.save.to_mlx",
    "mlxquant.save.work",
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    Attributes:
        call: the number, from 1, of the change of the disk at which it happens; 0 for never.
        what: `kill` (SIGKILL instead of the call), `half` (half of a write, then SIGKILL), `power`
            (what was not synced turns to garbage, then SIGKILL), `interrupt` (SIGINT to oneself
            before the call), `interrupts` (the same before each of ten calls), an errno's name that
            the call fails with, or `short` (from that call on, writes take a byte less than asked
            for).
        only: count only the calls that start so, e.g. `fsync out.partial/model`.
        room: bytes that can be written before the disk is full; None for no limit.
    """

    call: int = 0
    what: str = "kill"
    only: str = ""
    room: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: as a shell sees it: 0, the error's exit status, 130; negative for a signal.
        error: `Class: message`; empty when there was none.
        calls: `(what, path)` of every change of the disk, in order; what a killed run did before.
        written: bytes that it wrote.
    """

    status: int
    error: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    written: int = 0


def tree(folder: Path) -> dict[str, str] | None:
    """SHA-256 of every file of a folder by relative name; None if there is no such folder."""
    if not folder.exists():
        return None
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def as_ordinary_user() -> None:
    """Let the modes of files count for root too: give up the two powers that overrule them.

    For `preexec_fn`: what is executed next, and its children, do without.
    """
    if os.geteuid() == 0:
        drop_from_bounding_set, overrule_access, overrule_reading = 24, 1, 2
        for power in (overrule_access, overrule_reading):
            if ctypes.CDLL(None).prctl(drop_from_bounding_set, power, 0, 0, 0):
                raise OSError("this process may not give up powers")


class Runner:
    """Runs `mlxquant.quantize`, or another `work`, in children of a process of its own.

    Args:
        before: called in that process before the program starts.
    """

    def __init__(self, before: Callable[[], None] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )

    def __call__(
        self, model: Path, output: Path, fault: Fault | None = None, **options: Any
    ) -> Outcome:
        """One run; `options` are `quantize`'s."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"model": str(model), "output": str(output), "options": options}
        order["fault"] = asdict(fault or Fault())
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        answer["calls"] = [tuple(call) for call in answer["calls"]]
        return Outcome(**answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate("", timeout=60)


class Disk:
    """Watches and disturbs what this process does below a folder."""

    def __init__(self, root: str, fault: Fault, log: int) -> None:
        self._root, self._fault, self._log = root, fault, log
        self._count, self._room = 0, fault.room
        self._written, self._dying = 0, False
        self._lock = threading.RLock()
        # path → byte ranges that are not synced; None for all of the file
        self._dirty: dict[str, list[tuple[int, int]] | None] = {}
        self._pwrite, self._fsync, self._ftruncate = os.pwrite, os.fsync, os.ftruncate
        os.pwrite, os.fsync, os.ftruncate = self.pwrite, self.fsync, self.ftruncate
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            path = absolute(path)
            if self._call("open", path) and flags & os.O_TRUNC:
                with self._lock:
                    self._dirty[path] = None
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            folder = path_of(arguments[-1]) if arguments[-1] >= 0 else "."
            self._call(event, absolute(os.fsdecode(arguments[0]), folder))
        elif event == "os.rename":
            before, after = (absolute(p) for p in arguments[:2])
            if self._call("os.rename", after):
                self._dirty = {
                    after + path.removeprefix(before) if path.startswith(before) else path: ranges
                    for path, ranges in self._dirty.items()
                }

    def _call(self, what: str, path: str) -> bool:
        """Count a call that is about to happen; the chosen one goes wrong."""
        if self._dying or not f"{path}/".startswith(self._root):
            return False
        with self._lock:
            fault, name = self._fault, f"{path}/".removeprefix(self._root)[:-1]
            os.write(self._log, (json.dumps([what, name]) + "\n").encode())
            if not f"{what} {name}".startswith(fault.only):
                return True
            self._count += 1
            last = fault.call + 9 * (fault.what == "interrupts")
            if not fault.call <= self._count <= last or fault.what in ("half", "short"):
                return True
            if fault.what == "power":
                self._lose()
            if fault.what in ("kill", "power"):
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault.what.startswith("interrupt"):
                os.kill(os.getpid(), signal.SIGINT)
            else:
                self._fail(fault.what)
        return True

    @staticmethod
    def _fail(name: str) -> None:
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    def _lose(self) -> None:
        """What a power cut leaves of bytes that were never synced: anything."""
        self._dying = True
        for path, ranges in self._dirty.items():
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_WRONLY)
                for start, stop in [(0, os.fstat(handle).st_size)] if ranges is None else ranges:
                    self._pwrite(handle, b"\xa5" * (stop - start), start)

    def pwrite(self, handle: int, data: Any, offset: int) -> int:
        """os.pwrite, perhaps of fewer bytes, perhaps in vain."""
        path = path_of(handle)
        with self._lock:
            if not self._call("pwrite", path):
                return self._pwrite(handle, data, offset)
            fault, size = self._fault, len(data)
            if self._room is not None:
                size = min(size, self._room)
                if not size:
                    self._fail("ENOSPC")
                self._room -= size
            if fault.what == "short" and 0 < fault.call <= self._count:
                size = max(1, size - 1)
            if fault.what == "half" and fault.call == self._count:
                self._pwrite(handle, data[: size // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            ranges = self._dirty.setdefault(path, [])
            if ranges is not None:
                ranges.append((offset, offset + size))
            self._written += size
            return self._pwrite(handle, data[:size], offset)

    def fsync(self, handle: int) -> None:
        """os.fsync."""
        path = path_of(handle)
        self._call("fsync", path)
        self._fsync(handle)
        with self._lock:
            self._dirty.pop(path, None)

    def ftruncate(self, handle: int, length: int) -> None:
        """os.ftruncate."""
        self._call("ftruncate", path_of(handle))
        self._ftruncate(handle, length)

    @property
    def written(self) -> int:
        """Bytes that `os.pwrite` took."""
        return self._written

    @property
    def dirty(self) -> list[str]:
        """Files that exist and are not synced."""
        return [path for path in self._dirty if Path(path).exists()]


def path_of(handle: int) -> str:
    """The path of an open file or folder."""
    if hasattr(fcntl, "F_GETPATH"):
        return fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode()
    return str(Path(f"/proc/self/fd/{handle}").readlink())


def absolute(path: Any, folder: str = ".") -> str:
    """The path as a string, from the root on."""
    return str((Path(folder) / os.fsdecode(path)).absolute())


def open_files() -> int:
    """How many files this process holds open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def child(order: dict[str, Any], log: int, report: int) -> int:
    """One run; the exit status."""
    import mlx.core as mx

    import mlxquant
    from mlxquant.save import folder, layout, work

    mx.set_default_device(mx.cpu)  # a fork of a process cannot use its GPU
    layout.UNIT_BYTES, folder.SHARD_BYTES = UNIT_BYTES, SHARD_BYTES
    work.SYNC_BYTES = SYNC_BYTES
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handles = open_files()
    disk = Disk(f"{Path(order['output']).parent}/", Fault(**order["fault"]), log)
    status, error = 0, ""
    try:
        work = getattr(mlxquant, order["options"].pop("work", "quantize"))
        work(order["model"], order["output"], **order["options"])
    except mlxquant.MlxquantError as problem:
        status, error = problem.exit_status, f"{type(problem).__name__}: {problem}"
    except KeyboardInterrupt:
        status = 130
    except BaseException as problem:
        status, error = 70, f"{type(problem).__name__}: {problem}"
    threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if threads:
        status, error = 71, f"threads left running: {threads}"
    if status == 0 and disk.dirty:
        status, error = 72, f"not synced: {disk.dirty}"
    if open_files() != handles:
        status, error = 73, f"{open_files()} files open, {handles} before"
    os.write(report, json.dumps({"error": error, "written": disk.written}).encode())
    return status


def serve() -> None:
    """Fork a child for each order that comes on standard input."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as log, tempfile.TemporaryFile() as report:
            pid = os.fork()
            if pid == 0:
                status = 70
                try:
                    status = child(json.loads(line), log.fileno(), report.fileno())
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            log.seek(0)
            report.seek(0)
            answer = {"status": status, **json.loads(report.read() or "{}")}
            answer["calls"] = [json.loads(call) for call in log.read().splitlines()]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
