"""The kernels on a GPU, through `mx.fast.metal_kernel`.

MLX writes the signature: every input and output that is named, and `<input>_shape` and a thread's
places where the call names them. Inputs of fewer than 8 elements come in constant memory, others in
device memory, and a kernel whose signature changes is compiled again: hence one kernel for each
type of output, and `ids` never fewer than 8.

Sizes come with the arrays (`<input>_shape`) and the grid (launch.py); no call compiles for its own.

A kernel is used where it gave its known answer (known.py). Where it did not, MLX's operations
compute the same (fallback.py).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxquant.errors import RequestError
from mlxquant.formats.base import Array
from mlxquant.formats.ggml_format import GgmlFormat

from . import launch
from .fallback import computed
from .known import KnownAnswers
from .launch import Launch
from .source import Kernel, call, header

if TYPE_CHECKING:
    import mlx.core as mx

    MxArray = mx.array
    MxDtype = mx.Dtype
else:
    MxArray = MxDtype = Any

__all__ = [
    "KNOWN",
    "PREAMBLE",
    "dequantize",
    "dequantize_rows",
    "encode",
    "gather",
    "kernel_of",
    "matmul",
    "on_arrays",
    "run",
    "timed",
]

#: the project's names of the element types of x, by MLX's; and the other way, of every result
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()} | {"U8": "uint8", "U32": "uint32"}
#: launches that are timed together
_TIMES = 8
#: what stands in front of every kernel. Metal fuses a multiplication and an addition of one
#: statement, safe mathematics or not, but for the pragma; the kernels round as NumPy does
PREAMBLE = "#include <metal_stdlib>\nusing namespace metal;\n#pragma clang fp contract(off)\n"


@cache
def kernel_of(name: str, kernel: Kernel, dtype: str) -> Any:
    """MLX's object for a format's kernel and a type of output, as `float16`; a call compiles it."""
    import mlx.core as mx

    return mx.fast.metal_kernel(
        name=f"mlxquant_{kernel.name}_{name.lower().replace('-', '_')}_{dtype}",
        input_names=list(kernel.inputs),
        output_names=["out"],
        source=call(name, kernel),
        header=PREAMBLE + header(name, kernel),
    )


def run(started: Launch, inputs: list[MxArray]) -> MxArray:
    """The result of a launch on its kernel's inputs, zeros where it sums up nothing.

    By its kernel, if that gave its known answer, which the first launch finds out; else by MLX's
    operations.
    """
    import mlx.core as mx

    if not all(array.size for array in inputs):
        return mx.zeros(started.shape, getattr(mx, _NAMES[started.dtype]))
    if KNOWN.reason(started) is None:
        return _launched(started, inputs)
    return computed(started, inputs, getattr(mx, _NAMES[started.dtype]))


def on_arrays(started: Launch, inputs: Sequence[Array]) -> Array:
    """The result of a launch's kernel, whatever is known of it, on NumPy's arrays; bfloat16 is
    uint16 here."""
    import mlx.core as mx

    # whatever device the caller's thread computes on
    with mx.stream(mx.gpu):
        given = [mx.array(array) for array in inputs]
        given = [x.view(mx.bfloat16) if x.dtype == mx.uint16 else x for x in given]
        out = _launched(started, given)
        return np.array(out.view(mx.uint16) if out.dtype == mx.bfloat16 else out)


def timed(started: Launch, inputs: Sequence[Array]) -> float:
    """Seconds that a launch takes, its kernel compiled and its arrays in memory: the best of a few
    times eight, by turns on two copies of the arrays, so that caches have none of them."""
    import mlx.core as mx

    copies = [[mx.array(array) for array in inputs] for _ in range(2)]
    mx.eval(copies)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        mx.eval([_launched(started, copies[turn % 2]) for turn in range(_TIMES)])
        best = min(best, time.perf_counter() - begin)
    return best / _TIMES


def _launched(started: Launch, inputs: list[MxArray]) -> MxArray:
    import mlx.core as mx

    dtype = _NAMES[started.dtype]
    out: MxArray = kernel_of(started.format, started.kernel, dtype)(
        inputs=inputs,
        grid=started.grid,
        threadgroup=started.threadgroup,
        output_shapes=[started.shape],
        output_dtypes=[getattr(mx, dtype)],
    )[0]
    return out


def _identity() -> str:
    """What results depend on beside a kernel's source: MLX's and the system's version, the chip."""
    import mlx.core as mx

    chip = mx.device_info()
    named = (str(chip.get(key)) for key in ("device_name", "architecture"))
    return "\n".join((PREAMBLE, version("mlx"), platform.system(), platform.version(), *named))


