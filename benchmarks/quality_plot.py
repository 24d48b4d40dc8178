"""The plot of benchmarks/quality.py: divergence against size, a line for each tool and method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxquant.measure.groups import front, series_of
from mlxquant.measure.plot_labels import Box, Label, place_labels
from mlxquant.measure.plot_style import (
    INK,
    Plot,
    drawing,
    log_ticks,
    new_figure,
    settle,
    style,
)
from mlxquant.measure.tables import counted, plain

__all__ = ["plot"]

Record = dict[str, Any]

#: bits per weight and divergences that are drawn
_BITS = (2.0, 7.2)
_KL = (2e-4, 1.6)

#: what series are called, in the order of the legend; others follow under their own names.
#: Rounding has one name, since mlx_lm.convert and `--method rtn` write the same bytes.
_ROUNDING = "rounding (mlx_lm.convert)"
_NAMES = {
    "mlx-lm rtn": _ROUNDING,
    "mlxquant rtn": _ROUNDING,
    "mlx-lm gptq": "mlx-lm gptq",
    "mlx-lm awq": "mlx-lm awq",
    "mlx-lm dwq": "mlx-lm dwq",
    "mlx-lm dwq-1e-5": "mlx-lm dwq, rate 1e-5",
    "mlx-lm dynamic": "mlx-lm dynamic_quant",
    "llama.cpp plain": "llama.cpp",
    "llama.cpp imatrix": "llama.cpp, importance",
    "mlxquant plain": "mlxquant GGUF",
    "mlxquant imatrix": "mlxquant GGUF, importance",
}


def _series(record: Record) -> str:
    """What the legend calls a record's series."""
    name = series_of(record)
    return _NAMES.get(name, name)


def _is_alone(name: str) -> bool:
    """Whether a series' points are drawn alone, without a line through their best."""
    return name.startswith("mlx-lm ")


def plot(records: Sequence[Record]) -> Plot:
    """The divergence of every model on the first text, against its size.

    A series' line goes through its members that no other of the series beats in size and divergence
    together. Filled marks, named, are on the front of all.
    """
    from matplotlib.lines import Line2D

    found = [
        record
        for record in records
        if record["kl"]
        and record["text"]["name"] == "eval.txt"
        and _BITS[0] <= record["model"]["bits_per_weight"] <= _BITS[1]
        and _KL[0] <= record["kl"]["mean"]["value"] <= _KL[1]
    ]
    found.sort(key=lambda record: (record["model"]["bits_per_weight"], record["model"]["name"]))
    series: dict[str, list[Record]] = {}
    for record in found:
        series.setdefault(_series(record), []).append(record)
    known = list(dict.fromkeys(_NAMES.values()))
    order = [name for name in known if name in series]
    order += sorted(name for name in series if name not in known)
    points = [_point(record) for record in found]
    best = {id(found[place]) for place in front(points)}
    with drawing():
        figure = new_figure(9.0, 6.0)
        axes = figure.subplots()
        axes.set_xlim(*_BITS)
        values = [y for _, y in points] or [1e-3, 1.0]
        log_ticks(axes, "y", min(values), max(values))
        axes.set_xlabel("size of the whole model (bits per weight)")
        axes.set_ylabel("mean KL divergence from the float model (nats per token)\n← better")
        axes.set_title("books-7m on eval.txt", fontweight="bold", pad=8)
        handles, lines = [], []
        for place, name in enumerate(order):
            look, members = style(place), series[name]
            ours = [_point(record) for record in members]
            steps = [ours[i] for i in front(ours)]
            drawn = not _is_alone(name)
            if drawn:
                axes.plot(*zip(*steps, strict=True), color=look.colour, ls=look.line, lw=1.1)
                lines.append(steps)
            for record, (x, y) in zip(members, ours, strict=True):
                on = id(record) in best
                axes.plot(
                    [x],
                    [y],
                    look.marker,
                    color=look.colour,
                    markersize=7 if on else 5,
                    markerfacecolor=look.colour if on else "white",
                    markeredgecolor=INK if on else look.colour,
                    markeredgewidth=0.8,
                    zorder=5 if on else 4,
                )
            words = plain(name, 40)
            line = look.line if drawn else ""
            handles.append(
                Line2D([], [], color=look.colour, marker=look.marker, ls=line, lw=1.1, label=words)
            )
        settle(figure)
        legend = axes.legend(handles=handles, loc="upper right", handlelength=3.2)
        legend.set_zorder(7)
        boxes = [Box(*legend.get_window_extent().extents)]
        labels = [
            Label(*_point(record), plain(record["model"]["format"], 24), needed=True)
            for record in found
            if id(record) in best
        ]
        place_labels(axes, labels, boxes, [one for steps in lines for one in _pixels(axes, steps)])
        outside = sum(1 for r in records if r["kl"] and r["text"]["name"] == "eval.txt") - len(
            found
        )
    names = ", ".join(
        f"{plain(record['model']['format'], 24)} ({plain(_series(record), 40)})"
        for record in found
        if id(record) in best
    )
    caption = (
        f"Filled marks: no other model is both smaller and better. From left to right: {names}."
    )
    if outside:
        caption += f" Outside of the picture, but in the table: {counted(outside, 'model')}."
    return Plot(figure, "Quality against size", caption)


def _point(record: Record) -> tuple[float, float]:
    return record["model"]["bits_per_weight"], record["kl"]["mean"]["value"]


def _pixels(axes: Any, steps: list[tuple[float, float]]) -> list[tuple[float, ...]]:
    """A line's segments, (x0, y0, x1, y1) in pixels."""
    found = [tuple(axes.transData.transform(step)) for step in steps]
    return [(*a, *b) for a, b in zip(found, found[1:], strict=False)]
