"""What every K-quant must do beyond ggml_checks; each one's test file inherits these.

The oracles are ggml itself, the gguf package's decoders, and bytes frozen here:

    golden_k/<format>.npz    wire, decoded: random blocks, and what ggml reads in them
                             rows, importance, plain, weighted: what `encode` makes of rows

The frozen bytes change only by `PYTHONPATH=tests python tests/formats/k_checks.py --regenerate`,
which asks ggml for `decoded` and `encode` for the last two.
"""

from __future__ import annotations

import sys
import warnings
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from formats.ggml_checks import Blocks, Searches, WeighsImportance, errs_no_more
from formats.ggml_golden import check, error, ggml_format, random_blocks, same_floats
from hypothesis import given, settings
from hypothesis import strategies as st
from interop import ggml
from support import unchecked

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.safetensors import read_header
from mlxquant.formats.floats import bf16_to_f32

FOLDER = Path(__file__).parent / "golden_k"
NAMES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K")


def model_rows(most: int) -> dict[str, np.ndarray]:
    """The first rows of every matrix of the bundled model, float32 [n, 256 or 768]."""
    path = BUNDLED_MODEL / "model.safetensors"
    found = {}
    for name, entry in read_header(path).entries.items():
        if len(entry.shape) == 2:
            stored = np.memmap(path, "<u2", "r", entry.start, entry.shape)
            found[name] = bf16_to_f32(np.array(stored[:most]))
    return found


@cache
def random_rows() -> dict[str, np.ndarray]:
    """Rows of many kinds, float32 [16, 512]."""
    random = np.random.default_rng(5)
    shape = (16, 512)
    normal = random.standard_normal(shape)
    outlier = np.arange(512) % 256 == 77
    table = {
        "normal": normal * 0.02,
        "heavy tails": random.standard_t(2, shape) * 0.02,
        "uniform": random.uniform(-3, 3, shape),
        "one sided": random.exponential(1, shape),
        "far above zero": np.abs(normal) + 5,
        "far below zero": -np.abs(normal) - 5,
        "small": normal * 1e-4,
        "large": normal * 1e4,
        "constant": np.full(shape, 0.37),
        "constant, negative": np.full(shape, -0.37),
        "one outlier": np.where(outlier, 50, normal * 0.02),
        "sparse": np.where(random.random(shape) < 0.02, normal, 0),
        "two values": np.where(normal > 0, 1.0, -1.0),
        "whole numbers": np.rint(normal * 2),
        "sub-blocks of every size": normal
        * np.exp2(np.repeat(random.integers(-12, 4, (16, 32)), 16, axis=1)),
    }
    return {name: rows.astype(np.float32) for name, rows in table.items()}


@cache
def edges() -> dict[str, np.ndarray]:
    """Rows at the edges of float32 and of float16, float32 [3, 512]."""
    random = np.random.default_rng(6)
    normal = random.standard_normal((3, 512))
    outlier = np.arange(512) % 256 == 77
    table = {
        "zeros": np.zeros((3, 512)),
        "negative zeros": np.full((3, 512), -0.0),
        "around float16's smallest": normal * 1e-7,
        "below float16's smallest": normal * 1e-9,
        "subnormal": normal * 1e-41,
        "beyond float16": normal * 1e30,
        "the largest": np.where(normal > 0, 3.4028235e38, -3.4028235e38),
        "an outlier beyond all": np.where(outlier, 1e38, normal),
        "a tiny outlier": np.where(outlier, 1e-3, normal * 1e-30),
        "ordinary": normal,
    }
    return {name: rows.astype(np.float32) for name, rows in table.items()}


def importances(k: int) -> dict[str, np.ndarray | None]:
    """None, mild and uneven importance of k columns."""
    random = np.random.default_rng(12)
    return {
        "no importance": None,
        "importance": np.exp(random.standard_normal(k)).astype(np.float32),
        "uneven importance": (random.standard_t(2, k) ** 2 + 0.001).astype(np.float32),
    }