#: of this process's GPU
KNOWN = KnownAnswers(on_arrays, _identity)


def dequantize(wire: MxArray, fmt: GgmlFormat, dtype: MxDtype) -> MxArray:
    """uint8 [n, bytes] of whole blocks → [n, k] of float32, float16 or bfloat16."""
    return run(launch.dequantize(fmt, wire.shape, _named(dtype)), [wire])


def dequantize_rows(wire: MxArray, ids: MxArray, fmt: GgmlFormat, dtype: MxDtype) -> MxArray:
    """Rows `ids`, uint32 [m], of the same → [m, k]; NaN where there is no such row."""
    started = launch.dequantize_rows(fmt, wire.shape, ids.size, _named(dtype))
    return run(started, [wire, _in_device_memory(ids)])


def encode(rows: MxArray, fmt: GgmlFormat, importance: MxArray | None = None) -> MxArray:
    """Quantize rows.

    Args:
        rows: float32 [n, k], finite: of others, bytes mean nothing.
        fmt: one of ENCODERS.
        importance: [k], finite and not negative, or None.

    Returns: uint8 [n, bytes].

    Raises:
        RequestError: shapes that do not fit, another type, or a format that has no encoder.
    """
    import mlx.core as mx

    if rows.dtype != mx.float32:
        raise RequestError(f"rows of {rows.dtype} cannot be encoded; give float32")
    started = launch.encode(fmt, rows.shape, importance is not None)
    if importance is None:
        return run(started, [rows])
    if importance.shape != rows.shape[1:]:
        raise RequestError(
            f"importance {list(importance.shape)} for rows {list(rows.shape)}; one for each column "
            "needed"
        )
    return run(started, [rows, importance.astype(mx.float32)])


def matmul(x: MxArray, wire: MxArray, fmt: GgmlFormat) -> MxArray:
    """x · wᵀ with packed weights.

    Args:
        x: [m, k] of float32, float16 or bfloat16.
        wire: uint8 [n, bytes], rows of k weights.
        fmt: of the weights.

    Returns: [m, n] of x's type; sums are float32.

    Raises:
        RequestError: shapes that do not fit, or another type.
    """
    return run(launch.product(fmt, x.shape, wire.shape, _named(x.dtype)), [x, wire])


def gather(
    x: MxArray, ids: MxArray, wire: MxArray, fmt: GgmlFormat, in_order: bool = False
) -> MxArray:
    """x · wᵀ with a matrix for each row of x, as a mixture of experts has it.

    Args:
        x: [p, k] of float32, float16 or bfloat16.
        ids: integers [p], each the number of a matrix; NaN comes out where there is none.
        wire: uint8 [e, n, bytes], e matrices of rows of k weights.
        fmt: of the weights.
        in_order: whether ids ascend; if not, they are brought in order where that pays.

    Returns: [p, n] of x's type; sums are float32.

    Raises:
        RequestError: shapes that do not fit, or another type.
    """
    import mlx.core as mx

    if ids.shape != x.shape[:1]:
        raise RequestError(f"ids {list(ids.shape)} for x {list(x.shape)}; one for each row needed")
    started = launch.gather(fmt, x.shape, wire.shape, _named(x.dtype))
    if in_order or not launch.gather_in_tiles(x.shape[0], wire.shape[0]):
        return run(started, [x, _in_device_memory(ids), wire])
    order = mx.argsort(ids)
    out = run(started, [x[order], _in_device_memory(ids[order]), wire])
    return out[mx.argsort(order)]


def _named(dtype: MxDtype) -> str:
    """The project's name of an element type."""
    name = str(dtype).rpartition(".")[2]
    if name not in _DTYPES:
        raise RequestError(f"x of {name}; choose one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _in_device_memory(ids: MxArray) -> MxArray:
    """uint32 [m], filled up."""
    import mlx.core as mx

    missing = launch.DEVICE - ids.size
    if missing > 0:
        ids = mx.pad(ids, (0, missing))
    return ids.astype(mx.uint32)
