"""Results of many machines as one report: tables, plots and an HTML page, written as files."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OutputError, WriteError
from ..files.atomic import sync_folder, write_file
from .compare import Comparison, compare
from .gather import Gathered, Measured, Skipped, gather
from .groups import base_of
from .page import Figure, Section, html
from .report_tables import machines, quality, quality_table, speed
from .tables import counted, markdown_text, plain

if TYPE_CHECKING:
    from .plot_style import Plot

__all__ = [
    "PAGE",
    "Comparison",
    "Report",
    "Skipped",
    "compare",
    "quality",
    "quality_table",
    "report",
    "speed",
]

#: the HTML page among the files of a report
PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        folder: where it is.
        files: the names of its files.
        found: what it shows.
    """

    folder: Path
    files: tuple[str, ...]
    found: Gathered

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / PAGE


def report(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    plots: bool = True,
    force: bool = False,
) -> Report:
    """Gather the results below a folder and write a report; the same files make the same bytes.

    Nothing is written before everything is drawn.

    Args:
        path: folder of results files, or one file.
        output: folder to make, in one that exists.
        plots: False for tables alone, which need no matplotlib.
        force: write over the files of an earlier report; what else is in the folder stays.

    Raises:
        InputError: no results there.
        OutputError: the output exists, or cannot be made.
        RequestError: matplotlib is missing.
        WriteError: writing failed.
    """
    target = Path(output)
    _check(target, force)
    found = gather(path)
    files = _files(found, plots)
    try:
        target.mkdir(exist_ok=True)
        for name, data in files.items():
            write_file(target / name, data)
        sync_folder(target)
    except OSError as problem:
        raise WriteError(f"{target}: cannot be written: {problem.strerror}") from problem
    return Report(target, tuple(files), found)


def _check(target: Path, force: bool) -> None:
    """Say before any work what stands in the way of an output folder."""
    parent = target.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{target}: the folder {parent} does not exist; create it first")
    there = target.exists() or target.is_symlink()
    if there and not target.is_dir():
        raise OutputError(f"{target}: is a file; choose another folder")
    if there and any(target.iterdir()) and not force:
        raise OutputError(f"{target}: exists; choose another folder, or --force to write into it")
    if not os.access(target if there else parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: the folder is read-only; choose another")


def _files(found: Gathered, plots: bool) -> dict[str, bytes]:
    """Every file of the report by name, the page first."""
    drawn: dict[str, bytes] = {}
    sections = list(_sections(found, drawn, plots))
    title, lead = "mlxquant report", _lead(found)
    files = {
        PAGE: html(title, lead, sections).encode(),
        "report.md": _markdown(title, lead, sections).encode(),
    }
    for name, records in (("eval.csv", found.evals), ("bench.csv", found.benches)):
        if records:
            files[name] = _csv(records).encode()
    return files | drawn


def _lead(found: Gathered) -> str:
    """What the report is made of, in a line."""
    chips = {(d["machine"]["chip"], d["machine"]["kind"]) for d in found.files.values()}
    lead = (
        f"{counted(len(found.evals), 'measurement')} of quality and {len(found.benches)} of speed, "
        f"from {counted(len(found.files), 'file')} and {counted(len(chips), 'chip')}."
    )
    if found.replaced:
        lead += f" {found.replaced} more gave way to others of the same model, setting and chip."
    return lead


def _sections(found: Gathered, drawn: dict[str, bytes], plots: bool) -> Iterator[Section]:
    """The parts of the report; images are added to `drawn`."""
    bases = sorted({base_of(one.record) for one in (*found.evals, *found.benches)})
    for base in bases:
        evals = [one.record for one in found.evals if base_of(one.record) == base]
        benches = [one for one in found.benches if base_of(one.record) == base]
        figures: list[Figure] = []
        if plots:
            behind = f"-{_slug(base)}" if len(bases) > 1 else ""
            figures = _figures(evals, benches, behind, drawn)
        name = plain(base)
        if evals:
            quality_figures = tuple(one for one in figures if one.name.startswith("quality"))
            yield Section(f"{name}: quality at size", quality_figures, quality(evals))
        if benches:
            others = tuple(one for one in figures if not one.name.startswith("quality"))
            yield Section(f"{name}: speed and memory", others, speed(benches))
    yield Section("Machines", (), machines(found.files))
    skipped = [f"{plain(one.file, 200)}: {one.reason}" for one in found.skipped]
    if found.notes:
        yield Section("Contradictions", lines=found.notes)
    if skipped:
        yield Section("Files that were not used", lines=tuple(skipped))


def _figures(
    evals: list[dict[str, Any]], benches: list[Measured], behind: str, drawn: dict[str, bytes]
) -> list[Figure]:
    from . import plots

    made: dict[str, Plot | None] = {
        "quality": plots.quality(evals) if evals else None,
        "speed": plots.speed(benches) if benches else None,
        "memory": plots.memory(benches) if benches else None,
    }
    figures = []
    for kind, plot in made.items():
        if plot is None:
            continue
        name, number = f"{kind}{behind}", 2
        while f"{name}.svg" in drawn:
            name, number = f"{kind}{behind}-{number}", number + 1
        svg = plot.svg()
        drawn[f"{name}.svg"], drawn[f"{name}.png"] = svg, plot.png()
        figures.append(Figure(name, plot.title, plot.caption, svg))
    return figures


def _slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)[:60].strip("-.") or "model"


def _markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}", lead]
    for section in sections:
        parts.append(f"## {markdown_text(section.title)}")
        for figure in section.figures:
            parts.append(f"![{markdown_text(figure.title)}]({figure.name}.svg)")
            parts.append(markdown_text(figure.caption))
        if section.table is not None:
            parts.append(section.table.markdown())
            if section.table.note:
                parts.append(markdown_text(section.table.note))
        if section.lines:
            parts.append("\n".join(f"- {markdown_text(line)}" for line in section.lines))
    return "\n\n".join(parts) + "\n"


def _csv(records: Sequence[Measured]) -> str:
    """Every field of every record, and where it was measured; full precision.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    rows = [dict(_flat(_head(one) | one.record)) for one in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_csv_cell(row.get(name)) for name in names])
    return file.getvalue()


def _head(one: Measured) -> dict[str, Any]:
    document = one.document
    head = {"file": one.file, "made": document["made"]}
    return head | {name: document[name] for name in ("machine", "conditions", "software")}


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in an object; lists in one cell."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{name}.")
        elif isinstance(inner, list):
            yield prefix + name, "; ".join(map(str, inner))
        else:
            yield prefix + name, inner


def _csv_cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    shown = plain(value, 2000)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
