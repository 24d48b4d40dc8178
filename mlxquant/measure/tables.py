"""Tables of figures: what a cell shows, what it is sorted by, and Markdown of the whole.

Text comes from files that anybody may have made, so whatever shows a table escapes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import one_line

__all__ = [
    "EMPTY",
    "Cell",
    "Column",
    "Table",
    "count",
    "counted",
    "estimate",
    "markdown_text",
    "number",
    "percent",
    "plain",
    "size",
    "text",
    "timing",
]


class Cell(NamedTuple):
    """What is shown, and what the column is sorted by; without the latter it stands last."""

    shown: str
    sort: float | str | None = None


#: where there is no figure
EMPTY = Cell("")


class Column(NamedTuple):
    """A title, with the unit in it; and whether its cells are numbers."""

    title: str
    right: bool = True


@dataclass(frozen=True)
class Table:
    """A table, whose first columns say what a row is about.

    Attributes:
        title: what it shows, in a few words.
        columns, rows: every row has a cell for every column.
        note: what a reader must know; may be empty.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[Column],
        rows: Iterable[Sequence[Cell]],
        *,
        note: str = "",
        same: Sequence[str] = (),
    ) -> Table:
        """A table without the columns that say nothing.

        Those whose cells are all empty are left out; of the columns titled as in `same` also those
        whose cells are all equal.
        """
        rows = [tuple(row) for row in rows]
        kept = []
        for index, column in enumerate(columns):
            shown = {row[index].shown for row in rows}
            if (shown - {""} or not rows) and not (column.title in same and len(shown) < 2):
                kept.append(index)
        return cls(
            title,
            tuple(columns[index] for index in kept),
            tuple(tuple(row[index] for index in kept) for row in rows),
            note,
        )

    def markdown(self) -> str:
        """The table in GitHub's Markdown, without title and note; ends without a line break."""
        lines = [
            [markdown_text(column.title) for column in self.columns],
            ["---:" if column.right else "---" for column in self.columns],
            *([markdown_text(cell.shown) for cell in row] for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


#: what Markdown could read as anything but text; an underscore only at the edge of a word
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])")


def markdown_text(shown: str) -> str:
    """A line of text so that GitHub's Markdown shows it as it is."""
    return _SPECIAL.sub(r"\\\g<0>", shown)


def plain(value: Any, limit: int = 80) -> str:
    """Text from outside in a line: control characters escaped, its middle left out if long."""
    shown = one_line(str(value), 1000)
    half = limit // 2
    return shown if len(shown) <= limit else f"{shown[:half]}…{shown[-(limit - half - 1) :]}"


def text(value: Any, limit: int = 80) -> Cell:
    """A cell of text; empty for None and for no text."""
    return Cell(plain(value, limit), plain(value, limit).casefold()) if value else EMPTY


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, and every digit before the point: `0.0123`, `41.2`, `12,345`."""
    if value == 0:
        return "0"
    size = abs(value)
    if not 1e-6 <= size < 1e9:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}"


def count(value: int | None) -> Cell:
    """A cell of a whole number."""
    return EMPTY if value is None else Cell(f"{value:,}", value)


def counted(many: int, noun: str) -> str:
    """`1 file`, `3 files`."""
    return f"{many:,} {noun}{'s' * (many != 1)}"


def size(value: int | None) -> Cell:
    """A cell of bytes, as `14.7 MB` in powers of a thousand."""
    if value is None:
        return EMPTY
    scaled, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if scaled < 999.5:
            break
        scaled, unit = scaled / 1000, larger
    return Cell(f"{value} B" if unit == "B" else f"{number(scaled)} {unit}", value)


def estimate(found: dict[str, Any] | None, factor: float = 1, unit: str = "") -> Cell:
    """A cell of a figure with half the width of its interval: `30.12 ± 0.20`.

    Args:
        found: an estimate of a results document, or None.
        factor: 100 for a percentage.
        unit: behind the figure.
    """
    if found is None:
        return EMPTY
    value: float = found["value"] * factor
    half = 0.0
    if found["low"] is not None and found["high"] is not None:
        half = (found["high"] - found["low"]) * factor / 2
    if not half:
        shown = number(value)
    elif half < 1e-6 or value >= 1e9:
        shown = f"{number(value)} ± {number(half, 2)}"
    else:
        decimals = max(0, 1 - math.floor(math.log10(half)))
        shown = f"{value:,.{decimals}f} ± {half:,.{decimals}f}"
    return Cell(shown + unit, value)


def timing(found: dict[str, Any]) -> Cell:
    """A cell of a median with the quartiles: `102 (99.1–104)`."""
    median, low, high = (found[name] for name in ("median", "low", "high"))
    spread = "" if low == high else f" ({number(low)}–{number(high)})"
    return Cell(number(median) + spread, median)


def percent(share: float | None, digits: int = 2) -> Cell:
    """A cell of a share: `71 %`."""
    return EMPTY if share is None else Cell(f"{number(100 * share, digits)} %", share)
