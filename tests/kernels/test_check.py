"""Kernels with every access watched: each of these does one thing wrong, and is told so."""

from __future__ import annotations

import numpy as np
import pytest
from mlxquant.kernels.host.check import CheckedKernel, CheckFailure
from mlxquant.kernels.host.compiler import Compiler

ONES = np.ones(256, np.float32)

#: 64 threads a threadgroup add up 64 numbers each, by way of two in threadgroup memory
SUM = """
threadgroup float partial[2];
const float sum = simd_sum(x[thread_position_in_grid.x]);
if (thread_index_in_simdgroup == 0) {
    partial[simdgroup_index_in_threadgroup] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index_in_threadgroup == 0) {
    out[threadgroup_position_in_grid.x] = partial[0] + partial[1];
}
"""
#: the threadgroup's numbers, turned round twice, through one array
TURN = """
threadgroup float row[64];
const uint at = thread_index_in_threadgroup, all = thread_position_in_grid.x;
row[at] = x[all];
threadgroup_barrier(mem_flags::mem_threadgroup);
const float other = row[63 - at];
threadgroup_barrier(mem_flags::mem_threadgroup);
row[at] = other;
threadgroup_barrier(mem_flags::mem_threadgroup);
out[all] = row[63 - at];
"""
#: within a simdgroup its own barrier is enough
NEIGHBOUR = """
threadgroup float row[64];
const uint at = thread_index_in_threadgroup, all = thread_position_in_grid.x;
row[at] = x[all];
simdgroup_barrier(mem_flags::mem_threadgroup);
out[all] = row[at ^ 1];
"""
#: threadgroups write device memory, and read it again
DEVICE = """
const uint at = thread_position_in_grid.x;
out[at] = x[at];
threadgroup_barrier(mem_flags::mem_device);
const float other = out[at ^ 32];
threadgroup_barrier(mem_flags::mem_device);
out[at] = other;
"""
TABLE = "constant float LEVELS[4] = {\n    0.0f, 1.0f, 2.0f, 3.0f\n};\n"
#: of a table, an own array, a vector's load
LOOKUP = """
const uint at = thread_position_in_grid.x;
float own[4];
for (uint i = 0; i < 4; ++i) {
    own[i] = LEVELS[i] * x[at];
}
const float2 pair = *(const device float2*)(x + (at / 2 * 2));
out[at] = own[at & 3] + pair.x + float(1u << (at & 31));
"""


def run(body: str, header: str = "", x: np.ndarray = ONES, most_steps: int = 1 << 20) -> np.ndarray:
    """256 threads, 64 a threadgroup, with 256 numbers in and out."""
    kernel = CheckedKernel("tried", ["x"], ["out"], body, header, most_steps)
    return kernel([x], (256, 1, 1), (64, 1, 1), [(256,)], ["float32"])[0]


def said(body: str, header: str = "", x: np.ndarray = ONES) -> str:
    """What is said against the body, after the kernel's name."""
    with pytest.raises(CheckFailure) as raised:
        run(body, header, x, 1 << 16)
    begin, _, rest = str(raised.value).partition(": ")
    assert begin == "tried"
    return rest


def changed(body: str, *changes: tuple[str, str]) -> str:
    for right, wrong in changes:
        assert right in body
        body = body.replace(right, wrong, 1)
    return body


def test_what_is_right_runs(clang: Compiler) -> None:
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    kernel = CheckedKernel("sum", ["x"], ["out"], SUM)
    (sums,) = kernel([x], (256, 1, 1), (64, 1, 1), [(4,)], ["float32"])
    np.testing.assert_allclose(sums, x.reshape(4, 64).sum(axis=1), atol=1e-5)
    np.testing.assert_array_equal(run(TURN, x=x), x)
    np.testing.assert_array_equal(run(NEIGHBOUR, x=x), x.reshape(-1, 2)[:, ::-1].reshape(-1))
    np.testing.assert_array_equal(run(DEVICE, x=x), x.reshape(4, 2, 32)[:, ::-1].reshape(-1))
    assert run(LOOKUP, TABLE).shape == (256,)
    for body in (SUM, TURN, NEIGHBOUR, DEVICE):
        assert CheckedKernel("plain", ["x"], ["out"], body).refusal([x], ["float32"]) == ""


BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
OF_SIMDGROUP = "simdgroup_barrier(mem_flags::mem_threadgroup);"
OF_NOTHING = "threadgroup_barrier(mem_flags::mem_none);"
OF_DEVICE = "threadgroup_barrier(mem_flags::mem_device);"
FIRST, EVERY = "thread_index_in_simdgroup == 0", "true"
GIVE, GIVE_AND_TAKE = (
    "out[all] = row[at ^ 1];",
    "out[all] = row[at ^ 1]; if (at & 1) { row[at] = 0; }",
)


@pytest.mark.parametrize(
    ("body", "change", "words"),
    [
        (SUM, (BARRIER, ""), ("thread 0 ", "reads partial[1]", "line 9")),
        (SUM, (BARRIER, OF_SIMDGROUP), ("reads partial[1]", "line 9")),
        (SUM, (BARRIER, OF_NOTHING), ("race", "partial[1]", "thread 32 wrote")),
        (SUM, (BARRIER, OF_DEVICE), ("race", "partial[1]", "thread 32 wrote")),
        (SUM, (FIRST, EVERY), ("race", "writes partial[0]", "wrote")),
        (SUM, ("out[threadgroup_position_in_grid.x]", "out[0]"), ("race", "another threadgroup")),
        (TURN, (BARRIER + "\nrow[at] = other;", "row[at] = other;"), ("race", "row[", "wrote")),
        (TURN, ("row[63 - at];\n" + BARRIER, "row[63 - at];\n"), ("race", "row[", "wrote")),
        (NEIGHBOUR, ("at ^ 1", "at ^ 32"), ("reads row[32]",)),
        (NEIGHBOUR, (OF_SIMDGROUP, ""), ("reads row[1]",)),
        (NEIGHBOUR, (GIVE, GIVE_AND_TAKE), ("race", "writes row[1]", "thread 0 read")),
        (DEVICE, (OF_DEVICE, BARRIER), ("race", "reads out[")),
        (DEVICE, ("other = out[at ^ 32]", "other = out[255 - at]"), ("reads out[255]",)),
    ],
)  # fmt: skip
def test_races(body: str, change: tuple[str, str], words: tuple[str, ...], clang: Compiler) -> None:
    message = said(changed(body, change))
    for word in words:
        assert word in message, message


def test_a_race_names_both_places(clang: Compiler) -> None:
    """The lines, where a program that knows them is installed: here it is."""
    changes = (
        (BARRIER, ""),
        ("thread_index_in_threadgroup == 0", "thread_index_in_threadgroup == 33"),
    )
    message = said(changed(SUM, *changes))
    assert message == (
        "race: thread 33 of threadgroup (0, 0, 0) reads partial[0] at line 9 of the body: "
        '"out[threadgroup_position_in_grid.x] = partial[0] + partial[1];", which thread 0 wrote at '
        'line 5 of the body: "partial[simdgroup_index_in_threadgroup] = sum;", with no barrier for '
        "this memory between"
    )


