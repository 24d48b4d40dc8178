"""What every format must do; each format's test file applies these to its own members."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from formats.golden import same_bits
from formats.oracle import dequantize, quantize
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlxquant.errors import RequestError
from mlxquant.formats import STORAGE, MlxFormat, NonFiniteError
from mlxquant.formats.floats import round_to, to_float32

#: half a step of each type, relative to the value, and its smallest positive number
ROUNDOFF = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
SMALLEST = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}
LARGEST = {"F32": 3.4028235e38, "F16": 65504.0, "BF16": 3.3895314e38}


def matches_mlx(fmt: MlxFormat, rows: np.ndarray, what: str = "") -> None:
    """encode's bytes are mx.quantize's, and decode's of them mx.dequantize's; NumPy warns of
    nothing on the way."""
    before, theirs = rows.copy(), quantize(fmt, rows)
    with warnings.catch_warnings(action="error"):
        ours = fmt.encode(rows)
    for part, mine, reference in zip(fmt.parts, ours, theirs, strict=True):
        same_bits(mine, reference, f"{fmt} {what} {part.suffix}")
        assert mine.dtype == STORAGE[part.dtype]
        blocks = rows.shape[1] // fmt.block_size
        assert mine.shape == (rows.shape[0], blocks * part.per_block)
    same_bits(rows, before, "encode changed its input:")
    decodes_like_mlx(fmt, ours, what)


def decodes_like_mlx(fmt: MlxFormat, wire: tuple[np.ndarray, ...], what: str = "") -> None:
    """decode's values are mx.dequantize's; NumPy warns of nothing on the way."""
    with warnings.catch_warnings(action="error"):
        ours = fmt.decode(wire)
    assert ours.dtype == np.float32
    same_bits(ours, dequantize(fmt, wire), f"{fmt} {what} decoded")


def edge_cases(fmt: MlxFormat) -> dict[str, np.ndarray]:
    """Named rows at the edges of what `fmt.dtype` holds, float32 [n, 256]."""
    dtype = fmt.dtype
    random = np.random.default_rng(7)
    shape, k = (24, 256), 256
    largest, smallest = LARGEST[dtype], SMALLEST[dtype]
    normal = random.standard_normal(shape)

    def powers(*shape: int) -> np.ndarray:
        return np.exp2(random.integers(-149, 127, shape).astype(np.float64))

    table = {
        "zeros": np.zeros(shape),
        "negative zeros": np.full(shape, -0.0),
        "zeros of both signs": np.where(random.random(shape) < 0.5, -0.0, 0.0),
        "zeros and positives": np.where(random.random(shape) < 0.9, normal * 0, np.abs(normal)),
        "constant groups": np.repeat(normal[:, ::16] * powers(24, 16), 16, axis=1),
        "one weight a group": np.where(np.arange(k) % 16 == 5, normal * powers(24, 1), 0),
        "denormals": random.integers(-200, 201, shape) * smallest,
        "around the smallest scale": normal * 2.0**-10,
        "the largest value": np.full(shape, largest),
        "plus and minus the largest": np.where(random.random(shape) < 0.5, -largest, largest),
        "range overflows": random.uniform(-1, 1, shape) * largest,
        "large, one sign": random.uniform(0.9, 1, shape) * -largest,
        "positive": np.abs(normal) + 5,
        "negative": -np.abs(normal) - 5,
        "far from zero": 100 + normal * 1e-3,
        "ties": random.integers(-50, 51, shape) * 0.125,
        "every scale": normal * powers(24, 1),
        "every scale within a row": normal * np.repeat(powers(24, 16), 16, axis=1),
        "ordinary": normal * 0.02,
    }
    return {name: finite(values, dtype) for name, values in table.items()}


def finite(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 that `dtype` holds exactly; what overflows it becomes its largest value."""
    largest = np.float32(LARGEST[dtype])
    with np.errstate(over="ignore", under="ignore"):
        rounded = round_to(np.asarray(values, np.float64).astype(np.float32), dtype)
    return np.clip(rounded, -largest, largest)


def matches_mlx_at_the_edges(fmt: MlxFormat) -> None:
    for name, rows in edge_cases(fmt).items():
        matches_mlx(fmt, rows, name)


