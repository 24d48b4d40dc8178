"""What every ggml format refuses, whatever its blocks are."""

from __future__ import annotations

import numpy as np
import pytest

from mlxquant import RequestError
from mlxquant.formats import NonFiniteError, get

ROWS = np.ones((2, 256), dtype=np.float32)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "IQ2_XS"])
def test_importance_that_cannot_be(name: str, bad: float) -> None:
    importance = np.ones(256, dtype=np.float32)
    importance[7] = bad
    with pytest.raises(RequestError, match="importance has negative, infinite or NaN"):
        get(name).encode(ROWS, importance)


def test_importance_of_another_width() -> None:
    with pytest.raises(RequestError, match=r"importance has shape \[255\], \[256\] needed"):
        get("Q4_K").encode(ROWS, np.ones(255, dtype=np.float32))


def test_rows_that_are_no_whole_blocks() -> None:
    with pytest.raises(RequestError, match="200 weights a row are no multiple of Q4_K's 256"):
        get("Q4_K").encode(np.ones((2, 200), dtype=np.float32))


def test_the_first_weight_that_no_block_holds_is_named() -> None:
    rows = ROWS.copy()
    rows[1, 9] = np.nan
    with pytest.raises(NonFiniteError, match="nan at row 1, column 9"):
        get("Q6_K").encode(rows)


def test_wire_that_is_no_whole_blocks() -> None:
    with pytest.raises(RequestError, match="whole blocks of 144 bytes"):
        get("Q4_K").decode((np.zeros((2, 143), dtype=np.uint8),))
