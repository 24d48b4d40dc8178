"""A progress bar over bytes, on stderr and only where that is a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import click

__all__ = ["ByteProgress", "say_what_is_kept"]


def say_what_is_kept(output: str) -> None:
    """After Ctrl-C: what an interrupted run left behind, and what it is good for."""
    for kept in (f"{output}.partial", f"{output}.calibration"):
        if Path(kept).exists():
            click.echo(f"{kept} keeps what is done: --resume finishes it", err=True)
            return


class ByteProgress:
    """Called with (bytes done, bytes in all, name of what is worked on); of work in several parts
    also told what each is, and whether it counts bytes or steps (`quantize.stages`).

    rich is imported with the first call, and only if there is a terminal to draw on.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bytes = True
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ByteProgress:
        return self

    def stage(self, what: str, *, bytes_: bool) -> None:
        """Another part begins."""
        self._stop()
        self._what, self._bytes = what, bytes_

    def __call__(self, done: int, total: int, name: str) -> None:
        """Show how far the work is."""
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            self._bar = self._start(total)
        self._bar.update(self._task, completed=done, total=total)

    def _start(self, total: int) -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        counted = (
            [DownloadColumn(), TransferSpeedColumn()] if self._bytes else [TaskProgressColumn()]
        )
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *counted,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = bar.add_task(self._what, total=total)
        bar.start()
        return bar

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
