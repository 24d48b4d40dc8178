"""How much arithmetic a kernel does: operations in LLVM's intermediate code, as often as they run.

clang compiles the kernel as it does for a check, but optimized, everything inlined, nothing made
wider (no processor's vectors), and prints its intermediate code. Every block of instructions there
gets a counter; the code is compiled on and run. What a block holds, times how often it ran, are the
operations. They are this compiler's; a GPU's compiler starts from much the same code.

    float       +, -, ×, ÷, fused × +, of float, half and bfloat; comparisons; minimum, maximum
    integer     +, -, and, or, xor, comparisons, choices between two values, computed addresses
    slow        shifts, integer ×, conversions between integers and floats, counts of bits

An operation on a vector counts for each element. Free: moving, naming, widening and narrowing
bits, half to float and back (Apple's instructions take and give halves), addresses with a constant
offset.
Not counted: loads and stores (counts.py), and what runs inside functions of a simdgroup and
products of its matrices.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from .compiler import Compiler, Unavailable, find
from .running import CheckCompiler

__all__ = ["Block", "CountingCompiler", "Operations", "counting", "operations"]

_FLOAT = ("fadd", "fsub", "fmul", "fdiv", "frem", "fneg", "fcmp")
_INTEGER = ("add", "sub", "and", "or", "xor", "icmp", "select")
_SLOW = ("shl", "lshr", "ashr", "mul", "udiv", "sdiv", "urem", "srem")
_SLOW_CONVERSIONS = ("uitofp", "sitofp", "fptoui", "fptosi")
_FLOAT_CALLS = ("fma", "fmuladd", "minnum", "maxnum", "minimum", "maximum", "fabs", "sqrt", "rint")
_INTEGER_CALLS = ("umin", "umax", "smin", "smax", "abs", "usub.sat")
_SLOW_CALLS = ("ctpop", "ctlz", "cttz", "fshl", "fshr", "bitreverse", "bswap")

_CLASSES = {
    **dict.fromkeys(_FLOAT, "float"),
    **dict.fromkeys(_INTEGER, "integer"),
    **dict.fromkeys((*_SLOW, *_SLOW_CONVERSIONS), "slow"),
}
_CALLS = {
    **dict.fromkeys(_FLOAT_CALLS, "float"),
    **dict.fromkeys(_INTEGER_CALLS, "integer"),
    **dict.fromkeys(_SLOW_CALLS, "slow"),
}

_FLAGS = (
    *("-x", "c++", "-std=c++17", "-O2", "-w", "-gline-tables-only", "-ffp-contract=off"),
    *("-fno-strict-aliasing", "-fsigned-char", "-fvisibility=hidden", "-fPIC", "-fno-builtin"),
    *("-fno-vectorize", "-fno-slp-vectorize", "-fno-unroll-loops"),
    *("-mllvm", "-disable-vector-combine", "-mllvm", "-inline-threshold=1000000"),
    *("-S", "-emit-llvm"),
)
#: files of which operations count: the kernel, and Metal's functions of numbers
_FILES = ("header", "body", "functions.h", "shim.h")
_HIDDEN = ("simdgroup.h", "matrix.h")

_INSTRUCTION = re.compile(r"^  (?:%[\w.]+ = )?(?:tail |notail |musttail )?([a-z]+)\b(.*)$")
_LOCATION = re.compile(r"!dbg !(\d+)")
_CALLED = re.compile(r"@(?:llvm\.)?([a-z]+(?:\.sat)?)\w*[.(]")
_VECTOR = re.compile(r"<(\d+) x ")


@dataclass(frozen=True)
class Operations:
    """How many, by kind."""

    float: int
    integer: int
    slow: int


@dataclass(frozen=True)
class Block:
    """Operations of one block of instructions."""

    counts: Operations


class CountingCompiler(CheckCompiler):
    """A clang that takes intermediate code."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Options of every compilation."""
        return ("-x", "ir", "-O1", "-w", "-shared", "-fPIC")


def counting(text: str) -> tuple[str, list[Block]]:
    """A translation unit as intermediate code that counts in `check_blocks`, and its blocks.

    Raises:
        Unavailable: no clang, or it refused.
    """
    return _with_counters(_intermediate(find(), text))


