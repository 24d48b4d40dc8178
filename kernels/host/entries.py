"""C++ for the host: the kernels' source between the shim and loops that call them.

Of every kernel and every element type there is one function, `<kernel>_<dtype>`:

    void dequantize_F16(wire, wire_shape, ids, out, height, begin, end)

It runs the threads of a grid (parts of a block, height, depth) whose y + height · z lies from
`begin` up to `end`, one after another, so that several processor threads can share a grid. Only
kernels without barriers may run so. `ids` is null where the kernel has none.

The search for affine formats has two functions, `search` and `search_weighted`; without importance
it is null. So has an encoder, `encode` and `encode_weighted`; they return whether all weights are
finite, without which the bytes mean nothing.
"""

from __future__ import annotations

from importlib.resources import files

from ..source import DEQUANTIZE, ENCODE, ROWS, affine_search, call, header

__all__ = ["DTYPES", "KERNELS", "encode_program", "program", "search_program"]

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


_SEARCH = """
extern "C" __attribute__((visibility("default"))) void {symbol}(
    const device float* rows, const device float* importance, uint columns, int type, ulong count,
    device uint* codes, device float* scales, device float* biases, ulong begin, ulong end
) {{
    for (ulong item = begin; item < end; ++item) {{
        affine_search<{bits}, {size}, {weighted}>(
            rows, importance, columns, type, count, codes, scales, biases, item
        );
    }}
}}
"""


_ENCODE = """
extern "C" __attribute__((visibility("default"))) int {symbol}(
    const device float* rows, const device float* importance, uint columns, ulong count,
    device uchar* wire, ulong begin, ulong end
) {{
    bool finite = true;
    for (ulong item = begin; item < end; ++item) {{
        const ulong first = item * LANES, blocks = first + LANES < count ? LANES : count - first;
        finite &= all_finite(rows + first * {name}::weights, blocks * {name}::weights);
        encode<{name}, {weighted}>(rows, importance, columns, count, wire, item);
    }}
    return finite;
}}
"""

_FINITE = """
static bool all_finite(const device float* values, ulong count) {
    uint largest = 0;
    for (ulong i = 0; i < count; ++i) {
        const uint magnitude = as_type<uint>(values[i]) & 0x7FFFFFFF;
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest < 0x7F800000;
}
"""


def program(name: str) -> str:
    """The translation unit of one format's library."""
    entries = (
        _ENTRY.format(symbol=f"{kernel.name}_{dtype}", of=of, name=name, call=call(name, kernel))
        for kernel in KERNELS
        for dtype, of in DTYPES.items()
    )
    return "".join((_shim(), "\n", header(name, *KERNELS), *entries))


def search_program(bits: int, size: int) -> str:
    """The translation unit of the search for an affine format."""
    symbols = {"search": "false", "search_weighted": "true"}
    entries = (
        _SEARCH.format(symbol=symbol, bits=bits, size=size, weighted=weighted)
        for symbol, weighted in symbols.items()
    )
    return "".join((_shim(), _lanes(), "\n", affine_search(), *entries))


def encode_program(name: str) -> str:
    """The translation unit of a format's encoder."""
    symbols = {"encode": "false", "encode_weighted": "true"}
    entries = (
        _ENCODE.format(symbol=symbol, name=name, weighted=weighted)
        for symbol, weighted in symbols.items()
    )
    return "".join((_shim(), _lanes(), "\n", header(name, ENCODE), _FINITE, *entries))


def _shim() -> str:
    return files(__package__).joinpath("shim.h").read_text(encoding="utf-8")


def _lanes() -> str:
    return "\n" + files(__package__).joinpath("lanes.h").read_text(encoding="utf-8")
