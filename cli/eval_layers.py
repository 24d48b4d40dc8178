"""`mlxquant eval --layers`: where the damage of quantization is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..measure.tables import number
from .eval_tables import figure
from .running import Progress
from .tables import Column, bytes_text, pairs, safe, say, table

if TYPE_CHECKING:
    from ..measure.layers import Damage, LayersReport

__all__ = ["show_layers"]

#: windows where nobody says
WINDOWS = 4


def show_layers(given: dict[str, Any]) -> None:
    """Measure each tensor alone, and print a table.

    Args:
        given: the options of `eval`.
    """
    from .eval import open_model, what_on

    text, cutting = what_on(given, WINDOWS)
    model = open_model(next(iter(given["models"]), None), given)
    reference = open_model(given["reference"], given)
    from ..measure.layers import measure_layers

    progress = Progress()

    def show(what: str, done: int, total: int) -> None:
        progress.show(f"{done + 1:,} of {total:,}: {what} …" if total else f"{what} …")

    try:
        report = measure_layers(
            model, reference, text, cutting, dtype=given["dtype"], progress=show
        )
    finally:
        progress.clear()
    if given["as_json"]:
        say(json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(report)


def _show(report: LayersReport) -> None:
    windows = report.windows
    rows = [
        ("model", f"{report.model['name']}, {report.model['format']}"),
        ("reference", report.reference["name"]),
        (
            "measured on",
            f"{report.text.name}: {windows['windows']} windows of {windows['length']} tokens as "
            f"{windows['style']} cuts them, {windows['scored_tokens']:,} tokens scored",
        ),
    ]
    pairs([(name, safe(value)) for name, value in rows])
    say()
    columns: list[Column] = [("tensor alone", "left"), ("format", "left"), ("size", "right")]
    columns += [("error", "right"), ("KL", "right"), ("95 % interval", "left")]
    columns += [("perplexity", "right"), ("top-1", "right")]
    table(columns, [_row(tensor) for tensor in (*report.tensors, report.together)])
    say()
    total = sum(tensor.kl.value for tensor in report.tensors)
    columns = [("role", "left"), ("tensors", "right"), ("weights", "right")]
    columns += [("sum of KL", "right"), ("share", "right"), ("worst", "left")]
    table(
        columns,
        [
            (
                role.role,
                f"{role.tensors:,}",
                f"{role.size:,}",
                figure(role.kl),
                f"{role.kl / total:.1%}" if total else "",
                safe(role.worst),
            )
            for role in report.roles
        ],
    )
    say()
    together = report.together.kl.value
    say(
        f"alone, they sum up to KL {figure(total)}; all together: {figure(together)} nats a token; "
        f"{report.unchanged} tensors are the same in both"
    )
    for name in report.skipped:
        say(f"note: {safe(name)} could not be replaced")


def _row(tensor: Damage) -> list[str]:
    kl, error = tensor.kl, tensor.relative_error
    spread = ""
    if kl.low is not None and kl.high is not None:
        spread = f"{figure(kl.low)} - {figure(kl.high)}"
    return [
        safe(tensor.name) if tensor.role else f"all together: {safe(tensor.name)}",
        safe(tensor.format),
        bytes_text(tensor.nbytes),
        "" if error is None else number(error, 3),
        figure(kl.value),
        spread,
        f"{tensor.perplexity_ratio.value - 1:+.2%}",
        f"{tensor.top1.value:.1%}",
    ]