@st.composite
def finite_rows(draw: st.DrawFn, fmt: MlxFormat) -> np.ndarray:
    """Any finite rows of `fmt.dtype`: arbitrary bits, or weights of a drawn size."""
    shape = (draw(st.integers(1, 3)), fmt.block_size * draw(st.integers(1, 3)))
    if draw(st.booleans()):
        carrier = STORAGE[fmt.dtype].str.replace("f", "u")
        bits = draw(arrays(carrier, shape))
        # one exponent bit cleared keeps NaN and infinity out
        top = {"F32": 0x4000_0000, "F16": 0x4000, "BF16": 0x4000}[fmt.dtype]
        fields = {"F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}[fmt.dtype]
        bits = np.where(bits & fields == fields, bits & ~np.array(top, carrier), bits)
        return to_float32(bits.astype(carrier).view(STORAGE[fmt.dtype]), fmt.dtype)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = 2.0 ** draw(st.integers(-40, 40))
    offset = draw(st.sampled_from([0, 0, 1, -30])) * size
    return finite(random.standard_normal(shape) * size + offset, fmt.dtype)


@st.composite
def any_wire(draw: st.DrawFn, fmt: MlxFormat) -> tuple[np.ndarray, ...]:
    """Arrays of the right types and shapes with arbitrary contents: NaN scales and all."""
    n, blocks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    wire = []
    for part in fmt.parts:
        storage = STORAGE[part.dtype]
        bits = draw(arrays(storage.str.replace("f", "u"), (n, blocks * part.per_block)))
        wire.append(bits.view(storage))
    return tuple(wire)


def refuses_nonfinite(fmt: MlxFormat) -> None:
    """NaN and infinities are refused with place, value and count, wherever they hide."""
    k = 2 * fmt.block_size
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for row, column in ((0, 0), (2, k - 1), (1, fmt.block_size)):
            rows = np.ones((3, k), np.float32)
            rows[row, column] = value
            rows[2, k - 1] = value
            with pytest.raises(NonFiniteError) as caught:
                fmt.encode(rows)
            error = caught.value
            assert (error.row, error.column) == (row, column)
            assert error.count == np.count_nonzero(~np.isfinite(rows))
            assert np.float32(error.value).tobytes() == rows[row, column].tobytes() or (
                np.isnan(error.value) and np.isnan(value)
            )
            assert f"row {row}, column {column}" in str(error)


def refuses_wrong_shapes(fmt: MlxFormat) -> None:
    """Rows and wire arrays of another type or shape are refused, each by what is wrong with it."""
    g = fmt.block_size
    for rows, told in (
        (np.zeros((2, g + 1), np.float32), f"{g + 1} weights a row are no multiple of {g}"),
        (np.zeros((2, g), np.float64), "float64"),
        (np.zeros(g, np.float32), "two dimensions"),
        (np.zeros((2, 2, g), np.float32), "two dimensions"),
    ):
        with pytest.raises(RequestError, match=told):
            fmt.encode(rows)
    wire = fmt.encode(np.ones((2, g), np.float32))
    with pytest.raises(RequestError, match="arrays given"):
        fmt.decode(wire[:-1])
    for i, part in enumerate(fmt.parts):
        for wrong in (wire[i].astype(np.float64), wire[i][0], wire[i][:, :0], wire[i][:1]):
            changed = (*wire[:i], wrong, *wire[i + 1 :])
            with pytest.raises(RequestError, match=f"{fmt.name}: .*(shape|is) "):
                fmt.decode(changed)
        assert STORAGE[part.dtype] == wire[i].dtype


def is_the_same_in_pieces(fmt: MlxFormat) -> None:
    """Row chunks, strided and read-only views, and no rows at all, give what the whole gives."""
    random = np.random.default_rng(3)
    rows = finite(random.standard_normal((7, 2 * fmt.block_size)), fmt.dtype)
    whole = fmt.encode(rows)
    rows.flags.writeable = False
    pieces = [fmt.encode(rows[i:j]) for i, j in ((0, 1), (1, 1), (1, 5), (5, 7))]
    strided = fmt.encode(np.asfortranarray(rows))
    for i, part in enumerate(fmt.parts):
        same_bits(np.concatenate([piece[i] for piece in pieces]), whole[i], f"{fmt} {part.suffix}")
        same_bits(strided[i], whole[i], f"{fmt} strided {part.suffix}")
    decoded = fmt.decode(whole)
    joined = np.concatenate([fmt.decode(piece) for piece in pieces])
    same_bits(joined, decoded, f"{fmt} decoded")
    for shape in ((0, fmt.block_size), (3, 0)):
        empty = fmt.encode(np.zeros(shape, np.float32))
        assert all(array.size == 0 for array in empty)
        assert fmt.decode(empty).shape == shape


def within_bound(fmt: MlxFormat, rows: np.ndarray, decoded: np.ndarray, bound: np.ndarray) -> None:
    """|decoded - rows| ≤ bound for every weight; a failure names the worst block.

    Args:
        rows, decoded: float32 [n, k].
        bound: [n, k], or what broadcasts to [n, k / block_size, block_size].
    """
    groups = rows.reshape(rows.shape[0], -1, fmt.block_size).astype(np.float64)
    error = np.abs(decoded.reshape(groups.shape) - groups)
    limit = np.broadcast_to(bound, groups.shape)
    excess = error - limit
    if not (excess <= 0).all():
        row, block, at = np.unravel_index(int(np.nanargmax(excess)), excess.shape)
        raise AssertionError(
            f"{fmt}: worst block is row {row}, block {block}: weight {at} is "
            f"{groups[row, block, at]:g}, comes back {error[row, block, at]:g} off, "
            f"{limit[row, block, at]:g} allowed; the block: {groups[row, block].tolist()}"
        )


def ordinary_rows(fmt: MlxFormat) -> np.ndarray:
    """Weights whose groups differ in size by up to 2^16, float32 [64, 512]."""
    random = np.random.default_rng(11)
    size = np.exp2(random.integers(-12, 5, (64, 512 // fmt.block_size, 1)))
    shift = random.choice([0, 0, 2], size.shape) * size
    values = random.standard_normal((64, 512 // fmt.block_size, fmt.block_size)) * size + shift
    return finite(values.reshape(64, 512), fmt.dtype)


def constant_rows_around_powers(fmt: MlxFormat, top: float) -> np.ndarray:
    """Constant rows whose value lies on, just below and just above top · 2^e for every e, and so
    on either side of where a scale steps; float32 [n, 32], exact in `fmt.dtype`."""
    smallest, largest = SMALLEST[fmt.dtype], LARGEST[fmt.dtype]
    exact = top * np.exp2(np.arange(-160, 128, dtype=np.float64))
    exact = np.concatenate([exact, exact / 1.5, exact / 1.25])
    exact = exact[(exact >= smallest) & (exact <= largest)]
    near = 1 + np.arange(-4, 5) * 2 * ROUNDOFF[fmt.dtype]
    values = finite(exact[:, None] * near, fmt.dtype).reshape(-1)
    signs = np.where(np.arange(32) % 3 == 0, -1, 1).astype(np.float32)
    return np.unique(values)[:, None] * signs
