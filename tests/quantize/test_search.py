"""The search: never worse than rounding in any group, as good as trying everything, the same bytes
however it is cut."""

from __future__ import annotations

import itertools
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from formats import checks
from formats.golden import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.errors import RequestError
from mlxquant.formats import STORAGE, MlxFormat, NonFiniteError
from mlxquant.formats.affine import GROUP_SIZES, Affine
from mlxquant.formats.floats import FLOATS, from_float32, to_float32
from mlxquant.formats.mxfp4 import Mxfp4
from mlxquant.formats.mxfp8 import Mxfp8
from mlxquant.formats.nvfp4 import Nvfp4
from mlxquant.formats.packing import WIDTHS, pack, unpack
from mlxquant.quantize import search_affine as affine_module
from mlxquant.quantize import search_levels as levels_module
from mlxquant.quantize.rows import encode_rows
from mlxquant.quantize.search import search

AFFINE = [
    pytest.param(Affine(bits, group_size), id=f"affine{bits}-g{group_size}")
    for bits in WIDTHS
    for group_size in GROUP_SIZES
]
LEVELS = [pytest.param(fmt, id=fmt.name) for fmt in (Mxfp4(), Mxfp8(), Nvfp4())]
every = pytest.mark.parametrize("fmt", AFFINE + LEVELS)
every_type = pytest.mark.parametrize("dtype", FLOATS)

#: what float32 sums and quotients may be off
SLACK = 2.0**-12


def real(fmt: MlxFormat, wire: tuple[np.ndarray, ...]) -> np.ndarray:
    """The numbers that a wire means, scale · q + bias in float32: [n, k]."""
    if not isinstance(fmt, Affine):
        return fmt.with_dtype("F32").decode(wire)
    codes = unpack(wire[0], fmt.bits).astype(np.float32)
    scale, bias = (to_float32(part, fmt.dtype)[:, :, None] for part in wire[1:])
    groups = codes.reshape(*scale.shape[:2], fmt.group_size)
    with np.errstate(all="ignore"):
        return (groups * scale + bias).reshape(codes.shape)


def errors(
    fmt: MlxFormat,
    rows: np.ndarray,
    wire: tuple[np.ndarray, ...],
    importance: np.ndarray | None = None,
) -> np.ndarray:
    """The weighted squared error of each group, float64 [n, k / group]."""
    with np.errstate(all="ignore"):
        square = (real(fmt, wire).astype(np.float64) - rows) ** 2
        if importance is not None:
            square *= importance
    return square.reshape(len(rows), -1, fmt.block_size).sum(-1)


