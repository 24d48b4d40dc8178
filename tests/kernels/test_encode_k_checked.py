"""The encoders of K-quants with every access watched, a super-block a thread as on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from formats.ggml_golden import ggml_format, same_blocks
from mlxquant.kernels.host.check import CheckedKernel, CheckFailure
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import ENCODE, ENCODE_WEIGHTED, call, header


def rows() -> np.ndarray:
    """Six super-blocks, float32 [3, 512]: normal, above zero, one weight over and over, tiny."""
    made = np.random.default_rng(1).standard_normal((3, 512), dtype=np.float32)
    made[1, :256] = np.abs(made[1, :256]) + np.float32(3)
    made[1, 256:] = np.float32(-0.37)
    made[2, :256] *= np.float32(1e-7)
    return made


def checked(name: str, weighted: bool, header_text: str | None = None) -> CheckedKernel:
    kernel = ENCODE_WEIGHTED if weighted else ENCODE
    text = header_text or header(name, kernel)
    return CheckedKernel(
        f"{kernel.name}_{name}", list(kernel.inputs), ["out"], call(name, kernel), text
    )


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_same_bytes(name: str, weighted: bool, clang: Compiler) -> None:
    fmt, given = ggml_format(name), [rows()]
    if weighted:
        given.append(np.random.default_rng(2).random(512, dtype=np.float32) ** 8)
    (wanted,) = fmt.encode(*given)
    kernel = checked(name, weighted)
    (out,) = kernel(given, (6, 1, 1), (4, 1, 1), [wanted.shape], ["uint8"])
    same_blocks(fmt, given[0], out, wanted)
    assert kernel.refusal(given, ["uint8"]) == ""


def test_what_is_not_a_block_s_is_noticed(clang: Compiler) -> None:
    """A thread that writes its neighbour's bytes, and one that leaves some of its own."""
    text = header("Q6_K", ENCODE)
    right = "made.store(wire, at * LANES, count)"
    assert right in text
    for wrong in ("made.store(wire, at / 2, count)", "if (at != 3) made.store(wire, at, count)"):
        kernel = checked("Q6_K", False, text.replace(right, wrong))
        with pytest.raises(CheckFailure):
            kernel([rows()], (6, 1, 1), (4, 1, 1), [(3, 420)], ["uint8"])
