"""The second moments of a layer's input, made ready for error feedback.

The output of a linear layer changes by (W - Q) x when W becomes Q. Over calibration inputs the mean
squared change is the quadratic form that all of this works on:

    objective = tr((W - Q) H (W - Q)^T),     H = mean of x x^T

Columns are taken one after another, and what rounding one did to the output is made good by those
that follow. With the columns in that order and H = M M^T, M upper triangular,

    objective = sum over columns c of |D_0 M_0c + … + D_c M_cc|²,     D = W - Q

so that column c, once those before it are fixed, is best rounded at

    w_c + sum over j < c of D_j · M_jc / M_cc

This is the update of GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv:2210.17323), which
takes M^-1 from a Cholesky factor of H^-1, and Babai's nearest plane (Chen et al. 2025,
arXiv:2507.18553). Here one factorization is enough, and nothing is inverted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..formats.base import Array
from ..formats.floats import Float32

__all__ = ["DAMPING", "Hessian", "factorize", "moments", "tied"]

Float64 = NDArray[np.float64]

#: what is added to the diagonal before it is factorized, in parts of its mean
DAMPING = 0.01

#: below this, what is left of a column beside the others is rounding error
_SMALLEST_PIVOT = 1e-5

#: columns that are factorized together
_BLOCK = 512

#: damping is raised tenfold until the factorization succeeds, but not beyond this: second moments,
#: singular or rounded, need far less
_MOST = 10.0


@dataclass(frozen=True)
class Hessian:
    """Second moments of a layer's input, factorized.

    Attributes:
        matrix: float32 [k, k], scaled so that its diagonal's mean is 1; zeros where there was none.
        order: int [k], columns in the order in which they are rounded.
        feedback: float32 [k, k], M_jc / M_cc above the diagonal, columns in `order`.
        pivots: float32 [k], M_cc², in `order`.
        damping: what was added to the diagonal, in parts of its mean.
    """

    matrix: Float32
    order: NDArray[np.int64]
    feedback: Float32
    pivots: Float32
    damping: float

    @property
    def diagonal(self) -> Float32:
        """float32 [k], of `matrix`."""
        return np.ascontiguousarray(np.diagonal(self.matrix))

    @property
    def importance(self) -> Float32:
        """The diagonal with dead columns at a small part of the mean, for searches that would
        otherwise not look at them; all 1 where nothing was active."""
        if not self.diagonal.any():
            return np.ones_like(self.diagonal)
        return np.maximum(self.diagonal, np.float32(1e-6))


def moments(hessian: Array) -> Float64:
    """Check a matrix of second moments, and scale it.

    Args:
        hessian: float [k, k], symmetric up to rounding; only the mean of it and its transpose
            counts.

    Returns: float64 [k, k], the mean of its diagonal 1; zeros if it is zero.

    Raises:
        RequestError: not square, NaN or infinite, or with a negative diagonal.
    """
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise RequestError(f"second moments of shape {list(hessian.shape)}; a square needed")
    diagonal = np.diagonal(hessian).astype(np.float64)
    if not np.isfinite(diagonal).all() or not np.isfinite(hessian).all():
        wrong = int(np.argwhere(~np.isfinite(hessian))[0, 0])
        raise RequestError(
            f"second moments that are NaN or infinite, first in column {wrong}: an activation was; "
            "calibrate with other text, or leave this tensor out"
        )
    if (diagonal < 0).any():
        wrong = int(diagonal.argmin())
        raise RequestError(
            f"second moment {diagonal[wrong]} of column {wrong} is negative; calibrate anew"
        )
    mean = float(diagonal.mean()) if len(diagonal) else 0.0
    if mean == 0:
        return np.zeros(hessian.shape)
    scaled: Float64 = hessian.astype(np.float64)
    for some in _blocks(len(scaled)):
        scaled[some] += hessian.T[some]
    scaled *= 0.5 / mean
    return scaled


def factorize(hessian: Array, damping: float = DAMPING) -> Hessian:
    """Second moments → what rounding with feedback needs.

    Singular moments are no obstacle: the damping is raised until the factorization succeeds.
    Columns that were never active (dead) neither give nor take feedback.

    Args:
        hessian: float [k, k], the mean or the sum of x x^T; its scale does not matter.
        damping: added to the diagonal, in parts of its mean; at least 0.

    Raises:
        RequestError: as `moments`; or the matrix is far from being positive semidefinite.
    """
    exact = moments(hessian)
    diagonal = np.diagonal(exact).copy()
    order = np.argsort(-diagonal, kind="stable")
    # upper triangular of the order as lower triangular of its reverse
    reverse = order[::-1]
    matrix = exact.astype(np.float32)
    del exact  # of a wide layer it is a quarter of a gigabyte
    turned = np.empty(matrix.shape)
    for some in _blocks(len(matrix)):
        turned[some] = matrix[reverse[some, None], reverse]
    added, raised = damping, max(damping, 1e-7)
    while True:
        np.fill_diagonal(turned, diagonal[reverse] + (added if diagonal.any() else 1))
        try:
            _cholesky(turned)
            pivots = np.diagonal(turned).copy()
            if (pivots > _SMALLEST_PIVOT).all():
                break
        except np.linalg.LinAlgError:
            pass
        _mirror(turned)
        added = raised = 10 * raised
        if added > max(_MOST, damping):
            raise RequestError(
                "second moments that are not positive semidefinite, even with "
                f"{_MOST:g} of their mean added to the diagonal; calibrate anew"
            )
    return Hessian(
        matrix,
        order,
        _feedback(turned, pivots),
        np.ascontiguousarray((pivots * pivots)[::-1], np.float32),
        added,
    )


def _blocks(k: int) -> list[slice]:
    return [slice(first, min(first + _BLOCK, k)) for first in range(0, k, _BLOCK)]


def _cholesky(a: Float64) -> None:
    """Put the Cholesky factor of a matrix into its lower triangle; above the diagonal it stays.

    Block by block and in place: numpy's own keeps three matrices of that size.

    Args:
        a: float64 [k, k], symmetric.

    Raises:
        LinAlgError: it is not positive definite.
    """
    for here in _blocks(len(a)):
        before = slice(0, here.start)
        known = a[here, before].copy()
        square = np.tril(a[here, here]) - np.tril(known @ known.T)
        square += np.tril(square, -1).T
        factor = np.linalg.cholesky(square)
        a[here, here] = factor + np.triu(a[here, here], 1)
        inverse = np.linalg.inv(factor)
        for rows in _blocks(len(a)):
            if rows.start >= here.stop:
                a[rows, here] = (a[rows, here] - a[rows, before] @ known.T) @ inverse.T


def _mirror(a: Float64) -> None:
    """Restore what is below the diagonal from what is above."""
    for here in _blocks(len(a)):
        for rows in _blocks(len(a)):
            if rows.start > here.start:
                a[rows, here] = a[here, rows].T
        upper = np.triu(a[here, here], 1)
        a[here, here] = upper + upper.T


def _feedback(a: Float64, pivots: Float64) -> Float32:
    """M_jc / M_cc of the lower triangle's factor, in the order: float32 [k, k].

    It takes the place of the factor, every row in the first half of what its float64 took.
    """
    found = a.view(np.float32)[:, : len(a)]
    for rows in _blocks(len(a)):
        found[rows] = (np.tril(a[rows], rows.start) / pivots)[:, ::-1]
    return found[::-1]


def tied(hessian: Array, share: float = 1.0) -> Float64:
    """The moments for a table that is both embedding and head.

    As a head it is multiplied by what `hessian` was measured on; as an embedding its rows are
    looked up, and every column of a row counts alike. The objective is the sum of both, so that
    feedback does not spend one role's exactness on the other.

    Args:
        hessian: second moments of the head's input, float [k, k].
        share: weight of the embedding's role, the head's being 1. The table of the bundled model
            alone in affine3-g64, divergence on 4 windows of unseen text: 0.0312 with 0, 0.0290 with
            0.1, 0.0284 with 1, 0.0285 with 3 (rounding: 0.0482).

    Returns: float64 [k, k], its diagonal's mean 1 + share.

    Raises:
        RequestError: as `moments`.
    """
    matrix = moments(hessian)
    at = np.arange(len(matrix))
    matrix[at, at] += share
    return matrix
