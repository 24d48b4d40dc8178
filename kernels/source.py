"""Which kernels there are, and the whole Metal source of each: one text for a GPU and a processor.

>>> "Q4_K" in FORMATS
True
>>> header("Q4_K", DEQUANTIZE).startswith("// ")
True

A kernel is a call of a function template with a format. `header` puts together what the call needs:
the template's file, the format's file, and whatever these include, each once. An include of
`tables/<name>.metal` stands for what tables.py writes. MLX gets the header and the call
(metal.py), the host's compiler the same two (host/entries.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .tables import table

__all__ = [
    "DEQUANTIZE",
    "ENCODE",
    "ENCODERS",
    "ENCODE_WEIGHTED",
    "FORMATS",
    "ROWS",
    "SEARCHED_BITS",
    "Kernel",
    "affine_search",
    "call",
    "gather_matmul",
    "gather_matvec",
    "header",
    "matmul",
    "matvec",
    "resolve",
    "searching",
]

#: ggml's names of the formats that have kernels; <name in lower case>.metal defines struct <name>
FORMATS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"),
)

#: widths of affine formats that have a kernel for the search; at 1 bit it sorts
SEARCHED_BITS = (2, 3, 4, 5, 6, 8)

#: formats that have a kernel for encoding → the file of its template
ENCODERS = {
    "Q4_0": "encode_symmetric",
    "Q4_1": "encode_affine",
    "Q5_0": "encode_symmetric",
    "Q5_1": "encode_affine",
    "Q8_0": "encode_q8_0",
    "Q2_K": "encode_q2_k",
    "Q3_K": "encode_q3_k",
    "Q4_K": "encode_q4_k",
    "Q5_K": "encode_q5_k",
    "Q6_K": "encode_q6_k",
    "IQ4_NL": "encode_iq4_nl",
    "IQ4_XS": "encode_iq4_xs",
    "TQ1_0": "encode_ternary",
    "TQ2_0": "encode_ternary",
}

_INCLUDE = re.compile(r'^#include "([\w/]+)\.metal"\n', re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    """One function template of a .metal file, as a kernel of MLX.

    Attributes:
        name: part of the kernel's name.
        file: where the template is.
        inputs: names of the input arrays, in order; the output is `out`.
        body: the call, with FORMAT for the format's struct, behind declarations of threadgroup
            memory. It may name the inputs, `<input>_shape`, and what Metal calls a thread's places,
            as `thread_position_in_grid`.
    """

    name: str
    file: str
    inputs: tuple[str, ...]
    body: str


#: wire uint8 [n, bytes] → out [n, k]; grid (parts, blocks, 1)
DEQUANTIZE = Kernel(
    "dequantize",
    "dequantize",
    ("wire",),
    "dequantize<FORMAT>(wire, out, thread_position_in_grid);",
)

#: wire uint8 [n, bytes], ids uint32 [m] → out [m, k]; grid (parts, blocks of a row, m)
ROWS = Kernel(
    "dequantize_rows",
    "dequantize",
    ("wire", "ids"),
    "dequantize_row<FORMAT>(wire, wire_shape[0], wire_shape[1], ids[thread_position_in_grid.z], "
    "out, thread_position_in_grid);",
)

#: what a product is of: x [m, k] and wire [n, bytes], or wire [matrices, n, bytes]
_PRODUCT = "product_of(x, x_shape[0], x_shape[1], wire, wire_shape[{}], wire_shape[{}], out)"
_LANE = "simdgroup_index_in_threadgroup, thread_index_in_simdgroup"
_THREAD = "thread_index_in_threadgroup, simdgroup_index_in_threadgroup"


@cache
def matvec(rows: int, height: int, split: int) -> Kernel:
    """x [m, k], wire uint8 [n, bytes] → out [m, n], m up to `rows`: see matvec.metal."""
    name = f"{'matvec_rows' if rows > 1 else 'matvec'}_{rows}x{height}"
    group = "threadgroup_position_in_grid.x"
    product = _PRODUCT.format(0, 1)
    body = f"matvec<FORMAT, {rows}, {height}>({product}, {group}, {_LANE});"
    if split > 1:
        name += f"_split{split}"
        body = (
            f"threadgroup float partial[{split * height * rows}];\n"
            f"matvec_split<FORMAT, {rows}, {height}, {split}>({product}, partial, {group}, "
            f"{_LANE});"
        )
    return Kernel(name, "matvec", ("x", "wire"), body)


@cache
def matmul(height: int, width: int, size: int) -> Kernel:
    """The same for any m, of numbers of `size` bytes: see matmul.metal."""
    body = (
        f"threadgroup float4 memory[Tiles<{height}, {width}, {size}>::quads];\n"
        f"matmul<FORMAT, {height}, {width}>({_PRODUCT.format(0, 1)}, memory, "
        f"threadgroup_position_in_grid, {_THREAD});"
    )
    return Kernel(f"matmul_{height}x{width}", "matmul", ("x", "wire"), body)


@cache
def gather_matvec(height: int, split: int) -> Kernel:
    """x [p, k], ids uint32 [p], wire uint8 [e, n, bytes] → out [p, n]: see gather.metal."""
    name = f"gather_matvec_1x{height}"
    arguments = f"{_PRODUCT.format(1, 2)}, ids, wire_shape[0]"
    places = f"threadgroup_position_in_grid, {_LANE}"
    body = f"gather_matvec<FORMAT, {height}>({arguments}, {places});"
    if split > 1:
        name += f"_split{split}"
        body = (
            f"threadgroup float partial[{split * height}];\n"
            f"gather_matvec_split<FORMAT, {height}, {split}>({arguments}, partial, {places});"
        )
    return Kernel(name, "gather", ("x", "ids", "wire"), body)


@cache
def gather_matmul(height: int, width: int, size: int) -> Kernel:
    """The same for many rows in the order of ids."""
    body = (
        f"threadgroup float4 memory[Tiles<{height}, {width}, {size}>::quads];\n"
        f"gather_matmul<FORMAT, {height}, {width}>({_PRODUCT.format(1, 2)}, ids, wire_shape[0], "
        f"memory, threadgroup_position_in_grid, {_THREAD});"
    )
    return Kernel(f"gather_matmul_{height}x{width}", "gather", ("x", "ids", "wire"), body)


@cache
def searching(bits: int, size: int, dtype: str, weighted: bool) -> Kernel:
    """rows float [count, size], importance float [columns, size] if weighted → out uint32: codes of
    all groups, then the scales and the biases as floats' bits: see affine_search.metal.
    """
    words = bits * size // 32
    name = f"affine_search_{dtype.lower()}{'_weighted' * weighted}"
    given = "importance, uint(importance_shape[0])" if weighted else "rows, 1"
    body = (
        "const ulong count = uint(rows_shape[0]);\n"
        f"device float* scales = reinterpret_cast<device float*>(out + count * {words});\n"
        f"affine_search<{bits}, {size}, {str(weighted).lower()}>(rows, {given}, "
        f"STORED_{dtype}, count, out, scales, scales + count, thread_position_in_grid.x);"
    )
    inputs = ("rows", "importance") if weighted else ("rows",)
    return Kernel(name, "affine_search", inputs, body)


_ENCODE = (
    "encode<FORMAT, {weighted}>(rows, {importance}, rows_shape[1] / FORMAT::weights, "
    "ulong(rows_shape[0]) * (rows_shape[1] / FORMAT::weights), out, thread_position_in_grid.x);"
)

#: rows float32 [n, k] → out uint8 [n, bytes]; grid (blocks, 1, 1). The template is in the file that
#: ENCODERS names.
ENCODE = Kernel("encode", "encode", ("rows",), _ENCODE.format(weighted="false", importance="rows"))

#: the same with importance, float32 [k]
ENCODE_WEIGHTED = Kernel(
    "encode_weighted",
    "encode",
    ("rows", "importance"),
    _ENCODE.format(weighted="true", importance="importance"),
)


def call(name: str, kernel: Kernel) -> str:
    """The kernel's body for the format of that name."""
    return kernel.body.replace("FORMAT", name)


@cache
def header(name: str, *kernels: Kernel) -> str:
    """Everything that the calls of these kernels need for the format of that name: one of FORMATS,
    or an affine one, which has no file."""
    own = (name.lower(),) if name in FORMATS else ()
    named = (ENCODERS[name] if kernel.file == "encode" else kernel.file for kernel in kernels)
    wanted = dict.fromkeys((*own, *named))
    return resolve("".join(f'#include "{file}.metal"\n' for file in wanted))


@cache
def affine_search() -> str:
    """Everything that the search for affine formats needs, of any width and group size."""
    return resolve('#include "affine_search.metal"\n')


def resolve(text: str) -> str:
    """`text` with every included file in place of its first include, and the later ones gone."""
    seen: set[str] = set()

    def included(match: re.Match[str]) -> str:
        file = match[1]
        if file in seen:
            return ""
        seen.add(file)
        return _INCLUDE.sub(included, _read(file))

    return _INCLUDE.sub(included, text)


def _read(file: str) -> str:
    folder, _, name = file.rpartition("/")
    if folder == "tables":
        return table(name)
    return files(__package__).joinpath(f"{file}.metal").read_text(encoding="utf-8") + "\n"
