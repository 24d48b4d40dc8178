"""The compiled search for affine scales gives NumPy's bytes, whatever the weights."""

from __future__ import annotations

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mlxquant.kernels import host
from mlxquant.kernels import search as kernel
from mlxquant.kernels.host import affine, entries
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import SEARCHED_BITS

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.formats.affine import GROUP_SIZES, Affine
from mlxquant.formats.base import NonFiniteError
from mlxquant.formats.floats import FLOATS, round_to
from mlxquant.quantize import search as search_module
from mlxquant.quantize.search import search
from mlxquant.quantize.search_affine import search_affine

every = pytest.mark.parametrize(
    "target",
    [Affine(bits, size) for bits in SEARCHED_BITS for size in GROUP_SIZES],
    ids=lambda target: target.name,
)

#: what is broken, and in which case the known answer notices first
BROKEN = {
    "-0.3f, 0.5f": "-0.3f, 0.6f",
    "values[i] + values[i + size / 2]": "values[2 * i] + values[2 * i + 1]",
    "middle - tried * mean": "line.bias",
    "(1.0f - 0x1p-16f)": "1.0f",
    "0.7f *": "0.2f *",
    "all >> 16 & 1u": "all >> 15 & 1u",
    "number % columns": "number % (columns - 1)",
    "code >> uint(32": "code >> uint(31",
}


def same(ours: tuple[np.ndarray, ...] | None, wanted: tuple[np.ndarray, ...], what: str) -> None:
    assert ours is not None, what
    for one, other in zip(ours, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), what
        np.testing.assert_array_equal(one, other, what)
        assert one.tobytes() == other.tobytes(), what


def check(
    target: Affine,
    groups: np.ndarray,
    weights: np.ndarray | None,
    what: str,
    threads: int | None = 1,
) -> None:
    """Fail unless a kernel searches here and gives NumPy's bytes."""
    assert kernel.reason(target) is None
    wanted = search_affine(target, groups, weights)
    same(kernel.search_affine(target, groups, weights, threads), wanted, f"{target} {what}")


