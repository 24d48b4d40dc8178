"""Grids from shapes: every row has a thread, and none is started in vain by much."""

from __future__ import annotations

import pytest
from formats.ggml_golden import ggml_format
from mlxquant.kernels import launch
from mlxquant.kernels.source import FORMATS

from mlxquant.errors import RequestError

Q4_0, Q4_K, Q6_K = ggml_format("Q4_0"), ggml_format("Q4_K"), ggml_format("Q6_K")


def wire(name: str, n: int, k: int) -> tuple[int, int]:
    fmt = ggml_format(name)
    return n, k // fmt.block_size * fmt.block_bytes


@pytest.mark.parametrize(
    ("m", "dtype", "kernel"),
    [
        *(
            (m, "F16", f"matvec{'_rows' * (m > 1)}_{r}x2")
            for m, r in ((1, 1), (2, 2), (3, 4), (8, 8))
        ),
        *((m, "F32", f"matmul_{h}x64") for m, h in ((9, 16), (16, 16), (17, 32), (33, 32))),
        *((m, "BF16", f"matmul_{h}x64") for m, h in ((9, 16), (32, 32), (33, 64), (999, 64))),
    ],
)
def test_the_kernel_by_rows_of_x(m: int, dtype: str, kernel: str) -> None:
    assert launch.product(Q4_K, (m, 4096), wire("Q4_K", 14336, 4096), dtype).kernel.name == kernel


@pytest.mark.parametrize("name", FORMATS)
def test_k_is_split_by_the_weights_shape_alone(name: str) -> None:
    fmt = ggml_format(name)
    for n, k in ((100_000, 8192), (64, 256), (1024, 2048), (1024, 16384), (3, 8192)):
        split = launch.split_of(fmt, n, k)
        assert split in (1, 2, 4, 8)
        assert split == 1 or split * 1024 <= k
        for m in range(1, launch.ROWS_AT_ONCE + 1):
            kernel = launch.matvec(fmt, (m, k), wire(name, n, k), "F16").kernel.name
            assert kernel.endswith(f"_split{split}") == (split > 1)
        gathered = launch.gather_matvec(fmt, (6, k), (4, *wire(name, n, k)), "F16")
        assert gathered.kernel.name.endswith(f"_split{split}") == (split > 1)
    assert launch.split_of(fmt, 100_000, 8192) == launch.split_of(fmt, 64, 256) == 1
    assert launch.split_of(fmt, 3, 8192) == 8


@pytest.mark.parametrize(("m", "n"), [(16, 64 * 127), (64, 4096), (128, 63 * 64)])
def test_narrow_tiles_where_there_are_few(m: int, n: int) -> None:
    """Twice as many, of the same rows of x; of float only where they fit."""
    for dtype in ("F16", "F32"):
        few = launch.matmul(Q4_0, (m, 2048), wire("Q4_0", n, 2048), dtype)
        many = launch.matmul(Q4_0, (m, 2048), wire("Q4_0", 64 * n, 2048), dtype)
        fits = dtype == "F16" or m == 16
        assert few.kernel.name.endswith("x32") == fits
        assert many.kernel.name == few.kernel.name.replace("x32", "x64")
        asked = launch.matmul(Q4_0, (m, 2048), wire("Q4_0", n, 2048), dtype, launch.WIDTH)
        assert few.grid[0] == asked.grid[0] * (2 if fits else 1)
        assert few.grid[1:] == asked.grid[1:]


@pytest.mark.parametrize("name", ["Q5_K", "Q6_K", "IQ3_S", "IQ2_S"])
def test_narrow_tiles_where_blocks_lie_on_many_lines(name: str) -> None:
    """However many tiles there are; of float, sixteen rows of x are the most that fit."""
    fmt, many = ggml_format(name), wire(name, 14336, 4096)
    for m, dtype, height in ((999, "F16", 64), (33, "BF16", 64), (16, "F32", 16)):
        kernel = launch.matmul(fmt, (m, 4096), many, dtype).kernel.name
        assert kernel == f"matmul_{height}x32"
    assert launch.matmul(fmt, (999, 4096), many, "F32").kernel.name == "matmul_32x64"
    experts = launch.gather_matmul(fmt, (999, 4096), (2, *many), "F16")
    assert experts.kernel.name == "gather_matmul_64x32"


