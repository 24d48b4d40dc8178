"""A program in a terminal of its own: type at it, read what it shows, look at the settings."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Terminal", "terminal"]


class Terminal:
    """`mlxquant ARGS…` on a pseudo-terminal that controls it, so that Ctrl-C is a signal."""

    def __init__(self, *args: str | Path, env: dict[str, str] | None = None) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlxquant", *map(str, args)],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**os.environ, "TERM": "xterm-256color", "INPUTRC": "/dev/null", **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def settings(self) -> list[Any]:
        """The terminal's settings now, as termios gives them."""
        return termios.tcgetattr(self._slave)

    def type(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C."""
        os.write(self._master, keys.encode())

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what is shown; whether there was anything."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return False
        self.shown += self._decoder.decode(data)
        return bool(data)

    def wait_for(self, text: str, after: int = 0, limit: float = 120) -> int:
        """Wait until `text` is shown at or after a position; the position after it."""
        end = time.monotonic() + limit
        while (at := self.shown.find(text, after)) < 0:
            if time.monotonic() > end or (self.process.poll() is not None and not self.read()):
                raise AssertionError(f"{text!r} is not shown: {self.shown[after:]!r}")
            self.read()
        return at + len(text)

    def interrupt(self, text: str, after: int = 0) -> int:
        """Press Ctrl-C at a prompt until `text` is shown; the position after it.

        Python's readline does not notice a signal between showing its prompt and waiting for a
        key, so one press may be lost, as to a person whose keys are answered a moment later.
        """
        while True:
            self.type("\x03")
            for _ in range(40):
                self.read()
                if (at := self.shown.find(text, after)) >= 0:
                    return at + len(text)

    def finish(self, pressing: str = "", limit: float = 120) -> int:
        """Wait for the end, pressing keys now and then; the exit status."""
        end = time.monotonic() + limit
        pressed = 0.0
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise AssertionError(f"still running: {self.shown!r}")
            if pressing and time.monotonic() > pressed + 2:
                self.type(pressing)
                pressed = time.monotonic()
            self.read()
        while self.read():
            pass
        return int(self.process.returncode)

    def close(self) -> None:
        """End the program, if it is still there, and the terminal."""
        self.process.kill()
        self.process.wait()
        for handle in (self._master, self._slave):
            os.close(handle)


@contextlib.contextmanager
def terminal(*args: str | Path, env: dict[str, str] | None = None) -> Iterator[Terminal]:
    """A Terminal that is closed at the end."""
    opened = Terminal(*args, env=env)
    try:
        yield opened
    finally:
        opened.close()
