"""Right products pass, of any kind of x; wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest
from mlxquant.kernels.source import FORMATS

from mlxquant.doctor.on_processor import ggml
from mlxquant.doctor.products import gathered, ids_of, multiplied, wrong
from mlxquant.formats.base import Array
from mlxquant.formats.floats import FLOATS, from_float32, round_to, to_float32
from mlxquant.formats.ggml_format import GgmlFormat


@pytest.mark.parametrize("dtype", FLOATS)
def test_how_far_a_product_of_normal_x_may_be_off(dtype: str) -> None:
    """As float32 sums are, in any order; one weight that is left out is too much."""
    random = np.random.default_rng(0)
    x = round_to(random.standard_normal((3, 2048), dtype=np.float32), dtype)
    w = random.standard_normal((5, 2048), dtype=np.float32)
    for order in (np.arange(2048), random.permutation(2048)):
        terms = x[:, None, order] * w[None, :, order]
        sums = np.cumsum(terms, axis=-1, dtype=np.float32)[:, :, -1]
        assert wrong(from_float32(sums, dtype), x, w, dtype) == ""
    less = from_float32((x[:, :-1] @ w[:, :-1].T).astype(np.float32), dtype)
    assert " are wrong" in wrong(less, x, w, dtype) or dtype == "BF16"
    nan = np.full_like(less, np.nan) if dtype != "BF16" else np.full_like(less, 0x7FC0)
    assert "15 of 15 are wrong" in wrong(nan, x, w, dtype)


class Reference:
    """Products by NumPy, in float32."""

    def __init__(self, fmt: GgmlFormat, dtype: str) -> None:
        self.fmt, self.dtype = fmt, dtype

    def multiply(self, x: Array, wire: Array) -> Array:
        product = to_float32(x, self.dtype) @ self.fmt.decode((wire,)).T
        return from_float32(product, self.dtype)

    def gather(self, x: Array, ids: Array, wire: Array) -> Array:
        rows = [
            self.multiply(x[i : i + 1], wire[matrix])
            if matrix < len(wire)
            else from_float32(np.full((1, wire.shape[1]), np.nan, np.float32), self.dtype)
            for i, matrix in enumerate(ids)
        ]
        return np.concatenate(rows)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_right_products(name: str, dtype: str) -> None:
    """Of every format, by BLAS: exact where they are to be exact, near enough elsewhere."""
    fmt = ggml(name)
    by = Reference(fmt, dtype)
    k = 3 * max(fmt.block_size, 256)
    assert multiplied(by.multiply, fmt, 5, 9, k, dtype, rounded=False) == ""
    ids = ids_of(7, absent=True)
    assert gathered(by.gather, fmt, ids, 4, k, dtype, rounded=False) == ""


def test_wrong_products() -> None:
    fmt = ggml("Q4_K")
    by = Reference(fmt, "F32")

    def shifted(x: Array, wire: Array) -> Array:
        return by.multiply(x, np.roll(wire, 144, axis=1))

    def mixed(x: Array, ids: Array, wire: Array) -> Array:
        return by.gather(x, np.where(ids == 1, 0, ids), wire)

    def there(x: Array, ids: Array, wire: Array) -> Array:
        return by.gather(x, np.minimum(ids, 2), wire)

    assert " are wrong" in multiplied(shifted, fmt, 2, 3, 512, "F32", rounded=False)
    ids = ids_of(20, absent=True)
    assert gathered(mixed, fmt, ids, 2, 256, "F32", rounded=False).startswith("matrix 1: [0, 0]")
    words = "a matrix that is not there gave numbers"
    assert gathered(there, fmt, ids, 2, 256, "F32", rounded=False) == words
