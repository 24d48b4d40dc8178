"""The search for a block's scale (and offset) with the least weighted squared error.

    error = Σ v · (w - ŵ)²,   v the importance of the weight, or 1

For a scale d the best codes are the nearest; for codes q the best d is Σ v·w·q / Σ v·q². So each
search tries a row of scales, keeps the one whose codes fit best with their own best scale, and then
goes back and forth between the two with the scale rounded to float16, as it will be stored. The
least error seen wins, measured as the decoder will see it.

Blocks are handled as lanes: float32 [n, b], one block a column, so that every step is arithmetic
between rows of lanes, and sums are added up in a fixed tree: a block's bytes depend on nothing but
its own weights. kernels/scale_search.metal does the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .floats import Bytes, Float32
from .legacy import as_half, extreme_of, inverse, round_affine, round_symmetric

__all__ = [
    "BESIDE",
    "Nearest",
    "TRIMS",
    "best_scale",
    "clipped_half",
    "edges_of",
    "lanes_of",
    "moments",
    "refined",
    "search_affine",
    "search_symmetric",
    "sum_of",
    "weighted_error",
    "weights_of",
]

#: scaled weights → the nearest level of each, both float32 [n, b]
Nearest = Callable[[Float32], Float32]

#: the largest float16
_LARGEST = np.float32(65504)

#: how far beyond a code's own place the extreme weight is put, in steps
_OFFSETS = tuple(np.float32(x) for x in np.arange(-1.2, 1.25, 0.1))

#: steps that an affine range gives up at its lower and its upper end
TRIMS = tuple(
    (np.float32(below), np.float32(above))
    for below in (-0.5, 0, 0.5, 1, 2)
    for above in (-0.5, 0, 0.5, 1, 2)
)

#: and what it gives up besides, around the best of those
BESIDE = tuple(
    (np.float32(below), np.float32(above))
    for below in (-0.25, 0, 0.25)
    for above in (-0.25, 0, 0.25)
    if below or above
)

#: Σ v·(q - mean q)² below this share of Σ v·q² is what float32 sums may be off
_NOISE = np.float32(2.0**-18)


def edges_of(half: int) -> tuple[np.float32, ...]:
    """Where `search_symmetric` puts the extreme weight, in steps from zero."""
    low = (-(np.float32(half) + offset) for offset in _OFFSETS)
    return (*low, *(np.float32(half - 1) + offset for offset in _OFFSETS[::3]))


def lanes_of(blocks: Float32) -> Float32:
    """float32 [b, n] → [n, b], one block a column; a copy."""
    return blocks.T.copy()


def weights_of(importance: Float32 | None) -> Float32 | None:
    """Importance, float32 [b, n], as lanes [n, b], each block's largest made 1; where all are 0,
    all 1. None stays."""
    if importance is None:
        return None
    lanes = lanes_of(importance)
    largest = lanes.max(axis=0)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        weights: Float32 = np.where(largest > 0, lanes / largest, np.float32(1))
    return weights


def clipped_half(values: Float32) -> Float32:
    """float32 → the nearest finite float16 as float32."""
    return as_half(np.clip(values, -_LARGEST, _LARGEST))


def sum_of(values: Float32) -> Float32:
    """Σ over the first axis: [n, b] → [b], n a power of two; halves are added to halves."""
    while len(values) > 1:
        half = len(values) // 2
        values = values[:half] + values[half:]
    total: Float32 = values[0]
    return total


def weighted_error(x: Float32, decoded: Float32, weights: Float32 | None) -> Float32:
    """Σ v · (w - ŵ)² of each block: float32 [n, b] thrice → [b]."""
    difference = x - decoded
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        difference *= difference
        return sum_of(_counted(difference, weights))


def best_scale(
    x: Float32, weights: Float32 | None, edges: Iterable[np.float32], nearest: Nearest
) -> Float32:
    """The best of the scales that put a block's extreme weight at each of `edges`, refitted.

    Args:
        x, weights: float32 [n, b].

    Returns: float32 [b], 0 where nothing but zeros fits.
    """
    to_edge = inverse(extreme_of(x.T)[:, 0])
    gain = np.zeros_like(to_edge)
    scale = np.zeros_like(to_edge)
    with np.errstate(all="ignore"):
        wanted = _counted(x, weights)
        for edge in edges:
            levels = nearest(x * (to_edge * edge))
            product, square = moments(levels, wanted, weights)
            fitted = product / square
            reached = fitted * product
            better = reached > gain
            np.copyto(gain, reached, where=better)
            np.copyto(scale, fitted, where=better)
    return scale


def refined(
    x: Float32,
    weights: Float32 | None,
    scale: Float32,
    nearest: Nearest,
    rounds: int = 2,
) -> tuple[Float32, Float32]:
    """A float16 scale, refitted to the codes nearest to it while that helps.

    Args:
        x, weights: float32 [n, b].
        scale: float32 [b].

    Returns: the scale float32 [b], exact in float16, and its error [b].
    """
    best = clipped_half(scale)
    least = np.full_like(best, np.inf)
    trial = best
    with np.errstate(all="ignore"):
        wanted = _counted(x, weights)
        for _ in range(rounds + 1):
            levels = nearest(x * inverse(trial))
            error = weighted_error(x, levels * trial, weights)
            better = error < least
            least = np.where(better, error, least)
            best = np.where(better, trial, best)
            product, square = moments(levels, wanted, weights)
            fitted = product / square
            trial = clipped_half(np.where(np.isfinite(fitted), fitted, trial))
    return best, least


def search_symmetric(blocks: Float32, importance: Float32, half: int) -> tuple[Bytes, Float32]:
    """As `legacy.round_symmetric`, for the least weighted squared error; d exact in float16.

    Args:
        blocks, importance: float32 [b, n].
        half: 8 or 16, the code of zero.
    """

    def nearest(steps: Float32) -> Float32:
        np.rint(steps, out=steps)
        return np.clip(steps, np.float32(-half), np.float32(half - 1), out=steps)

    x, weights = lanes_of(blocks), weights_of(importance)
    found = best_scale(x, weights, edges_of(half), nearest)
    scale, least = refined(x, weights, found, nearest)
    plain, rounded = round_symmetric(blocks, half)
    rounded = as_half(rounded)
    with np.errstate(all="ignore"):
        kept = (plain.T.astype(np.float32) - np.float32(half)) * rounded[:, 0]
        # an infinite scale has no error that is a number
        better = ~(weighted_error(x, kept, weights) < least)[:, None]
        levels = nearest(x * inverse(scale))
    codes = (levels.T + np.float32(half)).astype(np.uint8)
    return np.where(better, codes, plain), np.where(better, scale[:, None], rounded)


def search_affine(
    blocks: Float32, importance: Float32, top: int, rounds: int = 3
) -> tuple[Bytes, Float32, Float32]:
    """As `legacy.round_affine`, for the least weighted squared error; d and m exact in float16.

    Args:
        blocks, importance: float32 [b, n].
        top: the largest code, 15 or 31.
        rounds: how often the line is fitted anew to the codes nearest to it.
    """
    x, weights = lanes_of(blocks), weights_of(importance)
    assert weights is not None
    total = sum_of(weights)
    plain, *rounded = round_affine(blocks, top)
    codes = plain.T
    scale, low = (as_half(part)[:, 0] for part in rounded)
    with np.errstate(all="ignore"):
        middle = sum_of(x * weights) / total
        wanted = (x - middle) * weights
        start = x.min(axis=0)
        step = (x.max(axis=0) - start) / np.float32(top)
        gain = np.zeros_like(total)
        trial_scale, trial_low = scale.copy(), low.copy()
        best_below, best_above = np.zeros_like(total), np.zeros_like(total)

        def attempt(below: Float32, above: Float32) -> None:
            per_step = inverse(step * (np.float32(top) - below - above)) * np.float32(top)
            levels = (x - (start + step * below)) * per_step
            np.clip(np.rint(levels, out=levels), 0, np.float32(top), out=levels)
            slope, offset, reached = _line(levels, wanted, weights, total, middle)
            better = reached > gain
            for kept, new in (
                (gain, reached),
                (trial_scale, slope),
                (trial_low, offset),
                (best_below, below),
                (best_above, above),
            ):
                np.copyto(kept, new, where=better)

        for below, above in TRIMS:
            attempt(np.full_like(total, below), np.full_like(total, above))
        coarse_below, coarse_above = best_below.copy(), best_above.copy()
        for below, above in BESIDE:
            attempt(coarse_below + below, coarse_above + above)
        least = weighted_error(x, codes * scale + low, weights)
        for _ in range(rounds + 1):
            trial_scale, trial_low = clipped_half(trial_scale), clipped_half(trial_low)
            levels = (x - trial_low) * inverse(trial_scale)
            np.clip(np.rint(levels, out=levels), 0, np.float32(top), out=levels)
            error = weighted_error(x, levels * trial_scale + trial_low, weights)
            # an infinite scale has no error that is a number
            better = ~(error >= least) & np.isfinite(error)
            least = np.where(better, error, least)
            codes = np.where(better, np.nan_to_num(levels).astype(np.uint8), codes)
            scale = np.where(better, trial_scale, scale)
            low = np.where(better, trial_low, low)
            trial_scale, trial_low, _ = _line(levels, wanted, weights, total, middle)
    # of zeros the positive one
    pair = [part[:, None] + np.float32(0) for part in (scale, low)]
    return np.ascontiguousarray(codes.T), pair[0], pair[1]


def moments(levels: Float32, wanted: Float32, weights: Float32 | None) -> tuple[Float32, Float32]:
    """Σ v·w·q and Σ v·q², each [b]; of levels q and v·w, float32 [n, b]."""
    return sum_of(wanted * levels), sum_of(_counted(levels, weights) * levels)


def _counted(values: Float32, weights: Float32 | None) -> Float32:
    return values if weights is None else values * weights


def _line(
    levels: Float32, wanted: Float32, weights: Float32, total: Float32, middle: Float32
) -> tuple[Float32, Float32, Float32]:
    """The line w = d·q + m of least error through codes, and what it takes off the error of the
    best constant, w = middle; that constant where the codes that count are all the same."""
    product, square = moments(levels, wanted, weights)
    mean = sum_of(levels * weights) / total
    spread = square - mean * mean * total
    slope = np.where(spread > _NOISE * square, product / spread, np.float32(0))
    return slope, middle - slope * mean, slope * product
