"""What every format of ggml must do; each one's test file inherits what applies to it.

    GgmlTests                 all: ggml's numbers, frozen bytes, refusals, rows in pieces
    Rounds                    encode without importance makes ggml's bytes
    IgnoresImportance         importance changes nothing, as in ggml
    Searches                  the squared error is at most ggml's
    WeighsImportance          with importance, the weighted squared error is at most ggml's

The oracle is ggml itself (interop.ggml). Where a scale's inverse overflows, C leaves the codes to
the processor; there the bytes are compared on x86-64 only.
"""

from __future__ import annotations

import platform
import warnings
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
from formats.ggml_golden import (
    FROZEN,
    ROUNDED,
    WEIGHED,
    check,
    error,
    ggml_format,
    random_blocks,
    same_blocks,
    same_floats,
)
from interop import ggml

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.errors import RequestError
from mlxquant.files.safetensors import read_header
from mlxquant.formats import NonFiniteError
from mlxquant.formats.floats import bf16_to_f32
from mlxquant.formats.ggml_format import GgmlFormat

LARGEST = 3.4028234e38
#: the smallest power of two whose blocks are compared byte by byte
LOWEST = -148 if platform.machine() in ("x86_64", "AMD64") else -118


@cache
def model_rows() -> dict[str, np.ndarray]:
    """Some rows of the bundled model's tensors, float32 [n, 256 or 768]."""
    path = BUNDLED_MODEL / "model.safetensors"
    wanted = {
        "model.embed_tokens.weight": 24,
        "model.layers.0.self_attn.v_proj.weight": 24,
        "model.layers.3.self_attn.q_proj.weight": 24,
        "model.layers.4.mlp.gate_proj.weight": 24,
        "model.layers.5.mlp.down_proj.weight": 8,
    }
    entries = read_header(path).entries
    found = {}
    for name, count in wanted.items():
        entry = entries[name]
        stored = np.memmap(path, "<u2", "r", entry.start, entry.shape)
        found[name] = bf16_to_f32(np.array(stored[40 : 40 + count]))
    return found


def sample_rows() -> dict[str, np.ndarray]:
    """The bundled model's rows and random ones, float32 [n, a multiple of 256]."""
    random = np.random.default_rng(11)
    made = {
        "normal": random.standard_normal((24, 512)) * 0.02,
        "heavy tails": random.standard_t(3, (24, 512)),
        "uniform": random.uniform(-3, 3, (24, 512)),
        "one sided": random.exponential(1, (24, 512)),
        "far from zero": random.standard_normal((24, 512)) + 8,
        "sparse": random.standard_normal((24, 512)) * (random.random((24, 512)) < 0.1),
    }
    return {**model_rows(), **{name: rows.astype(np.float32) for name, rows in made.items()}}


def importances(k: int) -> dict[str, np.ndarray]:
    """Mild and uneven importance of k columns, and one that is 0 here and there."""
    random = np.random.default_rng(12)
    made = {
        "mild": random.random(k) + 0.5,
        "uneven": random.standard_t(2, k) ** 2 + 0.001,
        "zeros": np.where(random.random(k) < 0.3, 0, random.random(k) * 1e-6),
    }
    return {name: values.astype(np.float32) for name, values in made.items()}


