"""Work of several parts, each of which counts in units of its own, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

__all__ = ["Stages", "stage"]


@runtime_checkable
class Stages(Protocol):
    """A progress callback that wants to know what it counts."""

    def stage(self, what: str, *, bytes_: bool) -> None:
        """Another part begins; calls from here on count bytes, or else steps."""


def stage(
    progress: Callable[[int, int, str], None] | None, what: str, *, bytes_: bool = False
) -> None:
    """Say that another part of the work begins; to a plain callback nothing is said.

    Args:
        what: in a word or three, `trying formats`.
    """
    if isinstance(progress, Stages):
        progress.stage(what, bytes_=bytes_)
