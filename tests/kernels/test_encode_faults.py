"""A broken encoder is caught before it is used, and none reaches outside of its arrays."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from formats.ggml_golden import ggml_format, same_blocks
from mlxquant.kernels import encode as kernel
from mlxquant.kernels import host
from mlxquant.kernels.host import encode as host_encode
from mlxquant.kernels.host import entries
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import ENCODERS

#: what is broken of each encoder: a rounding, a place, an order, a limit
BROKEN = {
    "Q4_0": (("(float(half_) + 0.5f)", "float(half_)"), ("Q4_0_EDGES[i]", "-Q4_0_EDGES[i]")),
    "Q4_1": (
        ("low = smaller(x[i], low)", "low = smaller(low, x[i])"),
        ("t < 25", "t < 24"),
        ("0x1p-18f", "0x1p-9f"),
    ),
    "Q5_0": (
        ("codes[8 * byte + j] >> 4u", "codes[8 * byte + j] >> 3u"),
        ("round < 3", "round < 2"),
    ),
    "Q5_1": (("[2 * t + 1]", "[2 * t]"), ("v[j] / most", "v[j]")),
    "Q8_0": (("values < 0.0f ?", "values > 0.0f ?"), ("0x1p-25f", "0.0f")),
    "Q2_K": (("low << 4u", "low << 5u"), ("blocks.total, 0.66f", "spreads, 0.66f")),
    "Q3_K": (("few ? 12 : 2", "few ? 11 : 2"), ("0.64f : 0.84f", "0.84f : 0.84f")),
    "Q4_K": (
        ("0.7f * 0x1p-10f", "0.2f * 0x1p-10f"),
        ("1.0f + 0x1p-11f", "1.0f"),
        ("1e-5f * (ss * mm)", "0.0f"),
        ("sign < 0.0f", "1.0f < 0.0f"),
    ),
    "Q5_K": (("(a + a) * c * sm", "a * c * sm"), ("Floats(1e-6f)", "Floats(0.0f)")),
    "Q6_K": (("off < least", "off <= least"), ("rs * inverse(ss)", "0.0f")),
    "IQ4_NL": (("steps * 2.0f + 256.0f", "steps * 2.0f + 255.0f"), ("block % columns", "0")),
    "IQ4_XS": (("change < 2", "change < 0"), ("(scale >> 4u)", "(scale >> 5u)")),
    "TQ1_0": (("256u + 242u", "256u"), ("lost ? Words(1u)", "lost ? Words(0u)")),
    "TQ2_0": (("run[64] << 4u", "run[32] << 4u"), ("made.put(64, d)", "made.put(62, d)")),
}


@pytest.mark.parametrize(
    ("name", "right", "wrong"), [(name, *pair) for name, pairs in BROKEN.items() for pair in pairs]
)
def test_a_broken_encoder_is_caught(
    name: str,
    right: str,
    wrong: str,
    clang: Compiler,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One warning names it, NumPy does its work; the next process is told by the record."""
    fmt, text = ggml_format(name), entries.encode_program(name)
    assert right in text
    monkeypatch.setattr(entries, "encode_program", lambda _: text.replace(right, wrong))
    for _ in range(2):
        host.forget()
        with pytest.warns(RuntimeWarning, match=rf"encoder of {name} .* is wrong on") as said:
            assert not kernel.available(fmt)
        assert len(said) == 1
    rows = np.random.default_rng(9).standard_normal((3, 512), dtype=np.float32)
    with warnings.catch_warnings(action="error"):
        ours = kernel.encode(rows, fmt)
    same_blocks(fmt, rows, ours, fmt.encode(rows)[0])


def test_every_encoder_is_broken() -> None:
    assert set(BROKEN) == set(ENCODERS)


@pytest.mark.parametrize("size", [32, 256])
def test_the_known_answer_has_every_kind(size: int) -> None:
    """Weights from the least to nearly the largest, and importance that is 0 here and there."""
    rows = host_encode.example(size)
    assert np.isfinite(rows).all()
    magnitudes = np.abs(rows)
    assert magnitudes.max() > 1e38
    assert magnitudes[magnitudes > 0].min() == 2.0**-149
    assert np.signbit(rows[rows == 0]).any()
    given = [i for i in host_encode.importances(size).values() if i is not None]
    blocks = np.concatenate(given).reshape(-1, size)
    assert {0, 2, size} <= {int(n) for n in (blocks > 0).sum(axis=1)}


@pytest.mark.slow
def test_no_access_outside_and_nothing_undefined(clang: Compiler, fresh_cache: Path) -> None:
    """Every encoder with clang's checks compiled in, its arrays at the end of readable memory."""
    done = guarded(*ENCODERS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == list(ENCODERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", ["first + l < count ? first + l : count - 1|first + l", "block % columns|block"]
)
def test_access_outside_is_noticed(broken: str, clang: Compiler, fresh_cache: Path) -> None:
    """The proof of the test before."""
    done = guarded("--break", broken, "Q4_1")
    assert done.returncode < 0, done.stdout + done.stderr


def guarded(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("guarded_encode.py")
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
