"""Kernels broken in one place: where, and by which launches the check is to notice.

`TEMPLATES` are broken by hand, each place of a kernel's template in its own way. Decoders are
broken by rule: `of_decoder` makes one mutant of every number that a format's file has in its code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from checked import assert_product, decoded, numbers, rounded, weights
from formats.ggml_golden import ggml_format
from formats.test_decode_mx import any_blocks
from mlxquant.kernels import launch
from mlxquant.kernels.host.check import CheckedKernel, CheckFailure
from mlxquant.kernels.host.known_answer import same
from mlxquant.kernels.launch import Launch
from mlxquant.kernels.source import call, header
from support import REPOSITORY

from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import from_float32

__all__ = ["TEMPLATES", "Mutant", "of_decoder"]


@dataclass(frozen=True)
class Mutant:
    """A kernel's source with one place changed.

    Attributes:
        right, wrong: text of the header; the first place is changed.
        run: which of `_RUNS`.
        format: of the weights.
        noticed: is in what the check says: `race`, `divergent`, `outside`, `numbers` …
        sampled: whether `make test` runs it too.
    """

    right: str
    wrong: str
    run: str
    format: str
    noticed: str
    sampled: bool = False

    def said(self) -> str:
        """What the check says of it; empty where it notices nothing."""
        try:
            _RUNS[self.run](self)
        except CheckFailure as failure:
            return str(failure)
        except AssertionError as wrong:
            return f"numbers: {wrong}"
        return ""

    def result(self, started: Launch, *inputs: np.ndarray) -> np.ndarray:
        """Of a launch of the broken kernel."""
        before = header(started.format, started.kernel)
        body = call(started.format, started.kernel)
        whole = before + body
        if self.right not in whole:
            raise LookupError(f"nothing to break: {self.right}")
        if self.right in before:
            before = before.replace(self.right, self.wrong, 1)
        else:
            body = body.replace(self.right, self.wrong, 1)
        names = list(started.kernel.inputs)
        kernel = CheckedKernel("broken", names, ["out"], body, before, most_steps=1 << 24)
        of = STORAGE[started.dtype]
        return kernel(inputs, started.grid, started.threadgroup, [started.shape], [of])[0]


def _product(mutant: Mutant, m: int, n: int, blocks: int, width: int | None = None) -> None:
    fmt, dtype = ggml_format(mutant.format), "F16" if m > 8 else "F32"
    wire = weights(mutant.format, n, blocks)
    w = decoded(mutant.format, wire)
    x = numbers(m, w.shape[1], dtype)
    if m <= launch.ROWS_AT_ONCE:
        started = launch.matvec(fmt, x.shape, wire.shape, dtype)
    else:
        started, w = launch.matmul(fmt, x.shape, wire.shape, dtype, width), rounded(w, dtype)
    out = mutant.result(started, x, wire)
    assert_product(out, x, w, dtype, 4 * w.shape[1], started.kernel.name)


def _gather(mutant: Mutant, many: bool) -> None:
    fmt, ids = ggml_format(mutant.format), np.array([0, 0, 0, 2, 2, 7, 1, 1, 1, 1, 2], np.uint32)
    wire = weights(mutant.format, 3, 9, 3)
    w = decoded(mutant.format, wire.reshape(27, -1)).reshape(3, 9, -1)
    x = numbers(len(ids), w.shape[2], "F32")
    start = launch.gather_matmul if many else launch.gather_matvec
    out = mutant.result(start(fmt, x.shape, wire.shape, "F32"), x, ids, wire)
    for i, matrix in enumerate(ids):
        if matrix < 3:
            assert_product(out[i : i + 1], x[i : i + 1], w[matrix], "F32", 512, "experts")
        else:
            assert np.isnan(out[i]).all()


def _dequantize(mutant: Mutant, rows: bool) -> None:
    fmt, count = ggml_format(mutant.format), 64
    wire = any_blocks(fmt, 256)[: 4 * count].reshape(4, -1)
    with np.errstate(all="ignore"):
        wanted = fmt.decode((wire,))
    if not rows:
        out = mutant.result(launch.dequantize(fmt, wire.shape, "F32"), wire)
    else:
        ids = np.array([1, 3, 0, 0, 4, 2, 3, 1], np.uint32)
        out = mutant.result(launch.dequantize_rows(fmt, wire.shape, 8, "F32"), wire, ids)
        wanted = np.where((ids < 4)[:, None], wanted[np.minimum(ids, 3)], np.float32(np.nan))
    assert same(out, from_float32(wanted, "F32"), "F32"), "other numbers"


#: small, and with tails of every kind
_RUNS = {
    "dequantize": lambda mutant: _dequantize(mutant, rows=False),
    "rows": lambda mutant: _dequantize(mutant, rows=True),
    "matvec": lambda mutant: _product(mutant, 1, 7, 5),
    "matvec_few": lambda mutant: _product(mutant, 1, 3, 5),
    "matvec_rows": lambda mutant: _product(mutant, 3, 7, 5),
    "split": lambda mutant: _product(mutant, 1, 5, 65),
    "split_rows": lambda mutant: _product(mutant, 3, 5, 65),
    "matmul": lambda mutant: _product(mutant, 33, 65, 3, launch.WIDTH),
    "narrow": lambda mutant: _product(mutant, 13, 33, 5, launch.NARROW),
    "gather_matvec": lambda mutant: _gather(mutant, many=False),
    "gather_matmul": lambda mutant: _gather(mutant, many=True),
}

_BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
_STORED = "const uint column = thread_index %"

TEMPLATES = [
    # a thread's runs, side by side instead of apart
    Mutant("begin[r * Format::stride", "begin[r * Format::run", "dequantize", "Q4_K", "race", True),
    Mutant("ulong block = at.y", "ulong block = at.y + 1", "dequantize", "Q8_0", "outside"),
    Mutant("r < Format::chunk / Format::run", "r < 1", "dequantize", "Q4_K", "never written"),
    Mutant("id < uint(rows)", "id <= uint(rows)", "rows", "Q8_0", "outside", True),
    Mutant("at.z * blocks + at.y", "at.z * blocks", "rows", "Q8_0", "race"),
    Mutant("ulong(id) * uint(row_bytes)", "ulong(id + 1) * 34", "rows", "Q8_0", "numbers"),
    # matvec: tails of k and n, steps, sums
    Mutant("* Format::weights < of.k; b", "* Format::weights <= of.k; b", "matvec", "Q8_0",
           "outside"),
    Mutant("block += step / parts", "block += step", "split", "Q4_K", "numbers"),
    Mutant("first / parts; block", "first / parts + 1; block", "matvec", "Q4_K", "numbers"),
    Mutant("uint(h) < last ? h : last", "h", "matvec", "Q4_0", "outside", True),
    Mutant("|| row >= of.n) {", ") {", "matvec_few", "Q4_0", "outside"),
    Mutant("last = of.n - 1 - row", "last = of.n - row", "matvec_rows", "Q4_0", "outside"),
    Mutant("r < of.m && row < of.n", "r < of.m", "matvec", "Q4_0", "outside"),
    Mutant("r < of.m && row < of.n", "row < of.n", "matvec_rows", "Q4_0", "outside", True),
    Mutant("if (uint(r) < of.m) {", "{", "matvec_rows", "Q4_0", "outside"),
    Mutant("of.out[ulong(r) * of.n", "of.out[ulong(r)", "matvec_rows", "Q4_0", "race"),
    Mutant("if (lane == 0) {", "if (lane < 2) {", "matvec", "Q4_0", "race", True),
    Mutant("x[i], product)", "x[i], 0.0f)", "matvec", "Q4_0", "numbers", True),
    Mutant("x[i], sum)", "x[i], 0.0f)", "matvec_rows", "Q4_0", "numbers"),
    Mutant("? products[h] : 0.0f", "? products[0] : 0.0f", "matvec_rows", "Q4_0", "numbers"),
    Mutant("? fma(biases[g], of_x, sum)", "? sum", "matvec", "Q4_K", "numbers"),
    Mutant("of_x[g] += x[", "of_x[g] = x[", "matvec", "Q4_K", "numbers"),
    Mutant("? of_x : 0.0f", "? 0.0f : 0.0f", "matvec_rows", "Q4_K", "numbers"),
    Mutant("(first + 8) % Format::group == 0", "true", "matvec_rows", "Q4_0", "numbers"),
    Mutant("simd_sum(sums[h * rows + r])", "sums[h * rows + r]", "matvec", "Q4_0", "numbers"),
    Mutant("(x + ulong(r) * of.k, w", "(x, w", "matvec_rows", "Q4_0", "numbers"),
    Mutant("w, sums + r)", "w, sums)", "matvec_rows", "Q4_0", "numbers"),
    # matvec_split: what simdgroups leave one another
    Mutant(_BARRIER, "", "split", "Q4_0", "partial[", True),
    Mutant(_BARRIER, "if (lane < 16) " + _BARRIER, "split", "Q4_0", "divergent"),
    Mutant(_BARRIER, _BARRIER.replace("mem_threadgroup", "mem_device"), "split", "Q4_0", "race"),
    Mutant("partial[simdgroup * count + i]", "partial[i]", "split", "Q4_0", "race"),
    Mutant("own < count", "own <= count", "split_rows", "Q4_0", "partial["),
    Mutant("int s = 1; s < split", "int s = 2; s < split", "split", "Q4_0", "numbers"),
    Mutant("lane, 32 * split, sums", "lane, 32, sums", "split", "Q4_0", "numbers"),
    # matmul: its four barriers
    Mutant("been read\n        " + _BARRIER, "been read\n", "matmul", "Q8_0", "race", True),
    Mutant("thread_index);\n        " + _BARRIER, "thread_index);\n", "narrow", "Q8_0", "memory["),
    Mutant(_BARRIER + "    own.store", "own.store", "matmul", "Q8_0", "race"),
    Mutant(_BARRIER + "    " + _STORED, _STORED, "narrow", "Q8_0", "memory["),
    Mutant("been read\n        ", "been read\nif (thread_index < 64) ", "narrow", "Q8_0",
           "divergent", True),
    # tails of m, n and k
    Mutant("row >= begin && row < end", "row >= begin", "matmul", "Q8_0", "outside"),
    Mutant("left + row < of.n && block", "block", "matmul", "Q8_0", "outside", True),
    Mutant("of.n && block * Format::weights < of.k", "of.n", "narrow", "Q4_0", "outside"),
    Mutant("inside = block * Format::weights < of.k", "inside = true", "narrow", "Q4_0", "outside"),
    Mutant("if (left + column < of.n) {", "{", "narrow", "Q8_0", "race"),
    Mutant("of.m - top < height ? of.m - top : height", "height", "matmul", "Q8_0", "outside"),
    # tiles, matrices and sums
    Mutant("+ Format::chunk * own", "+ Format::chunk", "matmul", "Q8_0", "race"),
    Mutant("Shape::stride + 8 * eight", "Shape::stride + eight / 2 * 8", "matmul", "Q8_0",
           "race"),
    Mutant("Shape::stride, ulong2(0), true", "Shape::stride, ulong2(0), false", "narrow", "Q8_0",
           "numbers"),
    Mutant("right[j], sums[i][j]);", "right[j], right[j]);", "narrow", "Q8_0", "numbers"),
    Mutant("k < Shape::depth; k += 8", "k < Shape::depth - 8; k += 8", "narrow", "Q8_0", "numbers"),
    Mutant("row = 8 * (simdgroup / 2)", "row = 8 * (simdgroup % 2)", "matmul", "Q8_0", "race"),
    Mutant("at, Shape::sums_stride)", "at, Shape::sums_stride - 8)", "matmul", "Q8_0", "race"),
    Mutant("row += Shape::parts) {", "row += 1) {", "matmul", "Q8_0", "race"),
    Mutant("first += Shape::parts", "first += Shape::parts + 1", "narrow", "Q8_0", "numbers", True),
    # experts
    Mutant("whole.x += ulong(at) * whole.k;", "", "gather_matvec", "Q8_0", "numbers"),
    Mutant("whole.out += ulong(at) * whole.n;", "", "gather_matvec", "Q8_0", "race"),
    Mutant("id < uint(matrices)", "id <= 7", "gather_matvec", "Q8_0", "outside", True),
    Mutant("id < uint(matrices)", "id <= 7", "gather_matmul", "Q8_0", "outside"),
    Mutant("ids[top + end] == id", "ids[top + end] >= id", "gather_matmul", "Q8_0", "numbers"),
    Mutant("end < rows && ids", "ids", "gather_matmul", "Q8_0", "outside"),
    Mutant("begin = end) {", "begin = end + 1) {", "gather_matmul", "Q8_0", "never written", True),
    Mutant("of.known ? sums[", "true ? sums[", "gather_matmul", "Q8_0", "numbers"),
]  # fmt: skip


#: what no result shows: of two turns that write the same scale, the second one is right
_EQUAL = re.compile(r"scales\[g / 2\] = .* \(g / 3\)")


def of_decoder(name: str) -> list[Mutant]:
    """One for every number in the code of a format's struct: one more, of a loop's end one less.

    One turn more would write outside of a thread's own array, which nobody watches. Not broken are
    the sizes of what is loaded, which are types, and the constants of the layout, which
    test_source.py compares with mlxquant/formats.
    """
    text = (REPOSITORY / "kernels" / f"{name.lower()}.metal").read_text(encoding="utf-8")
    begin = text.index(f"struct {name} ")
    lines, made = text[begin:].splitlines(keepends=True), []
    for at, line in enumerate(lines):
        if "static constant constexpr" in line or line.strip().startswith("//"):
            continue
        for number in re.finditer(r"(?<![\w.<])(?<!, )(0x[0-9A-F]+|\d+)(?![\w.>])", line):
            turns = re.search(r"for .* < $", line[: number.start()])
            changed = str(int(number[0], 0) + (-1 if turns else 1))
            broken = line[: number.start()] + changed + line[number.end() :]
            if _EQUAL.search(broken):
                continue
            before = "".join(lines[max(0, at - 1) : at])
            made.append(Mutant(before + line, before + broken, "dequantize", name, ""))
    return made
