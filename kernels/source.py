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
    "header",
    "resolve",
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
        body: the call, with FORMAT for the format's struct. It may name the inputs, `<input>_shape`
            and `thread_position_in_grid`, whose x runs over the parts of a block.
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
    """Everything that the calls of these kernels need for the format of that name."""
    named = (ENCODERS[name] if kernel.file == "encode" else kernel.file for kernel in kernels)
    wanted = dict.fromkeys((name.lower(), *named))
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
