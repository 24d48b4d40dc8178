"""Encoding ggml's formats, by a kernel where there is one.

>>> encode(np.zeros((2, 256), np.float32), "Q4_K").shape
(2, 144)

A Mac's GPU has them (metal.py), elsewhere clang compiles them (host/encode.py). Both gave their
known answers before, and the bytes are NumPy's.
"""

from __future__ import annotations

import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.floats import Float32
from mlxquant.formats.ggml_format import GgmlFormat

from . import _ggml
from .answers import sums_are_normal
from .gpu import NONE, TURN, there_is_one
from .host.encode import encoder_for, reason_for
from .source import ENCODERS

__all__ = ["available", "encode", "on_gpu", "reason"]

#: sizes that a kernel counts in 32 bits
_LIMIT = 2**31


def encode(
    rows: Float32,
    fmt: str | GgmlFormat,
    importance: Float32 | None = None,
    threads: int | None = None,
) -> Array:
    """Quantize rows: the bytes of `fmt.encode`, whether by a kernel or by NumPy.

    Args:
        rows: float32 [n, k], finite; k a multiple of the block size.
        fmt: one of ggml's formats, or its name.
        importance: float32 [k] or None, mean squared activation per input column.
        threads: at most so many; None for one a core. Bytes do not depend on it.

    Returns: uint8 [n, k / block_size * block_bytes].

    Raises:
        NonFiniteError, RequestError: as `fmt.encode`.
    """
    fmt = _ggml(fmt)
    fmt.check(rows, importance)
    found = None
    if rows.size and max(rows.shape) < _LIMIT:
        found = _by_gpu(rows, fmt, importance)
        kernel = encoder_for(fmt) if found is None else None
        found = kernel.encode(rows, importance, threads) if kernel is not None else found
    # NumPy says which weight is not finite
    return fmt.encode(rows, importance)[0] if found is None else found


def available(fmt: str | GgmlFormat) -> bool:
    """Whether a compiled and checked kernel encodes here; the first call compiles it."""
    return reason(fmt) is None


def reason(fmt: str | GgmlFormat) -> str | None:
    """Why no kernel encodes the format here, in one line; None where one does."""
    return None if on_gpu(fmt) is None else reason_for(_ggml(fmt))


def on_gpu(fmt: str | GgmlFormat) -> str | None:
    """Why no kernel of a GPU encodes the format here; None where one does."""
    fmt = _ggml(fmt)
    if fmt.name not in ENCODERS:
        return f"encoder of {fmt.name} has no kernel"
    if not there_is_one():
        return NONE
    from . import launch, metal

    return metal.KNOWN.reason(launch.encode(fmt, (1, fmt.block_size), False))


def _by_gpu(rows: Float32, fmt: GgmlFormat, importance: Float32 | None) -> Array | None:
    """The bytes; None where no GPU makes them, or a weight is NaN or infinite."""
    if fmt.name not in ENCODERS or not there_is_one() or rows.size >= _LIMIT:
        return None
    from . import launch, metal

    shares = None if importance is None else np.asarray(importance, np.float32)
    if not (np.isfinite(rows).all() and sums_are_normal(rows, shares).all()):
        return None
    started = launch.encode(fmt, rows.shape, shares is not None)
    inputs = [rows] if shares is None else [rows, shares]
    with TURN:
        if metal.KNOWN.reason(started) is not None:
            return None
        wire: Array = metal.on_arrays(started, [np.ascontiguousarray(each) for each in inputs])
    return wire
