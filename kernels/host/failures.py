"""What is said of a failure: what was done, to which element, by which thread, at which line."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from .structures import MOST_LANES, WHAT, Run

__all__ = ["CheckFailure", "message"]


class CheckFailure(Exception):
    """A kernel did what it must not do; which, where and what, in one line.

    Attributes:
        what: one of the names in WHAT, as RACE.
    """

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


def message(run: Run, place: Callable[[int], str]) -> str:
    """In one line, what `run.failure` says; `place` describes a place of check.h."""
    f = run.failure
    what = WHAT[f.what]
    group = f"threadgroup ({f.group[0]}, {f.group[1]}, {f.group[2]})"
    who = f"thread {f.lane} of {group}"
    array = run.arrays[f.array]
    name = array.name.decode() if array.name else ""
    operation = f.name.decode() if f.name else ""
    offset = ctypes.c_int64(f.at).value
    element = array.element or 1
    at = f"{name}[{offset // element}]" + (
        f" (byte {offset % element})" if f.size % element else ""
    )
    verb = "writes" if f.writes else "reads"
    here = place(f.place)
    if what == "OUTSIDE":
        count = array.size // element
        return f"{who} {verb} {f.size} bytes at {at}, outside of its {count} elements{here}"
    if what == "MISALIGNED":
        return (
            f"{who} {verb} {f.size} bytes at {at}, byte {offset}: not a multiple of {f.size}{here}"
        )
    if what == "READ_ONLY":
        return f"{who} writes {at}, which is an input{here}"
    if what == "UNWRITTEN":
        return f"{who} reads {at}, which nobody wrote yet{here}"
    if what in ("RACE", "ALIEN_RACE"):
        other = "a thread of another threadgroup" if what == "ALIEN_RACE" else _thread(f.other)
        did = "wrote" if f.other_writes else "read"
        there = place(f.other_place)
        return (
            f"race: {who} {verb} {at}{here}, which {other} {did}{there}, with no barrier for "
            f"this memory between"
        )
    if what in ("DIVERGENT", "ENDED"):
        rest = (
            f"thread {f.other} has ended"
            if what == "ENDED"
            else f"thread {f.other} at {f.other_name.decode()}{place(f.other_place)}"
        )
        return f"divergent: {who} waits at {operation}{here}, {rest}"
    if what == "NO_SUCH_LANE":
        return f"{operation} of {who} takes a value of lane {f.at}, which is not there{here}"
    if what == "NOT_UNIFORM":
        return (
            f"{operation} of {who} has another argument than other threads of its simdgroup{here}"
        )
    if what == "TOO_MUCH":
        return f"{f.at} bytes of threadgroup memory; 32768 at most{here}"
    if what == "TOO_LONG":
        return f"{who} still runs after {run.most_steps} steps{here}"
    if what == "UNDEFINED":
        return f"{who}: {operation}{here}"
    return f"{name}[{offset // element}] is never written"


def _thread(code: int) -> str:
    if code < MOST_LANES:
        return f"thread {code}"
    return "several threads" if code == 0x8000 else f"threads of simdgroup {code - 0x4000}"
