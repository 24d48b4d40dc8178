"""Tables on stdout: rich's on a terminal, plain aligned columns in a pipe or a file.

Nothing is ever cut: on a terminal a cell that does not fit is folded, elsewhere lines are as long
as they are. What comes from files is escaped, so that no name can move the cursor or set a colour.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from ..errors import one_line

__all__ = ["Column", "bytes_text", "pairs", "prepare", "safe", "say", "table"]

Column = tuple[str, str]  # its title, and `left` or `right`


def safe(text: object) -> str:
    """Text from outside with its control characters escaped, whole."""
    return one_line(str(text), 1 << 20)


def bytes_text(count: int) -> str:
    """`14.7 MB`, in powers of a thousand."""
    if count < 1000:
        return f"{count} B"
    value, units = float(count), iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    unit = ""
    while value >= 999.5 and unit != "EB":
        value, unit = value / 1000, next(units)
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"


def prepare() -> None:
    """Let stdout escape what its encoding cannot hold instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """A line on stdout."""
    sys.stdout.write(text + "\n")


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Names and values, a pair a line."""
    if sys.stdout.isatty():
        _rich([("", "left"), ("", "left")], rows, header=False)
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:{width}}  {value}".rstrip())


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table with a header.

    Args:
        columns: title and `left` or `right`.
        rows: cells, escaped already.
    """
    if sys.stdout.isatty():
        _rich(columns, rows)
        return
    cells = [[title for title, _ in columns], *rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        line = (
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(row, widths, columns, strict=True)
        )
        say("  ".join(line).rstrip())


def _rich(columns: Sequence[Column], rows: Sequence[Sequence[str]], header: bool = True) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
    for index, (title, side) in enumerate(columns):
        made.add_column(
            title,
            justify="right" if side == "right" else "left",
            overflow="fold",
            style="bold" if not header and index == 0 else "",
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    sys.stdout.flush()
    Console(highlight=False).print(made)
