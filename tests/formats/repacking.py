"""What tests of repacking share: types, blocks, and the numbers that ggml and MLX read."""

from __future__ import annotations

import numpy as np
import pytest
from formats.ggml_golden import ggml_format
from formats.oracle import dequantize
from interop import ggml

from mlxquant.formats import STORAGE, MlxFormat
from mlxquant.formats.floats import to_float32
from mlxquant.formats.k_layout import split, unpack_planes
from mlxquant.formats.packing import unpack
from mlxquant.formats.q5_0 import unpack_fives
from mlxquant.formats.repack import (
    mlx_format_of,
)

Parts = tuple[np.ndarray, ...]

AFFINE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
TYPES = (*AFFINE, "MXFP4", "NVFP4")
ZEROS = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}
#: a ggml type and an affine width that it holds
WIDTHS = {
    "Q4_0": (4,),
    "Q4_1": (1, 2, 3, 4),
    "Q5_0": (5,),
    "Q5_1": (5,),
    "Q8_0": (8,),
}
PAIRS = [(name, bits) for name, widths in WIDTHS.items() for bits in widths]

every_type = pytest.mark.parametrize("name", TYPES)
every_pair = pytest.mark.parametrize(("name", "bits"), PAIRS)

ANY_HALF = np.arange(1 << 16, dtype=np.uint16)


def target_of(name: str) -> MlxFormat:
    found = mlx_format_of(name)
    assert found is not None
    return found


def blocks_with(name: str, seed: int, **fields: np.ndarray) -> np.ndarray:
    """Blocks with random codes, uint8 [b, block_bytes]; a field [b, …] is given by its name."""
    fmt = ggml_format(name)
    count = len(next(iter(fields.values())))
    blocks = np.random.default_rng(seed).integers(0, 256, (count, fmt.block_bytes), np.uint8)
    for field, view in split(blocks, fmt.fields).items():
        if field in fields:
            view[:] = np.ascontiguousarray(fields[field]).view(np.uint8).reshape(view.shape)
    return blocks


def ordinary_rows(name: str, n: int, per_row: int, seed: int = 3) -> np.ndarray:
    """Rows of blocks that MLX holds, uint8 [n, row_bytes]."""
    random = np.random.default_rng(seed)
    count = n * per_row
    numbers = {
        "MXFP4": {"e": random.integers(0, 255, count).astype(np.uint8)},
        "NVFP4": {"d": random.integers(0, 127, (count, 4)).astype(np.uint8)},
    }.get(name)
    if numbers is None:
        normal = random.standard_normal((2, count)) * np.exp2(random.integers(-25, 4, (2, count)))
        numbers = {"d": normal[0].astype(np.float16), "m": normal[1].astype(np.float16)}
    wire = blocks_with(name, seed, **numbers)
    return wire.reshape(n, per_row * wire.shape[1])


def ggml_codes(name: str, wire: np.ndarray) -> np.ndarray:
    """The codes of rows of blocks as ggml's layout defines them, uint8 [n, k]."""
    fmt = ggml_format(name)
    part = split(wire.reshape(-1, fmt.block_bytes), fmt.fields)
    if name == "Q8_0":
        codes = part["qs"] ^ 0x80
    elif "qh" in part:
        codes = unpack_fives(part["qh"], part["qs"])
    else:
        codes = unpack_planes(part["qs"], 4, 8 if name == "NVFP4" else 16)
    return codes.reshape(len(wire), -1)


def ggml_numbers(name: str, wire: np.ndarray) -> np.ndarray:
    """The weights as real numbers, of the affine types; float64 [n, k], exact."""
    fmt = ggml_format(name)
    part = split(wire.reshape(-1, fmt.block_bytes), fmt.fields)
    d, m = (
        np.ascontiguousarray(part[field]).view("<f2").astype(np.float64) if field in part else 0
        for field in ("d", "m")
    )
    steps = ggml_codes(name, wire).reshape(-1, 32).astype(np.float64) - ZEROS.get(name, 0)
    return (d * steps + m).reshape(len(wire), -1)


def mlx_numbers(fmt: MlxFormat, parts: Parts) -> np.ndarray:
    """scale · code + bias as real numbers; float64 [n, k], exact where float16 holds both."""
    codes = unpack(parts[0], fmt.bits).astype(np.float64)
    scales, biases = (to_float32(part, fmt.dtype).astype(np.float64) for part in parts[1:])
    groups = codes.reshape(*scales.shape, fmt.block_size)
    return (scales[:, :, None] * groups + biases[:, :, None]).reshape(codes.shape)


def ggml_reads(name: str, wire: np.ndarray) -> np.ndarray:
    """What ggml itself reads, float32 [n, k]."""
    fmt = ggml_format(name)
    k = wire.size // fmt.block_bytes * fmt.block_size
    return ggml.to_float(fmt.ggml_type, wire, k).reshape(len(wire), -1)


def mlx_reads(fmt: MlxFormat, parts: Parts) -> np.ndarray:
    """What MLX itself reads when it computes in float32, float32 [n, k]."""
    if fmt.mode == "affine":
        parts = (parts[0], *(to_float32(part, fmt.dtype) for part in parts[1:]))
    return dequantize(fmt.with_dtype("F32"), parts)


def is_the_same(name: str, wire: np.ndarray, fmt: MlxFormat, parts: Parts) -> None:
    """Fail unless both hold the same codes and the same numbers, whoever reads them."""
    np.testing.assert_array_equal(unpack(parts[0], fmt.bits), ggml_codes(name, wire))
    np.testing.assert_array_equal(mlx_reads(fmt, parts), ggml_reads(name, wire))
    if name in AFFINE:
        np.testing.assert_array_equal(mlx_numbers(fmt, parts), ggml_numbers(name, wire))


def are_parts(fmt: MlxFormat, parts: Parts, n: int, k: int) -> None:
    for part, array in zip(fmt.parts, parts, strict=True):
        assert array.dtype == STORAGE[part.dtype]
        assert array.shape == (n, k // fmt.block_size * part.per_block)
