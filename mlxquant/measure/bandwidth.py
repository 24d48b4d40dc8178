"""How fast this machine's memory is, for chips whose maker does not say.

A GPU is timed through MLX: summing an array reads it once, adding to it reads and writes it. On a
CPU MLX's own operations are slower than memory, so every core copies its part with NumPy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

__all__ = ["SIZE", "measure_bandwidth"]

#: bytes of the array, beyond every cache
SIZE = 256 << 20

#: the best of so many counts: whatever else ran only made the others slower
_RUNS = 5


@cache
def measure_bandwidth(kind: str) -> float:
    """Bytes a second that memory moves, reads and writes together; measured once a process.

    Args:
        kind: `gpu` or `cpu`.
    """
    return max(_gpu(SIZE) if kind == "gpu" else _cpu(SIZE))


def _gpu(size: int) -> tuple[float, ...]:
    import mlx.core as mx

    array = mx.zeros((size // 4,), mx.float32)
    mx.eval(array)
    reading = _best(lambda: mx.eval(mx.sum(array)))
    copying = _best(lambda: mx.eval(array + 1))
    return size / reading, 2 * size / copying


def _cpu(size: int) -> tuple[float, ...]:
    import numpy as np

    source = np.ones(size // 8)
    target = np.empty_like(source)
    cores = os.cpu_count() or 1
    bounds = [len(source) * part // cores for part in range(cores + 1)]
    parts = [slice(*pair) for pair in zip(bounds, bounds[1:], strict=False)]
    with ThreadPoolExecutor(cores) as pool:
        copying = _best(
            lambda: list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))
        )
    return (2 * size / copying,)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest run; the first run, which touches the memory, does not count."""
    work()
    times = []
    for _ in range(_RUNS):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)
