"""Cases of the search for affine scales: every width, group size and type, with importance and
without; the bytes are to be NumPy's, whatever searches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..formats.affine import GROUP_SIZES, Affine
from ..formats.base import Array
from ..formats.floats import FLOATS, Float32, from_float32, round_to
from ..kernels import launch
from ..kernels.host.affine import kernel_for
from ..kernels.known import Runner
from ..kernels.source import SEARCHED_BITS
from ..measure.tables import counted
from ..quantize.search_affine import search_affine
from .checks import Case

__all__ = ["Search", "by_processor", "by_runner", "cases", "count", "every"]

#: an affine format, groups float32 [n, b, g], importance [b, g] or None → `encode`'s arrays
Search = Callable[[Affine, Float32, Float32 | None], tuple[Array, ...]]

#: rows that are searched, and groups of a row
_SHAPES = ((1, 1), (7, 3), (33, 2))


def every() -> list[Affine]:
    """The formats that kernels are written for."""
    return [Affine(bits, size) for bits in SEARCHED_BITS for size in GROUP_SIZES]


def count(targets: list[Affine]) -> int:
    """How many cases `cases` gives."""
    return len(targets) * len(FLOATS) * len(_SHAPES) * 2


def cases(targets: list[Affine], search: Search) -> Iterator[Case]:
    """Every case of these formats."""
    for target in targets:
        for dtype in FLOATS:
            typed = Affine(target.bits, target.group_size, dtype)
            for n, b in _SHAPES:
                groups, weights = _groups(target.group_size, n, b, dtype)
                for given in (None, weights):
                    importance = "" if given is None else ", with importance"
                    yield Case(
                        "affine search",
                        target.name,
                        f"{dtype}, {counted(n, 'row')} of {counted(b, 'group')}{importance}",
                        partial(_searched, search, typed, groups, given),
                    )


def by_processor(target: Affine, groups: Float32, weights: Float32 | None) -> tuple[Array, ...]:
    """By the kernel that is compiled for this processor."""
    kernel = kernel_for(target)
    assert kernel is not None
    codes, *pairs = kernel.search(groups, weights, target.dtype)
    return (codes, *(from_float32(pair, target.dtype) for pair in pairs))


def by_runner(run: Runner) -> Search:
    """By what runs launches."""

    def search(target: Affine, groups: Float32, weights: Float32 | None) -> tuple[Array, ...]:
        n, b, size = groups.shape
        started = launch.affine_search(target, n, b, weights is not None)
        inputs = [groups.reshape(-1, size), *(() if weights is None else (weights,))]
        words = run(started, inputs)
        codes, pairs = words[: -2 * n * b], words[-2 * n * b :].view(np.float32)
        stored = (from_float32(pair, target.dtype) for pair in pairs.reshape(2, n, b))
        return (codes.reshape(n, -1), *stored)

    return search


def _groups(size: int, n: int, b: int, dtype: str) -> tuple[Float32, Float32]:
    """Groups, float32 [n, b, size], of magnitudes from 2^-20 to 2^10; importance [b, size]."""
    random = np.random.default_rng((size, n, b))
    groups = random.standard_normal((n, b, size)) * 2.0 ** random.integers(-20, 11, (n, b, 1))
    weights = random.random((b, size)) ** 8
    weights[:, 0] = 1
    return round_to(groups.astype(np.float32), dtype), weights.astype(np.float32)


def _searched(search: Search, target: Affine, groups: Float32, weights: Float32 | None) -> str:
    wanted = search_affine(target, groups, weights)
    ours = search(target, groups, weights)
    for name, one, other in zip(("codes", "scales", "biases"), ours, wanted, strict=True):
        if one.tobytes() != other.tobytes():
            number = int((one != other).sum())
            return f"{name}: {number} of {one.size} differ"
    return ""
