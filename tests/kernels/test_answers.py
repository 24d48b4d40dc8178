"""Known answers: every kernel has one, and whatever the order of its sums it is the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from formats.ggml_golden import ggml_format
from mlxquant.kernels import launch
from mlxquant.kernels.answers import agree, answer, exact_blocks
from mlxquant.kernels.launch import Launch
from mlxquant.kernels.source import FORMATS

from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import FLOATS, from_float32
from mlxquant.formats.ggml_format import GgmlFormat


def wire(fmt: GgmlFormat, n: int, k: int) -> tuple[int, int]:
    return n, k // fmt.block_size * fmt.block_bytes


def launches(name: str, dtype: str) -> Iterator[Launch]:
    """Of every kernel, from sizes as models have them."""
    fmt = ggml_format(name)
    yield launch.dequantize(fmt, wire(fmt, 4096, 4096), dtype)
    yield launch.dequantize_rows(fmt, wire(fmt, 4096, 16384), 5, dtype)
    for n, k in ((14336, 4096), (1024, 2048), (512, 4096), (8, 16384)):
        for m in (1, 2, 3, 4, 5, 8):
            yield launch.matvec(fmt, (m, k), wire(fmt, n, k), dtype)
        for m in (1, 9, 17, 33, 512):
            yield launch.matmul(fmt, (m, k), wire(fmt, n, k), dtype)
        for p in (1, 80, 400, 8000):
            yield launch.gather_matvec(fmt, (p, k), (8, *wire(fmt, n, k)), dtype)
            yield launch.gather_matmul(fmt, (p, k), (8, *wire(fmt, n, k)), dtype)


@pytest.mark.parametrize("name", FORMATS)
def test_every_kernel_has_a_known_answer(name: str) -> None:
    """Of the same kernel, by sizes that have tails, with no fewer threads in a threadgroup: a GPU
    refuses more than a kernel leaves room for, and only there MLX's operations take over."""
    seen = set()
    for dtype in FLOATS:
        for started in launches(name, dtype):
            if (started.kernel, dtype) in seen:
                continue
            seen.add((started.kernel, dtype))
            known = answer(started)
            assert known is not None, started.kernel.name
            assert known.launch.kernel == started.kernel
            assert (known.launch.format, known.launch.dtype) == (name, dtype)
            assert math.prod(known.launch.threadgroup) >= math.prod(started.threadgroup)
            assert known.wanted.shape == known.launch.shape
            assert known.wanted.dtype == STORAGE[dtype]
            assert len(np.unique(known.wanted)) > 4


@pytest.mark.parametrize("name", FORMATS)
def test_sums_are_exact_in_any_order(name: str) -> None:
    """All weights are multiples of a power of two, and 2^24 of it hold the sum of a whole row."""
    fmt = ggml_format(name)
    weights = np.abs(fmt.decode((exact_blocks(fmt, 57, 8448),)).astype(np.float64))
    unit = 1.0
    while (weights % unit).any():
        unit /= 2
    assert unit >= 2**-12
    assert weights.sum(axis=1).max() < 2**24 * unit
    # and a half holds the product
    assert weights.sum(axis=1).max() < 65504
    assert len(np.unique(weights)) >= (1 if name == "Q1_0" else 2)


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_agrees(dtype: str) -> None:
    """Bits, but that a NaN may be another, and a subnormal number may be zero."""
    numbers = np.array([[1.5, -2, np.nan, np.inf, 0, -0.0]], np.float32)
    stored = from_float32(numbers, dtype)
    assert agree(stored, stored, dtype).all()
    bits = np.uint32 if dtype == "F32" else np.uint16
    other = stored.copy()
    other.view(bits)[0, 2] ^= 1
    assert agree(other, stored, dtype).all()
    for column in (0, 1, 3, 4):
        other = stored.copy()
        other.view(bits)[0, column] += 1
        assert agree(other, stored, dtype)[0].tolist() == [i != column for i in range(6)]
        # a subnormal number for zero is wrong, zero for a subnormal number is right
        assert agree(stored, other, dtype)[0, column] == (column == 4)
