"""A node as an MLX array that is read when it is needed.

MLX loads lazily from anything that behaves like a file. A `VirtualFile` is a safetensors file of
one tensor whose data are computed, range by range, as MLX reads them.
"""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import numpy as np

from ..files.safetensors import build_header
from ..load.checkpoint import carrier_of
from ..load.lazy import Node

__all__ = ["lazy_array"]

_NAME = "x"


def lazy_array(node: Node) -> Any:
    """The MLX array of a node; nothing is computed before MLX evaluates it."""
    file: Any = VirtualFile(node)
    loaded: Any = mx.load(file, format="safetensors")
    return loaded[_NAME]


class VirtualFile:
    """What MLX asks of a file that it reads: `readinto`, `seek`, `tell` and `closed`."""

    closed = False

    def __init__(self, node: Node) -> None:
        self._node = node
        self._header, ((self._start, self._stop),) = build_header(
            [(_NAME, node.dtype, node.shape)], {}
        )
        self._at = 0
        self._lock = threading.Lock()

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set where the next read begins."""
        self._at = offset + (0, self._at, self._stop)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the header and the computed data."""
        out = memoryview(buffer).cast("B")
        with self._lock:
            begin, end = self._at, min(self._at + len(out), self._stop)
            head = self._header[begin:end]
            out[: len(head)] = head
            if end > max(begin, self._start):
                out[len(head) : end - begin] = self._data(begin + len(head), end)
            self._at = end
        return end - begin

    def _data(self, begin: int, end: int) -> memoryview:
        """Bytes [begin, end) of the file, both within the data."""
        width = carrier_of(self._node.dtype).itemsize
        low, high = begin - self._start, end - self._start
        first, last = low // width, -(-high // width)
        raw = np.ascontiguousarray(self._node.flat(first, last)).view(np.uint8)
        return raw[low - first * width : high - first * width].data
