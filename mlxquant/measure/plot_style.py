"""How the plots look, and plots as bytes that depend on nothing but their figures.

Colours are Okabe and Ito's, which colour-blind readers tell apart; every series has a marker and a
line style of its own besides, so that print in black and white loses nothing. Text is drawn as
outlines, so that it looks the same everywhere, and never read as mathematics.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import RequestError, WriteError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "GREY",
    "INK",
    "Plot",
    "Style",
    "drawing",
    "log_ticks",
    "new_figure",
    "panel_grid",
    "settle",
    "style",
]

INK = "#1a1a1a"
GREY = "#6b6b6b"

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1a1a1a")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))

_PARAMETERS = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.fontsize": 8,
    "legend.framealpha": 0.9,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "mlxquant",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


class Style(NamedTuple):
    """What sets a series apart, with and without colour."""

    colour: str
    marker: str
    line: Any


def style(place: int) -> Style:
    """The style of the series at that place; 168 differ."""
    return Style(
        _COLOURS[place % len(_COLOURS)],
        _MARKERS[place % len(_MARKERS)],
        _LINES[place % len(_LINES)],
    )


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with our parameters, whatever a matplotlibrc says.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as problem:
        raise RequestError(
            "plots need matplotlib, which is not installed: pip install 'mlxquant[plots]'"
        ) from problem
    with matplotlib.rc_context(), warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes; the tables have it in full
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_PARAMETERS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches that no window system knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, two beside each other where there is more than one.

    Args:
        width, height: of a panel, inches; two beside each other are somewhat narrower.
    """
    columns = min(2, count)
    rows = -(-count // columns)
    figure = new_figure(width if columns == 1 else 1.6 * width, height * rows)
    grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def settle(figure: Figure) -> None:
    """Give every part its place, once and for all: from here on pixels can be asked for."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


@dataclass(frozen=True)
class Plot:
    """A figure with its words.

    Attributes:
        figure: matplotlib's; its layout is fixed.
        title: what it shows.
        caption: what it says, and what is not drawn; a sentence or more, as plain text.
    """

    figure: Figure
    title: str
    caption: str

    def png(self) -> bytes:
        """A raster image at 160 dots an inch."""
        return self._bytes("png", {"Software": None})

    def svg(self) -> bytes:
        """An SVG image; text in it is outlines."""
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        return self._bytes("svg", nothing)

    def save(self, path: str | Path) -> None:
        """Write a .png or .svg file.

        Raises:
            RequestError: another suffix.
            WriteError: writing failed.
        """
        kinds = {".png": self.png, ".svg": self.svg}
        suffix = Path(path).suffix.lower()
        if suffix not in kinds:
            raise RequestError(f"{path}: a plot is written as .png or .svg")
        try:
            Path(path).write_bytes(kinds[suffix]())
        except OSError as problem:
            raise WriteError(f"{path}: cannot be written: {problem.strerror}") from problem

    def _bytes(self, kind: str, metadata: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        with drawing():
            self.figure.savefig(file, format=kind, metadata=metadata)
        return file.getvalue()


def log_ticks(axes: Axes, axis: str, low: float, high: float) -> None:
    """A logarithmic axis around [low, high], both above 0, with plain numbers at round values.

    Args:
        axis: `x` or `y`.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    room = max(1.02, (high / low) ** 0.07)
    low, high = low / room, high * room
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 4 else (1, 2, 5)
    if high / low < 4:
        steps = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)  # type: ignore[assignment]
    every = max(1, (last - first) // 8)
    values = [n * 10.0**power for power in range(first, last + 1, every) for n in steps]
    values = [value for value in values if low <= value <= high] or [low, high]
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}lim")(low, high)
    on = getattr(axes, f"{axis}axis")
    on.set_major_locator(FixedLocator(values))
    on.set_major_formatter(FixedFormatter([f"{value:,.10g}" for value in values]))
    on.set_minor_locator(NullLocator())
