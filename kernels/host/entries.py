"""C++ for the host: the kernels' source between the shim and loops that call them.

Of every kernel and every element type there is one function, `<kernel>_<dtype>`:

    void dequantize_F16(wire, wire_shape, ids, out, height, begin, end)

It runs the threads of a grid (parts of a block, height, depth) whose y + height · z lies from
`begin` up to `end`, one after another, so that several processor threads can share a grid. Only
kernels without barriers may run so. `ids` is null where the kernel has none.
"""

from __future__ import annotations

from importlib.resources import files

from ..source import DEQUANTIZE, ROWS, call, header

__all__ = ["DTYPES", "KERNELS", "program"]

#: the project's names of element types → Metal's
DTYPES = {"F32": "float", "F16": "half", "BF16": "bfloat"}
KERNELS = (DEQUANTIZE, ROWS)

_ENTRY = """
extern "C" __attribute__((visibility("default"))) void {symbol}(
    const device uchar* wire, const constant int* wire_shape, const device uint* ids,
    device {of}* out, uint height, ulong begin, ulong end
) {{
    uint y = uint(begin % height), z = uint(begin / height);
    for (ulong item = begin; item < end; ++item) {{
        for (uint x = 0; x < {name}::weights / {name}::chunk; ++x) {{
            const uint3 thread_position_in_grid = {{x, y, z}};
            {call}
        }}
        if (++y == height) {{
            y = 0;
            ++z;
        }}
    }}
}}
"""


def program(name: str) -> str:
    """The translation unit of one format's library."""
    entries = (
        _ENTRY.format(symbol=f"{kernel.name}_{dtype}", of=of, name=name, call=call(name, kernel))
        for kernel in KERNELS
        for dtype, of in DTYPES.items()
    )
    shim = files(__package__).joinpath("shim.h").read_text(encoding="utf-8")
    return "".join((shim, "\n", header(name, *KERNELS), *entries))
