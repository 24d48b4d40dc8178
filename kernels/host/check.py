"""A kernel run on this processor, every access to memory watched.

>>> double = CheckedKernel("double", ["x"], ["out"], "uint i = thread_position_in_grid.x; "
...                        "out[i] = 2 * x[i];")
>>> double([np.arange(3, dtype=np.float32)], (3, 1, 1), (32, 1, 1), [(3,)], ["float32"])[0]
array([0., 2., 4.], dtype=float32)

The arguments are those of `mx.fast.metal_kernel`, and the signature is written as MLX writes it
(signature.py). Threads run one at a time; at a barrier or a function of a simdgroup each waits
until the others have come to the same line (threads.h). A `CheckFailure` says what no GPU would:
that two threads access a byte, one of them writing, with no barrier between; that threads wait at
different places, or do not end; that an access is outside of its array, misaligned, or reads
threadgroup memory that nobody wrote; that an element of the output is never written; that a shift
or an index of a thread's own array is out of range.

What it cannot see: a race that only other input reaches, and the GPU's own arithmetic. Accesses of
96 bits are not watched (nothing loads a float3), nor is a thread's own array through a pointer.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from mlxquant.formats.base import Array

from .arithmetic import CountingCompiler, Operations, counting, operations
from .compiler import find
from .failures import CheckFailure
from .running import Accesses, Call, Library
from .signature import Argument, entry, plain, typed

__all__ = ["CheckFailure", "CheckedKernel"]

_FILES = (
    *("check.h", "memory.h", "threads.h", "hooks.h"),
    *("shim.h", "functions.h", "simdgroup.h", "matrix.h"),
)
_PLAIN_FILES = ("shim.h", "functions.h", "declared.h")


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
        self._compiled: dict[tuple[Argument, ...], Library] = {}

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
        call = self._call(given, grid, threadgroup, output_shapes, dtypes)
        return self._library(arguments).run(call, self.most_steps)[0]

    def watched(
        self,
        kept: str,
        inputs: Sequence[Array | int | float],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[Any],
        room: int = 1 << 22,
    ) -> Accesses:
        """The same: what was accessed, and every read of the input `kept`, at most `room`."""
        arguments, given, dtypes = self._arguments(inputs, output_dtypes)
        call = self._call(given, grid, threadgroup, output_shapes, dtypes)
        _, came = self._library(arguments).run(call, self.most_steps, kept, room)
        assert came is not None
        return came

    def operations(
        self,
        inputs: Sequence[Array | int | float],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        output_shapes: Sequence[tuple[int, ...]],
        output_dtypes: Sequence[Any],
    ) -> Operations:
        """The same, nothing watched: how much arithmetic it is (arithmetic.py)."""
        arguments, given, dtypes = self._arguments(inputs, output_dtypes)
        text, blocks = counting("#define COUNTED\n" + self.text(arguments))
        library = Library(self.name, text, self.header, self.source, CountingCompiler)
        call = self._call(given, grid, threadgroup, output_shapes, dtypes)
        library.run(call, self.most_steps, watched=False)
        return operations(blocks, library.loaded)

    def _library(self, arguments: tuple[Argument, ...]) -> Library:
        """The kernel for such arguments."""
        library = self._compiled.get(arguments)
        if library is None:
            text = self.text(arguments)
            library = Library(self.name, text, self.header, self.source)
            self._compiled[arguments] = library
        return library

    def _call(
        self,
        given: list[Array],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        shapes: Sequence[tuple[int, ...]],
        dtypes: list[np.dtype[Any]],
    ) -> Call:
        names = [*self.input_names, *self.output_names]
        return Call(names, given, grid, threadgroup, [tuple(s) for s in shapes], dtypes)

    def refusal(self, inputs: Sequence[Array | int | float], output_dtypes: Sequence[Any]) -> str:
        """What clang says against the kernel with Metal's address spaces; empty where it takes it.

        Args:
            inputs, output_dtypes: as of a call.

        Raises:
            Unavailable: no clang.
        """
        arguments, _, _ = self._arguments(inputs, output_dtypes)
        text = "".join(map(_read, _PLAIN_FILES)) + plain(self.source, self.header, arguments)
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


def _read(file: str) -> str:
    text = files(__package__).joinpath(file).read_text(encoding="utf-8")
    return f'#line 1 "{file}"\n{text}\n'