def edge_rows() -> dict[str, np.ndarray]:
    """Named rows at the edges of float32 and of every encoder, float32 [n, 512]."""
    random = np.random.default_rng(7)
    shape, k = (16, 512), 512
    normal = random.standard_normal(shape)
    signs = np.where(random.random(shape) < 0.5, -1.0, 1.0)
    powers = np.exp2(np.arange(LOWEST, 128, dtype=np.float64))
    below = powers[:, None] * (1 - np.arange(64) * 2.0**-24)
    sixths = 6 * powers[:, None] * (1 - np.arange(16) * 2.0**-6)
    table = {
        "zeros": np.zeros(shape),
        "zeros of both signs": 0.0 * signs,
        "zeros and positives": np.where(random.random(shape) < 0.9, 0.0 * signs, np.abs(normal)),
        "one weight a block": np.where(np.arange(k) % 32 == 5, normal, 0),
        "plus and minus the same": 0.3 * signs,
        "ties": random.integers(-50, 51, shape) * 0.125,
        "denormals": random.integers(-200, 201, shape) * 2.0**LOWEST,
        "every scale": normal * np.exp2(random.integers(LOWEST, 126, (16, 1)).astype(float)),
        "every scale within a row": normal
        * np.repeat(np.exp2(random.integers(LOWEST, 126, (16, 16)).astype(float)), 32, axis=1),
        "around the largest scale": normal * np.exp2(random.integers(8, 24, (16, 1)).astype(float)),
        "range overflows": random.uniform(-1, 1, shape) * LARGEST,
        "the largest": np.full(shape, LARGEST),
        "plus and minus the largest": LARGEST * signs,
        "positive": np.abs(normal) + 5,
        "negative": -np.abs(normal) - 5,
        "just below powers of two": np.resize(np.repeat(below.reshape(-1), 32), (550, k)),
        "largest levels": np.resize(np.repeat(sixths.reshape(-1), 16), (140, k))
        * np.where(np.arange(k) % 16 == 3, 1, random.uniform(-1, 1, k)),
    }
    with np.errstate(over="ignore", under="ignore"):
        return {
            name: np.clip(values, -LARGEST, LARGEST).astype(np.float32)
            for name, values in table.items()
        }


