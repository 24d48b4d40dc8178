"""What a checked kernel computes is what Metal says: threads, simdgroups, matrices, functions."""

from __future__ import annotations

import numpy as np
import pytest
from formats.ggml_golden import ggml_format
from formats.test_decode_mx import any_blocks
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.host.known_answer import same
from mlxquant.kernels.source import DEQUANTIZE, ROWS, call, header

from mlxquant.formats.floats import f32_to_bf16, from_float32

LANES = np.arange(32)

#: of 8 x 8 halves in threadgroup memory, and of device memory
PRODUCT = """
threadgroup T tile[8][8];
simdgroup_matrix<T, 8, 8> left, right;
simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
const uint at = thread_index_in_simdgroup;
tile[at / 4][2 * at % 8] = a[2 * at];
tile[at / 4][2 * at % 8 + 1] = a[2 * at + 1];
threadgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_load(left, &tile[0][0], 8);
simdgroup_load(right, b, 8, ulong2(0), true);
simdgroup_multiply_accumulate(sums, left, right, sums);
simdgroup_store(sums, out, 8);
"""


def of_lanes(expression: str, x: np.ndarray, lanes: int = 32) -> np.ndarray:
    """The expression's value in each thread, x its own number, `at` its lane."""
    body = f"const float x = given[thread_position_in_grid.x]; const uint at = {SIMD};\n" + (
        f"out[thread_position_in_grid.x] = {expression};"
    )
    kernel = CheckedKernel("lanes", ["given"], ["out"], body)
    return kernel([x], (lanes, 1, 1), (64, 1, 1), [(lanes,)], ["float32"])[0]


SIMD = "thread_index_in_simdgroup"


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("simd_sum(x)", lambda x: np.full(32, x.sum())),
        ("simd_max(x)", lambda x: np.full(32, x.max())),
        ("simd_min(x)", lambda x: np.full(32, x.min())),
        ("float(simd_or(1u << at % 8))", lambda x: np.full(32, 255)),
        ("float(simd_xor(at + 1))", lambda x: np.full(32, np.bitwise_xor.reduce(LANES + 1))),
        ("simd_shuffle(x, at * 5 % 32)", lambda x: x[LANES * 5 % 32]),
        ("simd_shuffle_xor(x, 9)", lambda x: x[LANES ^ 9]),
        ("simd_shuffle_down(x, 4)", lambda x: np.concatenate((x[4:], x[28:]))),
        ("simd_shuffle_up(x, 4)", lambda x: np.concatenate((x[:4], x[:28]))),
        ("simd_broadcast(x, 7)", lambda x: np.full(32, x[7])),
        ("simd_broadcast_first(x)", lambda x: np.full(32, x[0])),
        ("simd_prefix_inclusive_sum(x)", np.cumsum),
        ("simd_prefix_exclusive_sum(x)", lambda x: np.cumsum(x) - x),
        ("float(simd_all(x > 0))", lambda x: np.full(32, (x > 0).all())),
        ("float(simd_any(x == 3))", lambda x: np.full(32, (x == 3).any())),
        ("simd_sum(float4{x, 0, 0, 2 * x}).w", lambda x: np.full(32, 2 * x.sum())),
    ],
)
def test_functions_of_a_simdgroup(expression: str, wanted: object, clang: Compiler) -> None:
    """Whole numbers, so that no order of summation matters."""
    x = np.random.default_rng(1).integers(1, 100, 32).astype(np.float32)
    assert callable(wanted)
    np.testing.assert_array_equal(of_lanes(expression, x), wanted(x))


