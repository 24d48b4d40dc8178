"""What `mlxquant eval` shows: a line a model, and each model's divergence with its intervals."""

from __future__ import annotations

from typing import Any

from ..measure.tables import number
from .tables import Column, bytes_text, pairs, safe, say, table

__all__ = ["figure", "show_results"]

Record = dict[str, Any]

#: (key of a record's `kl`, what it is called)
_KL = (
    ("mean", "KL divergence, mean"),
    ("median", "  median"),
    ("p90", "  90th percentile"),
    ("p99", "  99th percentile"),
)
_AGREEMENT = (("top1", "top-1 agreement"), ("top5", "top-5 agreement"))


def show_results(document: dict[str, Any]) -> None:
    """A document of eval records."""
    records = document["records"]
    pairs([(name, safe(value)) for name, value in _facts(document)])
    say()
    compared = [record for record in records if record["kl"]]
    columns: list[Column] = [("model", "left"), ("format", "left"), ("size", "right")]
    columns += [("bpw", "right"), ("perplexity", "right"), ("95 % interval", "left")]
    if compared:
        columns += [("/ reference", "right"), ("KL", "right"), ("top-1", "right")]
    table(columns, [_row(record, bool(compared)) for record in records])
    for record in compared:
        say()
        name = safe(record["model"]["name"])
        table([(name, "left"), ("value", "right"), ("95 % interval", "left")], _details(record))
    if compared:
        say()
        say("KL in nats a token; intervals: windows of this text drawn anew")


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured on, and how."""
    record = document["records"][-1]
    text, windows = record["text"], record["windows"]
    rows = [
        ("text", f"{text['name']}, {text['tokens']:,} tokens, sha256 {text['sha256'][:16]}…"),
        (
            "windows",
            f"{windows['count']:,} of {windows['length']:,} tokens, stride {windows['stride']:,}, "
            f"as {windows['style']} cuts them; {windows['scored']:,} tokens scored",
        ),
    ]
    if reference := record["reference"]:
        shown = figure(reference["perplexity"]["value"])
        rows.append(("reference", f"{reference['name']}, perplexity {shown}"))
    return [*rows, *(("note", note) for note in document["conditions"]["notes"])]


def _row(record: Record, compared: bool) -> list[str]:
    model, perplexity, reference = (record[key] for key in ("model", "perplexity", "reference"))
    cells = [
        safe(model["name"]),
        safe(model["format"]),
        bytes_text(model["bytes"]),
        f"{model['bits_per_weight']:.2f}",
        figure(perplexity["value"]),
        _interval(perplexity),
    ]
    if not compared:
        return cells
    if not reference:
        return [*cells, "", "", ""]
    ratio = perplexity["value"] / reference["perplexity"]["value"]
    return [*cells, f"{ratio:.4f}", figure(record["kl"]["mean"]["value"]), _share(record["top1"])]


def _details(record: Record) -> list[list[str]]:
    kl = record["kl"]
    rows = [[title, figure(kl[key]["value"]), _interval(kl[key])] for key, title in _KL]
    rows.append(["  largest", figure(kl["max"]), ""])
    for key, title in _AGREEMENT:
        found = record[key]
        spread = "" if found["low"] is None else f"{found['low']:.2%} - {found['high']:.2%}"
        rows.append([title, _share(found), spread])
    return rows


def figure(value: float) -> str:
    """Four digits."""
    return number(value, 4)


def _interval(found: dict[str, float | None]) -> str:
    low, high = found["low"], found["high"]
    return "" if low is None or high is None else f"{figure(low)} - {figure(high)}"


def _share(found: dict[str, float]) -> str:
    return f"{found['value']:.2%}"
