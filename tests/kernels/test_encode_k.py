"""The compiled encoders of K-quants on what their own searches find hard; test_encode.py has what
goes for every encoder."""

from __future__ import annotations

import numpy as np
import pytest
from formats.ggml_golden import error, ggml_format, same_blocks
from formats.k_checks import FOLDER, edges, importances, model_rows, random_rows
from interop import ggml
from mlxquant.kernels.encode import reason
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.host.encode import Encoder, encoder_for

NAMES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")

every = pytest.mark.parametrize("name", NAMES)


def encoder(name: str) -> Encoder:
    found = encoder_for(ggml_format(name))
    assert found is not None, reason(ggml_format(name))
    return found


def given(k: int) -> dict[str, np.ndarray | None]:
    """Importance of k columns: mild, uneven, beyond all bounds, and for a few columns only."""
    few, enormous = np.zeros((2, k), np.float32)
    few[5::200] = 3
    enormous[::3] = 1e30
    return {
        **importances(k),
        "few columns": few,
        "enormous": enormous,
        "every size": np.geomspace(1e-30, 1e30, k).astype(np.float32),
    }


@every
def test_rows_of_many_kinds(name: str, clang: Compiler) -> None:
    """From constants and rows far from zero to the edges of float16 and of float32."""
    kernel = encoder(name)
    some = dict(list(model_rows(8).items())[::8])
    for what, rows in (some | random_rows() | edges()).items():
        for which, importance in given(rows.shape[1]).items():
            ours = kernel.encode(rows, importance)
            assert ours is not None, what
            try:
                same_blocks(kernel.fmt, rows, ours, kernel.fmt.encode(rows, importance)[0])
            except AssertionError as wrong:
                raise AssertionError(f"{what}, {which}") from wrong


@every
def test_constants(name: str, clang: Compiler) -> None:
    """Super-blocks of one weight, of any size and either sign, beside others in the same lanes."""
    kernel = encoder(name)
    random = np.random.default_rng(1)
    rows = random.standard_normal((64, 512), dtype=np.float32)
    weights = np.ldexp(random.standard_normal(64), random.integers(-40, 60, 64))
    rows[:, :256] = weights[:, None].astype(np.float32)
    ours = kernel.encode(rows)
    assert ours is not None
    same_blocks(kernel.fmt, rows, ours, kernel.fmt.encode(rows)[0])


@every
def test_frozen_bytes(name: str, clang: Compiler) -> None:
    kernel = encoder(name)
    with np.load(FOLDER / f"{name}.npz") as frozen:
        rows, importance = frozen["rows"], frozen["importance"]
        np.testing.assert_array_equal(kernel.encode(rows), frozen["plain"])
        np.testing.assert_array_equal(kernel.encode(rows, importance), frozen["weighted"])


@every
def test_errs_no_more_than_ggml(name: str, clang: Compiler) -> None:
    """On the bundled model's matrices, more of them than NumPy has the time for."""
    kernel = encoder(name)
    for what, rows in model_rows(96).items():
        for which, importance in importances(rows.shape[1]).items():
            ours = kernel.encode(rows, importance)
            assert ours is not None, what
            theirs = ggml.quantize_chunk(kernel.fmt.ggml_type, rows, importance)
            pair = [error(rows, kernel.fmt.decode((w,)), importance) for w in (ours, theirs)]
            assert pair[0] <= pair[1], f"{what}, {which}: {pair[0]:.6g}, ggml's {pair[1]:.6g}"
