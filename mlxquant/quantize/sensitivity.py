"""What each format of a tensor would do to the predictions, from a few measurements.

    E(f)    relative error of a tensor's output in format f, by what its inputs are: cheap, so known
            for every format                  tr(D·H·Dᵀ) / tr(W·H·Wᵀ),   D = Ŵ - W
    KL(f)   divergence of the model with this one tensor in format f from the model as it is: a run
            over some windows each, so known for one or two formats, LEVELS

KL is flat at zero and so quadratic in small D, as E is: within a tensor KL ∝ E as long as errors
are small, and a power of it where they are not. So log KL is interpolated in log E between the
formats that were measured, and beyond them it goes on: with slope 1 towards smaller errors, with
the last two points' slope towards larger ones. Of books-7m's 57 tensors, with affine2-g64 and
affine4-g64 measured on 1,020 tokens, the prediction for formats that were not is off by 6 to 9 %
(root mean square, weighed by KL; 3 to 8 bits, groups of 32 to 128, mxfp4), and by 30 % for 1 bit.
How sensitive tensors are differs far more: KL/E is from 0.001 to 8.

So few tokens do. Allocations of books-7m from one window of 255 tokens, from four and from twelve
came out at a divergence of 0.0093, 0.0092 and 0.0093 on another text at 4.5 bits per weight, and
0.044, 0.045 and 0.045 at 3.5.

Sums. Perturbations of different tensors are nearly independent, so their divergences nearly add
up. Of uniform formats on books-7m, the whole model's over the sum is 0.98 at 8 bits, 1.01 at 4,
1.05 at 3, 1.17 at 2 and 1.20 at 1. `Calibration` makes the one of the other by what was measured of
a whole model.

Context. Beside other errors one counts for more or less than alone. For a quadratic form Q of
errors d, what tensor t has to answer for is Q(d_t) + Σ_s Q(d_t, d_s), the mean of what it does
alone and of what its being exact again takes off the whole. `in_context` takes the two together. On
books-7m that made an allocation's KL a tenth smaller at 2.5 bits per weight, and 1 to 4 % larger at
3.5 and 4.5, where there is little to correct: it is for low budgets.

Everything here is a pure function on arrays and numbers. Sources: the quadratic form is that of
optimal brain surgeon (Hassibi and Stork, 1992) with a layer's own second moments for H, as in GPTQ
(Frantar et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError, one_line

__all__ = [
    "LEVELS",
    "LOW_LEVELS",
    "Calibration",
    "Sensitivity",
    "in_context",
    "predict",
    "predict_all",
    "relative_error",
]

#: the formats to measure where nobody says otherwise
LEVELS = ("affine2-g64", "affine4-g64")

#: the same for budgets below 4 bits per weight, where some tensors will get 1 bit
LOW_LEVELS = ("affine1-g64", *LEVELS)

#: how far a measurement in context may move a prediction, either way
_CONTEXT = 3.0

#: divergences below this are rounding
_LEAST = 1e-12

#: errors below this are none: the square of what float64 resolves is larger
_NO_ERROR = 1e-40

#: slopes of log KL over log E beyond the largest error that was measured
_SLOPES = (0.5, 1.2)

#: formats whose errors differ by less than this part are one point
_SAME = 0.02


@dataclass(frozen=True)
class Sensitivity:
    """What is known of a tensor.

    Attributes:
        errors: E of every format in the menu.
        measured: KL of the model with this tensor in a format, nats a token; may be empty.
        role: tensors of one role stand in for one that was not measured.
    """

    errors: Mapping[str, float]
    measured: Mapping[str, float]
    role: str = "other"


def relative_error(
    rows: NDArray[np.float32],
    decoded: NDArray[np.float32],
    moments: NDArray[Any] | None = None,
) -> float:
    """E: how large the error of a tensor's output is beside the output itself.

    Args:
        rows: float32 [n, k], the weights.
        decoded: float32 [n, k], what a format makes of them.
        moments: [k, k], the mean of x·xᵀ over inputs x of the layer; or [k], its diagonal, which
            takes columns as independent; or None, as if all inputs were alike.

    Returns: 0 for equal weights. Where the output is 0 by what is known of the inputs, the plain
        error of the weights, and 1 for weights of 0 that are no longer.
    """
    error = decoded.astype(np.float32) - rows
    lost, whole = _energy(error, moments), _energy(rows, moments)
    if not whole > 0 and moments is not None:
        lost, whole = _energy(error, None), _energy(rows, None)
    if not lost > 0:
        return 0.0
    return lost / whole if whole > 0 else 1.0


def _energy(rows: NDArray[np.float32], moments: NDArray[Any] | None) -> float:
    """tr(R·H·Rᵀ)."""
    if moments is None:
        return float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    if moments.ndim == 1:
        return float(np.einsum("ij,ij,j->", rows, rows, moments, dtype=np.float64))
    product = rows @ moments.astype(np.float32, copy=False)
    return float(np.einsum("ij,ij->", product, rows, dtype=np.float64))


def predict(tensor: Sensitivity) -> dict[str, float]:
    """KL of every format in the menu, nats a token.

    It never falls where E rises. Formats that were measured get what the curve through all
    measurements says, which is what was measured unless that fell where E rose.

    Raises:
        RequestError: no measurement, one of a format whose error is not known, or numbers below 0.
    """
    if not tensor.measured:
        raise RequestError("a tensor without measurements: predict it with others (predict_all)")
    _check(tensor)
    points = _points(tensor)
    if not points:  # whatever was measured changes no weight, and says nothing of what does
        return {
            name: max(_LEAST, error) if error > _NO_ERROR else 0.0
            for name, error in tensor.errors.items()
        }
    return {name: _at(points, error) for name, error in tensor.errors.items()}


def predict_all(tensors: Mapping[str, Sensitivity]) -> dict[str, dict[str, float]]:
    """`predict` for all tensors of a model, and for those that could not be measured too.

    One without measurements is taken for as sensitive as the median of its role, or of all tensors
    where its role has none: KL/E at the smallest error that was measured.

    Raises:
        RequestError: as `predict`, with the tensor's name; or nothing was measured at all.
    """
    found: dict[str, dict[str, float]] = {}
    ratios: dict[str, list[float]] = {}
    for name, tensor in tensors.items():
        if tensor.measured:
            try:
                found[name] = predict(tensor)
            except RequestError as problem:
                raise RequestError(one_line(f"{name}: {problem}")) from problem
            for error, kl in _points(tensor)[:1]:
                ratios.setdefault(tensor.role, []).append(kl / error)
    everywhere = [ratio for role in ratios.values() for ratio in role]
    for name, tensor in tensors.items():
        if name not in found:
            if not everywhere:
                raise RequestError("no tensor of the model was measured; nothing can be predicted")
            ratio = median(ratios.get(tensor.role, everywhere))
            found[name] = {each: ratio * error for each, error in tensor.errors.items()}
    return {name: found[name] for name in tensors}


def _check(tensor: Sensitivity) -> None:
    for name, value in (*tensor.errors.items(), *tensor.measured.items()):
        # rounding may leave a divergence of -1e-8
        if not (math.isfinite(value) and value > -1e-6):
            raise RequestError(f"{name}: {value} is no error and no divergence")
    for name in tensor.measured:
        if name not in tensor.errors:
            raise RequestError(f"{name} was measured, but its error is not known")


def _points(tensor: Sensitivity) -> list[tuple[float, float]]:
    """(E, KL) of what was measured, by rising E, with KL never falling."""
    raw = sorted(
        (tensor.errors[name], max(kl, _LEAST))
        for name, kl in tensor.measured.items()
        if tensor.errors[name] > _NO_ERROR
    )
    # pools: [sum of log E, sum of log KL, how many]
    pools: list[list[float]] = []
    last = 0.0
    for error, kl in raw:
        pool = [math.log(error), math.log(kl), 1.0]
        if pools and error <= last * (1 + _SAME):
            pool = [a + b for a, b in zip(pools.pop(), pool, strict=True)]
        last = error
        # what falls where it should rise is evened out: pool adjacent violators
        while pools and pools[-1][1] / pools[-1][2] >= pool[1] / pool[2]:
            pool = [a + b for a, b in zip(pools.pop(), pool, strict=True)]
        pools.append(pool)
    return [(math.exp(e / n), math.exp(kl / n)) for e, kl, n in pools]


def _at(points: Sequence[tuple[float, float]], error: float) -> float:
    """The curve through some points, at an error."""
    if error <= _NO_ERROR:
        return 0.0
    x = math.log(error)
    xs = [math.log(e) for e, _ in points]
    ys = [math.log(kl) for _, kl in points]
    if x <= xs[0] or len(xs) == 1:
        return math.exp(ys[0] + x - xs[0])
    if x >= xs[-1]:
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
        low, high = _SLOPES
        return math.exp(ys[-1] + min(max(slope, low), high) * (x - xs[-1]))
    return math.exp(float(np.interp(x, xs, ys)))


def in_context(
    costs: Mapping[str, Mapping[str, float]],
    chosen: Mapping[str, str],
    gains: Mapping[str, float],
) -> dict[str, dict[str, float]]:
    """Predictions corrected by what tensors do among the others, in a plan that was measured.

    Args:
        costs: tensor → format → predicted KL.
        chosen: the plan: tensor → format.
        gains: tensor → how much less the KL of the whole plan is with this tensor exact. What is
            missing is left as it was; below 0 counts as little.

    Returns: all costs of a tensor times the square root of gain over prediction, the geometric mean
        of the two in the plan's own format; by a factor of 3 at most.
    """
    corrected = {}
    for name, each in costs.items():
        alone, gain = each.get(chosen.get(name, ""), 0.0), gains.get(name)
        factor = 1.0
        if gain is not None and alone > _LEAST:
            ratio = max(gain, _LEAST) / alone
            factor = min(max(math.sqrt(ratio), 1 / _CONTEXT), _CONTEXT)
        corrected[name] = {fmt: cost * factor for fmt, cost in each.items()}
    return corrected


@dataclass(frozen=True)
class Calibration:
    """What a model's divergence is where its tensors' predicted divergences have a given sum.

    Attributes:
        points: (sum of predictions, KL measured of the whole model), of plans that were measured;
            none takes sums for what they are.

    One point gives a factor. Several are joined by straight lines of logarithms; what is off a
    rising line is evened out.
    """

    points: tuple[tuple[float, float], ...] = ()

    def __init__(self, points: Iterable[tuple[float, float]] = ()) -> None:
        found = tuple((float(total), float(kl)) for total, kl in points)
        for total, kl in found:
            if not (0 < total < math.inf and 0 < kl < math.inf):
                raise RequestError(
                    f"a sum of {total} with a divergence of {kl} calibrates nothing; both must be "
                    "above 0"
                )
        object.__setattr__(self, "points", found)

    def whole(self, total: float) -> float:
        """The whole model's KL, nats a token, for a sum of predictions."""
        return _line(self._rising(), total)

    def total(self, whole: float) -> float:
        """The sum of predictions for a whole model's KL: the inverse of `whole`."""
        return _line([(kl, total) for total, kl in self._rising()], whole)

    def _rising(self) -> list[tuple[float, float]]:
        errors = {str(i): total for i, (total, _) in enumerate(self.points)}
        measured = {str(i): kl for i, (_, kl) in enumerate(self.points)}
        return _points(Sensitivity(errors, measured)) or [(1.0, 1.0)]


def _line(points: Sequence[tuple[float, float]], x: float) -> float:
    """Through points in logarithms, with slope 1 beyond them."""
    if x <= 0:
        return 0.0
    if x >= points[-1][0]:
        return points[-1][1] * x / points[-1][0]
    return _at(points, x)
