"""`mlxquant report`: results of many runs and machines as tables, plots and an HTML page."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command("report", short_help="Gather results into tables, plots and an HTML page.")
@click.argument("path", metavar="DIR")
@click.option(
    "-o", "--output", metavar="OUT", default="report", show_default=True, help="Folder to write."
)
@click.option("--no-plots", is_flag=True, help="Tables only; needs no matplotlib.")
@click.option("--force", is_flag=True, help="Write into OUT though it is not empty.")
@click.option("--json", "as_json", is_flag=True, help="Print what was read and written as JSON.")
def command(path: str, output: str, no_plots: bool, force: bool, as_json: bool) -> None:
    """Gather all results below DIR, from any number of machines, into one report.

    Results are the JSON files that eval -o and bench -o write. They merge by model, format
    and chip; of equal ones the newest counts. A file that cannot be used is named and left out.

    OUT gets report.html (one page that needs no network), report.md, CSV files with every figure,
    and the plots as SVG and PNG.

    \b
    mlxquant report results -o report
    """
    from ..measure.report import report
    from ..measure.tables import counted
    from .tables import prepare, safe, say

    prepare()
    made = report(path, output, plots=not no_plots, force=force)
    for one in made.found.skipped:
        click.echo(f"skipped: {safe(one.file)}: {safe(one.reason)}", err=True)
    for note in made.found.notes:
        click.echo(f"note: {safe(note)}", err=True)
    if as_json:
        document = {
            "folder": str(made.folder),
            "files": list(made.files),
            "read": list(made.found.files),
            "evals": len(made.found.evals),
            "benches": len(made.found.benches),
            "replaced": made.found.replaced,
            "skipped": [{"file": one.file, "reason": one.reason} for one in made.found.skipped],
            "notes": list(made.found.notes),
        }
        say(json.dumps(document, indent=2))
        return
    found = made.found
    say(
        f"{counted(len(found.evals), 'measurement')} of quality and {len(found.benches)} of speed "
        f"from {counted(len(found.files), 'file')}"
    )
    say(safe(made.page))
