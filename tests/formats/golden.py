"""Frozen bytes: what mx.quantize and mx.dequantize made of a few telling rows.

    golden/rows.npz          F32, F16, BF16: the rows, as a file holds them
    golden/<format>.npz      <dtype>.<part>: encode's arrays; <dtype>.decoded: decode's, as stored

They change only by `python tests/formats/golden.py --regenerate`, which asks MLX. Reading and
checking them needs NumPy alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mlxquant import formats
from mlxquant.formats.floats import FLOATS, from_float32, round_to, to_float32

FOLDER = Path(__file__).parent / "golden"
K = 128


def rows(dtype: str) -> np.ndarray:
    """The frozen rows of one type, float32 [n, 128]."""
    with np.load(FOLDER / "rows.npz") as frozen:
        return to_float32(frozen[dtype], dtype)


def check(name: str, dtype: str) -> None:
    """Encode and decode the frozen rows in one format, and compare every bit."""
    fmt = formats.get(name, dtype)
    with np.load(FOLDER / f"{name}.npz") as frozen:
        wire = tuple(frozen[f"{dtype}.{part.suffix}"] for part in fmt.parts)
        decoded = frozen[f"{dtype}.decoded"]
    for part, ours, theirs in zip(fmt.parts, fmt.encode(rows(dtype)), wire, strict=True):
        same_bits(ours, theirs, f"{name} {dtype} {part.suffix}")
    ours = from_float32(fmt.decode(wire), dtype)
    same_bits(ours, decoded, f"{name} {dtype} decoded")


def same_bits(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    """Fail unless both arrays are of one type and shape and hold the same bits.

    NaN equals NaN: which NaN an operation makes is up to the processor.
    """
    assert ours.dtype == theirs.dtype, f"{what}: {ours.dtype} for {theirs.dtype}"
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} for {theirs.shape}"
    bits = f"<u{ours.dtype.itemsize}"
    wrong = np.ascontiguousarray(ours).view(bits) != np.ascontiguousarray(theirs).view(bits)
    if ours.dtype.kind == "f":
        wrong &= ~(np.isnan(ours) & np.isnan(theirs))
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {np.count_nonzero(wrong)} of {wrong.size} differ, "
            f"first at {first}: {ours[first]!r} for {theirs[first]!r}"
        )


def telling_rows(dtype: str) -> np.ndarray:
    """Rows that reach every branch of every format, float32 [n, 128], exact in `dtype`."""
    random = np.random.default_rng(20)
    normal = random.standard_normal((9, K))
    largest = {"F32": 3.4028235e38, "F16": 65504.0, "BF16": 3.3895314e38}[dtype]
    smallest = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}[dtype]
    table = [
        normal[0] * 0.02,
        normal[1] * 100,
        normal[2] * np.exp2(np.repeat(random.integers(-24, 10, K // 16), 16)),
        random.integers(-12, 13, K) * 0.25,
        np.abs(normal[3]) + 5,
        -np.abs(normal[4]) - 5,
        np.repeat([0.0, 0.3, -7.0, largest], K // 4),
        np.where(np.arange(K) % 3 == 0, -0.0, 0.0),
        np.clip(normal[5] / 4, -1, 1) * largest,
        random.integers(-20, 21, K) * smallest,
        np.where(np.arange(K) % 29 == 0, normal[6], 0),
        np.linspace(-6, 6, K),
    ]
    return round_to(np.asarray(table).astype(np.float32), dtype)


def regenerate() -> None:
    """Ask MLX, and write every file anew."""
    from oracle import dequantize, quantize

    FOLDER.mkdir(exist_ok=True)
    made = {dtype: from_float32(telling_rows(dtype), dtype) for dtype in FLOATS}
    np.savez_compressed(FOLDER / "rows.npz", **made)
    for name in formats.mlx_names():
        arrays = {}
        for dtype in FLOATS:
            fmt = formats.get(name, dtype)
            wire = quantize(fmt, rows(dtype))
            for part, array in zip(fmt.parts, wire, strict=True):
                arrays[f"{dtype}.{part.suffix}"] = array
            arrays[f"{dtype}.decoded"] = from_float32(dequantize(fmt, wire), dtype)
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: python tests/formats/golden.py --regenerate")
    regenerate()