def operations(blocks: list[Block], library: ctypes.CDLL) -> Operations:
    """What ran since the library was loaded."""
    ran = (ctypes.c_uint64 * len(blocks)).in_dll(library, "check_blocks")
    return Operations(
        *(
            sum(
                getattr(block.counts, kind) * times
                for block, times in zip(blocks, ran, strict=True)
            )
            for kind in ("float", "integer", "slow")
        )
    )


def _intermediate(compiler: Compiler, text: str) -> str:
    command = [compiler.path, *_FLAGS, "-o", "-", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{compiler.path} failed: {done.stderr.strip().splitlines()[0]}")
    return done.stdout


def _with_counters(code: str) -> tuple[str, list[Block]]:
    inside = _locations(code)
    lines: list[str] = []
    blocks: list[Block] = []
    for part in re.split(r"(?m)^(?=define )", code):
        if not part.startswith("define "):
            lines += part.splitlines()
            continue
        end = part.index("\n}")
        head, *body = part[:end].splitlines()
        lines.append(head)
        for block in _blocks(body):
            counts = _counts(block, inside)
            if any(counts.values()):
                at = _after_phis(block)
                block[at:at] = _counter(len(blocks))
                blocks.append(Block(Operations(**counts)))
            lines += block
        lines += part[end + 1 :].splitlines()
    array = f"@check_blocks = global [{max(1, len(blocks))} x i64] zeroinitializer\n"
    return "\n".join(lines) + "\n" + array, blocks


def _blocks(body: list[str]) -> Iterator[list[str]]:
    """Lines of a function, cut before each label."""
    block: list[str] = []
    for line in body:
        if re.match(r"^[\w.$-]+:", line):
            yield block
            block = []
        block.append(line)
    yield block


def _after_phis(block: list[str]) -> int:
    for at, line in enumerate(block):
        if line.startswith("  ") and " = phi " not in line:
            return at
    return len(block)


def _counter(index: int) -> list[str]:
    """Named values: what the code numbers keeps its numbers."""
    at = f"getelementptr (i8, ptr @check_blocks, i64 {8 * index})"
    return [
        f"  %counted.{index} = load i64, ptr {at}",
        f"  %more.{index} = add i64 %counted.{index}, 1",
        f"  store i64 %more.{index}, ptr {at}",
    ]


def _counts(block: list[str], inside: set[str]) -> dict[str, int]:
    """By kind, of the instructions that come from the kernel."""
    counts = {"float": 0, "integer": 0, "slow": 0}
    for line in block:
        found = _INSTRUCTION.match(line)
        location = _LOCATION.search(line)
        if not found or not location or location[1] not in inside:
            continue
        name, rest = found[1], found[2]
        kind = _CLASSES.get(name)
        if name == "call":
            called = _CALLED.search(rest)
            kind = _CALLS.get(called[1]) if called else None
        elif name == "getelementptr":
            # its indices but the first name are constants, or it has to be computed
            kind = "integer" if re.search(r", i\d+ %", rest) else None
        if kind:
            vector = _VECTOR.search(rest)
            counts[kind] += int(vector[1]) if vector else 1
    return counts


def _locations(code: str) -> set[str]:
    """Numbers of the locations that are in _FILES, and not called by _HIDDEN."""
    files, scopes, locations = {}, {}, {}
    for number, what, fields in re.findall(r"(?m)^!(\d+) = (?:distinct )?!(\w+)\((.*)\)$", code):
        named = dict(re.findall(r'(\w+): (?:!|")([^",]*)', fields))
        if what == "DIFile":
            files[number] = named["filename"]
        elif what == "DILocation":
            locations[number] = named["scope"], named.get("inlinedAt")
        elif "file" in named:
            scopes[number] = named["file"]

    def callers(number: str | None) -> Iterator[str]:
        while number:
            scope, number = locations[number]
            yield files.get(scopes.get(scope, ""), "")

    inside = set()
    for number in locations:
        innermost, *outer = callers(number)
        if innermost in _FILES and not any(file in _HIDDEN for file in outer):
            inside.add(number)
    return inside