def never_worse(
    fmt: MlxFormat, rows: np.ndarray, importance: np.ndarray | None = None, what: str = ""
) -> None:
    """In every group, and without a warning of NumPy's; what rounding overflows in is left out."""
    before = rows.copy()
    with warnings.catch_warnings(action="error"):
        found = search(fmt, rows, importance)
    same_bits(rows, before, "search changed its input:")
    for part, array in zip(fmt.parts, found, strict=True):
        assert array.dtype == STORAGE[part.dtype]
        assert array.shape == (len(rows), rows.shape[1] // fmt.block_size * part.per_block)
    ours = errors(fmt, rows, found, importance)
    plain = errors(fmt, rows, fmt.encode(rows), importance)
    worse = np.isfinite(plain) & ~(ours <= plain * (1 + SLACK))
    if worse.any():
        at = tuple(int(i) for i in np.argwhere(worse)[0])
        group = rows.reshape(*ours.shape, -1)[at]
        raise AssertionError(f"{fmt} {what}: {ours[at]} > {plain[at]} in {at}: {group.tolist()}")


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """What weights look like: normal, with a few outliers; exact in bfloat16."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape) * 0.02
    values[random.random(shape) < 0.01] *= 4
    return checks.finite(values, "BF16")


def ragged(k: int, seed: int = 0) -> np.ndarray:
    """Importance over several orders of magnitude, some of it zero."""
    random = np.random.default_rng(seed)
    values = np.exp(3 * random.standard_normal(k))
    values[random.random(k) < 0.1] = 0
    return values.astype(np.float32)


@every
@every_type
def test_never_worse_than_rounding_at_the_edges(fmt: MlxFormat, dtype: str) -> None:
    for name, rows in checks.edge_cases(fmt.with_dtype(dtype)).items():
        never_worse(fmt.with_dtype(dtype), rows, None, name)
        never_worse(fmt.with_dtype(dtype), rows, ragged(rows.shape[1]), name)


@every
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_never_worse_than_rounding(fmt: MlxFormat, data: st.DataObject) -> None:
    typed = fmt.with_dtype(data.draw(st.sampled_from(FLOATS)))
    rows = data.draw(checks.finite_rows(typed))
    seed = data.draw(st.none() | st.integers(0, 1000))
    never_worse(typed, rows, None if seed is None else ragged(rows.shape[1], seed))


@every
def test_constant_groups_and_zeros_are_exact(fmt: MlxFormat) -> None:
    values = np.array([0, 1, -1, 0.375, -3, 2.0**-8, 2.0**8], np.float32)
    rows = np.repeat(values, 128)[None]
    if isinstance(fmt, Affine):
        assert np.array_equal(real(fmt, search(fmt, rows)), rows)
    zeros = np.zeros((2, 256), np.float32)
    assert np.array_equal(real(fmt, search(fmt, zeros)), zeros)


#: bits → of rounding's error on `weights` in groups of 64, at most this share is left
SHARES = {1: 0.15, 2: 0.63, 3: 0.75, 4: 0.82, 5: 0.83, 6: 0.84, 8: 0.6}


@pytest.mark.parametrize("bits", WIDTHS)
def test_less_error_than_rounding(bits: int) -> None:
    fmt, rows = Affine(bits, 64), weights((64, 1024))
    ours, plain = (errors(fmt, rows, wire).sum() for wire in (search(fmt, rows), fmt.encode(rows)))
    assert ours <= SHARES[bits] * plain, ours / plain


def best_line(x: np.ndarray, v: np.ndarray, codes: np.ndarray) -> float:
    """The least error of any real scale and bias: x, v [g], over all codes [c, g]."""
    mean = (codes @ v) / v.sum()
    middle = (x @ v) / v.sum()
    product = (codes * (v * (x - middle))).sum(1)
    square = (codes**2 @ v) - mean**2 * v.sum()
    with np.errstate(all="ignore"):
        gain = np.where(square > 1e-9, product**2 / square, 0)
    return float(((x - middle) ** 2 @ v) - gain.max())


@pytest.mark.parametrize(("bits", "columns", "limit"), [(1, 12, 1.0001), (2, 6, 1.05)])
def test_every_code_of_a_few_weights(bits: int, columns: int, limit: float) -> None:
    """All (2^bits)^columns codes of groups whose other weights count for nothing."""
    fmt, random = Affine(bits, 32, "F32"), np.random.default_rng(5)
    codes = np.array(list(itertools.product(range(1 << bits), repeat=columns)), np.float64)
    least = reached = 0.0
    for _ in range(40):
        rows = random.standard_normal((1, 32)).astype(np.float32)
        importance = np.zeros(32, np.float32)
        importance[random.choice(32, columns, replace=False)] = random.uniform(0.2, 2, columns)
        counts = importance > 0
        best = best_line(rows[0, counts].astype(np.float64), importance[counts], codes)
        found = float(errors(fmt, rows, search(fmt, rows, importance), importance)[0, 0])
        assert found >= best * (1 - 1e-4)
        assert bits > 1 or found <= best * limit
        least, reached = least + best, reached + found
    assert reached <= limit * least


@pytest.mark.parametrize(("bits", "limit"), [(1, 1.01), (2, 1.03), (3, 1.03), (4, 1.03)])
def test_a_dense_scan_of_ranges_finds_little_more(bits: int, limit: float) -> None:
    """1,681 ranges a group, a line through the codes of each and through its own."""
    fmt, rows = Affine(bits, 64, "F32"), weights((12, 64))
    top = (1 << bits) - 1
    least = 0.0
    for x in rows.astype(np.float64):
        low, step = x.min(), (x.max() - x.min()) / top
        trims = np.linspace(-0.25, 0.45, 41) * top
        below, above = (t.ravel() for t in np.meshgrid(trims, trims))
        scale, bias = step * (top - below - above) / top, low + below * step
        kept = scale > step * 0.05
        scale, bias = scale[kept], bias[kept]
        best = np.inf
        for _ in range(3):
            q = np.clip(np.rint((x - bias[:, None]) / scale[:, None]), 0, top)
            mean = q.mean(1)
            square = ((q - mean[:, None]) ** 2).sum(1)
            sound = square > 0
            q, mean, square = q[sound], mean[sound], square[sound]
            scale = (q * (x - x.mean())).sum(1) / square
            bias = x.mean() - scale * mean
            best = min(best, ((x - q * scale[:, None] - bias[:, None]) ** 2).sum(1).min())
        least += best
    reached = errors(fmt, rows, search(fmt, rows)).sum()
    assert reached <= limit * least, reached / least


@pytest.mark.parametrize(("bits", "limit"), [(2, 1.01), (4, 1.02), (6, 1.15), (8, 1.3)])
def test_the_neighbours_of_what_is_stored_are_little_better(bits: int, limit: float) -> None:
    """Up to four steps of bfloat16 around the scale and the bias that were chosen, all pairs."""
    fmt, rows = Affine(bits, 64), weights((12, 64), 3)
    wire = search(fmt, rows)
    reached = errors(fmt, rows, wire).sum()
    around = np.arange(-4, 5)
    least = np.full(len(rows), np.inf)
    for up, along in itertools.product(around, around):
        scale = to_float32((wire[1].astype(np.int32) + up).astype(np.uint16), "BF16")
        bias = to_float32((wire[2].astype(np.int32) + along).astype(np.uint16), "BF16")
        q = np.clip(np.rint((rows - bias) / scale), 0, (1 << bits) - 1)
        least = np.minimum(least, ((rows - (q * scale + bias)).astype(np.float64) ** 2).sum(1))
    assert reached <= limit * least.sum(), reached / least.sum()


@pytest.mark.parametrize("fmt", LEVELS)
@pytest.mark.parametrize("weighted", [False, True])
def test_no_scale_byte_is_better(fmt: MlxFormat, weighted: bool) -> None:
    """All 256 of them, with the nearest codes."""
    rows = weights((6, 256)) * np.float32(8)
    random = np.random.default_rng(9)
    importance = random.uniform(0.1, 3, 256).astype(np.float32) if weighted else None
    wire = search(fmt, rows, importance)
    reached = errors(fmt, rows, wire, importance)
    zero = np.zeros((1, 32), np.float32)
    for byte in range(0xFF if fmt.name != "nvfp4" else 0x7F):
        codes = np.arange(256 if fmt.bits == 8 else 16, dtype=np.uint8)
        if fmt.bits == 8:
            codes = codes[(codes & 0x7F) != 0x7F]
        padded = np.resize(codes, (1, 256))
        scales = np.full((1, 256 // fmt.block_size), byte, np.uint8)
        table = np.unique(real(fmt, (pack(padded, fmt.bits), scales)))
        table = table[np.isfinite(table)].astype(np.float64)
        place = np.clip(np.searchsorted(table, rows), 1, len(table) - 1)
        off = np.minimum(np.abs(rows - table[place - 1]), np.abs(rows - table[place]))
        square = off**2 if importance is None else off**2 * importance
        other = square.reshape(len(rows), -1, fmt.block_size).sum(-1)
        assert (reached <= other * (1 + SLACK)).all(), byte
    assert np.array_equal(real(fmt, search(fmt, zero)), zero)


def test_importance_decides() -> None:
    fmt = Affine(3, 64)
    rows, importance = weights((32, 512)), ragged(512)
    with_it, without = search(fmt, rows, importance), search(fmt, rows)
    assert (
        errors(fmt, rows, with_it, importance).sum()
        < 0.8 * errors(fmt, rows, without, importance).sum()
    )
    for same in (np.full(512, 7, np.float32), np.zeros(512, np.float32)):
        for ours, plain in zip(search(fmt, rows, same), without, strict=True):
            same_bits(ours, plain, "equal importance")
    for ours, scaled in zip(with_it, search(fmt, rows, importance * 1024), strict=True):
        same_bits(ours, scaled, "only ratios count")


@pytest.mark.parametrize("importance", [np.ones(63), np.full(64, -1.0), np.full(64, np.nan)])
def test_importance_that_is_none_is_refused(importance: np.ndarray) -> None:
    with pytest.raises(RequestError, match="importance"):
        search(Affine(4, 64), np.ones((1, 64), np.float32), importance.astype(np.float32))


@every
def test_nan_is_named(fmt: MlxFormat) -> None:
    for value in (np.nan, np.inf, -np.inf):
        for dtype in FLOATS:
            rows = np.ones((3, 256), np.float32)
            rows[1, 130] = value
            with pytest.raises(NonFiniteError, match="row 1, column 130"):
                encode_rows(
                    fmt.with_dtype(dtype), from_float32(rows, dtype), dtype, method="search"
                )
            with pytest.raises(NonFiniteError, match="row 1, column 130"):
                search(fmt.with_dtype(dtype), rows)


@every
def test_a_row_that_does_not_fit_is_refused(fmt: MlxFormat) -> None:
    with pytest.raises(RequestError, match=f"no multiple of {fmt.block_size}"):
        search(fmt, np.ones((1, fmt.block_size + 1), np.float32))


@every
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_bytes_however_it_is_cut(
    fmt: MlxFormat, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = weights((9, 512))
    importance = ragged(512) if weighted else None
    whole = search(fmt, rows, importance)

    def compare(found: tuple[np.ndarray, ...], where: slice, what: str) -> None:
        for part, ours, other in zip(fmt.parts, whole, found, strict=True):
            same_bits(other, ours[where], f"{fmt} {part.suffix} {what}")

    for begin, end in ((0, 1), (1, 1), (1, 4), (4, 9)):
        compare(search(fmt, rows[begin:end], importance), slice(begin, end), "by rows")
    compare(search(fmt, np.asfortranarray(rows), importance), slice(None), "strided")
    for size in (1, 7 * fmt.block_size, 1 << 20):
        monkeypatch.setattr(affine_module, "LANES", size)
        monkeypatch.setattr(levels_module, "LANES", size)
        compare(search(fmt, rows, importance), slice(None), f"{size} at a time")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: search(fmt, rows, importance), range(8)):
            compare(found, slice(None), "on threads")


@every
def test_mlx_reads_the_result(fmt: MlxFormat) -> None:
    for dtype in FLOATS:
        typed = fmt.with_dtype(dtype)
        checks.decodes_like_mlx(typed, search(typed, checks.ordinary_rows(typed)))
