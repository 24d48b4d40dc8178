"""A kernel run on this processor, every access to memory watched.

>>> double = CheckedKernel("double", ["x"], ["out"], "uint i = thread_position_in_grid.x; "
...                        "out[i] = 2 * x[i];")
>>> double([np.arange(3, dtype=np.float32)], (3, 1, 1), (32, 1, 1), [(3,)], ["float32"])[0]
array([0., 2., 4.], dtype=float32)

The arguments are those of `mx.fast.metal_kernel`, and the signature is written as MLX writes it
(signature.py). Threads run one at a time; at a barrier or a function of a simdgroup each waits
until the others have come to the same line (check.h, simdgroup.h). A `CheckFailure` says what no
GPU would: that two threads access a byte, one of them writing, with no barrier between; that
threads wait at different places, or do not end; that an access is outside of its array, misaligned, or reads
threadgroup memory that nobody wrote; that an element of the output is never written; that a shift
or an index of a thread's own array is out of range.

What it cannot see: a race that only other input reaches, and the GPU's own arithmetic. Accesses of 96 bits are not watched (nothing loads a float3).
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from mlxquant.formats.base import Array

from . import places
from .compiler import Compiler, find
from .signature import Argument, entry, plain, typed
from .store import stored

__all__ = ["CheckFailure", "CheckedKernel"]

_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O1", "-w", "-gline-tables-only"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-fsigned-char", "-fvisibility=hidden"),
    *("-fno-vectorize", "-fno-slp-vectorize", "-fno-builtin"),
    "-fsanitize=thread,array-bounds,shift-exponent,integer-divide-by-zero",
    "-fsanitize-coverage=trace-pc",
    "-fno-sanitize-link-runtime",
    *("-mllvm", "-tsan-instrument-func-entry-exit=0"),
    *("-mllvm", "-tsan-instrument-read-before-write=1"),
    *("-shared", "-fPIC"),
)
_FILES = ("check.h", "shim.h", "functions.h", "simdgroup.h")
_MOST_LANES, _MOST_ARRAYS = 1024, 64
_STACK = 1 << 18
#: between arrays: what is outside of one is inside of none
_GAP = 1 << 24
_WHAT = (
    *("NOTHING", "OUTSIDE", "READ_ONLY", "UNWRITTEN", "RACE", "ALIEN_RACE", "DIVERGENT", "ENDED"),
    *("TOO_LONG", "TOO_MUCH", "NO_SUCH_LANE", "NOT_UNIFORM", "MISALIGNED", "UNDEFINED"),
    "NEVER_WRITTEN",
)


class CheckFailure(Exception):
    """A kernel did what it must not do; which, where and what, in one line.

    Attributes:
        what: one of the names in _WHAT, as RACE.
    """

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


class _Array(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("element", ctypes.c_uint32),
        ("writes", ctypes.c_void_p),
        ("reads", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
    )


class _Failure(ctypes.Structure):
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


class _Run(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        ("inputs", ctypes.c_uint32),
        ("outputs", ctypes.c_uint32),
        ("fixed", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("arrays", _Array * _MOST_ARRAYS),
        ("stacks", ctypes.c_void_p),
        ("stack_size", ctypes.c_uint64),
        ("most_steps", ctypes.c_uint64),
        ("seen", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("failure", _Failure),
    )


class _CheckCompiler(Compiler):
    """A clang that instruments accesses to memory."""

    @property
    def flags(self) -> tuple[str, ...]:
        arm = platform.machine() in ("arm64", "aarch64")
        named = () if sys.platform == "darwin" else ("-Wl,-soname,mlxquant",)
        return (*_FLAGS, *named, "-mcpu=native" if arm else "-march=native")


class CheckedKernel:
    """One kernel; a call compiles it for the types of its arrays, once.

    Args:
        name: of the kernel, for messages.
        input_names: of the arrays, in order.
        output_names: likewise.
        source: the body.
        header: what comes before.
        most_steps: blocks of instructions of one call, above which it does not come to an end.
    """

    def __init__(
        self,
        name: str,
        input_names: Sequence[str],
        output_names: Sequence[str],
        source: str,
        header: str = "",
        most_steps: int = 1 << 31,
    ) -> None:
        self.name, self.source, self.header = name, source, header
        self.input_names, self.output_names = list(input_names), list(output_names)
        self.most_steps = most_steps
        self._compiled: dict[tuple[Argument, ...], _Library] = {}

    def __call__(
        self,
        inputs: Sequence[Array | int | float],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[Any],
    ) -> list[Array]:
        """Run the grid.

        Args:
            inputs: arrays, or numbers for references. uint16 is bfloat16: no kernel takes integers
                of 16 bits.
            grid: threads in all; threadgroup: of them in a threadgroup, fewer at the edges.
            output_shapes, output_dtypes: of the outputs; a type is NumPy's or MLX's name of it,
                `bfloat16` among them.

        Returns: the outputs; bfloat16 as uint16.

        Raises:
            CheckFailure: the kernel did what it must not do.
            Unavailable: no clang, or it refused the kernel.
        """
        arguments, given, dtypes = self._arguments(inputs, output_dtypes)
        library = self._compiled.get(arguments)
        if library is None:
            library = self._compiled[arguments] = _Library(self, arguments)
        return library.run(given, grid, threadgroup, [tuple(s) for s in output_shapes], dtypes)

    def refusal(self, inputs: Sequence[Array | int | float], output_dtypes: Sequence[Any]) -> str:
        """What clang says against the kernel with Metal's address spaces; empty where it takes it.

        Args:
            inputs, output_dtypes: as of a call.

        Raises:
            Unavailable: no clang.
        """
        arguments, _, _ = self._arguments(inputs, output_dtypes)
        text = "".join(map(_read, _FILES[1:])) + plain(self.source, self.header, arguments)
        command = [find().path, "-x", "c++", "-std=c++17", "-w", "-fsigned-char", "-fsyntax-only"]
        done = subprocess.run(
            [*command, "-"], input=text, capture_output=True, text=True, check=False
        )
        return done.stderr

    def _arguments(
        self, inputs: Sequence[Array | int | float], output_dtypes: Sequence[Any]
    ) -> tuple[tuple[Argument, ...], list[Array], list[np.dtype[Any]]]:
        """How arrays come to the kernel, the arrays, and the outputs' types."""
        given = [np.ascontiguousarray(x).reshape(np.shape(x)) for x in inputs]
        dtypes = [np.dtype("uint16" if str(d) == "bfloat16" else d) for d in output_dtypes]
        named = zip(self.output_names, dtypes, strict=True)
        arguments = (
            *(typed(n, x, self.source) for n, x in zip(self.input_names, given, strict=True)),
            *(Argument(name, str(of), "out", False) for name, of in named),
        )
        return arguments, given, dtypes

    def text(self, arguments: Sequence[Argument]) -> str:
        """The translation unit for arrays of some types."""
        runtime = "".join(_read(file) for file in _FILES)
        return runtime + entry(self.source, self.header, arguments)


