"""`mlxquant doctor`: what this machine is, what runs on it and how, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .running import Progress
from .tables import pairs, prepare, safe, say, table

__all__ = ["command"]

#: where the report of a Mac goes, if nothing else is said
_REPORT = "mlxquant-doctor.md"


@click.command("doctor", short_help="Check this machine and the kernels on it.")
@click.option("--quick", is_flag=True, help="Without the kernels' checks and speeds.")
@click.option(
    "-o",
    "--output",
    metavar="REPORT",
    help="Write everything to REPORT, to attach it to an issue: Markdown, or JSON if it ends so.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, quick: bool, output: str | None, as_json: bool) -> None:
    """Look at this machine, check the kernels on it, and say what is wrong.

    Which backend every operation on every format takes, and why; every kernel against NumPy, over
    many shapes and types, and how fast it is beside what the memory's bandwidth allows. Nothing
    reaches the network, and no names of users, folders or machines are in a report.

    The exit status is 1 where something is wrong. On a Mac the report is written to
    mlxquant-doctor.md unless -o names another file.

    \b
    mlxquant doctor                    a minute or two; some more on a Mac
    mlxquant doctor --quick            a moment
    mlxquant doctor -o report.md
    """
    from ..doctor.examine import examine

    prepare()
    path = _output(output)
    progress = Progress()

    def show(done: int, total: int, what: str) -> None:
        progress.show(f"{done:,} of {total:,}: {safe(what)} …" if total else f"{what} …")

    try:
        document = examine(quick=quick, progress=show)
    finally:
        progress.clear()
    if path is None and not quick and document["device"]["metal"]:
        path = Path(_REPORT)
    if as_json:
        say(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _show(document)
    # after what was found is shown: it is there even if it cannot be written
    if path is not None:
        _write(path, document)
        click.echo(f"report: {path}", err=True)
    if not document["healthy"]:
        ctx.exit(1)


def _output(path: str | None) -> Path | None:
    """Where the report goes, refused now rather than after the work.

    Raises:
        OutputError: a folder, or in a folder that is not there.
    """
    from ..errors import OutputError

    if path is None:
        return None
    found = Path(path)
    if found.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if not found.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {found.parent}: make it first")
    return found


def _write(path: Path, document: dict[str, Any]) -> None:
    """The whole report.

    Raises:
        WriteError: it cannot be written.
    """
    from ..doctor.page import page
    from ..errors import WriteError

    as_json = path.suffix.lower() == ".json"
    text = json.dumps(document, indent=1, ensure_ascii=False) if as_json else page(document)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}; choose another place with -o") from None


def _show(document: dict[str, Any]) -> None:
    """The document for people."""
    from ..doctor import tables

    pairs([(name, safe(value)) for name, value in tables.facts(document)])
    say()
    _table(*tables.backends(document))
    if document["speeds"]:
        say()
        _table(*tables.speeds(document), side="right")
        say("GB/s: of blocks, and of what is decoded; percent: of the bandwidth of memory")
    say()
    say(safe(tables.checked(document)))
    for each in (*document["notes"], *document["problems"]):
        say(f"{'problem' if each['wrong'] else 'note'}: {safe(each['what'])}")
        if each["advice"]:
            say(f"  {safe(each['advice'])}")
    if document["healthy"]:
        say("nothing is wrong")


def _table(titles: list[str], rows: list[list[str]], side: str = "left") -> None:
    columns = [(titles[0], "left"), *((title, side) for title in titles[1:])]
    table(columns, [[safe(cell) for cell in row] for row in rows])
