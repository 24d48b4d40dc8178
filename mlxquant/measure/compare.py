"""Results files side by side: what changed from the first to the others, and whether it is more
than the spread.

A row is one measure of one model in one setting. The ratio to the first file stands with its range,
from the least to the most that the two spreads allow; where 1 lies in that range, the difference
says nothing. Spreads are the quartiles of the runs for times, and 95 % intervals for quality.
Perplexities of the same windows share most of their intervals, so that a difference within the
spread may still be one; there the KL divergence tells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RequestError
from .gather import chip_of
from .groups import Record, base_of, panel_of, series_of
from .results import load
from .tables import EMPTY, Cell, Column, Table, estimate, number, plain, size, text, timing

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Files side by side.

    Attributes:
        table: a row a model, setting and measure; behind every file but the first its ratio to the
            first and a verdict: `better`, `worse`, `within the spread` or `the same`.
        notes: what else differs between the files, and what to be wary of; a line each.
    """

    table: Table
    notes: tuple[str, ...]


class _Measure(NamedTuple):
    """One figure of a record, and which way is up."""

    cell: Cell
    value: float
    low: float
    high: float
    more_is_better: bool = False


_TIMES = (
    ("first token (s)", "ttft", False),
    ("prefill (tokens/s)", "prefill", True),
    ("decode (tokens/s)", "decode", True),
)


def compare(paths: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Lay results files side by side.

    Args:
        paths: two or more files of one kind, eval or bench; the first is what the others are
            compared with.

    Raises:
        RequestError: fewer than two files, or of different kinds.
        FileFormatError: one is no results file.
    """
    if len(paths) < 2:
        raise RequestError("a comparison needs two results files or more: name another")
    documents = [load(path) for path in paths]
    names = _names(paths)
    for path, document in zip(paths, documents, strict=True):
        if document["kind"] != documents[0]["kind"]:
            raise RequestError(
                f"{path} holds {document['kind']} results and {paths[0]} "
                f"{documents[0]['kind']} results: compare files of one kind"
            )
    found: dict[tuple[str, ...], list[_Measure | None]] = {}
    for place, document in enumerate(documents):
        for record in document["records"]:
            for key, measure in _measures(record, document["kind"]):
                found.setdefault(key, [None] * len(paths))[place] = measure
    columns = [Column(title, right=False) for title in ("model", "format", "setting", "measure")]
    for place, name in enumerate(names):
        columns.append(Column(name))
        if place:
            columns.append(Column(f"{name} / {names[0]}"))
    rows = [_row(key, measures) for key, measures in found.items()]
    notes = _notes(names, documents)
    if not any(measures.count(None) < len(paths) - 1 for measures in found.values()):
        notes.append("No model and setting is in two files, so there is nothing to compare.")
    table = Table.of(f"{', '.join(names)} side by side", columns, rows, same=("model",))
    return Comparison(table, tuple(notes))


def _names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """File names, with as much of their folders as it takes to tell them apart."""
    parts = [Path(path).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [plain(name) for name in names]


def _measures(record: Record, kind: str) -> Iterator[tuple[tuple[str, ...], _Measure]]:
    """(row, measure) of everything that a record measures."""
    model = record["model"]
    what = [model["format"], series_of(record), f"{model['bits_per_weight']:.2f} bits"]
    if kind == "eval":
        setting = panel_of(record).words
        yield from _qualities(record, (base_of(record), ", ".join(what), setting))
        return
    setting = f"prompt {record['prompt']:,}, context {record['context']:,}"
    setting += f", batch {record['batch']:,}" * (record["batch"] > 1)
    setting += f", {record['generated']:,} generated"
    row = (base_of(record), ", ".join(what), setting)
    for title, name, more in _TIMES:
        one = record[name]
        measure = _Measure(timing(one), one["median"], one["low"], one["high"], more)
        yield (*row, title), measure
    peak, energy = record["peak_memory"], record["energy"]
    yield (*row, "peak memory"), _Measure(size(peak), peak, peak, peak)
    if energy is not None:
        yield (*row, "energy (J/token)"), _Measure(Cell(number(energy)), energy, energy, energy)


def _qualities(record: Record, row: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], _Measure]]:
    kl = record["kl"]
    for title, one in (
        ("perplexity", record["perplexity"]),
        ("KL mean (nats)", kl and kl["mean"]),
        ("KL p99 (nats)", kl and kl["p99"]),
        ("top-1 (share)", record["top1"]),
    ):
        if one is not None:
            low, high = (one["value"] if one[n] is None else one[n] for n in ("low", "high"))
            more = title.startswith("top")
            yield (*row, title), _Measure(estimate(one), one["value"], low, high, more)


def _row(key: tuple[str, ...], measures: Sequence[_Measure | None]) -> tuple[Cell, ...]:
    """The cells of one row."""
    first = measures[0]
    cells = [text(part) for part in key]
    for place, measure in enumerate(measures):
        cells.append(measure.cell if measure else EMPTY)
        if place:
            cells.append(_ratio(first, measure) if first and measure else EMPTY)
    return tuple(cells)


def _ratio(first: _Measure, other: _Measure) -> Cell:
    """The ratio with its range, and what it says."""
    if first.value == other.value:
        return Cell("the same", 1.0)
    if not (first.low > 0 and other.low > 0):
        return Cell("no ratio to nothing")
    ratio, least, most = (
        other.value / first.value,
        other.low / first.high,
        other.high / first.low,
    )
    shown = f"{number(ratio)} ×"
    if least < most:
        shown += f" ({number(least)}–{number(most)})"
    if least < most and least <= 1 <= most:
        return Cell(f"{shown}, within the spread", ratio)
    better = (ratio > 1) == first.more_is_better
    return Cell(f"{shown}, {'better' if better else 'worse'}", ratio)


def _notes(names: Sequence[str], documents: Sequence[dict[str, Any]]) -> list[str]:
    """What differs besides the figures."""
    notes = []
    first = _circumstances(documents[0])
    for name, document in zip(names[1:], documents[1:], strict=True):
        for what, value in _circumstances(document).items():
            if value != first[what]:
                notes.append(f"{what}: {name} {value}, {names[0]} {first[what]}")
    for name, document in zip(names, documents, strict=True):
        hot = sum(record.get("throttled", False) for record in document["records"])
        if hot:
            notes.append(f"{name}: the machine throttled during {hot} of its measurements")
    return notes


def _circumstances(document: dict[str, Any]) -> dict[str, str]:
    conditions, software = document["conditions"], document["software"]
    low = {True: "on", False: "off", None: "not known"}
    return {
        "chip": chip_of(document),
        "system": plain(document["machine"]["system"]),
        "power": conditions["power"] or "not known",
        "low-power mode": low[conditions["low_power_mode"]],
        "thermal pressure": conditions["thermal"] or "not known",
        **{name: plain(software[name] or "not known") for name in ("mlxquant", "mlx", "mlx-lm")},
    }
