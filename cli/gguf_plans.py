"""What `export` and `quantize --type` say: the plan, what it loses, and where the file is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .plans import layer_ranges
from .tables import bytes_text, prepare, safe, say, table

if TYPE_CHECKING:
    from ..quantize.gguf_plan import GgufItem, GgufPlan
    from ..save.to_gguf import GgufResult

__all__ = ["show_inexact", "show_result"]


def show_inexact(plan: GgufPlan) -> None:
    """What an export loses, on stderr before anything is written: nothing is said of the rest."""
    import click

    for name, items in _by_layer(plan.inexact):
        item = items[0]
        worst = max(each.error or 0.0 for each in items)
        because = f" ({safe(item.reason)})" if item.reason else ""
        line = f"not exact: {safe(name)}: {item.tensor.source} → {item.type}, error {worst:.2g}"
        click.echo(line + because, err=True)


def show_result(result: GgufResult, *, as_json: bool, planned: bool, errors: bool) -> None:
    """The result as a table, or as JSON; with `planned`, every tensor's type before it.

    `errors` are known before the work for an export only.
    """
    prepare()
    if as_json:
        say(json.dumps(result.to_json(), indent=1))
        return
    if planned:
        _show_plan(result.plan, errors)
    parameters = max(1, result.layout.parameters)
    before, after = result.plan.model.nbytes, result.output_bytes
    table(
        [("", "left"), ("before", "right"), ("after", "right")],
        [
            ("weights", bytes_text(before), bytes_text(after)),
            ("bits per weight", f"{8 * before / parameters:.3f}", f"{result.bpw:.3f}"),
        ],
    )
    if errors:
        inexact = result.plan.inexact
        worst = max((item.error or 0.0 for item in inexact), default=0.0)
        exact = len(result.plan.items) - len(inexact)
        lost = f", {len(inexact)} not, of error {worst:.2g} at most" if inexact else ""
        say(f"\n{exact} of {len(result.plan.items)} tensors are exact{lost}")
    else:
        _show_reasons(result.plan)
    for note in result.plan.notes:
        say(f"note: {safe(note)}")
    for path in result.outputs:
        say(f"\nwritten to {safe(path)}" if path == result.outputs[0] else f"       and {path}")
    if result.outputs:
        say(f"try it: mlxquant chat {safe(result.outputs[0])}")


def _show_plan(plan: GgufPlan, errors: bool) -> None:
    rows = []
    for name, items in _by_layer(plan.items):
        item = items[0]
        shape = "×".join(map(str, item.tensor.shape))
        worst = max(each.error or 0.0 for each in items)
        lost = [("exact" if not worst else f"{worst:.2g}")] if errors else []
        because = safe(item.reason or item.chosen)
        rows.append((safe(name), shape, item.tensor.source, item.type, *lost, because))
    titles = ("tensor", "shape", "from", "to", *(["error"] if errors else []), "because")
    table([(title, "left") for title in titles], rows)
    say()


def _show_reasons(plan: GgufPlan) -> None:
    """What did not get the type that the rules have for it."""
    rows = [
        (safe(name), items[0].type, safe(items[0].reason))
        for name, items in _by_layer(item for item in plan.items if item.reason)
    ]
    if rows:
        say("\nnot as asked:")
        table([("tensor", "left"), ("gets", "left"), ("because", "left")], rows)


def _by_layer(items: Iterable[GgufItem]) -> list[tuple[str, list[GgufItem]]]:
    """Items of one kind together, under a name like `blk.[0-7].attn_q.weight`."""
    groups: dict[tuple[str, ...], list[GgufItem]] = {}
    for item in items:
        pattern = re.sub(r"^blk\.\d+\.", "blk.*.", item.tensor.name)
        shape = str(item.tensor.shape)
        lost = str(item.error == 0)
        reason = re.sub(r" in \d+ of \d+ groups", "", str(item.reason))
        key = (pattern, shape, item.tensor.source, item.type, item.chosen, reason, lost)
        groups.setdefault(key, []).append(item)
    named = []
    for (pattern, *_), members in groups.items():
        layers = [int(item.tensor.name.split(".")[1]) for item in members] if "*" in pattern else []
        named.append((pattern.replace("*", layer_ranges(layers), 1), members))
    return named
