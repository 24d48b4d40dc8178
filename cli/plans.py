"""What `quantize` says: the plan before the work, and what changed after it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .tables import bytes_text, safe, say, table

if TYPE_CHECKING:
    from ..quantize.policy import Item, Plan
    from ..save.to_mlx import Result


__all__ = ["by_layer", "layer_groups", "layer_ranges", "show_plan", "show_result"]


def show_plan(plan: Plan) -> None:
    """The policy as a table; tensors that differ only in the layer share a line."""
    columns = [(title, "left") for title in ("tensor", "shape", "from", "to", "because")]
    table(
        columns,
        [
            (
                safe(name),
                "×".join(map(str, item.shape)),
                item.source,
                item.target.name if item.target else item.kept_format,
                safe(item.reason or item.chosen),
            )
            for name, item in by_layer(plan.items)
        ],
    )
    say()


def show_result(result: Result) -> None:
    """Sizes before and after, what could not be done as asked, and where the output is."""
    before, after = result.source_bytes, result.output_bytes
    table(
        [("", "left"), ("before", "right"), ("after", "right")],
        [
            ("weights", bytes_text(before), bytes_text(after)),
            ("bits per weight", f"{result.source_bpw:.3f}", f"{result.bpw:.3f}"),
        ],
    )
    if result.measured is not None:
        say(f"\ndivergence on the calibration text: {result.measured:.4g} nats a token")
    if result.spent:
        from ..quantize.spending import COLUMNS

        say("\nwhere the bits went:")
        table(list(COLUMNS), [row.cells() for row in result.spent])
    left = by_layer(result.plan.exceptions)
    if left:
        say("\nnot as asked:")
        table(
            [("tensor", "left"), ("stays", "left"), ("because", "left")],
            [(safe(name), item.kept_format, safe(item.reason)) for name, item in left],
        )
    for note in result.notes:
        say(f"note: {safe(note)}")
    if result.output is not None:
        say(f"\nwritten to {safe(result.output)}")
        say(f"try it: mlxquant chat {safe(result.output)}")


def by_layer(items: Iterable[Item]) -> list[tuple[str, Item]]:
    """One item of each kind, under a name like `model.layers.[0-7].mlp.up_proj.weight`."""
    return [(name, members[0]) for name, members in layer_groups(items)]


def layer_groups(items: Iterable[Item]) -> list[tuple[str, list[Item]]]:
    """All items of each kind, under such a name."""
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        pattern = item.name
        if item.layer is not None:
            pattern = re.sub(rf"\.{item.layer}\.", ".*.", item.name, count=1)
        key = (pattern, item.shape, item.source, str(item.target), item.reason, item.chosen)
        groups.setdefault(key, []).append(item)
    result = []
    for (pattern, *_), members in groups.items():
        layers = [item.layer for item in members if item.layer is not None]
        result.append((pattern.replace(".*.", f".{layer_ranges(layers)}.", 1), members))
    return result


def layer_ranges(numbers: list[int]) -> str:
    """1 2 3 7 → `[1-3,7]`; a single number stands alone."""
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return text if text.isdigit() else f"[{text}]"
