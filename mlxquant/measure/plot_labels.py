"""Labels beside their points, none over another: a search over places around each point.

Everything here is in pixels of the drawn figure; what comes out is an offset in points (1/72 inch)
from the labelled point, which holds at any resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .plot_style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "Label", "place_labels", "spread"]

#: how far from its point a label may be, points; one that need not be is left out sooner
_DISTANCES = (6, 8, 11, 14, 18, 24, 33, 44, 57, 72, 90, 110)
_OPTIONAL = 5

#: from here on a line leads from a label to its point
_APART = 10

#: half the side of the square that a mark takes, points
_MARK = 5

#: directions in degrees, the preferred first
_ANGLES = (35, 0, -35, 65, 145, 180, -145, -65, 90, -90, 110, -110, 15, -15, 165, -165)

#: how far a label goes to stay off a line, points
_AVOID = 30


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether the two share area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def within(self, other: Box) -> bool:
        """Whether this lies inside the other."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )

    def holds(self, x: float, y: float) -> bool:
        """Whether the point lies in it."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """The place in it that is nearest to the point."""
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    def crossed(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Whether a line segment passes through; clipping after Liang and Barsky."""
        begin, end = 0.0, 1.0
        for way, room in (
            (x0 - x1, x0 - self.left),
            (x1 - x0, self.right - x0),
            (y0 - y1, y0 - self.bottom),
            (y1 - y0, self.top - y0),
        ):
            if way == 0:
                if room < 0:
                    return False
            elif way < 0:
                begin = max(begin, room / way)
            else:
                end = min(end, room / way)
        return begin < end


class Label(NamedTuple):
    """What to write beside a point.

    Attributes:
        x, y: the point, data coordinates.
        words: what to write.
        needed: draw it even where it must cover something; others are left out then.
    """

    x: float
    y: float
    words: str
    needed: bool


def place_labels(
    axes: Axes,
    labels: Sequence[Label],
    boxes: Sequence[Box] = (),
    segments: Sequence[tuple[float, ...]] = (),
) -> list[Label]:
    """Write labels beside their points; needed ones first, in their order.

    Args:
        axes: in a figure whose layout is settled.
        labels: what to write.
        boxes: what no label may cover besides the points, in pixels: a legend.
        segments: lines (x0, y0, x1, y1) in pixels that labels stay off where they can.

    Returns:
        The labels for which there was no room.
    """
    scale = axes.figure.dpi / 72
    frame = Box(*axes.get_window_extent().extents)
    half = _MARK * scale
    points = [tuple(map(float, axes.transData.transform((one.x, one.y)))) for one in labels]
    taken = [*boxes, *(Box(x - half, y - half, x + half, y + half) for x, y in points)]
    lines, left_out = list(segments), []
    for label, (x, y) in sorted(
        zip(labels, points, strict=True), key=lambda one: not one[0].needed
    ):
        made = axes.annotate(
            label.words,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8 if label.needed else 7,
            fontweight="bold" if label.needed else "normal",
            zorder=6,
        )
        extent = made.get_window_extent()
        search = _Search(x, y, extent.width + 3, extent.height + 2, scale, frame)
        best = search.best(taken, lines, _DISTANCES if label.needed else _DISTANCES[:_OPTIONAL])
        if best is None:
            if not label.needed:
                made.remove()
                left_out.append(label)
                continue
            best = search.box(_ANGLES[0], _DISTANCES[0])
        taken.append(best)
        made.set_position(
            (
                ((best.left + best.right) / 2 - x) / scale,
                ((best.bottom + best.top) / 2 - y) / scale,
            )
        )
        edge = best.nearest(x, y)
        if math.dist(edge, (x, y)) > _APART * scale:
            lines.append((x, y, *edge))
            axes.annotate(
                "",
                (label.x, label.y),
                xytext=((edge[0] - x) / scale, (edge[1] - y) / scale),
                textcoords="offset points",
                arrowprops={
                    "arrowstyle": "-",
                    "color": GREY,
                    "lw": 0.6,
                    "shrinkA": 0,
                    "shrinkB": 4,
                },
                zorder=2,
            )
    return left_out


@dataclass(frozen=True)
class _Search:
    """Places for a label of a size, in pixels, around the point (x, y)."""

    x: float
    y: float
    width: float
    height: float
    scale: float
    frame: Box

    def box(self, angle: float, distance: float) -> Box:
        """The box whose near corner, or edge, lies so many points away in that direction."""
        across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        x = self.x + across * distance * self.scale + _side(across) * self.width
        y = self.y + up * distance * self.scale + _side(up) * self.height
        return Box(x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2)

    def best(
        self, taken: Sequence[Box], lines: Sequence[tuple[float, ...]], distances: Sequence[float]
    ) -> Box | None:
        """The nearest place that covers nothing and crosses few lines; None where there is none."""
        found: list[tuple[float, Box]] = []
        for distance in distances:
            for rank, angle in enumerate(_ANGLES):
                box = self.box(angle, distance)
                if not box.within(self.frame) or any(box.meets(other) for other in taken):
                    continue
                edge = box.nearest(self.x, self.y)
                if any(
                    other.crossed(self.x, self.y, *edge)
                    for other in taken
                    if not other.holds(self.x, self.y)
                ):
                    continue
                crossed = sum(box.crossed(*line) for line in lines)
                found.append((distance + _AVOID * crossed + 0.4 * rank, box))
        return min(found)[1] if found else None


def _side(part: float) -> float:
    """Which half of a label lies beyond its anchor in a direction; 0 for its middle."""
    return 0.0 if abs(part) < 0.3 else math.copysign(0.5, part)


def spread(heights: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Heights moved as little as it takes to stand `apart`, within [low, high] as far as possible.

    Args:
        heights: where things would like to be; the order is kept.

    Returns:
        In the order given.
    """
    order = sorted(range(len(heights)), key=lambda place: (heights[place], place))
    apart = min(apart, (high - low) / max(1, len(heights) - 1))
    placed: dict[int, float] = {}
    floor = low
    for place in order:
        placed[place] = max(heights[place], floor)
        floor = placed[place] + apart
    ceiling = high
    for place in reversed(order):
        placed[place] = min(placed[place], ceiling)
        ceiling = placed[place] - apart
    return [placed[place] for place in range(len(heights))]