def in_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 [...], finite, exact in a type."""
    with np.errstate(all="ignore"):
        rounded = round_to(values.astype(np.float32), dtype)
    return np.where(np.isfinite(rounded), rounded, np.float32(1))


def importances(size: int, columns: int) -> dict[str, np.ndarray | None]:
    """What `search` may pass on: the largest of each group is 1, or all are."""
    random = np.random.default_rng(4)
    steep = random.random((columns, size), dtype=np.float32) ** 12
    ragged = np.where(random.random((columns, size)) < 0.5, np.float32(0), steep)
    single = np.zeros((columns, size), np.float32)
    single[:, 3] = 1
    tiny = np.full((columns, size), 1e-38, np.float32)
    for each in (steep, ragged, tiny):
        each[:, -1] = 1
    return {"none": None, "steep": steep, "ragged": ragged, "single": single, "tiny": tiny}


def kinds(size: int, dtype: str) -> dict[str, np.ndarray]:
    """Groups float32 [n, 3, size] of many kinds."""
    random = np.random.default_rng(3)
    normal = random.standard_normal((21, 3, size), dtype=np.float32)
    powers = random.integers(-149, 127, (21, 3, 1)).astype(np.int32)
    each_its_own = random.integers(-149, 127, (21, 3, size)).astype(np.int32)
    few = random.integers(-1, 2, (21, 3, size)).astype(np.float32)
    outlier = normal.copy()
    outlier[:, :, size // 3] *= np.float32(10) ** random.integers(1, 5, (21, 3))
    largest = {"F32": 3.4e38, "F16": 65504, "BF16": 3.38e38}[dtype]
    with np.errstate(all="ignore"):
        found = {
            "normal": normal,
            "off zero": normal + np.float32(100),
            "constant": np.repeat(normal[:, :, :1], size, axis=2),
            "zeros": np.zeros_like(normal),
            "negative zeros": -np.zeros_like(normal),
            "few values": few,
            "few tiny values": few * np.float32(2.0**-149),
            "one outlier": outlier,
            "one weight": np.where(np.arange(size) == size - 1, normal, np.float32(0)),
            "any magnitude": np.ldexp(normal, powers),
            "magnitudes mixed": np.ldexp(normal, each_its_own),
            "huge": np.sign(normal) * np.float32(largest),
            "huge, of one sign": np.full_like(normal, largest),
            "nearly huge": np.tanh(normal) * np.float32(largest),
            "any bits": random.integers(0, 2**32, normal.shape, np.uint32).view(np.float32),
        }
    return {what: in_type(values, dtype) for what, values in found.items()}


@every
@pytest.mark.parametrize("dtype", FLOATS)
def test_any_weights(target: Affine, dtype: str, clang: Compiler) -> None:
    typed = Affine(target.bits, target.group_size, dtype)
    groups = kinds(target.group_size, dtype)
    for which, weights in importances(target.group_size, 3).items():
        for what, values in groups.items():
            check(typed, values, weights, f"{what}, importance {which}")


@every
def test_any_number_of_groups(target: Affine, clang: Compiler) -> None:
    size = target.group_size
    groups = in_type(np.random.default_rng(5).standard_normal((33, 5, size)), "BF16")
    for n, b in ((1, 1), (1, 5), (3, 5), (4, 4), (17, 1), (33, 5)):
        for which, weights in importances(size, b).items():
            check(target, groups[:n, :b].copy(), weights, f"{n} rows of {b} groups, {which}")
    check(target, groups[::-2, 1:4], importances(size, 3)["steep"], "strided")


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_threads_share_the_work(threads: int | None, clang: Compiler) -> None:
    groups = in_type(np.random.default_rng(6).standard_normal((331, 13, 64)), "BF16")
    for which, weights in importances(64, 13).items():
        check(Affine(4, 64), groups, weights, f"{threads} threads, {which}", threads)


def test_search_takes_the_kernel(clang: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    """For enough weights; from threads, too; and the bytes are those without a compiler."""
    rows = in_type(np.random.default_rng(7).standard_normal((65, 1024)), "BF16")
    importance = np.random.default_rng(8).random(1024, dtype=np.float32) ** 4
    importance[:70] = 0
    called = []

    def count(*args: object) -> tuple[np.ndarray, ...]:
        called.append(args)
        return search_affine(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(search_module, "search_affine", count)
    ours = [search(Affine(4, 64), rows, given) for given in (None, importance)]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: search(Affine(4, 64), rows, importance), range(8)):
            same(found, ours[1], "on threads")
    same(search(Affine(4, 64), rows[:2]), tuple(part[:2] for part in ours[0]), "few")
    assert not called
    search(Affine(1, 64), rows)
    assert len(called) == 1
    monkeypatch.setattr(search_module, "_started", set())
    search(Affine(4, 64), rows[:2])
    assert len(called) == 2
    monkeypatch.setenv("MLXQUANT_CLANG", "")
    host.forget()
    for one, given in zip(ours, (None, importance), strict=True):
        same(search(Affine(4, 64), rows, given), one, "without a compiler")
    assert len(called) == 4
    assert "MLXQUANT_CLANG is empty" in str(kernel.reason(Affine(4, 64)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(wrong: float, clang: Compiler) -> None:
    rows = np.ones((64, 1024), np.float32)
    rows[63, 1000] = rows[63, 1001] = wrong
    assert kernel.search_affine(Affine(4, 64), rows.reshape(64, 16, 64), None) is None
    with pytest.raises(NonFiniteError, match=r"(?i)row 63, column 1000|1000"):
        search(Affine(4, 64), rows)


def test_what_has_no_kernel() -> None:
    assert kernel.reason(Affine(1, 64)) == "search of affine1-g64 has no kernel"
    assert not kernel.available(Affine(1, 32))
    assert kernel.search_affine(Affine(1, 64), np.ones((1, 1, 64), np.float32), None) is None
    assert kernel.search_affine(Affine(4, 64), np.ones((0, 2, 64), np.float32), None) is None


@pytest.mark.parametrize("right", BROKEN)
def test_a_broken_kernel_is_caught(
    right: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning names it, NumPy does its work; the next process is told by the record."""
    target = Affine(3, 32)
    text = entries.search_program(3, 32)
    assert right in text
    broken = text.replace(right, BROKEN[right])
    monkeypatch.setattr(entries, "search_program", lambda *_: broken)
    for _ in range(2):
        host.forget()
        with pytest.warns(RuntimeWarning, match=r"search of affine3-g32 in .* is wrong") as said:
            assert not kernel.available(target)
        assert len(said) == 1
    rows = np.random.default_rng(9).standard_normal((64, 1024), dtype=np.float32)
    with warnings.catch_warnings(action="error"):
        ours = search(target, rows)
    same(ours, search_affine(target, rows.reshape(64, 32, 32), None), "by NumPy")


