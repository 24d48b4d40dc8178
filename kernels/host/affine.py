"""The search for affine formats, compiled: called, and checked against NumPy's."""

from __future__ import annotations

import ctypes

import numpy as np

from mlxquant.formats.affine import Affine
from mlxquant.formats.base import Array
from mlxquant.formats.floats import FLOATS, Float32, from_float32, round_to

from ..source import SEARCHED_BITS
from . import entries
from .library import cores, held, prepared, shared

__all__ = ["AffineSearch", "check", "example", "kernel_for", "reason_for"]

#: of affine_search.metal, in its order
_TYPES = ("F32", "F16", "BF16")
#: groups that one call of the kernel searches: LANES of lanes.h
_LANES = 16
#: fewer weights than this are not worth a thread
_SHARE = 1 << 16


class AffineSearch:
    """The search for formats of one width and group size.

    Args:
        target: such a format, of any type of scales.
        loaded: the library.
    """

    def __init__(self, target: Affine, loaded: ctypes.CDLL) -> None:
        self.bits, self.size = target.bits, target.group_size
        self._entries = loaded.search, loaded.search_weighted
        for entry in self._entries:
            entry.restype = None
            entry.argtypes = (
                *(ctypes.c_void_p,) * 2,
                *(ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64),
                *(ctypes.c_void_p,) * 3,
                *(ctypes.c_uint64,) * 2,
            )

    def search(
        self, groups: Float32, weights: Float32 | None, dtype: str, threads: int | None = 1
    ) -> tuple[Array, Float32, Float32]:
        """Codes, scales and biases of groups.

        Args:
            groups: float32 [n, b, size].
            weights: importance, float32 [b, size] whose largest in each group is 1, or None.
            dtype: of scales and biases.
            threads: at most so many; None for one a core.

        Returns: uint32 [n, b · size · bits / 32], and float32 [n, b] twice, exact in `dtype`. The
            bias of a group that is not finite is NaN.
        """
        n, b, _ = groups.shape
        count = n * b
        rows = np.ascontiguousarray(groups)
        given = None if weights is None else np.ascontiguousarray(weights)
        codes = np.empty((n, b * self.size * self.bits // 32), np.uint32)
        scales, biases = np.empty((2, n, b), np.float32)
        entry = self._entries[given is not None]

        def share(begin: int, end: int) -> None:
            entry(
                rows.ctypes.data,
                None if given is None else given.ctypes.data,
                b,
                _TYPES.index(dtype),
                count,
                codes.ctypes.data,
                scales.ctypes.data,
                biases.ctypes.data,
                begin,
                end,
            )

        shared(share, -(-count // _LANES), min(threads or cores(), max(1, groups.size // _SHARE)))
        return codes, scales, biases


def kernel_for(target: Affine) -> AffineSearch | None:
    """The checked kernel for a format, or None; the first call may compile for a moment."""
    found = _held(target)
    return found if isinstance(found, AffineSearch) else None


def reason_for(target: Affine) -> str | None:
    """Why `kernel_for` gives None; None where it gives a kernel."""
    found = _held(target)
    return found if isinstance(found, str) else None


def _held(target: Affine) -> object:
    name = f"search of {target.name}"
    if target.bits not in SEARCHED_BITS:
        return f"{name} has no kernel"

    def prepare() -> AffineSearch | str:
        return prepared(
            f"search-{target.name}",
            entries.search_program(target.bits, target.group_size),
            lambda loaded: AffineSearch(target, loaded),
            lambda kernel: check(target, kernel),
        )

    return held(name, prepare)


def check(target: Affine, kernel: AffineSearch) -> str:
    """Empty, or what is wrong: `search of affine4-g64 in F16 is wrong on this machine`."""
    from mlxquant.quantize.search_affine import search_affine

    for dtype in FLOATS:
        groups, weights = example(target.group_size, dtype)
        typed = Affine(target.bits, target.group_size, dtype)
        for importance, what in ((None, ""), (weights, " with importance")):
            wanted = search_affine(typed, groups, importance)
            codes, *pairs = kernel.search(groups, importance, dtype)
            ours = (codes, *(from_float32(pair, dtype) for pair in pairs))
            if any(a.tobytes() != b.tobytes() for a, b in zip(ours, wanted, strict=True)):
                return f"search of {target.name} in {dtype}{what} is wrong on this machine"
    return ""


def example(size: int, dtype: str) -> tuple[Float32, Float32]:
    """Groups of every kind, and importance for them: float32 [47, 3, size] and [3, size].

    Normal weights from the smallest of the type to its largest, of one value, of two, zeros, a
    single large one; importance even, steep, and for a few weights only.
    """
    random = np.random.default_rng(1)
    groups = random.standard_normal((47, 3, size), dtype=np.float32)
    least, most = {"F32": (-149, 126), "F16": (-24, 13), "BF16": (-133, 126)}[dtype]
    powers = np.linspace(least, most, 30).astype(np.int32)[:, None, None]
    groups[10:40] = (
        np.clip(np.ldexp(groups[10:40], powers), -65504, 65504)
        if dtype == "F16"
        else (np.ldexp(np.clip(groups[10:40], -3, 3), powers))
    )
    groups[40] = 0
    groups[41] = groups[41, :, :1]
    groups[42] = np.where(groups[42] > 0, np.float32(0.75), np.float32(-0.5))
    groups[43, :, 5] *= np.float32(1000)
    groups[44] = np.abs(groups[44]) + np.float32(100)
    groups[45, :, 3:] = 0
    groups[46] = np.where(groups[46] > 0, np.float32(60000), np.float32(-60000))
    weights = np.ones((3, size), np.float32)
    weights[1] = random.random(size, dtype=np.float32) ** 8
    weights[2] = random.random(size) < 0.1
    weights[1:, 7] = 1
    with np.errstate(all="ignore"):
        return round_to(groups, dtype), weights
