"""Records of results for models that another program than mlxquant runs."""

from __future__ import annotations

from typing import Any

from mlxquant.measure.divergence import Divergence
from mlxquant.measure.statistics import Estimate
from mlxquant.measure.text import Text

__all__ = ["IN_LLAMA_CPP", "compared"]

#: what the float model is called where llama.cpp runs it
IN_LLAMA_CPP = "books-7m run by llama.cpp"


def compared(
    found: Divergence, subject: dict[str, Any], text: Text, reference: str, seconds: float
) -> dict[str, Any]:
    """The record of a comparison.

    Args:
        found: the comparison.
        subject: the record's `model`.
        text: what it was made on.
        reference: what the model was compared with.
        seconds: how long it took.
    """
    windows = found.windows
    kl = {name: _estimate(one) for name, one in found.kl_summary.items()}
    return {
        "model": subject,
        "text": {"name": text.name, "sha256": text.sha256, "tokens": windows.given},
        "windows": {
            "style": "mlx-lm",
            "length": windows.length,
            "stride": windows.stride,
            "count": windows.count,
            "scored": windows.total,
        },
        "perplexity": _estimate(found.perplexity.estimate),
        "reference": {
            "name": reference,
            "perplexity": _estimate(found.reference_perplexity.estimate),
        },
        "kl": {**kl, "max": kl["max"]["value"]},
        **{name: _estimate(one) for name, one in found.agreement.items()},
        "seconds": seconds,
    }


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}
