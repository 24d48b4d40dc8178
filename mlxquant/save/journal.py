"""What an interrupted run has finished, so that the next one goes on from there.

`journal` in the partial folder: a line of JSON that identifies the run (the plan, the source, the
versions), then the numbers of finished units, a batch a line, each written only after the bytes
that it speaks of are on disk. A torn last line is ignored.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from ..errors import OutputError

__all__ = ["Journal"]


class Journal:
    """The journal of one partial folder, locked against a second run.

    Args:
        path: the file; made if it is missing.
        identity: what this run is; a journal with another identity is refused.

    Raises:
        OutputError: another run holds the lock, or the journal is another run's.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.finished: set[int] = set()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(path, identity)
        except BlockingIOError as problem:
            os.close(self._handle)
            raise OutputError(f"{path.parent}: another run is writing here") from problem
        except BaseException:
            os.close(self._handle)
            raise

    def _read(self, path: Path, identity: str) -> None:
        head = json.dumps({"run": identity}) + "\n"
        text = path.read_text(encoding="ascii", errors="replace")
        if not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
        if not text:
            os.ftruncate(self._handle, 0)
            os.write(self._handle, head.encode())
            return
        lines = text.splitlines(keepends=True)
        if lines[0] != head:
            raise OutputError(
                f"{path.parent}: belongs to another model, request or version; --force starts over"
            )
        for line in lines[1:]:
            self.finished.update(int(number) for number in line.split() if number.isdigit())
        os.ftruncate(self._handle, len(text))
        os.lseek(self._handle, 0, os.SEEK_END)

    def add(self, numbers: list[int]) -> None:
        """Record units whose bytes are on disk."""
        os.write(self._handle, (" ".join(map(str, numbers)) + "\n").encode())
        os.fsync(self._handle)
        self.finished.update(numbers)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._handle)
