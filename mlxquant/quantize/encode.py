"""Rows in any format, with the scales of least error that its search finds.

    formats of MLX     search.py
    formats of ggml    their own encoders; by a compiled kernel where there is one

The bytes are the same with a kernel and without.
"""

from __future__ import annotations

from ..formats.base import Array, Format
from ..formats.floats import Float32
from ..formats.ggml_format import GgmlFormat
from ..formats.mlx_format import MlxFormat
from .search import search

__all__ = ["encoded"]

#: fewer weights than this are not worth a compiler's start
_WORTH_A_KERNEL = 1 << 16
#: formats whose kernel has been started
_started: set[Format] = set()


def encoded(target: Format, rows: Float32, importance: Array | None = None) -> tuple[Array, ...]:
    """Quantize rows. Callers share work between threads; each call stays on its own.

    Args:
        target: any format.
        rows: float32 [n, k], finite; k a multiple of the block size.
        importance: float32 [k] or None, mean squared activation per input column.

    Returns: the arrays of `target.encode`.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
        RequestError: rows or importance of another shape.
    """
    if isinstance(target, MlxFormat):
        return search(target, rows, importance)
    if not isinstance(target, GgmlFormat):
        return target.encode(rows, importance)
    if rows.size >= _WORTH_A_KERNEL or target in _started:
        # here, so that what quantizes nothing never loads it
        from ..kernels.encode import encode as by_kernel

        _started.add(target)
        return (by_kernel(rows, target, importance, threads=1),)
    return target.encode(rows, importance)
