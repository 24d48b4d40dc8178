"""What the tests of grids and of rounding onto them share."""

from __future__ import annotations

import numpy as np

from mlxquant.formats import Format, MlxFormat
from mlxquant.formats.affine import Affine
from mlxquant.formats.floats import from_float32, round_to, to_float32


def real(fmt: Format, wire: tuple[np.ndarray, ...]) -> np.ndarray:
    """What a runtime computes with: the stored numbers, decoded without rounding to bfloat16."""
    if isinstance(fmt, Affine):
        wide = (from_float32(to_float32(part, fmt.dtype), "F32") for part in wire[1:])
        return fmt.with_dtype("F32").decode((wire[0], *wide))
    if isinstance(fmt, MlxFormat):
        return fmt.with_dtype("F32").decode(wire)
    return fmt.decode(wire)


def weights(seed: int, n: int, k: int) -> np.ndarray:
    """Weights as a bfloat16 model has them, float32 [n, k]."""
    random = np.random.default_rng(seed)
    return round_to((random.standard_normal((n, k)) * 0.02).astype(np.float32), "BF16")


def inputs(seed: int, k: int, tokens: int = 2000, mixing: float = 1.0) -> np.ndarray:
    """Correlated activations with a few large columns, float64 [tokens, k]."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((tokens, k))
    x = x + mixing * x @ random.standard_normal((k, k)) / np.sqrt(k) * 2
    return x * np.exp(0.5 * random.standard_normal(k))


def second_moments(x: np.ndarray) -> np.ndarray:
    """[tokens, k] → [k, k]."""
    return x.T @ x / len(x)
