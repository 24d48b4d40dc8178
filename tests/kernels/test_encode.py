"""The compiled encoders give NumPy's bytes, whatever the weights and their importance."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from formats.ggml_golden import ggml_format, same_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlxquant.kernels import encode as kernel
from mlxquant.kernels import host
from mlxquant.kernels.host import encode as host_encode
from mlxquant.kernels.host import entries
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import ENCODERS

from mlxquant.errors import RequestError
from mlxquant.formats.base import NonFiniteError
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.quantize import encode as encode_module
from mlxquant.quantize.encode import encoded

every = pytest.mark.parametrize("name", ENCODERS)

LARGEST = np.float32(3.4028234e38)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def importances(size: int, columns: int) -> dict[str, np.ndarray | None]:
    """What a caller may give for `columns` blocks."""
    random = np.random.default_rng(4)
    steep = random.random(columns * size, dtype=np.float32) ** 12
    single = np.zeros(columns * size, np.float32)
    single[3::size] = 5
    return {
        "none": None,
        "even": np.full(columns * size, 0.7, np.float32),
        "steep": steep,
        "ragged": np.where(random.random(columns * size) < 0.5, np.float32(0), steep),
        "single": single,
        "zeros": np.zeros(columns * size, np.float32),
        "tiny": np.full(columns * size, 1e-44, np.float32),
        "huge": steep * np.float32(3e38),
    }


def kinds(size: int) -> dict[str, np.ndarray]:
    """Rows of three blocks of many kinds, float32 [7, 3 · size]."""
    random = np.random.default_rng(3)
    shape = (7, 3 * size)
    normal = random.standard_normal(shape)
    signs = np.where(normal > 0, 1.0, -1.0)
    each = np.exp2(random.integers(-149, 127, shape).astype(float))
    row = np.exp2(random.integers(-149, 127, (7, 1)).astype(float))
    table = {
        "normal": normal * 0.02,
        "off zero": normal + 100,
        "one sided": np.abs(normal),
        "negative": -np.abs(normal) - 3,
        "constant": np.repeat(normal[:, :1], 3 * size, axis=1),
        "zeros of both signs": 0.0 * signs,
        "zeros and positives": np.where(random.random(shape) < 0.9, 0.0 * signs, np.abs(normal)),
        "few values": random.integers(-1, 2, shape),
        "few tiny values": random.integers(-1, 2, shape) * 2.0**-149,
        "ties": random.integers(-50, 51, shape) * 0.125,
        "plus and minus the same": 0.3 * signs,
        "one outlier": np.where(np.arange(3 * size) % size == 5, 1e4, 1) * normal,
        "one weight": np.where(np.arange(3 * size) % size == size - 1, normal, 0),
        "sparse": np.where(random.random(shape) < 0.1, normal, 0),
        "any magnitude": normal * row,
        "magnitudes mixed": np.clip(normal, -1, 1) * each,
        "around the largest scale": normal * np.exp2(random.integers(8, 24, (7, 1)).astype(float)),
        "around the smallest": normal * np.exp2(random.integers(-30, -12, (7, 1)).astype(float)),
        "huge": signs * LARGEST,
        "nearly huge": np.tanh(normal) * LARGEST,
        "sub-blocks of every size": normal
        * np.exp2(np.repeat(random.integers(-12, 4, (7, 3 * size // 16)), 16, axis=1)),
    }
    with np.errstate(all="ignore"):
        found = {
            what: np.clip(rows, -LARGEST, LARGEST).astype(np.float32)
            for what, rows in table.items()
        }
        bits = random.integers(0, 2**32, shape, np.uint32).view(np.float32)
        return found | {"any bits": np.where(np.isfinite(bits), bits, np.float32(1))}


def check(
    fmt: GgmlFormat,
    rows: np.ndarray,
    importance: np.ndarray | None,
    threads: int | None = 1,
) -> None:
    """Fail unless a kernel encodes here and gives NumPy's bytes."""
    encoder = host_encode.encoder_for(fmt)
    assert encoder is not None, kernel.reason(fmt)
    ours = encoder.encode(rows, importance, threads)
    assert ours is not None, "taken for not finite"
    same_blocks(fmt, rows, ours, fmt.encode(rows, importance)[0])


