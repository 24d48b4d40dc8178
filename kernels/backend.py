"""Which backend an operation takes on this machine, and why: decided here and nowhere else.

    metal    a kernel on the GPU, through MLX
    cpu      a kernel that clang compiled for this processor
    mlx      MLX's own operations; on a processor also in every function that MLX compiles
    numpy    the reference

Arrays of MLX are multiplied where MLX computes, on its default device; NumPy's on the processor.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlxquant import formats
from mlxquant.errors import RequestError
from mlxquant.formats.ggml_format import GgmlFormat

from . import host
from .host import product
from .source import FORMATS

__all__ = ["ARRAYS", "OPERATIONS", "Backend", "backend", "on_gpu"]

#: whole tensors decoded, rows looked up, x times a matrix, x times a matrix for each row
OPERATIONS = ("dequantize", "dequantize_rows", "matmul", "gather")
#: whose arrays
ARRAYS = ("mlx", "numpy")


@dataclass(frozen=True)
class Backend:
    """A choice.

    Attributes:
        name: `metal`, `cpu`, `mlx` or `numpy`.
        reason: why no better one serves here, in one line; empty for the best there is.
    """

    name: str
    reason: str


def backend(operation: str, fmt: str | GgmlFormat, arrays: str = "mlx") -> Backend:
    """What an operation on a format takes here; the first call may compile for a moment.

    Args:
        operation: one of OPERATIONS.
        fmt: one of ggml's formats, or its name.
        arrays: whose arrays are given, one of ARRAYS.

    Raises:
        RequestError: an unknown operation, format or kind of arrays.
    """
    found = formats.get(fmt) if isinstance(fmt, str) else fmt
    if not isinstance(found, GgmlFormat):
        raise RequestError(f"format {found.name!r}: kernels are for the formats of GGUF files")
    for given, known, what in ((operation, OPERATIONS, "operation"), (arrays, ARRAYS, "arrays")):
        if given not in known:
            raise RequestError(f"{what} {given!r}: choose one of {', '.join(known)}")
    if arrays == "mlx" and on_gpu():
        if found.name in FORMATS:
            return Backend("metal", "")
        return Backend("mlx", f"{found.name} has no kernels")
    multiplies = operation in ("matmul", "gather")
    why = product.reason(found) if multiplies else host.reason(found)
    if why is None:
        return Backend("cpu", "")
    return Backend(arrays, why)


def on_gpu() -> bool:
    """Whether MLX computes on a GPU."""
    import mlx.core as mx

    return bool(mx.metal.is_available() and mx.default_device() == mx.Device(mx.gpu))