class GgmlTests:
    """The tests of one format; its test file's class names the format and inherits them."""

    name: ClassVar[str]

    @property
    def fmt(self) -> GgmlFormat:
        """The format tested."""
        return ggml_format(self.name)

    def test_is_ggml_s_type(self) -> None:
        fmt = self.fmt
        assert ggml.type_name(fmt.ggml_type).upper() == fmt.name.upper()
        assert ggml.block_size(fmt.ggml_type) == fmt.block_size
        assert ggml.block_bytes(fmt.ggml_type) == fmt.block_bytes

    def test_decodes_like_ggml(self) -> None:
        """Any bytes, and what ggml encodes: bit for bit, NaN equal to NaN."""
        fmt = self.fmt
        wires = {"random bytes": random_blocks(fmt, 1024, seed=3)}
        for what, rows in sample_rows().items():
            wires[what] = ggml.quantize_chunk(fmt.ggml_type, rows)
        for what, wire in wires.items():
            with warnings.catch_warnings(action="error"):
                ours = fmt.decode((wire,))
            theirs = ggml.to_float(fmt.ggml_type, wire.tobytes(), ours.size)
            same_floats(ours, theirs.reshape(ours.shape), f"{fmt.name} {what}")

    def test_matches_frozen_bytes(self) -> None:
        check(self.name)

    def test_edges_encode_and_decode_without_warnings(self) -> None:
        fmt = self.fmt
        for what, rows in edge_rows().items():
            before = rows.copy()
            for importance in (None, np.zeros(512, np.float32), np.geomspace(1e-30, 1e30, 512)):
                weights = None if importance is None else importance.astype(np.float32)
                with warnings.catch_warnings(action="error"):
                    (wire,) = fmt.encode(rows, weights)
                    decoded = fmt.decode((wire,))
                assert wire.shape == (len(rows), 512 // fmt.block_size * fmt.block_bytes), what
                assert decoded.shape == rows.shape
            same_floats(rows, before, f"{fmt.name} {what}: encode changed its input")

    def test_is_the_same_in_pieces(self) -> None:
        """Row chunks, strided and read-only views, and no rows at all, give what all give."""
        fmt = self.fmt
        rows = np.random.default_rng(3).standard_normal((7, 512)).astype(np.float32)
        importance = importances(512)["uneven"]
        rows.flags.writeable = False
        for weights in (None, importance):
            (whole,) = fmt.encode(rows, weights)
            pieces = [fmt.encode(rows[i:j], weights)[0] for i, j in ((0, 1), (1, 5), (5, 7))]
            np.testing.assert_array_equal(np.concatenate(pieces), whole)
            np.testing.assert_array_equal(fmt.encode(np.asfortranarray(rows), weights)[0], whole)
        decoded = fmt.decode((whole,))
        joined = np.concatenate([fmt.decode((whole[i:j],)) for i, j in ((0, 3), (3, 7))])
        same_floats(joined, decoded, f"{fmt.name} decoded")
        for shape in ((0, fmt.block_size), (3, 0)):
            (empty,) = fmt.encode(np.zeros(shape, np.float32))
            assert empty.size == 0
            assert fmt.decode((empty,)).shape == shape

    def test_refuses_what_it_cannot_hold(self) -> None:
        fmt = self.fmt
        rows = np.zeros((2, 512), np.float32)
        rows[1, 3] = np.inf
        with pytest.raises(NonFiniteError, match="row 1, column 3"):
            fmt.encode(rows)
        with pytest.raises(RequestError, match="give float32 in two dimensions"):
            fmt.encode(np.zeros(512, np.float32))
        with pytest.raises(RequestError, match=r"importance has shape \[2\], \[512\] needed"):
            fmt.encode(np.zeros((1, 512), np.float32), np.ones(2, np.float32))
        for wrong in (
            np.zeros((1, 4 * fmt.block_bytes), np.int8),
            np.zeros(fmt.block_bytes, np.uint8),
        ):
            with pytest.raises(RequestError, match=f"whole blocks of {fmt.block_bytes} bytes"):
                fmt.decode((wrong,))


class Blocks(GgmlTests):
    """Of formats with more than one weight a block."""

    def test_refuses_parts_of_blocks(self) -> None:
        fmt = self.fmt
        with pytest.raises(
            RequestError,
            match=f"{fmt.block_size // 2} weights a row are no multiple of {fmt.name}'s",
        ):
            fmt.encode(np.zeros((1, fmt.block_size // 2), np.float32))
        with pytest.raises(RequestError, match=f"whole blocks of {fmt.block_bytes} bytes"):
            fmt.decode((np.zeros((1, fmt.block_bytes - 1), np.uint8),))


class Rounds(GgmlTests):
    """Of formats whose encoder is ggml's plain rounding where no importance is given."""

    def test_encodes_like_ggml(self) -> None:
        fmt = self.fmt
        assert fmt.name in ROUNDED
        for rows in (*edge_rows().values(), *sample_rows().values()):
            (ours,) = fmt.encode(rows)
            same_blocks(fmt, rows, ours, ggml.quantize_chunk(fmt.ggml_type, rows))


class IgnoresImportance(GgmlTests):
    """Of formats whose encoder knows no importance, here and in ggml."""

    def test_importance_changes_nothing(self) -> None:
        fmt = self.fmt
        assert fmt.name not in WEIGHED
        for rows in sample_rows().values():
            (plain,) = fmt.encode(rows)
            for importance in importances(rows.shape[1]).values():
                (ours,) = fmt.encode(rows, importance)
                same_blocks(fmt, rows, ours, plain)
                theirs = ggml.quantize_chunk(fmt.ggml_type, rows, importance)
                same_blocks(fmt, rows, ours, theirs)


class Searches(GgmlTests):
    """Of formats whose encoder searches."""

    def test_errs_no_more_than_ggml(self) -> None:
        fmt = self.fmt
        assert fmt.name in FROZEN and fmt.name not in ROUNDED
        for what, rows in sample_rows().items():
            errs_no_more(fmt, rows, None, what)


class WeighsImportance(GgmlTests):
    """Of formats whose encoder searches where importance is given."""

    def test_errs_no_more_than_ggml_by_importance(self) -> None:
        fmt = self.fmt
        assert fmt.name in WEIGHED
        for what, rows in sample_rows().items():
            for how, importance in importances(rows.shape[1]).items():
                errs_no_more(fmt, rows, importance, f"{what}, {how}")

    def test_importance_of_zero_everywhere_is_none(self) -> None:
        """Such importance says nothing; the error is at most plain rounding's."""
        fmt = self.fmt
        for rows in sample_rows().values():
            (wire,) = fmt.encode(rows, np.zeros(rows.shape[1], np.float32))
            (plain,) = fmt.encode(rows)
            ours, theirs = (error(rows, fmt.decode((w,)), None) for w in (wire, plain))
            assert ours <= theirs


def errs_no_more(
    fmt: GgmlFormat, rows: np.ndarray, importance: np.ndarray | None, what: str
) -> None:
    """The squared error over all rows, weighted by importance, is at most that of ggml's bytes."""
    (wire,) = fmt.encode(rows, importance)
    ours = error(rows, fmt.decode((wire,)), importance)
    theirs_wire = ggml.quantize_chunk(fmt.ggml_type, rows, importance)
    theirs = error(rows, fmt.decode((theirs_wire,)), importance)
    assert ours <= theirs, f"{fmt.name}, {what}: {ours:.6g}, ggml's {theirs:.6g}"
