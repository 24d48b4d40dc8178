"""What a format costs in quality: measured where somebody measured it, an estimate elsewhere.

The figure is the mean KL divergence from the original model's predictions, in nats a token.

    measured   an eval record of the same model in the same format (results.py); those of the
               bundled model ship with mlxquant
    estimate   s · e²    e²: mean squared error of the weights, relative to their mean square
                         s:  how much a model makes of it

e² follows from the formats: a Gaussian matrix, encoded as `mlxquant quantize` does where it is told
no more, and decoded, gives the table below; a plan's is the mean over its matrices. s differs
between models and mixtures. Found were: the bundled model 1.5 to 3.7 in MLX's formats and 1.3 to
2.7 in llama.cpp's types, which spare the tensors that matter; Llama 2 7B 2 to 8, Llama 3 8B 6 to 18
(from the divergences that llama.cpp publishes of its types). The range of an estimate has the
extremes as its ends, its value is their geometric mean. Rounding twice adds up; methods that look
at a text are not foreseen.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ..assets import RESULTS
from ..quantize.request import DEFAULT_METHOD
from .candidates import AS_IT_IS, Candidate
from .gather import Measured, gather
from .groups import base_of

__all__ = [
    "SENSITIVITY",
    "WEIGHT_ERROR",
    "Loss",
    "estimated",
    "label_of",
    "measured",
    "relative_error",
    "shipped_records",
]

#: format → mean squared error of Gaussian weights in bfloat16, relative to their mean square
WEIGHT_ERROR: dict[str, float] = {
    "affine8-g32": 3.65e-05,
    "affine8-g64": 4.69e-05,
    "affine8-g128": 5.69e-05,
    "affine6-g32": 0.0003,
    "affine6-g64": 0.000411,
    "affine6-g128": 0.000523,
    "affine5-g32": 0.00116,
    "affine5-g64": 0.00161,
    "affine5-g128": 0.00205,
    "affine4-g32": 0.00483,
    "affine4-g64": 0.00659,
    "affine4-g128": 0.00821,
    "affine3-g32": 0.0208,
    "affine3-g64": 0.027,
    "affine3-g128": 0.0317,
    "affine2-g32": 0.0881,
    "affine2-g64": 0.103,
    "affine2-g128": 0.111,
    "mxfp8": 0.00071,
    "nvfp4": 0.0066,
    "mxfp4": 0.0125,
    "Q8_0": 2.88e-05,
    "Q6_K": 0.000275,
    "Q5_K": 0.00115,
    "Q5_0": 0.00183,
    "Q5_1": 0.00143,
    "Q4_K": 0.00485,
    "Q4_0": 0.00744,
    "Q4_1": 0.00613,
    "Q3_K": 0.0206,
    "Q2_K": 0.0678,
    "IQ4_NL": 0.00537,
    "IQ4_XS": 0.00543,
}

#: s of the models that were measured: the least and the most
SENSITIVITY = (1.3, 18.0)

#: who may have made a model whose record counts for ours: they round as mlxquant does
_TOOLS = ("mlxquant", "mlx-lm", "llama.cpp", None)


@dataclass(frozen=True)
class Loss:
    """A divergence from the original, nats a token.

    Attributes:
        kl: the mean. low, high: its interval, or the range of the estimate.
        source: `measured`, or `estimate`.
        told: where it was measured, or how it was estimated.
    """

    kl: float
    low: float | None
    high: float | None
    source: str
    told: str


def shipped_records() -> tuple[Measured, ...]:
    """The eval records that come with mlxquant: of the bundled model, by benchmarks/losses.py."""
    return gather(RESULTS).evals


def measured(
    candidate: Candidate, names: Collection[str], records: Iterable[Measured]
) -> Loss | None:
    """What was measured of a model in a candidate's format; None where nothing was.

    Of several records the one with the most tokens counts, of equals the newest.

    Args:
        names: what the model may be called in results.
        records: eval records.
    """
    labels = {candidate.name, label_of(candidate)}
    found = [
        one
        for one in records
        if one.record["kl"] is not None
        and _is_of(one.record, names, labels, candidate)
        and abs(one.record["model"]["parameters"] / candidate.parameters - 1) < 0.02
    ]
    if not found:
        return None
    best = max(found, key=lambda one: (one.record["windows"]["scored"], one.made))
    kl = best.record["kl"]["mean"]
    told = f"measured on {best.record['text']['name']} ({best.file})"
    return Loss(kl["value"], kl["low"], kl["high"], "measured", told)


def _is_of(
    record: dict[str, Any], names: Collection[str], labels: Collection[str], candidate: Candidate
) -> bool:
    model = record["model"]
    if candidate.name == AS_IT_IS:
        return model["name"].lower() in names
    return (
        base_of(record).lower() in names
        and model["format"] in labels
        and model["tool"] in _TOOLS
        and model["method"] in (None, DEFAULT_METHOD)
    )


def label_of(candidate: Candidate) -> str:
    """The name that results give to the mixture of a candidate's formats, the most first."""
    return "+".join(sorted(candidate.formats, key=lambda name: -candidate.formats[name]))


def estimated(candidate: Candidate) -> Loss:
    """The estimate for a candidate, by its plan and the table of formats."""
    error = relative_error(candidate)
    low, high = (s * error for s in SENSITIVITY)
    told = "no format of it loses anything" if error == 0 else "by the error of its weights"
    return Loss(math.sqrt(low * high), low, high, "estimate", told)


def relative_error(candidate: Candidate) -> float:
    """e² of a candidate: the mean over its matrices, those that stay as they are included."""
    matrices = sum(math.prod(part.shape) for part in candidate.parts if len(part.shape) > 1)
    lost = sum(
        WEIGHT_ERROR.get(name, _by_bits(name)) * count for name, count in candidate.formats.items()
    )
    return lost / max(1, matrices)


def _by_bits(name: str) -> float:
    """A format that is not in the table, by the width in its name: a quarter with every bit."""
    digits = [character for character in name if character.isdigit()]
    bits = int(digits[0]) if digits and digits[0] != "0" else 4
    return 2.1 * 4.0**-bits
