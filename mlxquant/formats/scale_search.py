"""The search for a block's scale (and offset) with the least weighted squared error.

    error = Σ v · (w - ŵ)²,   v the importance of the weight, or 1

For a scale d the best codes are the nearest; for codes q the best d is Σ v·w·q / Σ v·q². So each
search tries a row of scales, keeps the one whose codes fit best with their own best scale, and then
goes back and forth between the two with the scale rounded to float16, as it will be stored. The
least error seen wins, measured as the decoder will see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .floats import Bytes, Float32
from .legacy import as_half, extreme_of, inverse, round_affine, round_symmetric

__all__ = [
    "Nearest",
    "best_scale",
    "clipped_half",
    "refined",
    "search_affine",
    "search_symmetric",
    "weighted_error",
    "weights_of",
]

#: scaled weights → the nearest level of each, both float32 [b, n]
Nearest = Callable[[Float32], Float32]

#: the largest float16
_LARGEST = np.float32(65504)

#: how far beyond a code's own place the extreme weight is put, in steps
_OFFSETS = tuple(np.float32(x) for x in np.arange(-1.2, 1.25, 0.1))

#: steps that an affine range gives up at its lower and its upper end
_TRIMS = tuple(
    (np.float32(below), np.float32(above))
    for below in (-0.5, 0, 0.5, 1, 2)
    for above in (-0.5, 0, 0.5, 1, 2)
)

#: and what it gives up besides, around the best of those
_BESIDE = tuple(
    (np.float32(below), np.float32(above))
    for below in (-0.25, 0, 0.25)
    for above in (-0.25, 0, 0.25)
    if below or above
)


def weights_of(blocks: Float32, importance: Float32 | None) -> Float32:
    """Importance, float32 [b, n], each block's largest made 1; all 1 where there is none."""
    if importance is None:
        return np.ones_like(blocks)
    largest = importance.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore", over="ignore"):
        weights: Float32 = importance / largest
    return np.where(np.isfinite(weights) & (largest > 0), weights, np.float32(1))


def clipped_half(values: Float32) -> Float32:
    """float32 → the nearest finite float16 as float32."""
    return as_half(np.clip(values, -_LARGEST, _LARGEST))


def weighted_error(blocks: Float32, decoded: Float32, weights: Float32) -> Float32:
    """Σ v · (w - ŵ)² of each block: float32 [b, n] thrice → [b, 1]."""
    difference = blocks - decoded
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        difference *= difference
        error: Float32 = np.einsum("ij,ij->i", difference, weights)
    return error[:, None]


def best_scale(
    blocks: Float32, weights: Float32, edges: Iterable[np.float32], nearest: Nearest
) -> Float32:
    """The best of the scales that put a block's extreme weight at each of `edges`, refitted.

    Returns: float32 [b, 1], 0 where nothing but zeros fits.
    """
    to_edge = inverse(extreme_of(blocks))
    gain = np.zeros_like(to_edge)
    scale = np.zeros_like(to_edge)
    with np.errstate(all="ignore"):
        wanted = blocks * weights
        for edge in edges:
            levels = nearest(blocks * (to_edge * edge))
            product, square = _moments(levels, wanted, weights)
            fitted = product / square
            reached = fitted * product
            better = reached > gain
            np.copyto(gain, reached, where=better)
            np.copyto(scale, fitted, where=better)
    return scale