def test_the_order_of_a_sum(clang: Compiler) -> None:
    """Halves added to halves, in every thread the same."""
    x = np.random.default_rng(2).standard_normal(32).astype(np.float32)
    halves = x
    while len(halves) > 1:
        halves = halves[: len(halves) // 2] + halves[len(halves) // 2 :]
    np.testing.assert_array_equal(of_lanes("simd_sum(x)", x), np.full(32, halves[0]))


def test_a_simdgroup_that_is_not_full(clang: Compiler) -> None:
    x = np.arange(1, 45, dtype=np.float32)
    sums = of_lanes("simd_sum(x)", x, 44)
    np.testing.assert_array_equal(sums, [x[:32].sum()] * 32 + [x[32:].sum()] * 12)


def test_threads_as_mlx_dispatches_them(clang: Compiler) -> None:
    """Threadgroups at the edges are smaller; one larger than the grid becomes the grid."""
    names = {
        "thread_position_in_grid": 3,
        "threadgroup_position_in_grid": 3,
        "thread_position_in_threadgroup": 3,
        "threads_per_threadgroup": 3,
        "threadgroups_per_grid": 3,
        "threads_per_grid": 3,
        "dispatch_threads_per_threadgroup": 3,
        "thread_index_in_threadgroup": 0,
        "thread_index_in_simdgroup": 0,
        "simdgroup_index_in_threadgroup": 0,
        "simdgroups_per_threadgroup": 0,
    }
    values = [f"{n}.{axis}" for n, count in names.items() for axis in "xyz"[:count]]
    values += [n for n, count in names.items() if not count]
    lines = [f"out[of + {i}] = {value};" for i, value in enumerate(values)]
    grid, asked = (70, 3, 2), (32, 2, 4)
    body = (
        "uint3 p = thread_position_in_grid;\n"
        f"uint of = ((p.z * 3 + p.y) * 70 + p.x) * {len(values)};\n" + "\n".join(lines)
    )
    kernel = CheckedKernel("threads", [], ["out"], body)
    (out,) = kernel([], grid, asked, [(2, 3, 70, len(values))], ["uint32"])
    size = (32, 2, 2)
    z, y, x = np.indices((2, 3, 70))
    at = np.stack((x, y, z))
    group = at // np.array(size)[:, None, None, None]
    inside = at % np.array(size)[:, None, None, None]
    there = np.minimum(size, np.array(grid) - group.T[..., None, :].reshape(70, 3, 2, 3) * size).T
    index = inside[0] + there[0] * (inside[1] + there[1] * inside[2])
    simdgroups = (there.prod(axis=0) + 31) // 32
    constants = [np.broadcast_to(np.reshape(v, (3, 1, 1, 1)), at.shape) for v in
                 ((3, 2, 1), grid, size)]  # fmt: skip
    wanted = [*at, *group, *inside, *there, *(row for c in constants for row in c)]
    wanted += [index, index % 32, index // 32, simdgroups]
    np.testing.assert_array_equal(out, np.stack(wanted, axis=-1))


def test_sizes_and_numbers_come_as_mlx_gives_them(clang: Compiler) -> None:
    body = (
        "out[0] = x_shape[0]; out[1] = x_shape[1]; out[2] = x_ndim; out[3] = x_strides[0];\n"
        "out[4] = x_strides[1]; out[5] = one; out[6] = few[2]; out[7] = int(x[34]);"
    )
    kernel = CheckedKernel("sizes", ["x", "one", "few"], ["out"], body)
    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    inputs = [x, np.int32(9), np.array([1, 2, 3], np.uint32)]
    (out,) = kernel(inputs, (1, 1, 1), (1, 1, 1), [(8,)], ["int32"])
    assert out.tolist() == [5, 7, 2, 7, 1, 9, 3, 34]
    assert kernel.refusal(inputs, ["int32"]) == ""
    wrong = CheckedKernel("space", ["few"], ["out"], "const device float* p = few; out[0] = p[0];")
    assert "error" in wrong.refusal([np.ones(7, np.float32)], ["float32"])
    assert wrong.refusal([np.ones(8, np.float32)], ["float32"]) == ""


@pytest.mark.parametrize("of", ["half", "bfloat", "float"])
def test_a_product_of_matrices(of: str, clang: Compiler) -> None:
    kernel = CheckedKernel(f"product_{of}", ["a", "b"], ["out"], PRODUCT, f"using T = {of};")
    a, b = np.random.default_rng(0).integers(-8, 8, (2, 8, 8)).astype(np.float32)
    given = {"half": np.float16, "bfloat": f32_to_bf16, "float": np.float32}[of]
    inputs = [given(a), given(b)]
    (out,) = kernel(inputs, (32, 1, 1), (32, 1, 1), [(8, 8)], ["float32"])
    np.testing.assert_array_equal(out, a @ b.T + 1)
    assert kernel.refusal(inputs, ["float32"]) == ""


def test_where_a_thread_holds_a_matrix(clang: Compiler) -> None:
    """As MLX's own kernels reckon with it: two neighbours of a row, quads of threads 4 x 4."""
    body = """
    simdgroup_float8x8 m;
    simdgroup_load(m, x, 12, ulong2{3, 1}, TURNED);
    out[2 * thread_index_in_simdgroup] = m.thread_elements()[0];
    out[2 * thread_index_in_simdgroup + 1] = m.thread_elements()[1];
    """
    x = np.arange(144, dtype=np.float32).reshape(12, 12)
    quad = LANES // 4
    row, column = (quad & 4) + LANES // 2 % 4, (quad & 2) * 2 + LANES % 2 * 2
    for turned in (False, True):
        kernel = CheckedKernel("held", ["x"], ["out"], body.replace("TURNED", str(turned).lower()))
        (out,) = kernel([x], (32, 1, 1), (32, 1, 1), [(32, 2)], ["float32"])
        tile = x[1:9, 3:11].T if turned else x[1:9, 3:11]
        np.testing.assert_array_equal(out, np.stack((tile[row, column], tile[row, column + 1]), 1))


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("fma(x, x, -1.0f)", lambda x: (x.astype(np.float64) ** 2 - 1).astype(np.float32)),
        ("max(min(x, 0.5f), -0.5f)", lambda x: np.clip(x, -0.5, 0.5)),
        ("clamp(x, -0.25f, 0.75f)", lambda x: np.clip(x, np.float32(-0.25), np.float32(0.75))),
        ("abs(x) + fabs(x)", lambda x: 2 * np.abs(x)),
        ("rint(4 * x) + floor(x) + ceil(x) + trunc(x)",
         lambda x: np.rint(4 * x) + np.floor(x) + np.ceil(x) + np.trunc(x)),
        ("sqrt(abs(x))", lambda x: np.sqrt(np.abs(x))),
        ("dot(float4{x, 1, 2, x}, float4{x, x, 1, 0})", lambda x: x * x + x + 2),
        ("float(clz(uint(at)) + ctz(uint(at)) + popcount(uint(at)))",
         lambda x: [32 + 32] + [32 - int(v).bit_length() + (v & -v).bit_length() - 1 + v.bit_count()
                                for v in LANES.tolist()[1:]]),
        ("fma(half4{half(x), 1, 2, 3}, half4(half(2)), half4(half(1))).x",
         lambda x: (x.astype(np.float16).astype(np.float32) * 2 + 1).astype(np.float16)),
        ("ldexp(x, 3)", lambda x: 8 * x),
        ("select(x, 1.0f, x < 0)", lambda x: np.where(x < 0, 1, x)),
    ],
)  # fmt: skip
def test_functions_of_numbers(expression: str, wanted: object, clang: Compiler) -> None:
    x = np.random.default_rng(4).standard_normal(32).astype(np.float32)
    assert callable(wanted)
    np.testing.assert_array_equal(of_lanes(expression, x), np.asarray(wanted(x), np.float32))


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_XXS", "MXFP4"])
def test_dequantize(name: str, clang: Compiler) -> None:
    """The kernels of every format run so in test_mutations.py; here with odd threadgroups."""
    fmt = ggml_format(name)
    wire = any_blocks(fmt, 256)[:12].reshape(4, -1)
    ids = np.array([3, 0, 1, 1, 2, 0, 0, 9], np.uint32)
    parts = fmt.block_size // 32
    whole, rows = (
        CheckedKernel(f"{k.name}_{name}", k.inputs, ["out"], call(name, k), header(name, k))
        for k in (DEQUANTIZE, ROWS)
    )
    with np.errstate(all="ignore"):
        decoded = fmt.decode((wire,))
    looked_up = decoded[np.minimum(ids, 3)]
    looked_up[7] = np.nan
    for of, dtype in (("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")):
        with np.errstate(all="ignore"):
            wanted = [from_float32(x, dtype) for x in (decoded, looked_up)]
        (out,) = whole([wire], (parts, 12, 1), (parts, 5, 1), [decoded.shape], [of])
        assert same(out, wanted[0], dtype)
        (out,) = rows([wire, ids], (parts, 3, 8), (parts, 2, 3), [looked_up.shape], [of])
        assert same(out, wanted[1], dtype)
        assert whole.refusal([wire], [of]) == rows.refusal([wire, ids], [of]) == ""
