"""Frozen bytes of ggml: what its own encoders and decoders made of a few rows and of random blocks.

    golden_ggml/rows.npz         rows float32 [8, 512], importance float32 [512]
    golden_ggml/<format>.npz     wire, decoded: any bytes, and what `to_float` reads in them
                                 plain, weighted: what `ggml_quantize_chunk` makes of the rows,
                                 without and with importance; absent where ggml has no encoder

Formats that round as ggml does have to make the same bytes; formats that search have to come as
close to the rows. Checking needs NumPy alone. The files change only by
`python tests/formats/ggml_golden.py --regenerate`, which asks ggml.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat

FOLDER = Path(__file__).parent / "golden_ggml"
#: the width of the frozen rows
K = 512

#: types whose encoder is ggml's plain rounding, where no importance is given
ROUNDED = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)
#: types whose encoder searches where importance is given
WEIGHED = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)
#: every type that has frozen bytes here
FROZEN = (*ROUNDED, "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def ggml_format(name: str) -> GgmlFormat:
    """The format of that name, which has to be one of ggml's."""
    found = formats.get(name)
    assert isinstance(found, GgmlFormat)
    return found


def same_floats(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    """Fail unless both float32 arrays hold the same bits; NaN equals NaN.

    Which NaN a product makes, and the sign that it has, is up to compiler and processor.
    """
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape, f"{what}: {ours.shape} for {theirs.shape}"
    wrong = ours.view(np.uint32) != theirs.view(np.uint32)
    wrong &= ~(np.isnan(ours) & np.isnan(theirs))
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: {np.count_nonzero(wrong)} of {wrong.size} differ, "
            f"first at {first}: {ours[first]!r} for {theirs[first]!r}"
        )


def same_blocks(fmt: GgmlFormat, rows: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Fail unless both are the same wire bytes; names the first block that is not, and its rows."""
    assert ours.dtype == theirs.dtype == np.uint8
    assert ours.shape == theirs.shape, f"{ours.shape} for {theirs.shape}"
    wrong = (ours != theirs).reshape(len(rows), -1, fmt.block_bytes).any(axis=-1)
    if wrong.any():
        row, block = (int(i) for i in np.argwhere(wrong)[0])
        at = slice(block * fmt.block_bytes, (block + 1) * fmt.block_bytes)
        weights = rows[row, block * fmt.block_size : (block + 1) * fmt.block_size]
        raise AssertionError(
            f"{fmt.name}: {np.count_nonzero(wrong)} of {wrong.size} blocks differ, first is row "
            f"{row}, block {block}: {ours[row, at].tobytes().hex()} for "
            f"{theirs[row, at].tobytes().hex()}; its weights: {weights.tolist()}"
        )


def error(rows: np.ndarray, decoded: np.ndarray, importance: np.ndarray | None) -> float:
    """Σ importance · (row - decoded)², in float64."""
    gap = rows.astype(np.float64) - decoded
    return float((gap * gap * (1 if importance is None else importance)).sum())


def check(name: str) -> None:
    """Decode and encode the frozen blocks and rows of one format."""
    fmt = ggml_format(name)
    with np.load(FOLDER / "rows.npz") as frozen:
        rows, importance = frozen["rows"], frozen["importance"]
    with np.load(FOLDER / f"{name}.npz") as frozen:
        stored = {key: frozen[key] for key in frozen.files}
    if "decoded" in stored:
        same_floats(fmt.decode((stored["wire"],)), stored["decoded"], f"{name} decoded")
    for weights, key, exact in (
        (None, "plain", name in ROUNDED),
        (importance, "weighted", name not in WEIGHED),
    ):
        (ours,) = fmt.encode(rows, weights)
        if exact:
            same_blocks(fmt, rows, ours, stored[key])
        else:
            mine = error(rows, fmt.decode((ours,)), weights)
            theirs = error(rows, fmt.decode((stored[key],)), weights)
            assert mine <= theirs, f"{name} {key}: error {mine:.6g}, ggml's {theirs:.6g}"


def telling_rows() -> np.ndarray:
    """Rows that reach the branches of every encoder, float32 [8, 512]."""
    random = np.random.default_rng(20)
    normal = random.standard_normal((8, K))
    table = [
        normal[0] * 0.02,
        random.standard_t(3, K),
        normal[2] * np.exp2(np.repeat(random.integers(-20, 12, K // 16), 16)),
        random.integers(-12, 13, K) * 0.25,
        np.abs(normal[4]) + 5,
        np.where(random.random(K) < 0.5, -0.0, 0.0),
        np.where(np.arange(K) % 29 == 0, normal[6], 0),
        np.linspace(-6, 6, K),
    ]
    return np.asarray(table).astype(np.float32)


def random_blocks(fmt: GgmlFormat, count: int, seed: int) -> np.ndarray:
    """uint8 [count / 4, 4 · block_bytes]; every byte takes every value, if count is 256 or more."""
    random = np.random.default_rng(seed)
    table = np.repeat(np.arange(count)[:, None] % 256, fmt.block_bytes, axis=1)
    shuffled = random.permuted(table, axis=0).astype(np.uint8)
    return shuffled.reshape(count // 4, 4 * fmt.block_bytes)


def regenerate() -> None:
    """Ask ggml, and write every file anew."""
    from interop import ggml

    FOLDER.mkdir(exist_ok=True)
    rows = telling_rows()
    importance = (np.random.default_rng(21).random(K) ** 2 + 0.01).astype(np.float32)
    np.savez_compressed(FOLDER / "rows.npz", rows=rows, importance=importance)
    for name in FROZEN:
        fmt = ggml_format(name)
        arrays = {
            "plain": ggml.quantize_chunk(fmt.ggml_type, rows),
            "weighted": ggml.quantize_chunk(fmt.ggml_type, rows, importance),
        }
        if name != "F32":
            wire = random_blocks(fmt, 32, seed=22)
            k = wire.size // fmt.block_bytes * fmt.block_size
            decoded = ggml.to_float(fmt.ggml_type, wire.tobytes(), k)
            arrays |= {"wire": wire, "decoded": decoded.reshape(len(wire), -1)}
        np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: python tests/formats/ggml_golden.py --regenerate")
    regenerate()
