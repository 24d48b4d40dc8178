"""One HTML page that needs nothing but itself: style, script and pictures are in it.

Whatever comes from results files is escaped, and the page's own policy allows no request and no
script but the one that it brought along. Without the script nothing is missing but sorting.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from .tables import Cell, Table

__all__ = ["Figure", "Section", "html"]

#: characters of a cell from which on it may be broken into lines
_LONG = 60


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: of its files, without a suffix.
        title, caption: plain text.
        svg: the picture.
    """

    name: str
    title: str
    caption: str
    svg: bytes


@dataclass(frozen=True)
class Section:
    """A part of the page: pictures, then a table, then lines of text."""

    title: str
    figures: tuple[Figure, ...] = ()
    table: Table | None = None
    lines: tuple[str, ...] = ()


def html(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: plain text, as all that follows.
        lead: a paragraph below it.
        sections: its parts.
    """
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        f"<header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>",
        "<main>",
    ]
    body = [line for place, section in enumerate(sections) for line in _section(section, place)]
    return "\n".join(
        [*head, *body, "</main>", f"<script>{script}</script>", "</body>", "</html>", ""]
    )


def _asset(name: str) -> str:
    return (files("mlxquant.measure") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(section: Section, place: int) -> Iterator[str]:
    drawn = ' class="drawn"' if section.figures else ""
    yield f'<section aria-labelledby="s{place}"{drawn}>'
    yield f'<h2 id="s{place}">{escape(section.title)}</h2>'
    for figure in section.figures:
        data = base64.b64encode(figure.svg).decode()
        yield "<figure>"
        yield f'<div class="wide" role="region" aria-label="{escape(figure.title)}" tabindex="0">'
        yield f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(figure.title)}">'
        yield "</div>"
        caption = f"<strong>{escape(figure.title)}.</strong> {escape(figure.caption)}"
        yield f"<figcaption>{caption}</figcaption>"
        yield "</figure>"
    if section.table is not None:
        yield from _table(section.table, place)
    if section.lines:
        yield "<ul>"
        yield from (f"<li>{escape(line)}</li>" for line in section.lines)
        yield "</ul>"
    yield "</section>"


def _table(table: Table, place: int) -> Iterator[str]:
    """A table; a cell's `data-sort` is what its column is sorted by."""
    yield f'<div class="wide framed" role="region" aria-labelledby="s{place}" tabindex="0">'
    yield "<table>"
    yield f"<caption>{escape(table.note)}</caption>" if table.note else ""
    sides = [' class="n"' if column.right else "" for column in table.columns]
    yield "<thead><tr>"
    for column, side in zip(table.columns, sides, strict=True):
        yield f'<th scope="col"{side}>{escape(column.title)}</th>'
    yield "</tr></thead>"
    yield "<tbody>"
    for row in table.rows:
        cells = zip(row, sides, strict=True)
        yield f"<tr>{''.join(_cell(cell, side) for cell, side in cells)}</tr>"
    yield "</tbody>"
    yield "</table>"
    yield "</div>"


def _cell(cell: Cell, side: str) -> str:
    if len(cell.shown) > _LONG:
        side = ' class="long"'
    key = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
    return f"<td{side}{key}>{escape(cell.shown)}</td>"
