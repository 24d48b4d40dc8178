"""Peak memory against the length of the context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .gather import Measured, chip_of
from .groups import base_of, model_key, unlike
from .plot_labels import spread
from .plot_style import GREY, INK, Plot, drawing, panel_grid, settle, style
from .tables import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["memory"]

#: one model's runs of one batch size on one chip, by length
Line = list[Measured]

#: the most panels of a figure and lines of a panel
_PANELS, _LINES = 6, 10

#: what can be drawn, bytes and tokens
_BYTES, _TOKENS = 1e15, 1e9


def memory(found: Iterable[Measured]) -> Plot | None:
    """Peak memory against context: a panel a chip, a line a model that was measured at two lengths
    or more.

    Of each model the smallest batch that was measured so. A length is all that the cache holds in
    the end: context, prompt and reply.

    Args:
        found: bench records, of one base model.

    Raises:
        RequestError: matplotlib is missing.
    """
    chips = _lines(found)
    if not chips:
        return None
    shown = {chip: chips[chip][:_LINES] for chip in sorted(chips)[:_PANELS]}
    keys = [model_key(line[0].record) for lines in shown.values() for line in lines]
    order = list(dict.fromkeys(keys))
    with drawing():
        figure, grid = panel_grid(len(shown), 7.2, 4.2)
        for axes, (chip, lines) in zip(grid, shown.items(), strict=True):
            _scales(axes, chip, lines)
        settle(figure)
        for axes, lines in zip(grid, shown.values(), strict=True):
            _draw(axes, lines, [order.index(model_key(line[0].record)) for line in lines])
    caption = "Peak memory of the whole run: weights, KV cache and activations."
    hidden = sum(map(len, chips.values())) - sum(map(len, shown.values()))
    if hidden:
        caption += f" {hidden} more models are in the table."
    base = plain(base_of(next(iter(shown.values()))[0][0].record), 60)
    return Plot(figure, f"{base}: memory against context", caption)


def _length(one: Measured) -> int:
    length: int = one.record["context"] + one.record["prompt"] + one.record["generated"]
    return length


def _lines(found: Iterable[Measured]) -> dict[str, list[Line]]:
    """By chip, the lines from the smallest model on."""
    groups: dict[tuple[Any, ...], dict[int, Measured]] = {}
    for one in sorted(found, key=lambda one: (one.record["prompt"], one.file)):
        if 0 < one.record["peak_memory"] < _BYTES and 0 < _length(one) < _TOKENS:
            record = one.record
            key = (chip_of(one.document), model_key(record), record["batch"])
            groups.setdefault(key, {}).setdefault(_length(one), one)
    chips: dict[str, dict[tuple[str, ...], Line]] = {}
    for (chip, model, _), runs in sorted(groups.items()):
        if len(runs) > 1:
            line = [runs[length] for length in sorted(runs)]
            chips.setdefault(chip, {}).setdefault(model, line)
    return {
        chip: sorted(lines.values(), key=lambda line: line[0].record["model"]["bits_per_weight"])
        for chip, lines in chips.items()
    }


def _unit(lines: list[Line]) -> tuple[str, float]:
    high = max(one.record["peak_memory"] for line in lines for one in line)
    return ("GB", 1e9) if high >= 1e9 else ("MB", 1e6)


def _names(lines: list[Line]) -> list[str]:
    names = unlike([line[0].record for line in lines])
    batches = [line[0].record["batch"] for line in lines]
    return [
        f"{name}, batch {batch:,}" if batch > 1 else name
        for name, batch in zip(names, batches, strict=True)
    ]


def _scales(axes: Axes, chip: str, lines: list[Line]) -> None:
    """Scales, units, the machine's own memory, and room for the names on the right."""
    from matplotlib.ticker import MaxNLocator

    unit, scale = _unit(lines)
    high = max(one.record["peak_memory"] for line in lines for one in line)
    whole = max(line[0].document["machine"]["memory_bytes"] for line in lines)
    if high < whole < 2 * high:
        high = whole
        axes.axhline(whole / scale, color=INK, lw=1, ls=(0, (2, 2)))
        axes.annotate(
            f"memory of the machine, {whole / 2**30:.3g} GiB",
            (0.01, whole / scale),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_ylim(0, 1.12 * high / scale)
    axes.set_xlim(0, 1.03 * max(_length(one) for line in lines for one in line))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_title(plain(chip, 52), fontweight="bold")
    axes.set_xlabel("length (tokens in the cache)")
    axes.set_ylabel(f"peak memory ({unit})")
    for name in _names(lines):
        axes.annotate(name, (1.05, 0), xycoords="axes fraction", fontsize=8, alpha=0)


def _draw(axes: Axes, lines: list[Line], styles: Sequence[int]) -> None:
    """The lines, and their names beside where they end."""
    scale = _unit(lines)[1]
    ends = []
    for line, place in zip(lines, styles, strict=True):
        look = style(place)
        xs = [_length(one) for one in line]
        ys = [one.record["peak_memory"] / scale for one in line]
        axes.plot(xs, ys, color=look.colour, marker=look.marker, ls=look.line, lw=1.5, ms=5)
        ends.append((xs[-1], ys[-1]))
    frame = axes.get_window_extent()
    wanted = [float(axes.transData.transform(end)[1]) for end in ends]
    heights = spread(wanted, 13, frame.y0, frame.y1)
    for name, end, height in zip(_names(lines), ends, heights, strict=True):
        axes.annotate(
            name,
            end,
            xytext=(1.02, (height - frame.y0) / frame.height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkA": 1, "shrinkB": 4},
        )
