"""What every codebook format (IQ1, IQ2, IQ3) must do; each test file inherits these tests.

The oracles are ggml itself (interop.ggml), the gguf package's decoders, and frozen bytes:

    golden_codebooks/<format>.npz    wire, decoded: random blocks, and what ggml reads in them
                                     rows, importance, plain, weighted: what `encode` makes of rows
                                     <sample> | <importance>: what ggml's encoder makes of a sample
    golden_codebooks/samples.npz     <sample>: rows; <sample> | <importance>: of its columns

ggml's encoder is asked only for the frozen bytes, since it takes up to half a minute to begin. It
refuses some formats without importance; there it was given ones. The frozen bytes change only by
`PYTHONPATH=tests python tests/formats/codebook_checks.py --regenerate`.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from formats.ggml_checks import Blocks
from formats.ggml_golden import error, ggml_format, same_floats
from formats.k_checks import edges, importances, model_rows, random_rows
from interop import ggml
from support import unchecked

from mlxquant import formats
from mlxquant.formats.codebook import CodebookFormat, Codes, ShiftedFormat, SignedFormat
from mlxquant.formats.grids import grid

FOLDER = Path(__file__).parent / "golden_codebooks"


def random_blocks(fmt: CodebookFormat, count: int, seed: int) -> np.ndarray:
    """uint8 [count, block_bytes], any bytes: NaN and infinite scales among them."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, fmt.block_bytes), dtype=np.uint8)


def random_codes(fmt: CodebookFormat, count: int) -> Codes:
    """Codes that reach every point of the codebook, every scale code and every mask of signs."""
    sub_blocks, steps = fmt.shape.sub_blocks, fmt.shape.steps
    points = grid(fmt.book)
    groups = 256 // points.shape[1]
    random = np.random.default_rng(4)
    masks = random.integers(0, 256, (count, 32))
    if isinstance(fmt, SignedFormat) and fmt.even:
        masks = masks & 127 | (np.bitwise_xor.reduce(masks[..., None] >> np.arange(7) & 1, 2) << 7)
    if isinstance(fmt, ShiftedFormat):
        masks = random.integers(0, 2, (count, sub_blocks if fmt.shape.books == 2 else 32))
    return Codes(
        random.uniform(-2, 2, count).astype("<f2"),
        np.arange(count * sub_blocks).reshape(count, -1) % steps,
        random.permutation(np.arange(count * groups) % len(points)).reshape(count, -1),
        masks.astype(np.uint8),
    )


@dataclass(frozen=True)
class Sample:
    """Rows, float32 [n, 256, 512 or 768], and importances of their columns, by name."""

    rows: np.ndarray
    importances: dict[str, np.ndarray | None]


@cache
def samples() -> dict[str, Sample]:
    """The frozen samples: a few rows of the bundled model's tensors, and random ones."""
    found = {}
    with np.load(FOLDER / "samples.npz") as frozen:
        for name in (key for key in frozen.files if " | " not in key):
            given = {
                key.removeprefix(f"{name} | "): frozen[key]
                for key in frozen.files
                if key.startswith(f"{name} | ")
            }
            found[name] = Sample(frozen[name], {"no importance": None, **given})
    return found


