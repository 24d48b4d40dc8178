"""Decode speed beside what the memory bandwidth allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .gather import Measured, chip_of
from .groups import base_of, model_key, unlike
from .plot_style import INK, Plot, drawing, new_figure, settle
from .tables import number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["speed"]

#: tokens a second that can be drawn
_RANGE = (1e-3, 1e7)

#: the most rows of a figure
_ROWS = 60


def speed(found: Iterable[Measured]) -> Plot | None:
    """Decode speed beside what the memory bandwidth allows: a bar a model, by chip.

    Of each model on each chip the run with the smallest batch, and of those the one with the
    shortest context and prompt.

    Args:
        found: bench records, of one base model.

    Raises:
        RequestError: matplotlib is missing.
    """
    chips: dict[str, dict[tuple[str, ...], Measured]] = {}
    for one in sorted(found, key=_setting):
        if _RANGE[0] <= one.record["decode"]["median"] <= _RANGE[1]:
            chips.setdefault(chip_of(one.document), {}).setdefault(model_key(one.record), one)
    rows: list[Measured] = []
    for chip in sorted(chips):
        rows += sorted(chips[chip].values(), key=lambda one: one.record["model"]["bits_per_weight"])
    if not rows:
        return None
    shown = rows[:_ROWS]
    with drawing():
        places = _places(shown)
        figure = new_figure(8.2, 1.0 + 0.27 * (places[-1] + 1))
        axes = figure.subplots()
        _scales(axes, shown, places)
        ends = [_bar(axes, place, one) for place, one in zip(places, shown, strict=True)]
        settle(figure)
        width = axes.get_window_extent().width
        spans = [(end, words.get_window_extent().width + 12) for end, words in ends]
        axes.set_xlim(0, max(end / max(0.2, 1 - taken / width) for end, taken in spans))
    record = shown[0].record
    caption = (
        "Bar: measured, with the quartiles of the runs, hatched where the machine throttled. "
        "Outline: what the memory bandwidth allows. Behind it: the share that is reached. "
        f"Batch {record['batch']:,}, context {record['context']:,} and prompt "
        f"{record['prompt']:,} tokens, or the smallest that were measured."
    )
    if len(rows) > len(shown):
        caption += f" {len(rows) - len(shown)} more models are in the table."
    base = plain(base_of(record), 60)
    return Plot(figure, f"{base}: decode speed against the bandwidth limit", caption)


def _setting(one: Measured) -> tuple[Any, ...]:
    record = one.record
    return (record["batch"], record["context"], record["prompt"], *model_key(record), one.file)


def _places(shown: Sequence[Measured]) -> list[int]:
    """The row of each; one is left free above each chip's first."""
    places: list[int] = []
    for one, before in zip(shown, (None, *shown), strict=False):
        new = before is None or chip_of(one.document) != chip_of(before.document)
        places.append((places[-1] + 1 if places else 0) + new)
    return places


def _scales(axes: Axes, shown: Sequence[Measured], places: Sequence[int]) -> None:
    """Names of the rows, chips above their rows, grid and unit."""
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_yticks(places, unlike([one.record for one in shown]))
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_xlabel("decode speed (tokens per second)")
    for place, one in zip(places, shown, strict=True):
        if place - 1 in places:
            continue
        found = one.document["machine"]["bandwidth"]
        words = "bandwidth not known"
        if found:
            words = f"{number(found['bytes_per_s'] / 1e9)} GB/s, {found['source']}"
        axes.annotate(
            f"{chip_of(one.document)} ({words})",
            (0, place - 0.9),
            xytext=(2, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold",
        )


def _bar(axes: Axes, place: int, one: Measured) -> tuple[float, Any]:
    """One row.

    Returns:
        Where its bars end, and the text behind them.
    """
    decode, limit = one.record["decode"], one.record["limit"]
    median, low, high = (min(decode[name], _RANGE[1]) for name in ("median", "low", "high"))
    throttled = one.record["throttled"]
    face = "white" if throttled else "#0072B2"
    hatch = "////" if throttled else ""
    axes.barh(place, median, height=0.5, facecolor=face, edgecolor="#0072B2", hatch=hatch)
    if low < high:
        spread = [[median - low], [high - median]]
        axes.errorbar(median, place, xerr=spread, color=INK, capsize=2.5, lw=1)
    end = max(median, high)
    words = f"{number(median)}, limit not known"
    if limit is not None:
        words = f"{number(100 * median / limit, 2)} %: {number(median)} of {number(limit)}"
        if limit <= _RANGE[1]:
            axes.barh(place, limit, height=0.72, facecolor="none", edgecolor=INK, linewidth=0.9)
            end = max(end, limit)
    words += ", throttled" * throttled
    text = axes.annotate(
        words, (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
    )
    text.set_in_layout(False)
    return end, text
