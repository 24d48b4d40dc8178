"""Whether a GPU's kernel may be used here: it has to give a known answer first.

A kernel is run once on an answer that is known (answers.py), for its format and type, before it is
used for the first time on a machine. What came out is kept beside the compiled libraries:

    <cache>/kernels/gpu-<kernel>-<key>.json    {"answer": null, "" or what is wrong,
                                                "begun": processes that are at it, by number}

The key is the SHA-256 of the kernel's source, mlxquant's and MLX's version, the system's version
and the chip: with any other it is asked anew. Where nothing can be kept, every process asks for
itself. A kernel that gives anything else, fails to compile or raises is not used again: one warning
names it, and its work is done without it. Where the GPU had no memory or no time for it, that holds
for the process alone.

A GPU that fails can take the process with it. So a process first writes that it has begun; if two
that had begun are gone, and there is no answer, the kernel ended them.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from mlxquant import __version__
from mlxquant.formats.base import Array
from mlxquant.formats.floats import FLOATS

from .answers import answer, difference
from .host.compiler import Unavailable
from .host.store import folder, write
from .launch import Launch
from .source import call, header
from .switch import OFF, off

__all__ = ["KnownAnswers", "Runner"]

#: runs a launch on its kernel's arrays, bfloat16 as uint16, and gives the result likewise
Runner = Callable[[Launch, Sequence[Array]], Array]

#: processes that may have ended before a kernel is to blame
_ENDED = 2
#: how errors begin that MLX raises where a GPU has no memory, or another program keeps it from work
_PASSING = ("[malloc]", "[METAL] Command buffer execution failed")


class KnownAnswers:
    """What this process knows of the kernels of one GPU.

    Args:
        runner: runs them.
        identity: what else their results may depend on: MLX's and the system's version, the chip.
    """

    def __init__(self, runner: Runner, identity: Callable[[], str]) -> None:
        self._runner, self._identity = runner, identity
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], str] = {}

    def reason(self, started: Launch) -> str | None:
        """Why a launch's kernel may not be used, in one line; None where it may.

        The first call for a kernel, format and type takes a few milliseconds, or reads what an
        earlier process found.
        """
        name = (started.kernel.name, started.format, started.dtype)
        found = self._known.get(name)
        if found is None:
            with self._lock:
                found = self._known.get(name)
                if found is None:
                    found = self._known[name] = OFF if off() else self._asked(started)
        return found or None

    def forget(self) -> None:
        """Ask anew at the next call, as a new process would."""
        with self._lock:
            self._known.clear()

    def _asked(self, started: Launch) -> str:
        """Empty, or what is wrong: of a record, or found now."""
        what = f"{started.kernel.name} of {started.format}"
        if started.dtype in FLOATS:
            what += f" in {started.dtype}"
        try:
            record = _Record.of(f"{started.kernel.name}-{started.format}", self._key(started))
        except Exception as error:  # MLX has Metal, and there is no GPU: as on servers
            return f"{what} cannot be tried: {type(error).__name__}: {_first(str(error))}"
        found = record.answer
        if found is None:
            found = self._found(started, what, record)
        if found:
            warnings.warn(
                f"the kernel {found}; its work is done without it, more slowly. Please report "
                "this: mlxquant doctor -o report.md",
                RuntimeWarning,
                stacklevel=4,
            )
            return f"the kernel {found}"
        return ""

    def _found(self, started: Launch, what: str, record: _Record) -> str:
        """The same, found now, and kept if another process would find it too."""
        if record.ended >= _ENDED:
            found = f"{what} ended {record.ended} processes on this machine"
            record.finish(found)
            return found
        record.begin()
        lasting = False
        try:
            found, lasting = self._tried(started, what)
        finally:
            if not lasting:  # nothing that the kernel did; or Ctrl-C
                record.withdraw()
        if lasting:
            record.finish(found)
        return found

    def _tried(self, started: Launch, what: str) -> tuple[str, bool]:
        """Empty or what is wrong, and whether another process would find the same."""
        try:
            known = answer(started)
            if known is None:
                return f"{what} has no known answer", True
            ours = self._runner(known.launch, known.inputs)
        except Exception as error:  # of a compiler or a driver
            found = f"{what} fails on this machine: {type(error).__name__}: {_first(str(error))}"
            return found, not str(error).startswith(_PASSING)
        wrong = difference(ours, known.wanted, started.dtype)
        return (f"{what} is wrong on this machine: {wrong}" if wrong else ""), True

    def _key(self, started: Launch) -> str:
        parts = (
            header(started.format, started.kernel),
            call(started.format, started.kernel),
            started.dtype,
            __version__,
            self._identity(),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class _Record:
    """What is kept of a kernel; of one that cannot be kept nothing is known, and nothing is said.

    Attributes:
        answer: None before there is one.
        ended: processes that had begun and are gone.
    """

    def __init__(self, path: Path | None, answer: str | None, begun: list[int]) -> None:
        self._path, self.answer, self._begun = path, answer, begun
        # numbers are used again: one that is ours was an earlier process's
        self.ended = sum(each == os.getpid() or not _runs(each) for each in begun)

    @classmethod
    def of(cls, name: str, key: str) -> _Record:
        """What was kept; nothing, where a file is damaged."""
        try:
            path = folder() / f"gpu-{name}-{key}.json"
        except (OSError, Unavailable):
            return cls(None, None, [])
        try:
            kept = json.loads(path.read_bytes())
            answer, begun = kept["answer"], kept["begun"]
            if isinstance(answer, str | None) and all(type(each) is int for each in begun):
                return cls(path, answer, begun)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass
        return cls(path, None, [])

    def begin(self) -> None:
        """Keep that this process tries the kernel."""
        self._keep(None, [*self._begun, os.getpid()])

    def withdraw(self) -> None:
        """Keep that it does so no longer."""
        self._keep(None, self._begun)

    def finish(self, answer: str) -> None:
        """Keep what it found."""
        self._keep(answer, [])

    def _keep(self, answer: str | None, begun: list[int]) -> None:
        if self._path is None:
            return
        try:
            write(self._path, json.dumps({"answer": answer, "begun": begun}).encode())
        except OSError:
            self._path = None


def _runs(process: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _first(text: str) -> str:
    """The line that says what is wrong, of what a compiler said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["nothing was said"]
    return next((line for line in lines if "error:" in line), lines[0])[:300]
