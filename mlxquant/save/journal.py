"""What an interrupted run has finished, so that the next one goes on from there.

A line of JSON that identifies the run (the plan, the source, the versions), then the numbers of
finished units, a batch a line, each written only after the bytes that it speaks of are on disk. A
torn last line is ignored.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from ..errors import OutputError
from ..files.atomic import write_at

__all__ = ["Journal"]


class Journal:
    """The journal of one partial folder, locked against a second run from here to `close`.

    Args:
        path: the file; it and its folder are made if they are missing.

    Attributes:
        finished: numbers of the units whose bytes are on disk; known after `begin`.

    Raises:
        OutputError: another run holds the lock.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.finished: set[int] = set()
        self._path = path
        self._head = self._end = 0
        self._handle = _open_locked(path)

    def begin(self, identity: str) -> None:
        """Read what was finished by the run that this one continues, or write the first line.

        Args:
            identity: what this run is.

        Raises:
            OutputError: the journal is another run's.
        """
        head = (json.dumps({"run": identity}) + "\n").encode()
        text = self._path.read_bytes()
        text = text[: text.rfind(b"\n") + 1]
        if not text:
            os.ftruncate(self._handle, 0)
            write_at(self._handle, memoryview(head), 0)
            text = head
        lines = text.splitlines(keepends=True)
        if lines[0] != head:
            raise OutputError(
                f"{self._path.parent}: belongs to another model, request or version; "
                "--force starts over"
            )
        for line in lines[1:]:
            self.finished.update(int(number) for number in line.split() if number.isdigit())
        self._head, self._end = len(head), len(text)
        os.ftruncate(self._handle, self._end)

    def add(self, numbers: list[int]) -> None:
        """Record units whose bytes are on disk."""
        line = (" ".join(map(str, numbers)) + "\n").encode()
        write_at(self._handle, memoryview(line), self._end)
        os.fsync(self._handle)
        self._end += len(line)
        self.finished.update(numbers)

    def forget(self) -> None:
        """Nothing is finished after all; before `begin`, whose run this was is forgotten too."""
        os.ftruncate(self._handle, self._head)
        self._end = self._head
        self.finished.clear()

    def close(self) -> None:
        """Release the lock."""
        os.close(self._handle)


def _open_locked(path: Path) -> int:
    """The file, locked for this process."""
    while True:
        path.parent.mkdir(exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            continue  # a run that ended just now took its folder away
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError as problem:
            os.close(handle)
            raise OutputError(f"{path.parent}: another run is writing here") from problem
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the lock is on a file that a run that ended just now took away
