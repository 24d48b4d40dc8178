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
    _print([("", "left"), ("", "left")], rows, folded=1, header=False)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table with a header, whose first column is folded where the terminal is too narrow.

    Args:
        columns: title and `left` or `right`.
        rows: cells, escaped already.
    """
    _print(columns, rows, folded=0, header=True)


def _print(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], folded: int, header: bool
) -> None:
    lines = [[title for title, _ in columns], *rows] if header else list(rows)
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    if sys.stdout.isatty() and _rich(columns, rows, widths, folded, header):
        return
    for line in lines:
        cells = (
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(line, widths, columns, strict=True)
        )
        say("  ".join(cells).rstrip())


def _rich(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    folded: int,
    header: bool,
) -> bool:
    """Print with rich; False, and nothing printed, where the terminal is too narrow for that."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    fixed = sum(widths) - widths[folded] + 3 * len(widths)
    if console.width - fixed < min(widths[folded], 24):
        return False
    made = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False)
    for index, (title, side) in enumerate(columns):
        made.add_column(
            title,
            justify="right" if side == "right" else "left",
            overflow="fold",
            no_wrap=index != folded,
            style="bold" if not header and index == 0 else "",
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    sys.stdout.flush()
    console.print(made)
    return True
