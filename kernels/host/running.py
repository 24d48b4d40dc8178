"""A checked kernel's library, and a call of it: memory for arrays, for stacks, for what is seen."""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mlxquant.formats.base import Array

from . import places
from .compiler import Compiler, find
from .failures import CheckFailure, message
from .store import stored
from .structures import KINDS, MOST_LANES, WHAT, Run, Seen
from .structures import Array as Room

__all__ = ["Accesses", "Call", "CheckCompiler", "Library"]

_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O1", "-w", "-gline-tables-only"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fsigned-char", "-fvisibility=hidden"),
    *("-fno-vectorize", "-fno-slp-vectorize", "-fno-builtin"),
    *("-mllvm", "-disable-vector-combine"),
    "-fsanitize=thread,array-bounds,shift-exponent,integer-divide-by-zero",
    *("-fsanitize-coverage=trace-pc", "-fstack-protector-strong"),
    "-fno-sanitize-link-runtime",
    *("-mllvm", "-tsan-instrument-func-entry-exit=0"),
    *("-mllvm", "-tsan-instrument-read-before-write=1"),
    *("-shared", "-fPIC"),
)
_STACK = 1 << 18
#: between arrays: what is outside of one is inside of none
_GAP = 1 << 24


class CheckCompiler(Compiler):
    """A clang that puts a call before every access to memory."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Options of every compilation."""
        arm = platform.machine() in ("arm64", "aarch64")
        named = () if sys.platform == "darwin" else ("-Wl,-soname,mlxquant",)
        return (*_FLAGS, *named, "-mcpu=native" if arm else "-march=native")


class Library:
    """A kernel compiled for some types.

    Args:
        name: of the kernel.
        text: its translation unit.
        header, source: what its lines are of.
        kind: of compiler.
    """

    def __init__(
        self,
        name: str,
        text: str,
        header: str,
        source: str,
        kind: type[CheckCompiler] = CheckCompiler,
    ) -> None:
        self.name, self.header, self.source = name, header, source
        compiler = find()
        self.compiler = kind(compiler.path, compiler.version)
        self.path = stored(f"check-{name.replace(' ', '-')}", text, self.compiler).path
        self.loaded = loaded = ctypes.CDLL(str(self.path))
        loaded.check_base.restype = ctypes.c_void_p
        loaded.check_run.restype = loaded.check_tables.restype = None
        self.base = loaded.check_base()
        self._run, self._tables = loaded.check_run, loaded.check_tables

    def run(
        self, call: Call, most_steps: int, kept: str = "", room: int = 0, watched: bool = True
    ) -> tuple[list[Array], Accesses | None]:
        """The outputs; and every read of the input `kept`, if one is named.

        Args:
            room: for so many reads.
            watched: whether the library was compiled so.

        Raises:
            CheckFailure: the kernel did what it must not do.
            ValueError: more reads came.
        """
        run = Run(grid=call.grid, threadgroup=call.threadgroup)
        run.inputs, run.outputs = len(call.inputs), len(call.shapes)
        run.most_steps, run.watched = most_steps, watched
        run.stacks, run.stack_size = _stacks(), _STACK
        memory = _Memory(call)
        keep: list[Any] = []
        pointers = []

        def add(array: Array, at: int, kind: str, name: str, shadow: Array | None = None) -> None:
            marks = (None, None) if shadow is None else [part.ctypes.data for part in shadow]
            run.arrays[run.fixed] = Room(
                at, array.nbytes, KINDS.index(kind), array.itemsize, *marks, name.encode()
            )
            run.fixed += 1

        named = iter(call.names)
        for x, begin in zip(call.inputs, memory.inputs, strict=True):
            ctypes.memmove(begin, x.ctypes.data, x.nbytes)
            pointers.append(begin)
            add(x, begin, "INPUT", next(named))
        for out in memory.outputs:
            # Access of check.h has 16 bytes; of each byte, the last write and the last read
            keep.append(np.zeros((2, max(out.nbytes, 1), 2), np.uint64))
            pointers.append(out.ctypes.data)
            add(out, out.ctypes.data, "OUTPUT", next(named), keep[-1])
        for name, x in zip(call.names, call.inputs, strict=False):
            for part, numbers in _numbers(x).items():
                keep.append(numbers)
                pointers.append(numbers.ctypes.data)
                if f"{name}_{part}" in self.source:
                    add(numbers, numbers.ctypes.data, "TABLE", f"{name}_{part}")
        arguments = (ctypes.c_void_p * len(pointers))(*pointers)
        run.arguments = ctypes.addressof(arguments)
        seen = (Seen * room)() if kept else None
        if seen is not None:
            run.seen, run.room = ctypes.addressof(seen), room
            run.kept = call.names.index(kept)
        self._tables(ctypes.byref(run))
        self._run(ctypes.byref(run))
        if run.failure.what:
            raise CheckFailure(WHAT[run.failure.what], f"{self.name}: {message(run, self._place)}")
        outputs = [out.copy() for out in memory.outputs]
        return outputs, None if seen is None else _accesses(run, seen)

    def _place(self, place: int) -> str:
        """Line and text of a place; an empty string where there is none."""
        line = place
        if place >= 1 << 32:
            line = places.line(self.compiler.path, self.path, place - self.base) or 0
        return places.described(line, self.header, self.source)


