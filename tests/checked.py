"""Launches on the checker, weights to multiply with, and how far a product may be off."""

from __future__ import annotations

from functools import cache

import numpy as np
from formats.ggml_golden import ggml_format, random_blocks
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.launch import DEVICE, Launch
from mlxquant.kernels.source import Kernel, call, header

from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import bf16_to_f32, from_float32, round_to

#: half a step of a type, as a share of the number, and where numbers are subnormal
_HALF_STEP = {"F32": (2**-24, 2**-150), "F16": (2**-11, 2**-25), "BF16": (2**-8, 2**-134)}


@cache
def kernel_of(name: str, kernel: Kernel, dtype: str) -> CheckedKernel:
    """The kernel for a format; of one type, so that its library is loaded once."""
    body, before = call(name, kernel), header(name, kernel)
    return CheckedKernel(f"{kernel.name} of {name}", list(kernel.inputs), ["out"], body, before)


def run(launch: Launch, *inputs: np.ndarray) -> np.ndarray:
    """The result of a launch, bfloat16 as uint16; CheckFailure if it does what it must not do."""
    given = [
        np.pad(array, (0, max(0, DEVICE - array.size))) if name == "ids" else array
        for name, array in zip(launch.kernel.inputs, inputs, strict=True)
    ]
    kernel = kernel_of(launch.format, launch.kernel, launch.dtype)
    (out,) = kernel(given, launch.grid, launch.threadgroup, [launch.shape], [STORAGE[launch.dtype]])
    return out


@cache
def _blocks(name: str) -> np.ndarray:
    """Any bytes that decode to numbers, the largest of a block between 1/2 and 8."""
    fmt = ggml_format(name)
    blocks = random_blocks(fmt, 8192, seed=7).reshape(-1, fmt.block_bytes)
    with np.errstate(all="ignore"):
        largest = np.abs(fmt.decode_blocks(blocks)).max(axis=1)
    kept = blocks[(largest >= 0.5) & (largest <= 8)]
    assert len(kept) >= 64, name
    return kept


def weights(name: str, *shape: int, seed: int = 1) -> np.ndarray:
    """Blocks of `_blocks`, in any order: uint8 [n, blocks · block_bytes], or [e, n, …]."""
    kept = _blocks(name)
    chosen = np.random.default_rng(seed).integers(0, len(kept), shape)
    return kept[chosen].reshape(*shape[:-1], -1)


def decoded(name: str, wire: np.ndarray) -> np.ndarray:
    """float32 [n, k] of uint8 [n, bytes]."""
    with np.errstate(all="ignore"):
        return ggml_format(name).decode((wire,))


def numbers(m: int, k: int, dtype: str, seed: int = 2) -> np.ndarray:
    """Normal numbers, STORAGE[dtype] [m, k]."""
    made = np.random.default_rng(seed).standard_normal((m, k), dtype=np.float32)
    return from_float32(made, dtype)


def widened(stored: np.ndarray) -> np.ndarray:
    """float64 of float32, float16 or of bfloat16's bits."""
    return (bf16_to_f32(stored) if stored.dtype == np.uint16 else stored).astype(np.float64)


def assert_product(
    out: np.ndarray, x: np.ndarray, w: np.ndarray, dtype: str, depth: int, what: str
) -> None:
    """Fail unless `out` is x · wᵀ as float32 sums it up, rounded to `dtype`.

    A sum in float32 of which no number goes through more than `depth` roundings is off by at most
    depth · 2^-24 · Σ|x·w|, to first order.

    Args:
        x: STORAGE[dtype] [m, k].
        w: float32 [n, k], rounded to `dtype` where the kernel rounds them.
    """
    wide = widened(x)
    wanted, size = wide @ w.T.astype(np.float64), np.abs(wide) @ np.abs(w.T.astype(np.float64))
    allowed = depth * 2.0**-24 * (1 + 2**-10) * size
    share, least = _HALF_STEP[dtype]
    allowed += share * (np.abs(wanted) + allowed) + least
    off = np.abs(widened(out) - wanted)
    # NaN is off too
    worst = np.unravel_index(np.argmax(np.where(off <= allowed, -1, off / allowed)), off.shape)
    assert (off <= allowed).all(), (
        f"{what}: {(~(off <= allowed)).sum()} of {off.size} wrong; row {worst[0]} of x by row "
        f"{worst[1]}: {widened(out)[worst]} for {wanted[worst]}, {allowed[worst]:.3g} allowed"
    )


def rounded(w: np.ndarray, dtype: str) -> np.ndarray:
    """float32 that the type holds."""
    return round_to(w, dtype)
