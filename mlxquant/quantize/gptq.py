"""Rounding with error feedback: what rounding one weight did to the output, the next make good.

    rows, H ──gptq──▶ values on a grid ──polish──▶ better values, and scales that fit them
    rows, H, a format without a grid ──feedback──▶ wire

All minimize the change of the layer's output over calibration inputs (see `hessian`),

    objective = tr((W - Q) H (W - Q)^T)

for fixed scales of the groups (static groups): the columns are taken in order of falling activation
whatever group they are in, and the file's format stays plain. Rows do not affect each other, so
that everything runs over all rows at once, a column a step, with matrix products between blocks of
columns. Nothing is ever worse than the grid's nearest values on the same H: rows that are keep
those.

Sources: Frantar, Ashkboos, Hoefler, Alistarh 2022 (arXiv:2210.17323) for the feedback and the
blocks; coordinate descent as in Egiazarian et al. 2024 (arXiv:2401.06118) and Behdin et al. 2023
(QuantEase, arXiv:2309.01885).
"""

from __future__ import annotations

import numpy as np

from ..errors import RequestError
from ..formats.base import Array, Format
from ..formats.floats import Float32
from .encode import encoded
from .grid import Grid, make_grid
from .hessian import DAMPING, Hessian, factorize, moments
from .polish import polish

__all__ = ["encode", "feedback", "gptq", "objective", "retarget"]

#: columns between matrix products over all later columns, and over those of the block
_BLOCK, _SUB_BLOCK = 128, 16

#: weights worked on at a time: rows do not affect each other
_PIECE = 1 << 22


def encode(
    fmt: Format,
    rows: Float32,
    hessian: Array | Hessian,
    importance: Float32 | None = None,
    *,
    sweeps: int = 2,
) -> tuple[Array, ...]:
    """Quantize rows with error feedback, in any format: grid, gptq, polish, or feedback by blocks.

    Args:
        fmt: the format.
        rows: float32 [n, k], finite.
        hessian: second moments of the input, float [k, k], or factorized.
        importance: float32 [k], for the first choice of scales; the diagonal where None.
        sweeps: how often codes and scales are improved after that.

    Returns: as `fmt.encode`.

    Raises:
        NonFiniteError, RequestError: as `fmt.encode` and `factorize`.
    """
    known = hessian if isinstance(hessian, Hessian) else factorize(hessian)
    weights = known.importance if importance is None else importance
    n, k = rows.shape
    step = max(1, _PIECE // max(1, k))
    pieces = []
    for begin in range(0, max(n, 1), step):
        piece = np.ascontiguousarray(rows[begin : begin + step])
        grid = make_grid(fmt, piece, weights)
        if grid is None:
            pieces.append(feedback(fmt, piece, known, weights))
            continue
        values = gptq(grid, piece, known)
        grid, values = polish(grid, values, piece, known, sweeps=sweeps)
        pieces.append(grid.wire(values))
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))


def gptq(grid: Grid, rows: Float32, hessian: Array | Hessian) -> Float32:
    """Round rows to a grid with error feedback.

    Args:
        grid: of these rows.
        rows: float32 [n, k], finite.
        hessian: second moments of the input, float [k, k], or factorized.

    Returns: float32 [n, k] on the grid; in no row worse than `grid.nearest` on the objective.

    Raises:
        RequestError: as `factorize`, or shapes that do not match.
    """
    known = hessian if isinstance(hessian, Hessian) else factorize(hessian)
    _check(grid, rows, known)
    wanted = np.ascontiguousarray(rows.T)
    rounded = _rounded(grid, wanted, known)
    nearest = grid.nearest_lanes(wanted, np.arange(len(wanted)))
    _keep_better(rounded, nearest, wanted, known.matrix)
    return np.ascontiguousarray(rounded.T)


def _rounded(grid: Grid, wanted: Float32, known: Hessian) -> Float32:
    """Lanes of weights float32 [k, n] → lanes of values, rounded one after another."""
    order, upper = known.order, known.feedback
    k, n = wanted.shape
    weights = wanted[order]
    targets = weights.copy()
    rounded = np.empty_like(wanted)
    missing = np.empty((min(_BLOCK, k), n), np.float32)
    for begin in range(0, k, _BLOCK):
        end = min(begin + _BLOCK, k)
        for first in range(begin, end, _SUB_BLOCK):
            last = min(first + _SUB_BLOCK, end)
            for c in range(first, last):
                target = targets[c]
                if c > first:
                    target = target + upper[first:c, c] @ missing[first - begin : c - begin]
                value = grid.nearest_lane(target, int(order[c]))
                np.subtract(weights[c], value, out=missing[c - begin])
                rounded[order[c]] = value
            if last < end:
                gain = upper[first:last, last:end].T @ missing[first - begin : last - begin]
                targets[last:end] += gain
        if end < k:
            targets[end:] += upper[begin:end, end:].T @ missing[: end - begin]
    return rounded


def _keep_better(rounded: Float32, nearest: Float32, wanted: Float32, matrix: Float32) -> None:
    """Replace, in place, the rows that the nearest values serve better; all lanes [k, n]."""
    theirs = _costs(nearest - wanted, matrix)
    worse = ~(_costs(rounded - wanted, matrix) <= theirs)
    if worse.any():
        rounded[:, worse] = nearest[:, worse]