def test_a_threadgroup_decodes_what_a_cache_holds() -> None:
    for name, blocks in (("Q4_0", 256), ("Q8_0", 128), ("Q6_K", 32), ("Q1_0", 64)):
        fmt = ggml_format(name)
        started = launch.dequantize(fmt, wire(name, 4096, 4096), "F16")
        assert started.threadgroup == (fmt.block_size // 32, blocks, 1)
        assert blocks * fmt.block_bytes <= 8192


def test_grids() -> None:
    """Threadgroups for all rows, whole ones, and the last one has something to do."""
    started = launch.matvec(Q4_K, (1, 256), wire("Q4_K", 13, 256), "F16")
    assert (started.grid, started.threadgroup, started.shape) == ((256, 1, 1), (64, 1, 1), (1, 13))
    started = launch.matvec(Q4_0, (5, 8192), wire("Q4_0", 9, 8192), "F16")
    assert (started.grid, started.threadgroup) == ((5 * 256, 1, 1), (256, 1, 1))
    started = launch.matmul(Q4_0, (130, 32), wire("Q4_0", 65, 32), "F16")
    assert (started.grid, started.threadgroup) == ((384, 3, 1), (128, 1, 1))
    assert started.shape == (130, 65)
    started = launch.gather_matvec(Q6_K, (7, 256), (3, *wire("Q6_K", 9, 256)), "BF16")
    assert (started.grid, started.threadgroup, started.shape) == ((128, 7, 1), (64, 1, 1), (7, 9))
    started = launch.dequantize(Q4_K, wire("Q4_K", 3, 512), "F32")
    assert (started.grid, started.threadgroup, started.shape) == ((8, 6, 1), (8, 6, 1), (3, 512))
    started = launch.dequantize_rows(Q4_K, wire("Q4_K", 3, 512), 5, "F32")
    assert (started.grid, started.threadgroup, started.shape) == ((8, 2, 5), (8, 2, 1), (5, 512))


@pytest.mark.parametrize(
    ("pairs", "matrices", "dtype", "kernel"),
    [
        (8, 1, "F16", "gather_matvec_1x4"),
        (9, 1, "F16", "gather_matmul_16x64"),
        (256, 64, "F16", "gather_matvec_1x4"),
        (257, 64, "F16", "gather_matmul_16x64"),
        (40 * 64, 64, "F16", "gather_matmul_32x64"),
        (384 * 8, 8, "F16", "gather_matmul_64x64"),
        (384 * 8, 8, "F32", "gather_matmul_32x64"),
    ],
)
def test_the_kernel_by_rows_an_expert(pairs: int, matrices: int, dtype: str, kernel: str) -> None:
    shape = (matrices, *wire("Q4_0", 14336, 1024))
    assert launch.gather(Q4_0, (pairs, 1024), shape, dtype).kernel.name == kernel


def test_refusals() -> None:
    for x, shape in (((1, 512), (4, 144)), ((1, 256), (4, 143)), ((256,), (4, 144))):
        with pytest.raises(RequestError, match="blocks of 144 bytes needed"):
            launch.product(Q4_K, x, shape, "F16")
    with pytest.raises(RequestError, match="matvec takes 1 to 8 rows; 9 given"):
        launch.matvec(Q4_K, (9, 256), (4, 144), "F16")
    with pytest.raises(RequestError, match="dtype 'F64'"):
        launch.product(Q4_K, (1, 256), (4, 144), "F64")
    with pytest.raises(RequestError, match=r"a GPU counts to 2\^31"):
        launch.product(Q4_K, (1, 256), (2**28, 144), "F16")
