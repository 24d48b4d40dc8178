"""Threads of C that wait for work (pool.h): what products share their rows with.

Python's executors take longer to hand out a share than the product of a small matrix takes.
"""

from __future__ import annotations

import ctypes
from importlib.resources import files

import numpy as np

from .library import held, prepared

__all__ = ["pool"]


def pool() -> int | None:
    """The address of `mlxquant_share`, or None where it cannot be compiled: one thread then."""
    found = held("threads", _prepare)
    return found if isinstance(found, int) else None


def _prepare() -> int | str:
    text = files(__package__).joinpath("pool.h").read_text(encoding="utf-8")
    made = prepared("threads", text, _Pool, _check)
    return made.address if isinstance(made, _Pool) else made


class _Pool:
    """The library, which stays open for as long as the process has threads in it."""

    _open: list[ctypes.CDLL] = []

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self.share = loaded.mlxquant_share
        self.share.restype = None
        self._open.append(loaded)
        self.address = ctypes.cast(self.share, ctypes.c_void_p).value or 0


def _check(made: _Pool) -> str:
    """Empty where every item is run once."""
    runs = np.zeros(1000, np.uint8)

    def run(_: int, item: int) -> None:
        runs[item] += 1

    called = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ulong)(run)
    made.share(called, None, ctypes.c_ulong(len(runs)), 3)
    return "" if (runs == 1).all() else "threads: work is lost on this machine"
