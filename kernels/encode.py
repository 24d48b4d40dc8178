"""Encoding ggml's formats, by a compiled kernel where there is one.

>>> encode(np.zeros((2, 256), np.float32), "Q4_K").shape
(2, 144)
"""

from __future__ import annotations

from mlxquant.formats.base import Array
from mlxquant.formats.floats import Float32
from mlxquant.formats.ggml_format import GgmlFormat

from . import _ggml
from .host.encode import encoder_for, reason_for

__all__ = ["available", "encode", "reason"]

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
    kernel = encoder_for(fmt) if rows.size and max(rows.shape) < _LIMIT else None
    found = None if kernel is None else kernel.encode(rows, importance, threads)
    # NumPy says which weight is not finite
    return fmt.encode(rows, importance)[0] if found is None else found


def available(fmt: str | GgmlFormat) -> bool:
    """Whether a compiled and checked kernel encodes here; the first call compiles it."""
    return reason(fmt) is None


def reason(fmt: str | GgmlFormat) -> str | None:
    """Why no kernel encodes the format here, in one line; None where one does."""
    return reason_for(_ggml(fmt))