@dataclass(frozen=True)
class Call:
    """What a kernel is called with.

    Attributes:
        names: of inputs and outputs, in order.
        inputs: C-contiguous arrays.
        grid, threadgroup: threads.
        shapes, dtypes: of the outputs.
    """

    names: list[str]
    inputs: list[Array]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    shapes: list[tuple[int, ...]]
    dtypes: list[np.dtype[Any]]


@dataclass(frozen=True)
class Accesses:
    """What a call accessed.

    Attributes:
        kinds: of arrays: inputs, outputs, tables and threadgroup memory, in this order.
        times: how often each was read, and written, by width 2^i: integers [arrays, 2, 8].
        stored: bytes of one input, of which every read follows, in the order it came: threads one
            after another.
        group, lane: of the thread: threadgroups are counted in order.
        at: offset in bytes; size: bytes.
    """

    kinds: list[str]
    times: Array
    stored: int
    group: Array
    lane: Array
    at: Array
    size: Array


def _accesses(run: Run, seen: ctypes.Array[Seen]) -> Accesses:
    if run.reads > run.room:
        raise ValueError(f"{run.reads} reads; room for {run.room} was given")
    of = np.ctypeslib.as_array(seen)[: run.reads]
    return Accesses(
        [KINDS[run.arrays[i].kind] for i in range(run.count)],
        np.ctypeslib.as_array(run.times)[: run.count].copy(),
        run.arrays[run.kept].size,
        *(of[field].astype(np.int64) for field in ("group", "lane", "at", "size")),
    )


class _Memory:
    """Inputs and outputs, far from one another."""

    def __init__(self, call: Call) -> None:
        inputs = [x.nbytes for x in call.inputs]
        outputs = list(zip(call.shapes, call.dtypes, strict=True))
        sizes = [int(np.prod(shape)) * of.itemsize for shape, of in outputs]
        room = [-(-size // 256) * 256 + _GAP for size in (*inputs, *sizes)]
        self._mapped = mmap.mmap(-1, sum(room) + _GAP)
        whole = np.frombuffer(self._mapped, np.uint8)
        ends = np.cumsum([_GAP, *room[:-1]]).tolist()
        self.inputs = [whole.ctypes.data + at for at in ends[: len(inputs)]]
        self.outputs = [
            whole[at : at + size].view(of).reshape(shape)
            for at, size, (shape, of) in zip(ends[len(inputs) :], sizes, outputs, strict=True)
        ]


def _numbers(x: Array) -> dict[str, Array]:
    """What a kernel can ask of an input; strides in elements."""
    strides = [stride // x.itemsize for stride in x.strides]
    return {
        "shape": np.array(x.shape, np.int32),
        "strides": np.array(strides, np.int64),
        "ndim": np.array([x.ndim], np.int32),
    }


@cache
def _stacks() -> int:
    """Memory for the stacks of a threadgroup's threads; below each a page nobody can access."""
    mapped = mmap.mmap(-1, MOST_LANES * _STACK)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    libc = ctypes.CDLL(None, use_errno=True)
    for i in range(MOST_LANES):
        if libc.mprotect(ctypes.c_void_p(begin + i * _STACK), ctypes.c_size_t(mmap.PAGESIZE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(mapped)
    return begin


_kept: list[mmap.mmap] = []