def _costs(difference: Float32, matrix: Float32) -> Float32:
    """d H d^T of each row: lanes [k, n] → [n]."""
    costs: Float32 = np.einsum("kn,kn->n", matrix @ difference, difference)
    return costs


def feedback(
    fmt: Format,
    rows: Float32,
    hessian: Array | Hessian,
    importance: Float32 | None = None,
) -> tuple[Array, ...]:
    """Encode rows block of columns after block, each to make good what those before did.

    For formats that code several weights together (codebooks, ternary types): the blocks of a row
    go through the format's own encoder one after another, in order of falling activation. Rows of
    one block have nothing to make good.

    Args:
        fmt: any format that is one array of whole blocks, i.e. ggml's.
        rows: float32 [n, k], finite.
        hessian: second moments of the input, float [k, k], or factorized.
        importance: float32 [k], for the encoder; the diagonal where None.

    Returns: as `fmt.encode`; in no row worse than `fmt.encode(rows, importance)` on the objective.

    Raises:
        NonFiniteError, RequestError: as `fmt.encode` and `factorize`.
    """
    known = hessian if isinstance(hessian, Hessian) else factorize(hessian)
    weights = known.importance if importance is None else importance
    (plain,) = encoded(fmt, rows, weights)
    size, nbytes = fmt.block_size, fmt.block_bytes
    n, k = rows.shape
    blocks = k // size
    if blocks < 2 or not n:
        return (plain,)
    matrix = known.matrix.astype(np.float64)
    matrix[np.arange(k), np.arange(k)] += known.damping
    energy = known.diagonal.reshape(blocks, size).sum(axis=1)
    wire = np.empty_like(plain)
    todo = np.argsort(-energy, kind="stable")
    missing, done = np.empty((n, k), np.float32), np.empty(0, np.int64)
    for place, block in enumerate(todo):
        here = np.arange(block * size, (block + 1) * size)
        later = np.concatenate([np.arange(b * size, (b + 1) * size) for b in todo[place:]])
        target = rows[:, here]
        if place:
            # the later columns as they would be, if they could be anything, to make good the rest
            pull = np.linalg.solve(matrix[later[:, None], later], matrix[later[:, None], done])
            target = target + missing[:, done] @ pull[:size].T.astype(np.float32)
        (coded,) = encoded(fmt, np.ascontiguousarray(target, np.float32), weights[here])
        wire[:, block * nbytes : (block + 1) * nbytes] = coded
        missing[:, here] = rows[:, here] - fmt.decode((coded,))
        done = np.concatenate([done, here])
    nearest = np.ascontiguousarray(rows.T - fmt.decode((plain,)).T)
    worse = ~(
        _costs(np.ascontiguousarray(missing.T), known.matrix) <= _costs(nearest, known.matrix)
    )
    wire[worse] = plain[worse]
    return (wire,)


def retarget(rows: Float32, hessian: Array, cross: Array, damping: float = DAMPING) -> Float32:
    """The weights that, given the inputs of the quantized model, come closest to the original's
    outputs for its own inputs.

        min over W' of |W x - W' y|²,   x the original input, y the quantized model's
        W' = W (E[x y^T] + λ) (E[y y^T] + λ)^-1

    What is to be rounded is then W' with H = E[y y^T]: the errors of the layers before are made
    good too. Asymmetric calibration: Li et al. 2025 (GPTAQ, arXiv:2504.02692).

    Args:
        rows: float32 [n, k], W.
        hessian: E[y y^T], float [k, k].
        cross: E[x y^T], float [k, k], on the same scale.
        damping: λ in parts of the mean of the diagonal of `hessian`; it draws W' to W.

    Returns: float32 [n, k].

    Raises:
        RequestError: as `moments`; or `cross` has another shape or is not finite.
    """
    matrix = moments(hessian)
    k = len(matrix)
    if cross.shape != (k, k) or not np.isfinite(cross).all():
        raise RequestError(
            f"cross moments of shape {list(cross.shape)}, {[k, k]} finite numbers needed; "
            "calibrate anew"
        )
    mean = float(np.diagonal(np.asarray(hessian, np.float64)).mean()) if k else 0.0
    if mean == 0:
        return rows.copy()
    # W' = W + W (E[x y^T] - E[y y^T]) (E[y y^T] + λ)^-1, so that what is equal stays exact
    difference = np.asarray(cross, np.float64) / mean - matrix
    damped = matrix + max(damping, 1e-8) * np.eye(k)
    moved = np.linalg.solve(damped, difference.T).T
    return rows + (rows.astype(np.float64) @ moved).astype(np.float32)


def objective(rows: Float32, values: Float32, hessian: Array) -> Array:
    """(w - q) H (w - q)^T of each row, in float64.

    Args:
        rows, values: float [n, k].
        hessian: float [k, k].

    Returns: float64 [n].
    """
    difference = np.asarray(rows, np.float64) - values
    costs: Array = np.einsum("nk,nk->n", difference @ np.asarray(hessian, np.float64), difference)
    return costs


def _check(grid: Grid, rows: Float32, known: Hessian) -> None:
    if rows.shape != grid.shape or rows.shape[1] != len(known.order):
        raise RequestError(
            f"rows of shape {list(rows.shape)} on a grid of {list(grid.shape)} with second moments "
            f"of {len(known.order)} columns; all must match"
        )