@st.composite
def drawn_rows(draw: st.DrawFn) -> np.ndarray:
    """Ordinary weights of a drawn size and offset, float32 [2, 512]."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = 2.0 ** draw(st.integers(-8, 8))
    offset = draw(st.sampled_from([0, 0, 1, -30])) * size
    tails = draw(st.sampled_from([3, 30]))
    return (random.standard_t(tails, (2, 512)) * size + offset).astype(np.float32)


class KQuantTests(Blocks):
    """The tests of one format; its test file's class names the format and inherits them."""

    def test_matches_frozen_bytes(self) -> None:
        """Decodes and encodes the frozen blocks and rows as ever."""
        fmt = self.fmt
        with np.load(FOLDER / f"{fmt.name}.npz") as frozen:
            same_floats(fmt.decode((frozen["wire"],)), frozen["decoded"], f"{fmt.name} decoded")
            rows, importance = frozen["rows"], frozen["importance"]
            np.testing.assert_array_equal(fmt.encode(rows)[0], frozen["plain"])
            np.testing.assert_array_equal(fmt.encode(rows, importance)[0], frozen["weighted"])

    def test_survives_edges(self) -> None:
        """Encodes without a warning to something finite, no worse than zeros would be; a block's
        bytes depend neither on the rows beside it nor on the blocks."""
        fmt = self.fmt
        zero, uneven = np.zeros(512, np.float32), np.zeros(512, np.float32)
        uneven[::3] = 1e30
        for name, rows in edges().items():
            before = rows.copy()
            for importance in (None, zero, uneven):
                with warnings.catch_warnings(action="error"):
                    (wire,) = fmt.encode(rows, importance)
                    decoded = fmt.decode((wire,))
                assert np.isfinite(decoded).all(), f"{fmt.name}, {name}"
                if importance is None:
                    size = (rows.astype(np.float64) ** 2).sum()
                    assert error(rows, decoded, None) <= size * (1 + 1e-6), f"{fmt.name}, {name}"
                pieces = [
                    fmt.encode(row[None, half], None if importance is None else importance[half])[0]
                    for row in rows
                    for half in (slice(0, 256), slice(256, 512))
                ]
                alone = np.concatenate(pieces).reshape(wire.shape)
                np.testing.assert_array_equal(alone, wire, f"{fmt.name}, {name}")
            same_floats(rows, before, f"{fmt.name}, {name}: encode changed its input")
            if "zeros" in name:
                assert not decoded.any(), f"{fmt.name}, {name}"


