"""The SHA-256 of the files that a run reads, taken beside it by a thread of its own."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from ..errors import FileFormatError

__all__ = ["SourceHashes", "Stamp", "stamps_of"]

#: bytes hashed in one go. Between two of them this thread waits for Python's lock, which imports in
#: another thread hold for 5 ms at a time: with smaller pieces it would do little but wait.
_PIECE = 8 << 20

#: name, size and time of change; -1 for a file that is gone
Stamp = tuple[str, int, int]


def stamps_of(files: Sequence[Path]) -> list[Stamp]:
    """What tells whether files change."""
    stamps = []
    for path in files:
        try:
            stat = path.stat()
            stamps.append((path.name, stat.st_size, stat.st_mtime_ns))
        except OSError:
            stamps.append((path.name, -1, -1))
    return stamps


class SourceHashes:
    """Begins with the first file at once: what comes before the reading (finding out what the model
    is, importing mlx-lm) leaves a core to it. As a context it ends the thread.

    Attributes:
        files: as given. stamps: of them, from before the first byte was read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.stamps = stamps_of(files)
        self._found: dict[str, str] = {}
        self._failure: FileFormatError | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> SourceHashes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        self._thread.join()

    def wait(self, is_stopped: Callable[[], bool]) -> dict[str, str] | None:
        """Hex digests by file name; None if `is_stopped` said so before they were there.

        Raises:
            FileFormatError: a file cannot be read.
        """
        while self._thread.is_alive():
            if is_stopped():
                return None
            self._thread.join(0.05)
        if self._failure is not None:
            raise self._failure
        return self._found

    def _run(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        for path in self.files:
            digest = hashlib.sha256()
            try:
                with path.open("rb", buffering=0) as file:
                    while not self._stop and (got := file.readinto(buffer)):
                        digest.update(buffer[:got])
            except OSError as problem:
                reason = f"cannot be read: {problem.strerror}"
                self._failure = FileFormatError(path, "file", reason)
                return
            if self._stop:
                return
            self._found[path.name] = digest.hexdigest()
