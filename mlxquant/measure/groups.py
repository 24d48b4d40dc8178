"""Which results belong together: by model, by what was measured on what, by machine.

Records are those of results documents, as results.py declares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .tables import plain

__all__ = [
    "MEASURES",
    "Panel",
    "base_of",
    "by_base",
    "front",
    "loss",
    "model_key",
    "panels",
    "series_of",
    "unlike",
]

Record = dict[str, Any]

#: what quality is measured by, the finer first
MEASURES = ("kl", "perplexity")


class Panel(NamedTuple):
    """The circumstances under which evaluations can be compared."""

    base: str
    text: str
    sha256: str
    style: str
    length: int
    stride: int
    scored: int
    tokenizer: str
    reference: str

    @property
    def words(self) -> str:
        """Text, windows and reference in a line."""
        words = f"{plain(self.text, 40)}: {self.scored:,} tokens in windows of {self.length:,}"
        if self.stride != self.length:
            words += f" every {self.stride:,}"
        words += f" as {self.style} cuts them"
        return words + (f"; reference {plain(self.reference, 40)}" if self.reference else "")


def base_of(record: Record) -> str:
    """The model that a model was made of; itself where nobody said."""
    model = record["model"]
    base: str = model["base"] or model["name"]
    return base


def by_base(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the model that theirs was made of, in alphabetical order."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(base_of(record), []).append(record)
    return dict(sorted(groups.items()))


def model_key(record: Record) -> tuple[str, ...]:
    """What makes a quantized model the same model, whatever its folder is called."""
    model = record["model"]
    bits = f"{model['bits_per_weight']:.3f}"
    parts = (base_of(record), model["format"], model["tool"], model["method"], bits)
    return tuple(part or "" for part in (*parts, model["tokenizer"]))


def panel_of(record: Record) -> Panel:
    """The circumstances of an eval record."""
    text, windows = record["text"], record["windows"]
    return Panel(
        base_of(record),
        text["name"],
        text["sha256"],
        windows["style"],
        windows["length"],
        windows["stride"],
        windows["scored"],
        record["model"]["tokenizer"] or "",
        record["reference"]["name"] if record["reference"] else "",
    )


def panels(records: Iterable[Record]) -> dict[Panel, list[Record]]:
    """Eval records by circumstances; within one, from the smallest model to the largest.

    A record without a reference stands with those of the first reference on the same tokens.
    """
    groups: dict[Panel, list[Record]] = {}
    for record in records:
        groups.setdefault(panel_of(record), []).append(record)
    for bare in [panel for panel in groups if not panel.reference]:
        same = [panel for panel in groups if panel.reference and panel[:-1] == bare[:-1]]
        if same:
            groups[min(same)] += groups.pop(bare)
    return {
        panel: sorted(groups[panel], key=lambda r: (r["model"]["bits_per_weight"], model_key(r)))
        for panel in sorted(groups)
    }


def loss(record: Record, measure: str) -> dict[str, Any] | None:
    """The estimate that a measure of MEASURES takes of an eval record; None where there is none."""
    if measure == "perplexity":
        found: dict[str, Any] = record["perplexity"]
        return found
    kl: dict[str, Any] | None = record["kl"]
    return kl and kl["mean"]


def series_of(record: Record) -> str:
    """Tool and method, as a legend names them."""
    model = record["model"]
    words = [plain(model[name], 24) for name in ("tool", "method") if model[name]]
    return " ".join(words) or "not quantized"


def unlike(records: Sequence[Record]) -> list[str]:
    """A short name for each record: its format, with tool and method where that is not enough."""
    series: dict[str, set[str]] = {}
    for record in records:
        series.setdefault(record["model"]["format"], set()).add(series_of(record))
    return [
        plain(record["model"]["format"], 28)
        + (f" ({series_of(record)})" if len(series[record["model"]["format"]]) > 1 else "")
        for record in records
    ]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The Pareto front: places of the points that no other beats in size and loss together.

    Args:
        points: (size, loss), the less of each the better.

    Returns:
        From the smallest to the largest; of equal points only the first.
    """
    order = sorted(range(len(points)), key=lambda place: (*points[place], place))
    kept: list[int] = []
    for place in order:
        if not kept or points[place][1] < points[kept[-1]][1]:
            kept.append(place)
    return kept