class _Library:
    """A kernel compiled for some types."""

    def __init__(self, kernel: CheckedKernel, arguments: tuple[Argument, ...]) -> None:
        self.kernel = kernel
        compiler = find()
        self.compiler = _CheckCompiler(compiler.path, compiler.version)
        made = stored(f"check-{kernel.name}", kernel.text(arguments), self.compiler)
        self.path = made.path
        loaded = ctypes.CDLL(str(made.path))
        loaded.check_base.restype = ctypes.c_void_p
        loaded.check_run.restype = loaded.check_tables.restype = None
        self.base = loaded.check_base()
        self._run, self._tables = loaded.check_run, loaded.check_tables

    def run(
        self,
        inputs: list[Array],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        shapes: list[tuple[int, ...]],
        dtypes: list[np.dtype[Any]],
    ) -> list[Array]:
        run = _Run(grid=grid, threadgroup=threadgroup, inputs=len(inputs), outputs=len(shapes))
        run.most_steps = self.kernel.most_steps
        run.stacks, run.stack_size = _stacks(), _STACK
        memory = _Memory([x.nbytes for x in inputs], shapes, dtypes)
        keep: list[Any] = [memory]
        names = [*self.kernel.input_names, *self.kernel.output_names]
        for i, (x, begin) in enumerate(zip(inputs, memory.inputs, strict=True)):
            ctypes.memmove(begin, x.ctypes.data, x.nbytes)
            run.arrays[i] = _Array(begin, x.nbytes, 0, x.itemsize, None, None, names[i].encode())
        for i, out in enumerate(memory.outputs, len(inputs)):
            # Access of check.h: 16 bytes; one for writes and one for reads of every byte
            shadow = np.zeros((2, max(out.nbytes, 1), 2), np.uint64)
            keep.append(shadow)
            writes, reads = (part.ctypes.data for part in shadow)
            begin = out.ctypes.data
            run.arrays[i] = _Array(
                begin, out.nbytes, 1, out.itemsize, writes, reads, names[i].encode()
            )
        pointers = [run.arrays[i].begin for i in range(len(names))]
        run.fixed = len(names)
        for name, x in zip(names, inputs, strict=False):
            for part, numbers in _numbers(x).items():
                keep.append(numbers)
                pointers.append(numbers.ctypes.data)
                if f"{name}_{part}" in self.kernel.source:
                    run.arrays[run.fixed] = _Array(
                        numbers.ctypes.data,
                        numbers.nbytes,
                        3,
                        numbers.itemsize,
                        None,
                        None,
                        f"{name}_{part}".encode(),
                    )
                    run.fixed += 1
        arguments = (ctypes.c_void_p * len(pointers))(*pointers)
        run.arguments = ctypes.addressof(arguments)
        self._tables(ctypes.byref(run))
        self._run(ctypes.byref(run))
        if run.failure.what:
            raise self._failure(run)
        del keep
        return [out.copy() for out in memory.outputs]

    def _failure(self, run: _Run) -> CheckFailure:
        failure = run.failure
        what = _WHAT[failure.what]
        message = _message(what, failure, run, self._place)
        return CheckFailure(what, f"{self.kernel.name}: {message}")

    def _place(self, place: int) -> str:
        """Line and text of a place; an empty string where there is none."""
        line = place
        if place >= 1 << 32:
            line = places.line(self.compiler.path, self.path, place - self.base) or 0
        return places.described(line, self.kernel.header, self.kernel.source)


