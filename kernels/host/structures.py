"""What check.h and Python tell one another: the same structures, field by field."""

from __future__ import annotations

import ctypes

__all__ = ["KINDS", "MOST_ARRAYS", "MOST_LANES", "WHAT", "Array", "Failure", "Run", "Seen"]

MOST_LANES, MOST_ARRAYS = 1024, 64
KINDS = ("INPUT", "OUTPUT", "SHARED", "TABLE")
WHAT = (
    *("NOTHING", "OUTSIDE", "READ_ONLY", "UNWRITTEN", "RACE", "ALIEN_RACE", "DIVERGENT", "ENDED"),
    *("TOO_LONG", "TOO_MUCH", "NO_SUCH_LANE", "NOT_UNIFORM", "MISALIGNED", "UNDEFINED"),
    "NEVER_WRITTEN",
)


class Array(ctypes.Structure):
    """Memory that a kernel may access."""

    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("element", ctypes.c_uint32),
        ("writes", ctypes.c_void_p),
        ("reads", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
    )


class Seen(ctypes.Structure):
    """One access."""

    _fields_ = (
        ("group", ctypes.c_uint32),
        ("lane", ctypes.c_uint16),
        ("size", ctypes.c_uint16),
        ("at", ctypes.c_uint64),
    )


class Failure(ctypes.Structure):
    """What was wrong, and where."""

    _fields_ = (
        ("what", ctypes.c_uint32),
        ("lane", ctypes.c_uint32),
        ("other", ctypes.c_uint32),
        ("group", ctypes.c_uint32 * 3),
        ("array", ctypes.c_uint32),
        ("writes", ctypes.c_uint32),
        ("other_writes", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("at", ctypes.c_uint64),
        ("place", ctypes.c_uint64),
        ("other_place", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("other_name", ctypes.c_char_p),
    )


class Run(ctypes.Structure):
    """One call."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        ("inputs", ctypes.c_uint32),
        ("outputs", ctypes.c_uint32),
        ("fixed", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("watched", ctypes.c_uint32),
        ("arrays", Array * MOST_ARRAYS),
        ("stacks", ctypes.c_void_p),
        ("stack_size", ctypes.c_uint64),
        ("most_steps", ctypes.c_uint64),
        ("arguments", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("kept", ctypes.c_uint64),
        ("room", ctypes.c_uint64),
        ("reads", ctypes.c_uint64),
        ("times", ctypes.c_uint64 * 8 * 2 * MOST_ARRAYS),
        ("failure", Failure),
    )
