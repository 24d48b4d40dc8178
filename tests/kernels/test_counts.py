"""Counts of kernels so small that everybody can count."""

from __future__ import annotations

import numpy as np
import pytest
from mlxquant.kernels.host.arithmetic import Operations
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.host.counts import LINES, Counts, counted

#: 64 lines of weights
WEIGHTS = np.arange(2048, dtype=np.uint32)
AT = "const uint at = thread_position_in_grid.x;\n"


def counts_of(body: str, threads: int = 2048, group: int = 64) -> Counts:
    kernel = CheckedKernel("counted", ["wire", "x"], ["out"], AT + body)
    x = np.ones(16, np.float32)
    came = kernel.watched(
        "wire", [WEIGHTS, x], (threads, 1, 1), (group, 1, 1), [(threads,)], ["float32"]
    )
    return counted(came)


def operations_of(body: str, header: str = "") -> Operations:
    """Of 64 threads."""
    kernel = CheckedKernel("counted", ["wire", "x"], ["out"], AT + body, header)
    x = np.ones(64, np.float32)
    return kernel.operations([WEIGHTS, x], (64, 1, 1), (32, 1, 1), [(64,)], ["float32"])


def test_neighbours_read_once(clang: Compiler) -> None:
    counts = counts_of("out[at] = float(wire[at]) * x[at & 15];")
    assert counts == Counts(8192, 1.0, 1.0, {4: 2048}, {4: 2048}, {4: 2048}, 0, 1.0, 1.0, 1.0)


def test_wide_loads(clang: Compiler) -> None:
    body = (
        "const uint4 v = ((const device uint4*)wire)[at]; out[at] = float(v.x + v.y + v.z + v.w);"
    )
    counts = counts_of(body, threads=512)
    assert counts.loads == {16: 512}
    assert (counts.read, counts.loaded, counts.whole, counts.fetched) == (1.0, 1.0, 1.0, 1.0)


def test_every_threadgroup_reads_all(clang: Compiler) -> None:
    body = "uint sum = 0; for (uint i = at % 64; i < 2048; i += 64) { sum += wire[i]; }\n"
    counts = counts_of(body + "out[at] = float(sum);", threads=256)
    assert (counts.read, counts.loaded, counts.whole, counts.fetched) == (4.0, 4.0, 1.0, 4.0)


def test_threads_that_read_the_same(clang: Compiler) -> None:
    counts = counts_of("out[at] = float(wire[at / 2]);")
    assert (counts.read, counts.loaded) == (0.5, 1.0)


def test_half_of_every_line(clang: Compiler) -> None:
    """Two simdgroups share lines, each reads every other number."""
    counts = counts_of("out[at] = float(wire[at / 64 * 64 + at % 32 * 2 + at / 32 % 2]);")
    assert (counts.read, counts.whole, counts.fetched) == (1.0, 0.0, 2.0)
    assert counts.together == 1.0


@pytest.mark.parametrize("lines", [LINES, 2 * LINES])
def test_lines_leave_before_they_are_read(lines: int, clang: Compiler) -> None:
    """A thread a line, from end to end, or two lines in turn: too many for those that stay."""
    twice = f" + wire[(at + {LINES}) * 32 + i]" if lines > LINES else ""
    sum_up = f"for (uint i = 0; i < 32; ++i) {{ sum += wire[at * 32 + i]{twice}; }}"
    counts = counts_of(f"uint sum = 0; {sum_up} out[at] = float(sum);", threads=32)
    assert counts.read == lines / 64
    assert (counts.whole, counts.fetched) == ((0.0, 32.0) if twice else (1.0, 0.5))


def test_threadgroup_memory_is_counted_apart(clang: Compiler) -> None:
    body = """
    threadgroup uint tile[64];
    tile[at % 64] = wire[at];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[at] = float(tile[63 - at % 64]);
    """
    counts = counts_of(body)
    assert (counts.shared, counts.loads, counts.stores) == (4096, {4: 2048}, {4: 2048})


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("out[at] = fma(x[at], x[at], 1.0f);", (1, 0, 0)),
        ("out[at] = x[at] * 3.0f + 1.0f;", (2, 0, 0)),
        ("out[at] = float(wire[at] >> 4 & 15);", (0, 1, 2)),
        ("out[at] = float(half(x[at]));", (0, 0, 0)),
        ("out[at] = x[at] < 0.5f ? x[at] : 1.0f;", (1, 1, 0)),
        ("if (at < 16) { ((device float4*)out)[at] = ((const device float4*)x)[at] * 2; }",
         (1, 1, 0)),
        ("out[at] = x[at]; for (uint i = 0; i < (wire[8] & 15); ++i) { out[at] *= x[at]; }",
         (8, 3 * 8, 0)),
    ],
)  # fmt: skip
def test_operations(body: str, wanted: tuple[int, int, int], clang: Compiler) -> None:
    """Of each thread, beside the addresses of `out`, `x` and `wire`."""
    found = operations_of(body)
    assert found.float == 64 * wanted[0]
    assert found.slow == 64 * wanted[2]
    addresses = found.integer / 64 - wanted[1]
    assert 0 <= addresses <= 4, found


def test_what_runs_in_a_simdgroup_s_function_is_not_counted(clang: Compiler) -> None:
    assert operations_of("out[at] = simd_sum(x[at]);").float == 0
