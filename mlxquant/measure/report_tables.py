"""The tables of a report: quality at size, speed, and the machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import RequestError
from .gather import Measured, chip_of
from .groups import MEASURES, Panel, Record, base_of, front, loss, model_key, panels
from .tables import (
    EMPTY,
    Cell,
    Column,
    Table,
    count,
    estimate,
    number,
    percent,
    plain,
    size,
    text,
    timing,
)

__all__ = ["QUALITY", "machines", "quality", "quality_table", "speed"]

#: what a quality table can show of a record: name → title
QUALITY = {
    "perplexity": "perplexity",
    "increase": "increase",
    "kl": "KL mean (nats)",
    "p99": "KL p99 (nats)",
    "top1": "top-1",
}

_MODEL = ("model", "format", "tool", "method")
_SOFTWARE = ("mlxquant", "mlx", "mlx-lm", "python")

#: characters of notes that are shown
_NOTES = 1000


def quality_table(records: Iterable[Record], measures: Sequence[str] = tuple(QUALITY)) -> str:
    """`quality` as Markdown: the table, and below it what was measured on what."""
    table = quality(records, measures)
    return f"{table.markdown()}\n\n{table.note}"


def quality(records: Iterable[Record], measures: Sequence[str] = tuple(QUALITY)) -> Table:
    """What eval records say about quality at size: a row a model, from the smallest on.

    Where there are several texts (or windows, or references), each has columns of its own. Members
    of the Pareto front are marked: by KL divergence among the models that have one where two do,
    else by perplexity.

    Args:
        records: of eval documents.
        measures: which of QUALITY to show, in that order.

    Raises:
        RequestError: another measure.
    """
    for measure in measures:
        if measure not in QUALITY:
            raise RequestError(f"measure {measure!r}: one of {', '.join(QUALITY)} expected")
    groups = panels(records)
    labels = _labels(list(groups))
    found: dict[tuple[str, ...], dict[Panel, Record]] = {}
    for panel, members in groups.items():
        for record in members:
            found.setdefault(model_key(record), {})[panel] = record
    best = {(model_key(r), panel) for panel, members in groups.items() for r in _best(members)}
    columns = [Column(title, right=False) for title in _MODEL]
    columns += [Column("bits per weight"), Column("size")]
    for panel in groups:
        on = f", {labels[panel]}" if len(groups) > 1 else ""
        columns += [Column(QUALITY[name] + on) for name in measures]
        columns.append(Column(f"front{on}", right=False))
    rows = []
    for key, there in found.items():
        row = _model(next(iter(there.values())))
        for panel in groups:
            one = there.get(panel)
            row += [_measure(one, name) if one else EMPTY for name in measures]
            row.append(Cell("●", 0) if (key, panel) in best else EMPTY)
        rows.append((key[0], row[4].sort, key, row))
    rows.sort(key=lambda row: row[:3])
    return Table.of(
        "Quality at size",
        columns,
        [row[3] for row in rows],
        note=_note(groups),
        same=("model",),
    )


def _best(members: list[Record]) -> list[Record]:
    """The members of the Pareto front among records of one panel."""
    measure = next((m for m in MEASURES if sum(map(bool, _losses(members, m))) > 1), MEASURES[-1])
    found = [(r, one) for r, one in zip(members, _losses(members, measure), strict=True) if one]
    points = [(record["model"]["bits_per_weight"], one["value"]) for record, one in found]
    return [found[place][0] for place in front(points)]


def _losses(members: list[Record], measure: str) -> list[dict[str, Any] | None]:
    return [loss(record, measure) for record in members]


def _labels(found: list[Panel]) -> dict[Panel, str]:
    """What tells panels apart: the text, and where that is not enough windows and reference."""
    names = [panel.text for panel in found]
    labels = {}
    for panel in found:
        label = plain(panel.text, 40)
        if names.count(panel.text) > 1:
            label += f" {panel.style} {panel.length}/{panel.stride}"
            label += f" vs {plain(panel.reference, 40)}" if panel.reference else ""
        labels[panel] = label
    return labels


def _model(record: Record) -> list[Cell]:
    """Cells of `_MODEL`, bits per weight and size."""
    model = record["model"]
    bits = model["bits_per_weight"]
    names = (base_of(record), model["format"], model["tool"], model["method"])
    return [*(text(name) for name in names), Cell(f"{bits:.2f}", bits), size(model["bytes"])]


def _measure(record: Record, name: str) -> Cell:
    kl, reference = record["kl"], record["reference"]
    if name == "perplexity":
        return estimate(record["perplexity"])
    if name == "top1":
        return estimate(record["top1"], 100, " %")
    if name != "increase":
        return estimate(kl and kl["mean" if name == "kl" else name])
    if reference is None:
        return EMPTY
    share = record["perplexity"]["value"] / reference["perplexity"]["value"] - 1
    return Cell(f"{'+' if share > 0 else ''}{number(100 * share)} %", share)


def _note(groups: dict[Panel, list[Record]]) -> str:
    lines = []
    for panel, members in groups.items():
        reference = next((r["reference"] for r in members if r["reference"]), None)
        told = f", perplexity {estimate(reference['perplexity']).shown}" if reference else ""
        lines.append(f"{panel.words}{told}.")
    lines.append("±: half of the 95 % interval. ●: no other is both smaller and better.")
    return " ".join(dict.fromkeys(lines))


def speed(found: Iterable[Measured]) -> Table:
    """What bench records say: a row a chip, model and setting."""
    columns = [Column(title, right=False) for title in ("chip", *_MODEL)]
    columns += [
        Column(title)
        for title in (
            "bits per weight",
            "size",
            "prompt",
            "context",
            "batch",
            "first token (s)",
            "prefill (tokens/s)",
            "decode (tokens/s)",
            "limit (tokens/s)",
            "share",
            "peak memory",
            "energy (J/token)",
        )
    ]
    columns.append(Column("remarks", right=False))
    rows: list[tuple[Any, list[Cell]]] = []
    for one in found:
        record, chip = one.record, chip_of(one.document)
        limit, energy = record["limit"], record["energy"]
        settings = [record[name] for name in ("batch", "context", "prompt", "generated")]
        key = (base_of(record), chip, record["model"]["bits_per_weight"], model_key(record))
        row = [
            text(chip),
            *_model(record),
            *(count(record[name]) for name in ("prompt", "context", "batch")),
            *(timing(record[name]) for name in ("ttft", "prefill", "decode")),
            EMPTY if limit is None else Cell(number(limit), limit),
            percent(record["share"]),
            size(record["peak_memory"]),
            EMPTY if energy is None else Cell(number(energy), energy),
            text(_remarks(one), _NOTES),
        ]
        rows.append(((*key, settings), row))
    rows.sort(key=lambda row: row[0])
    return Table.of(
        "Speed and memory",
        columns,
        [row for _, row in rows],
        note="In brackets: quartiles of the runs. limit: what the memory bandwidth allows.",
        same=("model", "tool", "method", "batch"),
    )


def _remarks(one: Measured) -> str:
    conditions = one.document["conditions"]
    words = ["throttled"] * one.record["throttled"]
    words += ["on battery"] * (conditions["power"] == "battery")
    words += ["low-power mode"] * bool(conditions["low_power_mode"])
    return "; ".join([*words, *one.record["notes"]])


def machines(files: dict[str, dict[str, Any]]) -> Table:
    """A row a file: the machine, its state and its software.

    Args:
        files: documents by name.
    """
    columns = [
        Column("file", right=False),
        Column("made", right=False),
        Column("chip", right=False),
        Column("memory"),
        Column("bandwidth"),
        *(Column(title, right=False) for title in ("system", "power", "thermal")),
        Column("load"),
        *(Column(name, right=False) for name in (*_SOFTWARE, "commit", "notes")),
    ]
    rows = []
    for name, document in files.items():
        machine, conditions = document["machine"], document["conditions"]
        bandwidth, load = machine["bandwidth"], conditions["load"]
        power = [conditions["power"] or ""] + ["low power"] * bool(conditions["low_power_mode"])
        rows.append(
            [
                text(name),
                Cell(document["made"][:10], document["made"]),
                text(chip_of(document)),
                _memory(machine["memory_bytes"]),
                _bandwidth(bandwidth) if bandwidth else EMPTY,
                text(machine["system"]),
                text(", ".join(filter(None, power))),
                text(conditions["thermal"]),
                EMPTY if load is None else Cell(number(load, 2), load),
                *(text(document["software"][software]) for software in _SOFTWARE),
                text(_commit(document["software"]["commit"])),
                text("; ".join(conditions["notes"]), _NOTES),
            ]
        )
    return Table.of("Machines", columns, rows)


def _commit(found: str | None) -> str | None:
    """A commit as git abbreviates it, with what stands behind its hexadecimal digits."""
    return found and re.sub(r"^([0-9a-f]{10})[0-9a-f]+", r"\1", found)


def _memory(found: int) -> Cell:
    """Main memory, which is sold in powers of two."""
    return Cell(f"{found / 2**30:.3g} GiB", found)


def _bandwidth(found: dict[str, Any]) -> Cell:
    speed = found["bytes_per_s"]
    return Cell(f"{number(speed / 1e9)} GB/s ({found['source']})", speed)
