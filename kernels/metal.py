"""The kernels on a GPU, through `mx.fast.metal_kernel`.

MLX writes the signature: every input and output that is named, `wire_shape` and
`thread_position_in_grid` where the call names them. Inputs of fewer than 8 elements come in
constant memory, others in device memory, and a kernel whose signature changes is compiled again:
hence one kernel for each type of output, and `ids` never fewer than 8.

Sizes come with the arrays (`wire_shape`) and the grid; no call compiles for its sizes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from mlxquant.formats.ggml_format import GgmlFormat

from .source import DEQUANTIZE, ROWS, Kernel, call, header

if TYPE_CHECKING:
    import mlx.core as mx

    MxArray = mx.array
    MxDtype = mx.Dtype
else:
    MxArray = MxDtype = Any

__all__ = ["dequantize", "dequantize_rows", "kernel_of"]

#: weights that one thread decodes, of every format
_CHUNK = 32
#: threads of a threadgroup, at most
_THREADS = 256
#: an input of fewer elements would come in constant memory
_DEVICE = 8
_PREAMBLE = "#include <metal_stdlib>\nusing namespace metal;\n"


@cache
def kernel_of(name: str, kernel: Kernel, dtype: str) -> Any:
    """MLX's object for a format's kernel and a type of output, as `float16`; a call compiles it."""
    import mlx.core as mx

    return mx.fast.metal_kernel(
        name=f"mlxquant_{kernel.name}_{name.lower()}_{dtype}",
        input_names=list(kernel.inputs),
        output_names=["out"],
        source=call(name, kernel),
        header=_PREAMBLE + header(name, kernel),
    )


def dequantize(wire: MxArray, fmt: GgmlFormat, dtype: MxDtype) -> MxArray:
    """uint8 [n, bytes] of whole blocks → [n, k] of float32, float16 or bfloat16."""
    n, row_bytes = wire.shape
    blocks = n * row_bytes // fmt.block_bytes
    return _launch(DEQUANTIZE, [wire], fmt, (blocks, 1), n, dtype)


def dequantize_rows(wire: MxArray, ids: MxArray, fmt: GgmlFormat, dtype: MxDtype) -> MxArray:
    """Rows `ids`, uint32 [m], of the same → [m, k]; NaN where there is no such row."""
    import mlx.core as mx

    m, blocks = ids.size, wire.shape[1] // fmt.block_bytes
    if m < _DEVICE:
        ids = mx.pad(ids, (0, _DEVICE - m))
    return _launch(ROWS, [wire, ids.astype(mx.uint32)], fmt, (blocks, m), m, dtype)


def _launch(
    kernel: Kernel,
    inputs: list[MxArray],
    fmt: GgmlFormat,
    grid: tuple[int, int],
    rows: int,
    dtype: MxDtype,
) -> MxArray:
    """Run the grid (parts, *grid); → [rows, k]."""
    import mlx.core as mx

    k = inputs[0].shape[1] // fmt.block_bytes * fmt.block_size
    if not rows or not k:
        return mx.zeros((rows, k), dtype)
    parts = fmt.block_size // _CHUNK
    launch = kernel_of(fmt.name, kernel, str(dtype).rpartition(".")[2])
    out: MxArray = launch(
        inputs=inputs,
        grid=(parts, *grid),
        threadgroup=(parts, min(_THREADS // parts, grid[0]), 1),
        output_shapes=[(rows, k)],
        output_dtypes=[dtype],
    )[0]
    return out