@pytest.mark.parametrize(
    ("body", "change", "words"),
    [
        (SUM, (BARRIER, f"if (thread_index_in_threadgroup < 40) {{ {BARRIER} }}"),
         ("divergent: thread 32 ", "threadgroup_barrier at line 7", "thread 40 has ended")),
        (SUM, (BARRIER, f"if (simdgroup_index_in_threadgroup == 0) {{ {BARRIER} }}"),
         ("divergent: thread 0 ", "threadgroup_barrier at line 7", "thread 32 has ended")),
        (SUM, (BARRIER, f"if (thread_index_in_threadgroup == 3)\n{BARRIER}\nelse {BARRIER}"),
         ("divergent: thread 0 ", "at line 9", "thread 3 at threadgroup_barrier at line 8")),
        (SUM, ("const float sum", "if (thread_index_in_simdgroup == 31) { return; } float sum"),
         ("divergent: thread 0 ", "simd_sum", "thread 31 has ended")),
        (NEIGHBOUR, (OF_SIMDGROUP, f"if (at == 63) {{ {BARRIER} }}\n{OF_SIMDGROUP}"),
         ("divergent: thread 32 ", "simdgroup_barrier", "thread 63 at threadgroup_barrier")),
    ],
)  # fmt: skip
def test_divergence(
    body: str, change: tuple[str, str], words: tuple[str, ...], clang: Compiler
) -> None:
    message = said(changed(body, change))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("body", "change", "words"),
    [
        (TURN, ("x[all]", "x[all + 1]"), ("thread 63 ", "(3, 0, 0)", "reads 4 bytes at x[256]",
                                          "outside of its 256 elements", "line 4 of the body")),
        (TURN, ("x[all]", "x[int(all) - 1]"), ("thread 0 ", "(0, 0, 0)", "x[-1]")),
        (TURN, ("x[all]", "x[all + 100000]"), ("reads 4 bytes at x[100000]",)),
        (TURN, ("out[all]", "out[all + 1]"), ("writes 4 bytes at out[256]", "line 10")),
        (TURN, ("row[63 - at];\n", "(&row[0])[64 - at];\n"), ("reads 4 bytes at row[64]",)),
        (TURN, ("row[at] = x", "(&row[0])[at + 64] = x"), ("writes 4 bytes at row[64]",)),
        (LOOKUP, ("LEVELS[i]", "(&LEVELS[0])[i + 1]"), ("reads 4 bytes at LEVELS[4]", "line 5")),
        (LOOKUP, ("LEVELS[i]", "LEVELS[i + 1]"), ("an index is outside of its array at line 5",)),
        (LOOKUP, ("own[at & 3]", "own[at]"), ("an index is outside of its array at line 8",)),
        (LOOKUP, ("at & 31", "at & 63"), ("a shift by as many bits", "line 8")),
        (LOOKUP, ("at / 2 * 2", "at / 2"), ("reads 8 bytes at x[1]", "byte 4: not")),
        (LOOKUP, ("out[at] =", "((device float*)x)[at] = 1; out[at] ="),
         ("writes x[0]", "which is an input")),
        (LOOKUP, ("out[at] =", "out[at] = out[at] +"), ("reads out[0]", "which nobody wrote yet")),
        (LOOKUP, ("out[at] =", "if (at < 200) out[at] ="), ("out[200] is never written",)),
        (TURN, ("row[at] = x[all];", "if (at) { row[at] = x[all]; }"),
         ("reads row[0]", "which nobody wrote yet")),
        (TURN, ("row[64]", "row[9000]"), ("36000 bytes of threadgroup memory; 32768 at most",)),
        (NEIGHBOUR, ("out[all] =", "while (row[at] > 0) { row[at] += 2; }\nout[all] ="),
         ("still runs after 65536 steps",)),
    ],
)  # fmt: skip
def test_memory(
    body: str, change: tuple[str, str], words: tuple[str, ...], clang: Compiler
) -> None:
    message = said(changed(body, change), TABLE)
    for word in words:
        assert word in message, message


def test_memory_of_an_earlier_threadgroup_is_not_there(clang: Compiler) -> None:
    """And a threadgroup's own writes of an earlier run are not, either."""
    body = changed(TURN, ("row[at] = x[all];", "if (all < 64) { row[at] = x[all]; }"))
    for _ in range(2):
        assert "(1, 0, 0) reads row[63], which nobody wrote yet" in said(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("out[thread_position_in_grid.x] = simd_shuffle(x[0], 32);", ("simd_shuffle", "lane 32")),
        ("out[thread_position_in_grid.x] = simd_broadcast(x[0], thread_index_in_simdgroup / 16);",
         ("simd_broadcast", "another argument")),
        ("simdgroup_float8x8 m;\nsimdgroup_load(m, x + thread_index_in_simdgroup, 8);\nout[0] = 1;",
         ("simdgroup_load", "another argument", "line 2")),
        ("simdgroup_float8x8 m;\nsimdgroup_load(m, x + 200, 8);\n",
         ("reads 4 bytes at x[256]", "line 2")),
        ("simdgroup_float8x8 m(1.0f);\nsimdgroup_store(m, out, 8);", ("race", "out[0]", "line 2")),
    ],
)  # fmt: skip
def test_simdgroups(body: str, words: tuple[str, ...], clang: Compiler) -> None:
    message = said(body)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    "change",
    [
        ("threadgroup float row[64];", "float row[64]; threadgroup float* other = row;"),
        ("out[all] = ", "device float* to = row; to[all] = "),
        ("row[at] = x[all];", "device float* from = x; row[at] = from[all];"),
    ],
)
def test_address_spaces_are_refused(change: tuple[str, str], clang: Compiler) -> None:
    """The build that is watched has one memory; the same kernel with Metal's is compiled too."""
    kernel = CheckedKernel("tried", ["x"], ["out"], changed(TURN, change))
    assert "error" in kernel.refusal([ONES], ["float32"])
