"""What the commands print: progress on stderr, tables on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import one_line

if TYPE_CHECKING:
    from ..quantize.policy import Item, Plan
    from ..save.to_mlx import Result

__all__ = ["ByteProgress", "console", "megabytes", "plain_table", "show_plan", "summary"]


def console() -> Console:
    """Standard output; wide enough for any name where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)


def plain_table(*columns: str) -> Table:
    """A table without lines; a leading `>` in a column's name right-aligns it."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table


def megabytes(nbytes: int) -> str:
    """A size as people write it: decimal, three digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} B"


class ByteProgress:
    """A progress bar over bytes on stderr, only where that is a terminal.

    Called with (bytes done, bytes in all, name of the tensor).
    """

    def __init__(self, what: str, enabled: bool = True) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._what, self._enabled = what, enabled and sys.stderr.isatty()

    def __enter__(self) -> ByteProgress:
        return self

    def __call__(self, done: int, total: int, name: str) -> None:
        if not self._enabled:
            return
        if self._bar is None:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def show_plan(plan: Plan) -> None:
    """The policy as a table; tensors that differ only in the layer share a line."""
    table = plain_table("tensor", "shape", "from", "to", "because")
    for name, items in _by_layer(plan.items):
        item = items[0]
        table.add_row(
            escape(one_line(name, 120)),
            "×".join(map(str, item.shape)),
            item.source,
            item.target.name if item.target else item.kept_format,
            escape(item.reason or item.chosen),
        )
    console().print(table)


def _by_layer(items: Iterable[Item]) -> list[tuple[str, list[Item]]]:
    """Items that agree in all but the layer, under a name like `model.layers.[0-7].mlp.up_proj`."""
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        pattern = item.name
        if item.layer is not None:
            pattern = re.sub(rf"\.{item.layer}\.", ".*.", item.name, count=1)
        key = (pattern, item.shape, item.source, str(item.target), item.reason, item.chosen)
        groups.setdefault(key, []).append(item)
    result = []
    for key, members in groups.items():
        layers = [item.layer for item in members if item.layer is not None]
        which = _ranges(layers)
        which = which if which.isdigit() else f"[{which}]"
        name = key[0].replace(".*.", f".{which}.", 1) if layers else key[0]
        result.append((name, members))
    return result


def _ranges(numbers: list[int]) -> str:
    """1 2 3 7 → `1-3,7`."""
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def summary(result: Result) -> None:
    """What changed, on a few lines."""
    out = console()
    parameters = max(1, result.layout.parameters)
    before, after = result.source_bytes, result.output_bytes
    table = plain_table("", ">before", ">after")
    table.add_row("weights", megabytes(before), megabytes(after))
    table.add_row("bits per weight", f"{8 * before / parameters:.3f}", f"{result.bpw:.3f}")
    out.print(table)
    left = _by_layer(result.plan.exceptions)
    if left:
        out.print("\nnot as asked:")
        listing = plain_table("tensor", "kept as", "because")
        for name, items in left:
            reason = escape(items[0].reason or "")
            listing.add_row(escape(one_line(name, 120)), items[0].kept_format, reason)
        out.print(listing)
    for note in result.notes:
        out.print(f"note: {escape(one_line(note))}")
    if result.output is not None:
        out.print(f"\nwritten to {escape(str(result.output))}", soft_wrap=True)
        out.print(f"try it: mlxquant chat {escape(str(result.output))}", soft_wrap=True)