@pytest.mark.parametrize("size", GROUP_SIZES)
def test_the_known_answer_has_every_kind(size: int) -> None:
    """Weights from subnormal ones to nearly the largest, and importance that is 0."""
    for dtype in FLOATS:
        groups, weights = affine.example(size, dtype)
        assert np.isfinite(groups).all()
        magnitudes = np.abs(groups)
        assert magnitudes.max() >= (6e4 if dtype == "F16" else 1e38)
        least = magnitudes[magnitudes > 0].min()
        assert least == {"F32": 2.0**-149, "BF16": 2.0**-133, "F16": 2.0**-24}[dtype]
        assert weights.max(axis=1).tolist() == [1, 1, 1]
        assert (weights == 0).any()


@pytest.mark.parametrize("target", [Affine(4, 64), Affine(5, 32), Affine(3, 128)], ids=str)
def test_one_lane_gives_the_same(
    target: Affine, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU has it: a group a thread, plain numbers for vectors."""
    text = entries.search_program(target.bits, target.group_size)
    begin, end = text.index("// What lanes.metal asks for"), text.index("// What every format's")
    scalars = (
        f"inline float {name}(float value) {{ return __builtin_{of}(value); }}\n"
        for name, of in (("rint", "roundevenf"), ("floor", "floorf"), ("fabs", "fabsf"))
    )
    one = "".join((text[:begin], *scalars, text[end:]))
    assert "#define LANES 1\n" in one
    assert "#define LANES 16\n" not in one
    monkeypatch.setattr(entries, "search_program", lambda *_: one)
    monkeypatch.setattr(affine, "_LANES", 1)
    for dtype in FLOATS:
        typed = Affine(target.bits, target.group_size, dtype)
        groups = kinds(target.group_size, dtype)
        for which, weights in importances(target.group_size, 3).items():
            for what, values in groups.items():
                check(typed, values, weights, f"{what}, importance {which}")


@every
def test_the_compiler_takes_it_without_warnings(target: Affine, clang: Compiler) -> None:
    text = entries.search_program(target.bits, target.group_size)
    text = text.replace("const constant", "constant")
    command = [clang.path, "-x", "c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra"]
    # vectors of sixteen are passed between functions of this file only
    quiet = ("-Wno-unused-parameter", "-Wno-unused-function", "-Wno-psabi")
    done = subprocess.run(
        [*command, *quiet, "-Werror", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_loads_kernels_before_they_are_needed() -> None:
    code = (
        "import sys, mlxquant.cli, mlxquant.quantize.search\n"
        f"for given in (['--help'], ['inspect', {str(BUNDLED_MODEL)!r}]):\n"
        "    sys.argv = ['mlxquant', *given]\n"
        "    try: mlxquant.cli.main()\n"
        "    except SystemExit: pass\n"
        "print([n for n in sys.modules if n.startswith('mlxquant.kernels')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
