"""A broken product is caught before it is used, and none reaches outside of its arrays."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from checked import assert_product, decoded, numbers, weights
from formats.ggml_golden import ggml_format
from mlxquant.kernels import host
from mlxquant.kernels.host import pool, product
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS

from mlxquant import kernels

#: what is broken of each format's decoder
BROKEN = {
    "Q4_0": ("code - 8.0f", "code - 7.0f"),
    "Q4_1": ("code * d + m", "code * d - m"),
    "Q5_0": ("fifth_bits(qh >> 16)) - 16", "fifth_bits(qh >> 15)) - 16"),
    "Q5_1": ("fifth_bits(qh >> 16)) * d", "fifth_bits(qh)) * d"),
    "Q8_0": ("block + 18", "block + 16"),
    "Q2_K": ("qs >> uchar(2 * p) & 3;\n                const int", "qs & 3;\n const int"),
    "Q3_K": ("{c, c >> 2, c >> 4, c >> 6}", "{c, c >> 2, c >> 4, c >> 5}"),
    "Q4_K": ("{d, d, d, d, d, d, d, d, m,", "{d, d, d, d, d, d, d, m, m,"),
    "Q5_K": ("(qh >> uchar(s) & 1) << 4", "(qh >> uchar(s / 2) & 1) << 4"),
    "Q6_K": ("32 * (p % 2)", "32 * (p / 2)"),
    "IQ4_NL": ("looked_up(levels, d, qs >> 4)", "looked_up(levels, d, qs & 15)"),
    "IQ4_XS": ("& 3;\n        const uint low", "& 1;\n        const uint low"),
    "IQ3_XXS": ("odd ^= odd >> 2;", ""),
    "IQ3_S": ("block[106 + p / 2]", "block[106 + p / 4]"),
    "IQ2_XXS": ("words << 2 & 0x7F0000", "words << 1 & 0x7F0000"),
    "IQ2_XS": ("load16<2>(group) & 511", "load16<2>(group) & 255"),
    "IQ2_S": ("high << 4 & 0x300", "high << 5 & 0x300"),
    "IQ1_S": ("word >> 1 & 0x700", "word >> 2 & 0x700"),
    "IQ1_M": ("high >> 6 & 2", "high >> 5 & 2"),
    "TQ1_0": ("bytes > 170", "bytes > 171"),
    "TQ2_0": ("(qs >> uchar(2 * p) & 3) - 1", "(qs >> uchar(p) & 3) - 1"),
    "MXFP4": ("MXFP4::half_scale(block[0])", "MXFP4::half_scale(block[1])"),
    "NVFP4": ("{low[g], high[g]}", "{low[g], high[3]}"),
    "Q1_0": ("word << (up + 16)", "word << (up + 15)"),
    "Q2_0": ("(code - 1.0f) * d", "(code - 2.0f) * d"),
}


def without_own(name: str) -> str:
    """The program of a format that nobody wrote vectors for."""
    text = product.program(name)
    assert text.count(f"struct Wide<struct {name}>") == 1
    return text.replace(f"struct Wide<struct {name}>", "struct Wide<struct None>")


@pytest.mark.parametrize("name", ["Q5_K", "IQ2_S", "Q1_0"])
def test_a_format_without_vectors_of_its_own(
    name: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts in the row's order and not; blocks of 128 weights. What a sum is does not change."""
    wire = weights(name, 21, 3)
    x = numbers(9, decoded(name, wire).shape[1], "F16")
    wanted = kernels.matmul(x, wire, name)
    host.forget()
    text = without_own(name)
    monkeypatch.setattr(product, "program", lambda _: text)
    assert product.reason(ggml_format(name)) is None
    np.testing.assert_array_equal(kernels.matmul(x, wire, name), wanted)


def test_every_decoder_is_broken_once() -> None:
    assert tuple(BROKEN) == FORMATS


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_product_is_caught(
    name: str, clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning names it, and what a caller gets is right."""
    right, wrong = BROKEN[name]
    text = product.program(name)
    assert right in text
    monkeypatch.setattr(product, "program", lambda _: text.replace(right, wrong))
    with pytest.warns(RuntimeWarning, match=f"product of {name}") as said:
        assert kernels.backend("matmul", name, "numpy").name == "numpy"
    assert len(said) == 1
    assert "is wrong on this machine" in kernels.backend("matmul", name).reason
    wire = weights(name, 7, 2)
    x = numbers(2, decoded(name, wire).shape[1], "F32")
    with warnings.catch_warnings(action="error"):
        ours = kernels.matmul(x, wire, name)
    assert_product(ours, x, decoded(name, wire), "F32", x.shape[1], name)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("piece.first + m)", "piece.first)"),
        ("i / Format::run * Format::stride", "i / Format::run * Format::run"),
        ("held[m][i % 2], w[i], here", "held[m][i % 2], w[0], here"),
        ("whole + 0x7FFF", "whole + 0x8FFF"),
        ("x + b * Format::weights, work.k", "x, work.k"),
        ("case 5: return multiply_rows<Format, 5>", "case 5: return multiply_rows<Format, 4>"),
        ("const auto two = four.lo + four.hi", "const auto two = four.lo"),
    ],
)
def test_broken_loops_are_caught(
    right: str,
    wrong: str,
    clang: Compiler,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a format whose parts are not in the row's order, by the code that serves any format."""
    text = without_own("Q5_K")
    monkeypatch.setattr(product, "program", lambda _: text)
    assert product.reason(ggml_format("Q5_K")) is None
    host.forget()
    assert text.count(right) == 1
    monkeypatch.setattr(product, "program", lambda _: text.replace(right, wrong))
    with pytest.warns(RuntimeWarning, match="product of Q5_K"):
        assert "is wrong on this machine" in str(product.reason(ggml_format("Q5_K")))


def test_lost_work_is_caught(
    clang: Compiler, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads' own known answer; products take one thread then."""
    build = pool.prepared

    def broken(name: str, text: str, *functions: object) -> object:
        assert text.count("if (item >= items)") == 1
        return build(name, text.replace("(item >= items)", "(item + 1 >= items)"), *functions)

    monkeypatch.setattr(pool, "prepared", broken)
    with pytest.warns(RuntimeWarning, match="work is lost on this machine"):
        assert pool.pool() is None
    wire, x = weights("Q4_K", 700, 4), numbers(3, 1024, "F32")
    ours = kernels.matmul(x, wire, "Q4_K", 4)
    assert_product(ours, x, decoded("Q4_K", wire), "F32", 1024 // 32 + 5, "one thread")


@pytest.mark.slow
def test_no_access_outside_and_nothing_undefined(clang: Compiler, fresh_cache: Path) -> None:
    """Every format with clang's checks compiled in, its arrays at the end of readable memory."""
    script = Path(__file__).with_name("guarded_product.py")
    done = subprocess.run(
        [sys.executable, str(script), *FORMATS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(FORMATS)


@pytest.mark.slow
def test_access_outside_is_noticed(clang: Compiler, fresh_cache: Path) -> None:
    """The proof of the test before: weights or x read too far end the process."""
    script = Path(__file__).with_name("guarded_product.py")
    for broken in ("block + 18|block + 20", "at + m * k + 16 * i|at + m * k + 16 * i + 1"):
        command = [sys.executable, str(script), "--break", broken, "Q8_0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode < 0, done.stdout + done.stderr
