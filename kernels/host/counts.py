"""What a kernel reads and how: bytes, loads, lines of a GPU's cache, from every access of a run.

>>> counts = counted(kernel.watched("wire", ...))
>>> counts.read, counts.whole
(1.0, 0.98)

A run on a processor shows which bytes every thread asks for and in which order; what it cannot show
is the order between threads. A GPU has a simdgroup's threads execute one instruction together, and
so here the first loads of all threads come before the second ones. Nothing is measured by a clock:
the same kernel always has the same counts.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from mlxquant.formats.base import Array

from .running import Accesses

__all__ = ["LINE", "LINES", "Counts", "counted"]

#: bytes of a line of an Apple GPU's caches
LINE = 128
#: lines that stay with a simdgroup: 4 KiB, half of the 8 KiB that a core has, and a threadgroup
LINES = 32
_WIDTH = 32


@dataclass(frozen=True)
class Counts:
    """Of one run, and of its accesses to one input, here called the weights.

    Attributes:
        stored: the weights' bytes.
        read: different bytes of the weights that a threadgroup reads, summed over threadgroups,
            over `stored`. 1 where every byte goes to one threadgroup.
        loaded: all bytes of the weights that threads load, over `stored`: more than `read` where
            threads load the same bytes.
        loads: how often threads load from the weights, by width in bytes.
        others: how often they load from other inputs, likewise; stores: store to outputs.
        shared: how often they access threadgroup memory.
        whole: share of the bytes that a simdgroup takes from lines of LINE bytes of which it reads
            every byte, or every byte that belongs to the weights, before the line goes out of a
            cache of LINES lines, the one unused for longest first. What it takes from other lines
            is fetched for others, too, or twice.
        fetched: bytes of lines that simdgroups fetch in this way, over `stored`.
        together: as `whole`, of a threadgroup's threads and a core's 2 · LINES lines: where several
            simdgroups share a row, they share its lines.
    """

    stored: int
    read: float
    loaded: float
    loads: dict[int, int]
    others: dict[int, int]
    stores: dict[int, int]
    shared: int
    whole: float
    fetched: float
    together: float


def counted(came: Accesses) -> Counts:
    """Counts of a run's accesses, of which those to the weights were kept."""
    stored, group, lane, at, size = came.stored, came.group, came.lane, came.at, came.size
    read = sum(_different(at[group == g], size[group == g], stored) for g in np.unique(group))
    whole, taken, fetched = _lines(group, lane, lane // _WIDTH, at, size, stored, LINES)
    together, by_all, _ = _lines(group, lane, np.zeros_like(lane), at, size, stored, 2 * LINES)
    loads = Counter(size.tolist())
    return Counts(
        stored,
        read / stored,
        int(size.sum()) / stored,
        dict(sorted(loads.items())),
        _widths(came, "INPUT", 0, loads),
        _widths(came, "OUTPUT", 1),
        int(came.times[[kind == "SHARED" for kind in came.kinds]].sum()),
        whole / taken if taken else 0.0,
        fetched * LINE / stored,
        together / by_all if by_all else 0.0,
    )


def _widths(
    came: Accesses, kind: str, write: int, but: Mapping[int, int] = MappingProxyType({})
) -> dict[int, int]:
    """How often arrays of a kind were accessed, by width."""
    times = came.times[[each == kind for each in came.kinds], write].sum(axis=0).tolist()
    rest = {1 << i: count - but.get(1 << i, 0) for i, count in enumerate(times)}
    return {width: count for width, count in rest.items() if count}


def _different(at: Array, size: Array, stored: int) -> int:
    """How many bytes these loads reach."""
    ends = np.zeros(stored + 1, np.int64)
    np.add.at(ends, at, 1)
    np.add.at(ends, at + size, -1)
    return int((np.cumsum(ends) > 0).sum())


def _lines(
    group: Array, lane: Array, part: Array, at: Array, size: Array, stored: int, most: int
) -> tuple[int, int, int]:
    """Bytes from lines read whole, bytes from all lines, and how many lines were fetched.

    Args:
        part: of the threadgroup, which has `most` lines to itself.
    """
    order = np.lexsort((np.arange(len(at)), lane, group))
    group, lane, part, at, size = (a[order] for a in (group, lane, part, at, size))
    # how many loads of its own each thread has made before
    first = np.r_[True, (np.diff(group) != 0) | (np.diff(lane) != 0)]
    begins = np.maximum.accumulate(np.where(first, np.arange(len(at)), 0))
    turn = np.arange(len(at)) - begins
    order = np.lexsort((lane, turn, part, group))
    keys = (group * (1 << 10) + part)[order].tolist()
    whole = taken = fetched = 0
    held: OrderedDict[int, int] = OrderedDict()
    before = None

    def leave(line: int, reached: int) -> None:
        nonlocal whole, taken
        count = reached.bit_count()
        taken += count
        if count == min(LINE, stored - line * LINE):
            whole += count

    for key, begin, width in zip(keys, at[order].tolist(), size[order].tolist(), strict=True):
        if key != before:
            while held:
                leave(*held.popitem())
            before = key
        for line in range(begin // LINE, (begin + width - 1) // LINE + 1):
            low, high = max(begin - line * LINE, 0), min(begin + width - line * LINE, LINE)
            reached = (1 << high) - (1 << low)
            if line in held:
                reached |= held.pop(line)
            else:
                fetched += 1
                if len(held) == most:
                    leave(*held.popitem(last=False))
            held[line] = reached
    while held:
        leave(*held.popitem())
    return whole, taken, fetched
