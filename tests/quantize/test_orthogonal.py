"""Rotations: orthogonal, the same by every way of applying them, and known for the sizes in use."""

from __future__ import annotations

import numpy as np
import pytest

from mlxquant.errors import RequestError
from mlxquant.quantize.orthogonal import hadamard_factors, random_rotation

#: powers of two, multiples by Paley's constructions of either kind, and sizes with neither
SIZES = (1, 2, 4, 12, 28, 36, 64, 128, 172, 768, 896, 6, 10, 92)


@pytest.mark.parametrize("size", SIZES)
def test_orthogonal(size: int) -> None:
    matrix = random_rotation(size, np.random.default_rng(1)).matrix.astype(np.float64)
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() < 1e-6


@pytest.mark.parametrize("size", [4, 12, 28, 36, 64, 896])
def test_hadamard_spreads_evenly(size: int) -> None:
    """Every entry has the same size: one outlier becomes the same share of every number."""
    matrix = random_rotation(size, np.random.default_rng(1)).matrix
    assert np.allclose(np.abs(matrix), size**-0.5, rtol=1e-5)


def test_sizes_of_published_models_are_known() -> None:
    widths = (576, 896, 960, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 6656, 7168, 8192)
    assert not [n for n in (*widths, 12288, 16384, 18432) if hadamard_factors(n) is None]


@pytest.mark.parametrize("size", [6, 10, 92])
def test_sizes_without_one_are_dense(size: int) -> None:
    assert hadamard_factors(size) is None
    assert len(random_rotation(size, np.random.default_rng(1)).factors) == 1


def test_factors_multiply_to_the_size() -> None:
    """Entries are ±1, and rows of the product are orthogonal."""
    for size in range(4, 400, 4):
        factors = hadamard_factors(size)
        if factors is None:
            continue
        assert np.prod([len(factor) for factor in factors]) == size
        for factor in factors:
            assert np.array_equal(np.abs(factor), np.ones_like(factor))
            assert np.array_equal(factor @ factor.T, len(factor) * np.eye(len(factor)))


@pytest.mark.parametrize(
    ("size", "block"), [(128, None), (24, None), (10, None), (96, 12), (64, 2)]
)
def test_applied_to_columns_and_to_rows(size: int, block: int | None) -> None:
    rng = np.random.default_rng(2)
    rotation = random_rotation(size, rng, block=block)
    dense = rotation.matrix
    across = rng.standard_normal((3, 5, size)).astype(np.float32)
    down = rng.standard_normal((3, size, 7)).astype(np.float32)
    assert np.allclose(rotation.columns(across), across @ dense, atol=1e-5)
    assert np.allclose(rotation.rows(down), dense.T @ down, atol=1e-5)
    if block is not None:
        assert rotation.block == block
        part = slice(block, 3 * block)
        some = np.ascontiguousarray(down[:, part])
        assert np.allclose(rotation.rows(some, 1), dense[part, part].T @ some, atol=1e-5)


def test_repeated_is_block_diagonal() -> None:
    one = random_rotation(12, np.random.default_rng(3))
    three = one.repeated(3).matrix
    assert np.array_equal(three, np.kron(np.eye(3, dtype=np.float32), one.matrix))


def test_deterministic_for_a_seed() -> None:
    matrices = [random_rotation(92, np.random.default_rng(seed)).matrix for seed in (1, 1, 2)]
    assert np.array_equal(matrices[0], matrices[1])
    assert not np.array_equal(matrices[0], matrices[2])


def test_too_large_for_a_dense_one() -> None:
    with pytest.raises(RequestError, match="no Hadamard matrix of 4098 rows"):
        random_rotation(4098, np.random.default_rng(1))