@every
def test_any_weights(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    for which, importance in importances(fmt.block_size, 3).items():
        for what, rows in kinds(fmt.block_size).items():
            try:
                check(fmt, rows, importance)
            except AssertionError as error:
                raise AssertionError(f"{what}, importance {which}") from error


@st.composite
def drawn(draw: st.DrawFn, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of two blocks of a drawn kind, some weights drawn themselves, and importance."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = random.standard_t(draw(st.sampled_from([1, 3, 30])), (3, 2 * size))
    rows += draw(st.sampled_from([0, 0, 1, -30]))
    rows *= random.random(rows.shape) >= draw(st.sampled_from([0, 0, 0.5, 0.95]))
    with np.errstate(all="ignore"):
        rows = np.clip(np.ldexp(rows, draw(st.integers(-149, 127))), -LARGEST, LARGEST)
        rows = rows.astype(np.float32)
    for place, value in draw(
        st.dictionaries(st.integers(0, 6 * size - 1), FINITE, max_size=8)
    ).items():
        rows.flat[place] = value
    if draw(st.booleans()):
        return rows, None
    importance = random.random(2 * size) ** draw(st.sampled_from([0, 1, 9]))
    importance *= random.random(2 * size) >= draw(st.sampled_from([0, 0.3, 0.9]))
    return rows, (importance * 2.0 ** draw(st.integers(-120, 120))).astype(np.float32)


@every
def test_drawn_weights(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(max_examples=60, deadline=None, suppress_health_check=slow)
    @given(case=drawn(fmt.block_size))
    def same(case: tuple[np.ndarray, np.ndarray | None]) -> None:
        check(fmt, *case)

    same()


@every
def test_any_number_of_blocks(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    size = fmt.block_size
    rows = np.random.default_rng(5).standard_normal((33, 5 * size), dtype=np.float32)
    for n, b in ((1, 1), (1, 5), (3, 5), (4, 4), (17, 1), (33, 5)):
        for importance in (None, importances(size, b)["steep"]):
            check(fmt, rows[:n, : b * size], importance)
    check(fmt, rows[::-2, size : 4 * size], importances(size, 3)["ragged"])


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_threads_share_the_work(threads: int | None, clang: Compiler) -> None:
    fmt = ggml_format("Q5_1")
    rows = np.random.default_rng(6).standard_normal((331, 13 * 32), dtype=np.float32)
    for importance in importances(32, 13).values():
        check(fmt, rows, importance, threads)


def test_quantizing_takes_the_kernel(clang: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """For enough weights; from threads, too; and the bytes are those without a compiler."""
    fmt = ggml_format("Q4_0")
    random = np.random.default_rng(7)
    rows = random.standard_normal((65, 1024), dtype=np.float32)
    importance = random.random(1024)
    by_numpy = []
    encode_really = type(fmt).encode

    def count(self: GgmlFormat, *args: np.ndarray) -> tuple[np.ndarray, ...]:
        by_numpy.append(args)
        return encode_really(self, *args)

    assert kernel.available(fmt)
    monkeypatch.setattr(type(fmt), "encode", count)
    ours = [encoded(fmt, rows, given)[0] for given in (None, importance)]
    with ThreadPoolExecutor(4) as pool:
        for (found,) in pool.map(lambda _: encoded(fmt, rows, importance), range(8)):
            same_blocks(fmt, rows, found, ours[1])
    same_blocks(fmt, rows[:2], encoded(fmt, rows[:2])[0], ours[0][:2])
    assert not by_numpy
    monkeypatch.setattr(encode_module, "_started", set())
    encoded(fmt, rows[:2])
    assert len(by_numpy) == 1
    monkeypatch.setenv("MLXQUANT_CLANG", "")
    host.forget()
    for one, weights in zip(ours, (None, importance), strict=True):
        same_blocks(fmt, rows, encoded(fmt, rows, weights)[0], one)
    assert len(by_numpy) == 3
    assert "MLXQUANT_CLANG is empty" in str(kernel.reason(fmt))


@every
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(name: str, wrong: float, clang: Compiler) -> None:
    fmt = ggml_format(name)
    rows = np.ones((64, 1024), np.float32)
    rows[63, 1000] = rows[63, 1001] = wrong
    for importance in (None, np.ones(1024, np.float32)):
        with pytest.raises(NonFiniteError, match=r"row 63, column 1000 \(2 such weights\)"):
            kernel.encode(rows, fmt, importance)


def test_refusals_are_the_format_s(clang: Compiler) -> None:
    fmt, rows = ggml_format("Q4_0"), np.ones((2, 64), np.float32)
    for wrong, importance in (
        (rows[0], None),
        (rows.astype(np.float64), None),
        (rows[:, :50], None),
        (rows, np.ones(63, np.float32)),
        (rows, -np.ones(64, np.float32)),
        (rows, np.full(64, np.nan, np.float32)),
    ):
        with pytest.raises(RequestError) as ours:
            kernel.encode(wrong, fmt, importance)
        with pytest.raises(RequestError) as theirs:
            fmt.encode(wrong, importance)
        assert str(ours.value) == str(theirs.value)


def test_what_has_no_kernel() -> None:
    fmt = ggml_format("IQ3_S")
    assert kernel.reason(fmt) == "encoder of IQ3_S has no kernel"
    rows = np.random.default_rng(8).standard_normal((2, 256), dtype=np.float32)
    same_blocks(fmt, rows, kernel.encode(rows, "IQ3_S"), fmt.encode(rows)[0])
    with pytest.raises(RequestError, match="format 'affine4-g64': kernels are for the formats of"):
        kernel.encode(rows, "affine4-g64")
    assert kernel.encode(rows[:0], ggml_format("Q8_0")).shape == (0, 272)


@every
def test_one_lane_gives_the_same(
    name: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU has it: a block a thread, plain numbers for vectors."""
    text = entries.encode_program(name)
    begin, end = text.index("// What lanes.metal asks for"), text.index("// What every format's")
    scalars = (
        f"inline float {name}(float value) {{ return __builtin_{of}(value); }}\n"
        for name, of in (("rint", "roundevenf"), ("floor", "floorf"), ("fabs", "fabsf"))
    )
    one = "".join((text[:begin], *scalars, text[end:]))
    assert "#define LANES 1\n" in one
    assert "#define LANES 16\n" not in one
    monkeypatch.setattr(entries, "encode_program", lambda *_: one)
    monkeypatch.setattr(host_encode, "_LANES", 1)
    fmt = ggml_format(name)
    for importance in importances(fmt.block_size, 3).values():
        for rows in kinds(fmt.block_size).values():
            check(fmt, rows[:2], importance)


@every
def test_the_compiler_takes_it_without_warnings(name: str, clang: Compiler) -> None:
    text = entries.encode_program(name).replace("const constant", "constant")
    command = [clang.path, "-x", "c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra"]
    # vectors of sixteen are passed between functions of this file only
    quiet = ("-Wno-unused-parameter", "-Wno-unused-function", "-Wno-psabi")
    done = subprocess.run(
        [*command, *quiet, "-Werror", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