class CodebookTests(Blocks):
    """The tests of one format; its test file's class names the format and inherits them."""

    @property
    def fmt(self) -> CodebookFormat:
        """The format tested."""
        found = ggml_format(self.name)
        assert isinstance(found, CodebookFormat)
        return found

    def test_bytes_and_codes_are_one(self) -> None:
        """Codes survive the way into bytes and back, and bytes the way into codes and back."""
        fmt = self.fmt
        codes = random_codes(fmt, 64)
        found = fmt.codes_of(fmt.bytes_of(codes))
        for part in ("d", "scales", "index", "negative"):
            np.testing.assert_array_equal(getattr(found, part), getattr(codes, part), part)
        wire = random_blocks(fmt, 64, seed=3)
        np.testing.assert_array_equal(fmt.bytes_of(fmt.codes_of(wire)), wire)

    def test_decodes_like_ggml(self) -> None:
        """Any bytes, every point, scale and sign, and real encodings: bit for bit."""
        fmt = self.fmt
        wires = {
            "random bytes": random_blocks(fmt, 512, seed=3),
            "every code": fmt.bytes_of(random_codes(fmt, 256)),
            **{f"ours of {what}": fmt.encode(s.rows)[0] for what, s in samples().items()},
            **{f"ggml's of {what}": wire for what, wire in ggml_encodings(fmt).items()},
        }
        for what, wire in wires.items():
            with warnings.catch_warnings(action="error"):
                ours = fmt.decode((wire,))
            theirs = ggml.to_float(fmt.ggml_type, wire.tobytes(), ours.size)
            same_floats(ours, theirs.reshape(ours.shape), f"{fmt.name} {what}")

    def test_decodes_like_gguf(self) -> None:
        """The gguf package's own decoder agrees, NaN aside."""
        fmt = self.fmt
        try:
            import gguf
        except ImportError:
            unchecked("gguf", "codebook formats against the gguf package's decoders")
        wire = random_blocks(fmt, 64, seed=3)
        with np.errstate(all="ignore"):
            theirs = gguf.quants.dequantize(wire, gguf.GGMLQuantizationType(fmt.ggml_type))
        ours = fmt.decode((wire,))
        wrong = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
        assert not wrong.any(), f"{fmt.name}: {wrong.sum()} of {wrong.size} differ from gguf's"

    def test_matches_frozen_bytes(self) -> None:
        """Decodes and encodes the frozen blocks and rows as ever."""
        fmt = self.fmt
        with np.load(FOLDER / f"{fmt.name}.npz") as frozen:
            decoded, rows = fmt.decode((frozen["wire"],)), frozen["rows"]
            same_floats(decoded, frozen["decoded"], f"{fmt.name} decoded")
            np.testing.assert_array_equal(fmt.encode(rows)[0], frozen["plain"])
            weighted = fmt.encode(rows, frozen["importance"])[0]
            np.testing.assert_array_equal(weighted, frozen["weighted"])

    def test_encodes_as_well_as_ggml(self) -> None:
        """The weighted squared error is at most ggml's on every sample, importance or not."""
        fmt = self.fmt
        encodings = ggml_encodings(fmt)
        for what, sample in samples().items():
            rows = sample.rows
            for how, importance in sample.importances.items():
                (wire,) = fmt.encode(rows, importance)
                ours = error(rows, fmt.decode((wire,)), importance)
                theirs_wire = encodings[f"{what} | {how}"]
                theirs = error(rows, fmt.decode((theirs_wire,)), importance)
                assert ours <= theirs, f"{fmt.name}, {what}, {how}: {ours:.6g}, ggml {theirs:.6g}"

    def test_edges_encode_and_decode_without_warnings(self) -> None:
        """To something finite, no worse than zeros would be; a row's bytes do not depend on the
        rows beside it."""
        fmt = self.fmt
        rows = np.concatenate([rows[:1] for rows in edges().values()])
        before = rows.copy()
        uneven = np.zeros(512, np.float32)
        uneven[::3] = 1e30
        for importance in (None, np.zeros(512, np.float32), uneven):
            with warnings.catch_warnings(action="error"):
                (wire,) = fmt.encode(rows, importance)
                decoded = fmt.decode((wire,))
            assert np.isfinite(decoded).all()
            if importance is None:
                for name, row, back in zip(range(len(rows)), rows, decoded, strict=True):
                    size = (row.astype(np.float64) ** 2).sum()
                    assert error(row, back, None) <= size * (1 + 1e-6), f"{fmt.name}, row {name}"
                assert not decoded[:2].any(), "zeros"
            (alone,) = fmt.encode(rows[::2], importance)
            np.testing.assert_array_equal(alone, wire[::2], "rows without their neighbours")
        same_floats(rows, before, f"{fmt.name}: encode changed its input")


def ggml_encodings(fmt: CodebookFormat) -> dict[str, np.ndarray]:
    """What ggml made of every sample with every importance, by `<sample> | <importance>`."""
    with np.load(FOLDER / f"{fmt.name}.npz") as frozen:
        return {key: frozen[key] for key in frozen.files if " | " in key}


def freeze_samples() -> None:
    """Write the samples anew; ggml's encodings of them have to follow."""
    model = model_rows(4)
    wanted = ("embed_tokens", "layers.3.self_attn.q_proj", "layers.5.mlp.down_proj")
    table = {name: rows for name, rows in model.items() if any(part in name for part in wanted)}
    assert len(table) == len(wanted)
    table |= {name: rows[:2] for name, rows in random_rows().items()}
    arrays = {}
    for name, rows in table.items():
        assert " | " not in name, name
        arrays[name] = rows
        for how, importance in importances(rows.shape[1]).items():
            if importance is not None:
                arrays[f"{name} | {how}"] = importance
    np.savez_compressed(FOLDER / "samples.npz", **arrays)


def regenerate() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    freeze_samples()
    samples.cache_clear()
    random = np.random.default_rng(21)
    rows = (random.standard_normal((3, 256)) * 0.05).astype(np.float32)
    importance = (random.random(256) + 0.01).astype(np.float32)
    for name in formats.names():
        fmt = formats.get(name)
        if isinstance(fmt, CodebookFormat):
            wire = random_blocks(fmt, 4, seed=22)
            decoded = ggml.to_float(fmt.ggml_type, wire.tobytes(), 4 * 256).reshape(4, 256)
            encodings = {}
            for what, sample in samples().items():
                for how, given in sample.importances.items():
                    if given is None and fmt.ggml_type in ggml.NEED_IMPORTANCE:
                        given = np.ones(sample.rows.shape[1], np.float32)
                    made = ggml.quantize_chunk(fmt.ggml_type, sample.rows, given)
                    encodings[f"{what} | {how}"] = made
            np.savez_compressed(
                FOLDER / f"{name}.npz",
                wire=wire,
                decoded=decoded,
                rows=rows,
                importance=importance,
                plain=fmt.encode(rows)[0],
                weighted=fmt.encode(rows, importance)[0],
                **encodings,
            )


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: PYTHONPATH=tests python tests/formats/codebook_checks.py --regenerate")
    regenerate()