class _Memory:
    """Inputs and outputs, far from one another."""

    def __init__(
        self, inputs: list[int], shapes: list[tuple[int, ...]], dtypes: list[np.dtype[Any]]
    ) -> None:
        sizes = [int(np.prod(shape)) * d.itemsize for shape, d in zip(shapes, dtypes, strict=True)]
        room = [-(-size // 256) * 256 + _GAP for size in (*inputs, *sizes)]
        self._mapped = mmap.mmap(-1, sum(room) + _GAP)
        whole = np.frombuffer(self._mapped, np.uint8)
        ends = np.cumsum([_GAP, *room[:-1]]).tolist()
        self.inputs = [whole.ctypes.data + at for at in ends[: len(inputs)]]
        self.outputs = [
            whole[at : at + size].view(d).reshape(shape)
            for at, size, shape, d in zip(ends[len(inputs) :], sizes, shapes, dtypes, strict=True)
        ]


def _message(what: str, f: _Failure, run: _Run, place: Any) -> str:
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


def _numbers(x: Array) -> dict[str, Array]:
    """What a kernel can ask of an input; strides in elements."""
    strides = [stride // x.itemsize for stride in x.strides]
    return {
        "shape": np.array(x.shape, np.int32),
        "strides": np.array(strides, np.int64),
        "ndim": np.array([x.ndim], np.int32),
    }


def _thread(code: int) -> str:
    if code < _MOST_LANES:
        return f"thread {code}"
    return "several threads" if code == 0x8000 else f"threads of simdgroup {code - 0x4000}"


@cache
def _stacks() -> int:
    """Memory for the stacks of a threadgroup's threads; below each a page nobody can access."""
    mapped = mmap.mmap(-1, _MOST_LANES * _STACK)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    libc = ctypes.CDLL(None, use_errno=True)
    for i in range(_MOST_LANES):
        if libc.mprotect(ctypes.c_void_p(begin + i * _STACK), ctypes.c_size_t(mmap.PAGESIZE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(mapped)
    return begin


_kept: list[mmap.mmap] = []


def _read(file: str) -> str:
    text = files(__package__).joinpath(file).read_text(encoding="utf-8")
    return f'#line 1 "{Path(file).name}"\n{text}\n'
