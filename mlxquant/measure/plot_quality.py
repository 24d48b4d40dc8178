"""Quality against size, with the Pareto front and its members' names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .groups import MEASURES, Panel, Record, base_of, front, loss, panels, series_of, unlike
from .plot_labels import Box, Label, place_labels
from .plot_style import GREY, INK, Plot, Style, drawing, log_ticks, panel_grid, settle, style
from .tables import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["quality"]

#: the values of each measure that can be drawn
_RANGES = {"kl": (1e-7, 100.0), "perplexity": (1.0, 1e6)}
_TITLES = {
    "kl": "mean KL divergence from the reference (nats per token)",
    "perplexity": "perplexity (per token)",
}

#: bits per weight that can be drawn, and from where on a model is none of the quantized
_BITS = (0.1, 64.0)
_FLOAT = 12.0

#: the most panels of a figure
_PANELS = 6

_DASHED = (0, (4, 3))

#: what makes marks of some shapes look as large as the others
_SCALE = {"*": 1.5, "P": 1.15, "X": 1.15}


def quality(records: Iterable[Record], measure: str | None = None) -> Plot | None:
    """Quality against size: a panel for each text (and windows, and reference).

    Filled marks are on the Pareto front (no other model is both smaller and better) and are named;
    hollow ones are not on it, and named where there is room. Models of 12 bits per weight and more
    are left out where there are smaller ones.

    Args:
        records: of eval documents, of one base model.
        measure: `kl` or `perplexity`; None for the first that two records of a panel have.

    Raises:
        RequestError: matplotlib is missing, or another measure.
    """
    if measure not in (None, *MEASURES):
        raise RequestError(f"measure {measure!r}: one of {', '.join(MEASURES)} expected")
    groups = panels(records)
    measure = measure or _measure(groups)
    kept = {panel: found for panel, all in groups.items() if (found := _drawable(all, measure))}
    if not kept:
        return None
    shown = dict(list(kept.items())[:_PANELS])
    names = sorted({series_of(record) for members in shown.values() for record in members})
    styles = {name: style(place) for place, name in enumerate(names)}
    sentences = []
    with drawing():
        figure, grid = panel_grid(len(shown), 7.2, 4.8)
        for axes, (panel, members) in zip(grid, shown.items(), strict=True):
            _scales(axes, members, measure)
            title = plain(panel.base, 52)
            if len(shown) > 1:
                title += f"\non {plain(panel.text, 28)}, {panel.style} windows of {panel.length}"
            axes.set_title(title, fontweight="bold", pad=8)
        settle(figure)
        for axes, (panel, members) in zip(grid, shown.items(), strict=True):
            best = _draw(axes, members, measure, styles)
            where = f" on {plain(panel.text, 40)}" if len(shown) > 1 else ""
            sentences.append(f"On the Pareto front{where}: {', '.join(best)}.")
    sentences += _left_out(groups, kept, measure)
    if len(kept) > len(shown):
        sentences.append(f"{len(kept) - len(shown)} more texts are in the table.")
    sentences.append("Filled marks are on the front, hollow ones are not; bars: 95 % intervals.")
    base = plain(base_of(next(iter(shown.values()))[0]), 60)
    return Plot(figure, f"{base}: quality against size", " ".join(sentences))


def _measure(groups: dict[Panel, list[Record]]) -> str:
    """The first measure that two records of a panel can be drawn by."""
    for measure in MEASURES:
        if any(len(_drawable(members, measure)) > 1 for members in groups.values()):
            return measure
    return "perplexity"


def _drawable(members: list[Record], measure: str) -> list[Record]:
    """Those that have a place on the axes; those that are not quantized only among themselves."""
    low, high = _RANGES[measure]
    kept = [
        record
        for record in members
        if (found := loss(record, measure))
        and low <= found["value"] <= high
        and _BITS[0] <= record["model"]["bits_per_weight"] <= _BITS[1]
    ]
    return [r for r in kept if r["model"]["bits_per_weight"] < _FLOAT] or kept


def _left_out(
    groups: dict[Panel, list[Record]], kept: dict[Panel, list[Record]], measure: str
) -> list[str]:
    """A sentence on the models that are nowhere to be seen."""
    seen = {r["model"]["name"] for members in kept.values() for r in members}
    out = {
        f"{plain(r['model']['format'])} ({r['model']['bits_per_weight']:.2f} bits)"
        for members in groups.values()
        for r in members
        if r["model"]["name"] not in seen
    }
    why = "not quantized, or without such a measure"
    return [f"Not drawn ({why}): {', '.join(sorted(out))}."] if out else []


def _estimates(members: list[Record], measure: str) -> list[dict[str, Any]]:
    return [found for record in members if (found := loss(record, measure))]


def _scales(axes: Axes, members: list[Record], measure: str) -> None:
    """Scales, grid and units for these records."""
    bits = [record["model"]["bits_per_weight"] for record in members]
    room = max(0.4, 0.08 * (max(bits) - min(bits)))
    axes.set_xlim(min(bits) - room, max(bits) + 1.6 * room)
    found = _estimates(members, measure)
    values = [one["value"] for one in found]
    lows = [one["low"] for one in found if one["low"] is not None]
    highs = [one["high"] for one in found if one["high"] is not None]
    if measure == "perplexity":
        values += [r["reference"]["perplexity"]["value"] for r in members if r["reference"]]
    # an interval that reaches far must not squeeze the points
    low = max(min(values + lows), min(values) / 5)
    high = min(max(values + highs), 5 * max(values))
    log_ticks(axes, "y", low, high)
    axes.set_xlabel("size (bits per weight)")
    axes.set_ylabel(f"{_TITLES[measure]}\n← better")
    counts = [record["model"]["parameters"] for record in members]
    if max(counts) <= 1.01 * min(counts):
        large = max(record["model"]["bytes"] for record in members) >= 1e9
        unit, scale = ("GB", 1e9) if large else ("MB", 1e6)
        ratio = counts[0] / 8 / scale
        top = axes.secondary_xaxis("top", functions=(lambda x: x * ratio, lambda y: y / ratio))
        top.set_xlabel(f"size on disk ({unit})")


def _draw(axes: Axes, members: list[Record], measure: str, styles: dict[str, Style]) -> list[str]:
    """Marks, intervals, the front and the labels.

    Returns:
        The names on the front, from the smallest model on.
    """
    from matplotlib.lines import Line2D

    sizes = [record["model"]["bits_per_weight"] for record in members]
    found = _estimates(members, measure)
    points = [(size, one["value"]) for size, one in zip(sizes, found, strict=True)]
    best = front(points)
    for place, (record, one) in enumerate(zip(members, found, strict=True)):
        _mark(axes, *points[place], one, styles[series_of(record)], place in best)
    series = {series_of(record) for record in members}
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ls="", label=name)
        for name, look in styles.items()
        if name in series
    ]
    right = axes.get_xlim()[1]
    steps = [*(points[place] for place in best), (right, points[best[-1]][1])]
    if len(best) > 1:
        axes.step(*zip(*steps, strict=True), where="post", color=INK, lw=1, ls=_DASHED, zorder=3)
        handles.append(Line2D([], [], color=INK, lw=1, ls=_DASHED, label="Pareto front"))
    references = [record["reference"] for record in members if record["reference"]]
    if measure == "perplexity" and references:
        axes.axhline(references[0]["perplexity"]["value"], color=GREY, lw=1.2, ls=":", zorder=1)
        handles.append(Line2D([], [], color=GREY, lw=1.2, ls=":", label="reference"))
    lines = _segments(axes, steps)
    boxes = [_legend(axes, handles, points, lines)] if len(handles) > 1 else []
    labels = [
        Label(*point, plain(record["model"]["format"], 28), place in best)
        for place, (point, record) in enumerate(zip(points, members, strict=True))
    ]
    place_labels(axes, labels, boxes, lines)
    names = unlike(members)
    return [names[place] for place in best]


def _legend(
    axes: Axes,
    handles: list[Any],
    points: list[tuple[float, float]],
    lines: list[tuple[float, ...]],
) -> Box:
    """The legend in the first corner where it covers nothing; below the front nothing ever is.

    Returns:
        The room that it takes, in pixels.
    """
    pixels = [tuple(axes.transData.transform(point)) for point in points]
    for corner in ("upper right", "lower left", "center right", "upper right"):
        legend = axes.legend(handles=handles, loc=corner)
        box = Box(*legend.get_window_extent().extents)
        covers = any(box.holds(*pixel) for pixel in pixels)
        if not covers and not any(box.crossed(*line) for line in lines):
            break
    legend.set_zorder(7)
    return box


def _mark(axes: Axes, x: float, y: float, one: dict[str, Any], look: Style, on: bool) -> None:
    """One model: its interval and its mark, filled where it is on the front."""
    if one["low"] is not None and one["high"] is not None:
        axes.vlines(x, max(one["low"], y / 1e3), one["high"], look.colour, linewidth=1)
    axes.plot(
        [x],
        [y],
        look.marker,
        color=look.colour,
        markersize=(8 if on else 7) * _SCALE.get(look.marker, 1),
        markerfacecolor=look.colour if on else "none",
        markeredgecolor=INK if on else look.colour,
        markeredgewidth=0.8 if on else 1,
        zorder=4 if on else 5,
    )


def _segments(axes: Axes, steps: list[tuple[float, float]]) -> list[tuple[float, ...]]:
    """The lines of the front, (x0, y0, x1, y1) in pixels."""
    pixels = [tuple(axes.transData.transform(step)) for step in steps]
    return [
        line
        for (x0, y0), (x1, y1) in zip(pixels, pixels[1:], strict=False)
        for line in ((x0, y0, x1, y0), (x1, y0, x1, y1))
    ]
