"""What `export --to swift` says: what a GPU takes in place, and what the model takes in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .tables import bytes_text, prepare, safe, say, table

if TYPE_CHECKING:
    from ..save.to_swift import SwiftResult

__all__ = ["show_swift"]


def show_swift(result: SwiftResult, *, as_json: bool) -> None:
    """The result as tables, or as JSON."""
    prepare()
    if as_json:
        say(json.dumps(result.to_json(), indent=1))
        return
    found = result.in_place
    bits = 8 * result.output_bytes / max(1, result.layout.parameters)
    table(
        [("", "left"), ("", "right")],
        [
            ("weights", bytes_text(result.output_bytes)),
            ("bits per weight", f"{bits:.3f}"),
            ("mapped in place", f"{100 * found['bytes_in_place'] / max(1, found['bytes']):.1f} %"),
        ],
    )
    if result.memory:
        say()
        table(
            [(title, "right") for title in ("context", "weights", "cache", "working", "total")],
            [
                (
                    f"{context:,}",
                    *map(bytes_text, (each.weights, each.cache, each.working, each.total)),
                )
                for context, each in sorted(result.memory.items())
            ],
        )
    for note in result.notes:
        say(f"note: {safe(note)}")
    if result.output is not None:
        say(f"\nwritten to {safe(result.output)}: bundle the folder, and compile ModelInfo.swift")
