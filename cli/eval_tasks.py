"""`mlxquant eval --tasks`: questions with choices, answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .eval_tables import figure
from .running import Progress
from .tables import Column, safe, say, table

if TYPE_CHECKING:
    from ..measure.tasks import Score, TaskReport

__all__ = ["show_tasks"]


def show_tasks(given: dict[str, Any]) -> None:
    """Have the models answer, and print a table.

    Args:
        given: the options of `eval`.
    """
    tasks = [name.strip() for name in given["tasks"].split(",") if name.strip()]
    if not tasks:
        raise click.UsageError("--tasks: name a file of questions, or tasks")
    from ..measure.tasks import measure_tasks
    from .eval import open_model

    models = [open_model(name, given) for name in given["models"] or (None,)]
    progress = Progress()

    def show(what: str, done: int, total: int) -> None:
        progress.show(f"{what}: {done:,} of {total:,} answers …" if total else f"{what} …")

    reports = []
    try:
        for model in models:
            reports.append(
                measure_tasks(
                    model,
                    tasks,
                    shots=given["num_fewshot"],
                    limit=given["limit"],
                    dtype=given["dtype"],
                    trust_remote_code=given["trust_remote_code"],
                    progress=show,
                )
            )
    finally:
        progress.clear()
    if given["as_json"]:
        document = {"models": [report.to_json() for report in reports]}
        say(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return
    columns: list[Column] = [("model", "left"), ("task", "left"), ("questions", "right")]
    columns += [("metric", "left"), ("value", "right"), ("standard error", "right")]
    table(columns, [_row(report, score) for report in reports for score in report.scores])


def _row(report: TaskReport, score: Score) -> list[str]:
    return [
        safe(report.model["name"]),
        safe(score.task),
        f"{score.questions:,}" if score.questions else "",
        safe(score.metric),
        figure(score.value),
        "" if score.stderr is None else figure(score.stderr),
    ]