def refined(
    blocks: Float32,
    weights: Float32,
    scale: Float32,
    nearest: Nearest,
    rounds: int = 2,
) -> tuple[Float32, Float32]:
    """A float16 scale, refitted to the codes nearest to it while that helps.

    Returns: the scale float32 [b, 1], exact in float16, and its error [b, 1].
    """
    best = clipped_half(scale)
    least = np.full_like(best, np.inf)
    trial = best
    with np.errstate(all="ignore"):
        wanted = blocks * weights
        for _ in range(rounds + 1):
            levels = nearest(blocks * inverse(trial))
            error = weighted_error(blocks, levels * trial, weights)
            better = error < least
            least = np.where(better, error, least)
            best = np.where(better, trial, best)
            product, square = _moments(levels, wanted, weights)
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

    weights = weights_of(blocks, importance)
    edges = [-(np.float32(half) + offset) for offset in _OFFSETS]
    edges += [np.float32(half - 1) + offset for offset in _OFFSETS[::3]]
    found = best_scale(blocks, weights, edges, nearest)
    scale, least = refined(blocks, weights, found, nearest)
    plain, rounded = round_symmetric(blocks, half)
    rounded = as_half(rounded)
    with np.errstate(all="ignore"):
        kept = (plain.astype(np.float32) - np.float32(half)) * rounded
        better = least <= weighted_error(blocks, kept, weights)
        levels = nearest(blocks * inverse(scale))
    codes = (levels + np.float32(half)).astype(np.uint8)
    return np.where(better, codes, plain), np.where(better, scale, rounded)


def search_affine(
    blocks: Float32, importance: Float32, top: int, rounds: int = 3
) -> tuple[Bytes, Float32, Float32]:
    """As `legacy.round_affine`, for the least weighted squared error; d and m exact in float16.

    Args:
        blocks, importance: float32 [b, n].
        top: the largest code, 15 or 31.
        rounds: how often the line is fitted anew to the codes nearest to it.
    """
    weights = weights_of(blocks, importance)
    total = weights.sum(axis=1, keepdims=True)
    codes, scale, low = round_affine(blocks, top)
    scale, low = as_half(scale), as_half(low)
    with np.errstate(all="ignore"):
        middle = np.einsum("ij,ij->i", blocks, weights)[:, None] / total
        centred = blocks - middle
        wanted = centred * weights
        start = blocks.min(axis=1, keepdims=True)
        step = (blocks.max(axis=1, keepdims=True) - start) / np.float32(top)
        gain = np.zeros_like(total)
        trial_scale, trial_low = scale.copy(), low.copy()
        best_below, best_above = np.zeros_like(total), np.zeros_like(total)

        def attempt(below: Float32, above: Float32) -> None:
            per_step = inverse(step * (np.float32(top) - below - above)) * np.float32(top)
            levels = (blocks - (start + step * below)) * per_step
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

        for below, above in _TRIMS:
            attempt(np.full_like(total, below), np.full_like(total, above))
        coarse_below, coarse_above = best_below.copy(), best_above.copy()
        for below, above in _BESIDE:
            attempt(coarse_below + below, coarse_above + above)
        least = weighted_error(blocks, codes * scale + low, weights)
        for _ in range(rounds + 1):
            trial_scale, trial_low = clipped_half(trial_scale), clipped_half(trial_low)
            levels = (blocks - trial_low) * inverse(trial_scale)
            np.clip(np.rint(levels, out=levels), 0, np.float32(top), out=levels)
            error = weighted_error(blocks, levels * trial_scale + trial_low, weights)
            better = error < least
            least = np.where(better, error, least)
            codes = np.where(better, np.nan_to_num(levels).astype(np.uint8), codes)
            scale = np.where(better, trial_scale, scale)
            low = np.where(better, trial_low, low)
            slope, offset_there, reached = _line(levels, wanted, weights, total, middle)
            fits = np.isfinite(slope) & np.isfinite(offset_there)
            trial_scale = np.where(fits, slope, trial_scale)
            trial_low = np.where(fits, offset_there, trial_low)
    return codes, scale, low


def _moments(levels: Float32, wanted: Float32, weights: Float32) -> tuple[Float32, Float32]:
    """Σ v·w·q and Σ v·q², each [b, 1]."""
    product = np.einsum("ij,ij->i", wanted, levels)[:, None]
    square = np.einsum("ij,ij->i", levels * weights, levels)[:, None]
    return product, square


def _line(
    levels: Float32, wanted: Float32, weights: Float32, total: Float32, middle: Float32
) -> tuple[Float32, Float32, Float32]:
    """The line w = d·q + m of least error through codes, and what it takes off the error."""
    product, square = _moments(levels, wanted, weights)
    mean = np.einsum("ij,ij->i", levels, weights)[:, None] / total
    slope = product / (square - mean * mean * total)
    return slope, middle - slope * mean, slope * product
