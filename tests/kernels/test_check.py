"""Kernels with every access watched: right ones run, and give what they should."""

from __future__ import annotations

import numpy as np
import pytest
from formats.ggml_golden import ggml_format
from formats.test_decode_mx import any_blocks
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.host.known_answer import same
from mlxquant.kernels.source import DEQUANTIZE, call, header

from mlxquant.formats.floats import from_float32

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
PRODUCT = """
threadgroup T tile[8][8];
simdgroup_matrix<T, 8, 8> left, right;
simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
const uint at = thread_index_in_simdgroup;
tile[at / 4][2 * at % 8] = a[2 * at];
tile[at / 4][2 * at % 8 + 1] = a[2 * at + 1];
threadgroup_barrier(mem_flags::mem_threadgroup);
simdgroup_load(left, &tile[0][0], 8);
simdgroup_load(right, b, 8, ulong2(0), true);
simdgroup_multiply_accumulate(sums, left, right, sums);
simdgroup_store(sums, out, 8);
"""


def test_a_sum_through_threadgroup_memory(clang: Compiler) -> None:
    kernel = CheckedKernel("sum", ["x"], ["out"], SUM)
    x = np.arange(256, dtype=np.float32)
    (out,) = kernel([x], (256, 1, 1), (64, 1, 1), [(4,)], ["float32"])
    np.testing.assert_array_equal(out, x.reshape(4, 64).sum(axis=1))
    assert kernel.refusal([x], ["float32"]) == ""


def test_a_product_of_matrices(clang: Compiler) -> None:
    kernel = CheckedKernel("product", ["a", "b"], ["out"], PRODUCT, "using T = half;")
    a, b = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float16)
    (out,) = kernel([a, b], (32, 1, 1), (32, 1, 1), [(8, 8)], ["float32"])
    wide = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(out, wide, rtol=0, atol=8 * np.finfo(np.float32).eps * 16)
    assert kernel.refusal([a, b], ["float32"]) == ""


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_XXS", "MXFP4"])
def test_dequantize(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    kernel = CheckedKernel(
        f"dequantize_{name}", ["wire"], ["out"], call(name, DEQUANTIZE), header(name, DEQUANTIZE)
    )
    wire = any_blocks(fmt, 256)[:12].reshape(4, -1)
    parts = fmt.block_size // 32
    with np.errstate(all="ignore"):
        decoded = fmt.decode((wire,))
    for of, dtype in (("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")):
        with np.errstate(all="ignore"):
            wanted = from_float32(decoded, dtype)
        (out,) = kernel([wire], (parts, 12, 1), (parts, 5, 1), [decoded.shape], [of])
        assert same(out, wanted, dtype)
        assert kernel.refusal([wire], [of]) == ""
