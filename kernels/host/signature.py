"""A kernel's signature, as `mx.fast.metal_kernel` writes it, and a function that calls the kernel.

Inputs of fewer than 8 elements come in constant memory, others in device memory, one without
dimensions as a reference; `<input>_shape`, `_strides` and `_ndim`, and what Metal knows of a
thread, where the body names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlxquant.formats.base import Array

__all__ = ["BODY", "Argument", "entry", "plain", "typed"]

#: the number of a body's first line; a header's is 1
BODY = 1_000_000
#: an input of fewer elements comes in constant memory
_DEVICE = 8

_TYPES = {
    "float32": "float",
    "float16": "half",
    "uint16": "bfloat",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 32, 64)},
}

_POSITION = "check::group_position"
_SIZE = "check::group_size"
_LANE = "check::lane"


def _three(expression: str) -> str:
    return f"uint3{{{', '.join(expression.replace('@', axis) for axis in '012')}}}"


_INSIDE = (
    f"{_LANE} % {_SIZE}[0]",
    f"{_LANE} / {_SIZE}[0] % {_SIZE}[1]",
    f"{_LANE} / {_SIZE}[0] / {_SIZE}[1]",
)
_WHOLE = "check::run->dispatched[@]"
_ATTRIBUTES = {
    "dispatch_threads_per_threadgroup": _three(_WHOLE),
    "simdgroup_index_in_threadgroup": f"{_LANE} / 32",
    "simdgroups_per_threadgroup": "(check::lanes_there + 31) / 32",
    "thread_execution_width": "32u",
    "thread_index_in_simdgroup": f"{_LANE} % 32",
    "thread_index_in_threadgroup": _LANE,
    "thread_position_in_grid": "uint3{"
    + ", ".join(f"{_POSITION}[{i}] * check::run->dispatched[{i}] + {_INSIDE[i]}" for i in range(3))
    + "}",
    "thread_position_in_threadgroup": f"uint3{{{', '.join(_INSIDE)}}}",
    "threadgroup_position_in_grid": _three(f"{_POSITION}[@]"),
    "threadgroups_per_grid": _three(f"(check::run->grid[@] + {_WHOLE} - 1) / {_WHOLE}"),
    "threads_per_grid": _three("check::run->grid[@]"),
    "threads_per_simdgroup": "32u",
    "threads_per_threadgroup": _three(f"{_SIZE}[@]"),
}

_SHARED = re.compile(r"\bthreadgroup\s+((?:\w+)(?:<[^;>]*>)?)\s+(\w+)((?:\s*\[[^\]]*\])*)\s*;")
_TABLE = re.compile(r"^constant\s+(\w+)\s+(\w+)((?:\[[^\]]*\])+)\s*=", re.MULTILINE)


@dataclass(frozen=True)
class Argument:
    """One array of a kernel.

    Attributes:
        name: its name.
        of: NumPy's name of its type; uint16 stands for bfloat16.
        space: `device`, `constant`, or `out`.
        reference: whether it comes as one.
        shape, strides, ndim: whether the body names `<name>_shape` and such.
    """

    name: str
    of: str
    space: str
    reference: bool
    shape: bool = False
    strides: bool = False
    ndim: bool = False


def typed(name: str, x: Array, source: str) -> Argument:
    """How an input comes to a kernel with that body."""
    named = {
        part: x.ndim > 0 and f"{name}_{part}" in source for part in ("shape", "strides", "ndim")
    }
    space = "constant" if x.size < _DEVICE else "device"
    return Argument(name, str(x.dtype), space, x.ndim == 0, **named)


def entry(source: str, header: str, arguments: Sequence[Argument]) -> str:
    """Header and body as a function, `check::lane_main` that calls it, and a list of the tables."""
    parameters, values = _parameters(source, arguments)
    return "".join(
        (
            f'#line 1 "header"\n{header}\n',
            f"static void checked_kernel(\n    {', '.join(parameters)}\n) {{\n",
            f'#line {BODY} "body"\n{_shared(source)}\n}}\n#line 1 "entry"\n',
            _UNWATCHED,
            f"void check::lane_main() {{ checked_kernel({', '.join(values)}); }}\n",
            _tables(header),
            "#pragma clang attribute pop\n",
        )
    )


def plain(source: str, header: str, arguments: Sequence[Argument]) -> str:
    """The same with Metal's address spaces, for a compiler to refuse; nothing calls it."""
    parameters, _ = _parameters(source, arguments)
    body = _SHARED.sub(r"static threadgroup \1 \2\3;", source)
    return f"{header}\nvoid plain_kernel(\n    {', '.join(parameters)}\n) {{\n{body}\n}}\n"


_UNWATCHED = (
    "#pragma clang attribute push("
    '__attribute__((no_sanitize("thread", "coverage"))), apply_to = function)\n'
)


def _parameters(source: str, arguments: Sequence[Argument]) -> tuple[list[str], list[str]]:
    """Their declarations, and what is given for each."""
    parameters, values = [], []
    for i, a in enumerate(arguments):
        of = _TYPES[a.of]
        space = "device" if a.space == "out" else f"const {a.space}"
        parameters.append(f"{space} {of}{'&' if a.reference else '*'} {a.name}")
        values.append(f"{'*' if a.reference else ''}({of}*)check::run->arguments[{i}]")
        if a.space == "out":
            continue
        at = len(arguments) + 3 * i
        for j, (part, kind) in enumerate(
            (("shape", "int*"), ("strides", "int64_t*"), ("ndim", "int&"))
        ):
            if getattr(a, part):
                parameters.append(f"const constant {kind} {a.name}_{part}")
                pointer = f"({kind[:-1]}*)check::run->arguments[{at + j}]"
                values.append(f"*{pointer}" if kind[-1] == "&" else pointer)
    for name, value in _ATTRIBUTES.items():
        if name in source:
            kind = "uint3" if value.startswith("uint3") else "uint"
            parameters.append(f"{kind} {name}")
            values.append(value)
    return parameters, values


def _shared(source: str) -> str:
    """The body with threadgroup memory from `check::share`."""

    def declared(match: re.Match[str]) -> str:
        of, name, dimensions = match[1], match[2], match[3]
        lines = "\n" * match[0].count("\n")
        kind = f"{name}_of_threadgroup"
        return (
            f"typedef {of} {kind}{dimensions}; {kind}& {name} = *({kind}*)check::share("
            f'"{name}", sizeof({kind}), sizeof({of}), __LINE__);{lines}'
        )

    return _SHARED.sub(declared, source)


def _tables(header: str) -> str:
    lines = [
        f"    run->arrays[run->fixed++] = {{(check::Byte*){name}, sizeof {name}, check::TABLE, "
        f'sizeof({of}), nullptr, nullptr, "{name}"}};\n'
        for of, name, _ in _TABLE.findall(header)
    ]
    return (
        'extern "C" __attribute__((visibility("default"))) void check_tables(check::Run* run) {\n'
        f"{''.join(lines)}    run->count = run->fixed;\n}}\n"
    )
