"""Dequantize with arrays at the end of readable memory; a process of its own, which may end badly.

    python guarded.py [--break OLD|NEW] FORMAT...

The kernels are compiled with clang's checks for undefined behaviour (indices of local arrays,
shifts, misaligned addresses), which end the process, as does any access behind the wire bytes or
the result. Prints each format that came through. `--break` replaces text of the source first.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np
from mlxquant.kernels.host import entries
from mlxquant.kernels.host.compiler import Compiler, find
from mlxquant.kernels.host.store import folder

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat

CHECKS = ("-fsanitize=undefined", "-fsanitize-trap=undefined")
_keep: list[mmap.mmap] = []


def before_a_wall(size: int) -> int:
    """The address of `size` bytes behind which nothing may be read or written."""
    page = mmap.PAGESIZE
    room = -(-size // page) * page
    mapped = mmap.mmap(-1, room + page)
    _keep.append(mapped)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(begin + room), ctypes.c_size_t(page), 0) == 0
    return begin + room - size


def main(
    arguments: list[str],
    program: Callable[[str], str],
    run: Callable[[str, ctypes.CDLL], None],
    what: str,
) -> None:
    """Compile and run each format: [--break OLD|NEW] FORMAT..., as `what` in the cache."""
    broken, names = None, arguments
    if arguments[0] == "--break":
        old, new = arguments[1].split("|")
        broken, names = (old, new), arguments[2:]
    flags = (*Compiler.flags.__get__(find()), *CHECKS)
    for name in names:
        text = program(name)
        if broken:
            assert broken[0] in text
            text = text.replace(*broken)
        path = folder() / f"{what}-{name}.so"
        with mock.patch.object(Compiler, "flags", flags):
            find().compile(text, path)
        run(name, ctypes.CDLL(str(path)))
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


def run(name: str, library: ctypes.CDLL) -> None:
    """All blocks, and gathered ones, to every type."""
    fmt = formats.get(name)
    assert isinstance(fmt, GgmlFormat)
    n, blocks = 4, 16 // math.gcd(fmt.block_bytes, 4)
    wire = np.random.default_rng(1).integers(0, 256, (n, blocks * fmt.block_bytes), np.uint8)
    ids = np.array([3, 0, 4], np.uint32)
    at, ids_at = before_a_wall(wire.size), before_a_wall(ids.nbytes)
    ctypes.memmove(at, wire.ctypes.data, wire.size)
    ctypes.memmove(ids_at, ids.ctypes.data, ids.nbytes)
    shape = (ctypes.c_int32 * 2)(*wire.shape)
    for dtype, size in {"F32": 4, "F16": 2, "BF16": 2}.items():
        for kernel, rows, height in (("dequantize", n, n * blocks), ("dequantize_rows", 3, blocks)):
            out = before_a_wall(rows * blocks * fmt.block_size * size)
            getattr(library, f"{kernel}_{dtype}")(
                ctypes.c_void_p(at),
                shape,
                ctypes.c_void_p(ids_at),
                ctypes.c_void_p(out),
                ctypes.c_uint32(height),
                ctypes.c_uint64(0),
                ctypes.c_uint64(rows * blocks),
            )


if __name__ == "__main__":
    main(sys.argv[1:], entries.program, run, "guarded")