class SearchedTests(KQuantTests, Searches, WeighsImportance):
    """Those whose encoder searches.

    top: the largest code less the smallest; size: weights of a sub-block.
    """

    top: ClassVar[int]
    size: ClassVar[int]

    def test_errs_no_more_than_ggml_s_frozen_bytes(self) -> None:
        check(self.name)

    def test_decodes_like_gguf(self) -> None:
        """The gguf package's own decoder agrees, NaN aside."""
        fmt = self.fmt
        try:
            import gguf
        except ImportError:
            unchecked("gguf", "K-quants against the gguf package's decoders")
        wire = random_blocks(fmt, 512, seed=4)
        with np.errstate(all="ignore"):
            theirs = gguf.quants.dequantize(wire, gguf.GGMLQuantizationType(fmt.ggml_type))
        same_floats(fmt.decode((wire,)), theirs.astype(np.float32), f"{fmt.name} by gguf")

    def test_errs_no_more_than_ggml_on_every_matrix_and_kind_of_row(self) -> None:
        for name, rows in (model_rows(8) | random_rows()).items():
            for how, importance in importances(rows.shape[1]).items():
                errs_no_more(self.fmt, rows, importance, f"{name}, {how}")

    def test_what_it_holds_comes_back(self) -> None:
        """Decoded weights, encoded again, are off by less than they were at first."""
        fmt = self.fmt

        @settings(max_examples=20, deadline=None)
        @given(rows=drawn_rows())
        def comes_back(rows: np.ndarray) -> None:
            once = fmt.decode(fmt.encode(rows))
            twice = fmt.decode(fmt.encode(once))
            assert error(once, twice, None) <= error(rows, once, None)

        comes_back()

    def test_every_code_is_the_nearest(self) -> None:
        """Within a sub-block's range a weight is at most half a step off; beyond it, it has the
        level at the end: of the levels before they were stretched, by one factor a block. Steps are
        read off the decoded levels themselves."""

        @settings(max_examples=20, deadline=None)
        @given(rows=drawn_rows())
        def nearest(rows: np.ndarray) -> None:
            self.is_nearest(rows)

        nearest()

    def is_nearest(self, rows: np.ndarray) -> None:
        """What the test above says, of some rows."""
        (wire,) = self.fmt.encode(rows)
        low, high, step = self.levels(wire)
        x = rows.reshape(-1, 256 // self.size, self.size).astype(np.float64)
        decoded = self.fmt.decode((wire,)).reshape(x.shape).astype(np.float64)
        # d and dmin are stretched by the same factor, each to the nearest float16
        slack = (np.abs(x) + np.abs(decoded)) * 2e-6 + (np.abs(low) + np.abs(high)) * 2.0**-11
        # the factors by which each weight comes within half a step of its level, or past the end
        above = np.where(decoded >= high - step / 4, np.inf, decoded + step / 2 + slack)
        below = np.where(decoded <= low + step / 4, -np.inf, decoded - step / 2 - slack)
        least, most = np.where(x > 0, below, -above), np.where(x > 0, above, -below)
        size = np.abs(x)
        least = np.divide(least, size, out=np.where(least > 0, np.inf, -np.inf), where=size > 0)
        most = np.divide(most, size, out=np.where(most < 0, -np.inf, np.inf), where=size > 0)
        # one for all of a block, between 1 and what a quarter's loss of length calls for
        from_, to = (
            np.maximum(least.max(axis=(1, 2)), 1 - 1e-5),
            np.minimum(most.min(axis=(1, 2)), 1.2),
        )
        block = int((from_ - to).argmax())
        assert from_[block] <= to[block], (
            f"{self.fmt.name}: block {block}: no factor stretches {x[block].tolist()} so that all "
            f"codes are the nearest; {from_[block]} and {to[block]}"
        )

    def levels(self, wire: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The lowest and highest level of every sub-block and the step between, each [b, J, 1].

        The blocks' scales with codes of all zeros and all ones in place of theirs, decoded.
        """
        fmt = self.fmt
        blocks = wire.reshape(-1, fmt.block_bytes)
        ends = []
        for fill in (0, 255):
            changed, begin = blocks.copy(), 0
            for field, size in fmt.fields:
                if field in ("qs", "ql", "qh", "hmask"):
                    changed[:, begin : begin + size] = fill
                begin += size
            decoded = fmt.decode((changed,)).reshape(-1, 256 // self.size, self.size)
            ends.append(decoded[:, :, :1].astype(np.float64))
        step = np.abs(ends[1] - ends[0]) / self.top
        return np.minimum(*ends), np.maximum(*ends), step


def regenerate() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    random = np.random.default_rng(21)
    rows = np.concatenate([random_rows()["normal"][:2], random_rows()["heavy tails"][:2]])
    importance = (random.random(512) + 0.01).astype(np.float32)
    for name in NAMES:
        fmt = ggml_format(name)
        wire = random_blocks(fmt, 16, seed=22)
        decoded = ggml.to_float(fmt.ggml_type, wire.tobytes(), 16 * 256).reshape(4, 1024)
        plain, weighted = fmt.encode(rows)[0], fmt.encode(rows, importance)[0]
        np.savez_compressed(
            FOLDER / f"{name}.npz",
            wire=wire,
            decoded=decoded,
            rows=rows,
            importance=importance,
            plain=plain,
            weighted=weighted,
        )


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit("usage: PYTHONPATH=tests python tests/formats/k_checks.py --regenerate")
    regenerate()
