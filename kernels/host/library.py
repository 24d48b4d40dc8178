"""A format's compiled kernels: built, checked on known answers, and called.

Every process asks once for each format (`library`). The answer is a library whose kernels gave, on
this machine, what NumPy gives; or None, with the reason kept. A kernel that gives something else is
never used: one warning names it, and NumPy does its work.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.ggml_format import GgmlFormat

from ..source import DEQUANTIZE, FORMATS, ROWS, Kernel
from . import entries, known_answer
from .compiler import Unavailable, find
from .store import Stored, stored

__all__ = ["Library", "cores", "forget", "held", "library", "prepared", "reason", "shared"]

L = TypeVar("L")

#: fewer weights than this are not worth a thread
_SHARE = 1 << 18

#: of one thread more than once: what is prepared may need something else
_lock = threading.RLock()
#: name → kernels, or why there are none
_known: dict[str, object] = {}


class Library:
    """The kernels of one format.

    Args:
        fmt: the format.
        loaded: its library.
    """

    def __init__(self, fmt: GgmlFormat, loaded: ctypes.CDLL) -> None:
        self.fmt = fmt
        self._entries = {}
        for kernel in entries.KERNELS:
            for dtype in entries.DTYPES:
                entry = getattr(loaded, f"{kernel.name}_{dtype}")
                entry.restype = None
                entry.argtypes = (
                    *(ctypes.c_void_p,) * 4,
                    ctypes.c_uint32,
                    *(ctypes.c_uint64,) * 2,
                )
                self._entries[kernel.name, dtype] = entry

    def dequantize(self, wire: Array, dtype: str, out: Array, threads: int | None = 1) -> None:
        """uint8 [n, bytes] of whole blocks → STORAGE[dtype] [n, k], C-contiguous."""
        blocks = wire.size // self.fmt.block_bytes
        self._run(DEQUANTIZE, wire, None, (blocks, 1), dtype, out, threads)

    def dequantize_rows(
        self, wire: Array, ids: Array, dtype: str, out: Array, threads: int | None = 1
    ) -> None:
        """Rows `ids` (integers [m], of rows that are there) of the same → STORAGE[dtype] [m, k]."""
        grid = (wire.shape[1] // self.fmt.block_bytes, len(ids))
        self._run(ROWS, wire, ids.astype(np.uint32), grid, dtype, out, threads)

    def _run(
        self,
        kernel: Kernel,
        wire: Array,
        ids: Array | None,
        grid: tuple[int, int],
        dtype: str,
        out: Array,
        threads: int | None,
    ) -> None:
        """Share a grid (parts, *grid) between threads."""
        # decoders load words, which have to lie at multiples of their size
        if not wire.flags.c_contiguous or wire.ctypes.data % 4:
            wire = wire.copy()
        shape = (ctypes.c_int32 * 2)(*wire.shape)
        entry = self._entries[kernel.name, dtype]
        height, items = grid[0], grid[0] * grid[1]

        def share(begin: int, end: int) -> None:
            pointer = None if ids is None else ids.ctypes.data
            entry(wire.ctypes.data, shape, pointer, out.ctypes.data, height, begin, end)

        shared(share, items, min(threads or cores(), max(1, out.size // _SHARE)))


def library(fmt: GgmlFormat) -> Library | None:
    """The checked kernels of a format, or None; the first call may compile for a moment."""
    found = held(fmt.name, lambda: _of_format(fmt))
    return found if isinstance(found, Library) else None


def reason(fmt: GgmlFormat) -> str | None:
    """Why `library` gives None; None where it gives a library."""
    found = held(fmt.name, lambda: _of_format(fmt))
    return found if isinstance(found, str) else None


def forget() -> None:
    """Ask anew at the next call, as a new process would."""
    with _lock:
        _known.clear()


def held(name: str, prepare: Callable[[], object]) -> object:
    """What this process knows by that name: kernels, or why there are none; prepared once."""
    found = _known.get(name)
    if found is None:
        with _lock:
            found = _known.get(name)
            if found is None:
                found = _known[name] = prepare()
    return found


def prepared(
    name: str, text: str, open_it: Callable[[ctypes.CDLL], L], check: Callable[[L], str]
) -> L | str:
    """A translation unit's kernels, compiled and found right here; or why there are none.

    Args:
        name: of the library's file.
        text: C++.
        open_it: makes kernels of a library; AttributeError where it lacks one.
        check: empty, or which kernel is wrong.
    """
    try:
        found, kept = _loaded(name, text, open_it)
    except Unavailable as missing:
        return str(missing)
    if kept.answer is None:
        kept.record(check(found))
    if not kept.answer:
        return found
    warnings.warn(
        f"the kernel {kept.answer}; NumPy does its work, more slowly. Please report this",
        RuntimeWarning,
        stacklevel=2,
    )
    return f"the kernel {kept.answer}"


def shared(run: Callable[[int, int], None], items: int, count: int) -> None:
    """`run(begin, end)` over all items, in so many shares at the same time."""
    if count <= 1:
        run(0, items)
        return
    ends = [items * i // count for i in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(run, *pair) for pair in zip(ends, ends[1:], strict=False)]:
            done.result()


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _of_format(fmt: GgmlFormat) -> Library | str:
    if fmt.name not in FORMATS:
        return f"{fmt.name} has no kernels"
    return prepared(
        fmt.name.lower(),
        entries.program(fmt.name),
        lambda loaded: Library(fmt, loaded),
        lambda kernels: known_answer.check(fmt, kernels),
    )


def _loaded(name: str, text: str, open_it: Callable[[ctypes.CDLL], L]) -> tuple[L, Stored]:
    """Open the library; what cannot be opened is built once more.

    Raises:
        Unavailable: there is no compiler, it failed, or what it made cannot be opened.
    """
    compiler = find()
    kept = stored(name, text, compiler)
    while True:
        try:
            return open_it(ctypes.CDLL(str(kept.path))), kept
        except (OSError, AttributeError) as error:
            if kept.fresh:
                raise Unavailable(f"{kept.path} cannot be opened: {error}") from None
        kept = stored(name, text, compiler, anew=True)
