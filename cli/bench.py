"""`mlxquant bench`: how fast a model is on this machine; `bench compare`: machines side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .running import Progress
from .tables import bytes_text, pairs, prepare, safe, say, table

__all__ = ["command"]


class _Bench(click.Group):
    """A command with one argument of its own, and `compare`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `compare` for the command and everything else for MODEL."""
        ctx.meta[__name__] = args[:1] == ["compare"]
        ctx.allow_interspersed_args = not ctx.meta[__name__]  # options behind MODEL
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`compare`; there are no other commands, only one argument too many."""
        if not ctx.meta[__name__]:
            raise click.UsageError(f"one MODEL at a time; unexpected {args[0]!r}", ctx)
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters; `compare` leaves no room for MODEL."""
        params = super().get_params(ctx)
        if ctx.meta.get(__name__):
            return [each for each in params if not isinstance(each, click.Argument)]
        return params


class _Lengths(click.ParamType):
    """Numbers of tokens with commas between: `128,4k`."""

    name = "n,n,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """`128,4k` → (128, 4096)."""
        if isinstance(value, tuple):
            return value
        found = []
        for part in str(value).split(","):
            digits = part.strip().lower()
            factor = 1024 if digits.endswith("k") else 1
            digits = digits.removesuffix("k")
            if not (digits.isascii() and digits.isdecimal()) or len(digits) > 9:
                self.fail(f"{part.strip()!r} is no number of tokens, like 512 or 4k", param, ctx)
            found.append(int(digits) * factor)
        return tuple(found)


_LENGTHS = _Lengths()


@click.group(
    "bench",
    cls=_Bench,
    invoke_without_command=True,
    subcommand_metavar="| compare A.json B.json…",
    epilog="The limit is what memory allows: bandwidth / bytes that a token reads. A record is "
    "flagged where decode speed fell by more than a tenth during the runs, or the system was hot.",
)
@click.argument("model", required=False)
@click.option(
    "--prompt-lengths",
    "prompts",
    type=_LENGTHS,
    default="512",
    show_default=True,
    help="Tokens of the prompt.",
)
@click.option(
    "--context-lengths",
    "contexts",
    type=_LENGTHS,
    default="0",
    show_default=True,
    help="Tokens that are in the cache before it.",
)
@click.option(
    "--batch-sizes",
    "batches",
    type=_LENGTHS,
    default="1",
    show_default=True,
    help="Sequences at a time. Every combination of the three is measured.",
)
@click.option(
    "--generate", type=int, default=64, show_default=True, help="New tokens of each sequence."
)
@click.option("--repeat", type=int, default=5, show_default=True, help="Runs that count.")
@click.option("--warmup", type=int, default=1, show_default=True, help="Runs before that do not.")
@click.option("-o", "--output", metavar="FILE", help="Write the results to FILE, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.option("--revision", help="Branch, tag or commit of MODEL on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code the model comes with.")
@click.option(
    "--approximate-tokenizer",
    is_flag=True,
    help="Accept a GGUF vocabulary that no tokenizer.json splits exactly as llama.cpp does.",
)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Measure how fast a model is on this machine.

    MODEL is a folder, a GGUF file or a hub id (org/name); without one, the model that comes with
    mlxquant. Time to first token, prefill and decode speed: the median of runs in turn, with their
    quartiles; peak memory; and what memory's bandwidth allows.

    \b
    Examples:
      mlxquant bench ./books-4bit
      mlxquant bench model-Q4_K_M.gguf --prompt-lengths 128,2k --batch-sizes 1,4 -o m2.json
      mlxquant bench compare m2.json m4-max.json
    """
    if ctx.invoked_subcommand is not None:
        return
    prepare()
    output = _output(given["output"])
    document = _measure(given)
    if output is not None:
        from ..measure.results import save

        save(output, document)
    if given["as_json"]:
        say(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(document)
    if output is not None:
        click.echo(f"results: {output}", err=True)


@command.command("compare")
@click.argument("files", nargs=-1, required=True, metavar="A.json B.json…")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(files: tuple[str, ...], as_json: bool) -> None:
    """Lay results files side by side: of machines, of models, of today and last week.

    Each file after the first has its ratio to the first, and whether that is more than the spread
    of the runs. Files of mlxquant eval can be compared too.
    """
    from ..measure.report import compare as compare_files

    prepare()
    found = compare_files(files)
    columns, rows = found.table.columns, found.table.rows
    if as_json:
        titles = [column.title for column in columns]
        shown = [
            dict(zip(titles, (cell.shown or None for cell in row), strict=True)) for row in rows
        ]
        say(json.dumps({"rows": shown, "notes": found.notes}, indent=1, ensure_ascii=False))
        return
    sides = [(safe(column.title), "right" if column.right else "left") for column in columns]
    table(sides, [[safe(cell.shown) for cell in row] for row in rows])
    for note in found.notes:
        say(f"note: {safe(note)}")


def _output(path: str | None) -> Path | None:
    """Where the results go, refused now rather than after the work.

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


def _measure(given: dict[str, Any]) -> dict[str, Any]:
    """The document of results."""
    from ..measure.bench import Settings, run
    from ..pipeline import open_checkpoint

    names = ("prompts", "contexts", "batches", "generate", "repeat", "warmup")
    settings = Settings(**{name: given[name] for name in names})
    settings.check()
    options = ("revision", "trust_remote_code", "approximate_tokenizer")
    checkpoint = open_checkpoint(given["model"], **{name: given[name] for name in options})
    progress = Progress()

    def show(done: int, total: int, what: str) -> None:
        if not total:
            progress.show(f"{what} …")
        elif done < total:
            progress.show(f"run {done + 1} of {total}: {what} …")

    try:
        return run(checkpoint, settings, progress=show)
    finally:
        progress.clear()


def _show(document: dict[str, Any]) -> None:
    """The results for people."""
    records = document["records"]
    pairs([(name, safe(value)) for name, value in _facts(document)])
    say()
    columns = [("prompt", "right"), ("context", "right"), ("batch", "right")]
    columns += [("first token", "right"), ("prefill", "right"), ("decode", "right")]
    columns += [("quartiles", "right"), ("limit", "right"), ("share", "right"), ("memory", "right")]
    powered = any(record["energy"] for record in records)
    columns += [("energy", "right")] * powered
    table(columns, [_row(record, powered) for record in records])
    say("speeds in tokens/s, of the whole batch; limit: what memory's bandwidth allows for decode")
    for note in document["conditions"]["notes"]:
        say(f"note: {safe(note)}")
    for record in records:
        for note in record["notes"]:
            flag = "throttled" if record["throttled"] else "note"
            say(f"{flag}: {_label(record)}: {safe(note)}")


def _label(record: dict[str, Any]) -> str:
    return f"prompt {record['prompt']}, context {record['context']}, batch {record['batch']}"


def _row(record: dict[str, Any], powered: bool) -> list[str]:
    decode = record["decode"]
    cells = [
        f"{record['prompt']:,}",
        f"{record['context']:,}",
        f"{record['batch']:,}",
        _seconds(record["ttft"]["median"]),
        _figure(record["prefill"]["median"]),
        _figure(decode["median"]) + "*" * record["throttled"],
        f"{_figure(decode['low'])}-{_figure(decode['high'])}",
        _figure(record["limit"]) if record["limit"] else "",
        _share(record["share"]) if record["share"] else "",
        bytes_text(record["peak_memory"]),
    ]
    energy = f"{record['energy']:.3g} J/token" if record["energy"] else ""
    return cells + [energy] * powered


def _facts(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured, on what, under which circumstances."""
    machine, conditions = document["machine"], document["conditions"]
    model = document["records"][0]["model"]
    cores = f"{machine['cpu_cores']} CPU cores"
    if machine["gpu_cores"]:
        cores += f", {machine['gpu_cores']} GPU cores"
    rows = [
        ("model", f"{model['name']}, {model['format']}, {bytes_text(model['bytes'])}"),
        ("machine", f"{machine['chip']}, {cores}, {_gib(machine['memory_bytes'])}"),
        ("system", f"{machine['system']}; MLX on the {machine['kind'].upper()}"),
    ]
    bandwidth = machine["bandwidth"]
    if bandwidth:
        rate = f"{bandwidth['bytes_per_s'] / 1e9:.0f} GB/s"
        said = "measured" if bandwidth["source"] == "measured" else f"by {bandwidth['source']}"
        rows.append(("bandwidth", f"{rate}, {said}"))
    known = []
    if conditions["power"]:
        known.append(conditions["power"])
    if conditions["low_power_mode"]:
        known.append("low-power mode")
    if conditions["thermal"]:
        known.append(f"thermal pressure {conditions['thermal']}")
    if conditions["load"] is not None:
        known.append(f"load {conditions['load']:.2f} a core before the runs")
    return [*rows, ("conditions", ", ".join(known) or "unknown")]


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.3g} GiB"


def _seconds(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def _figure(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _share(value: float) -> str:
    """`63%`, of small ones a digit more: `0.3%`."""
    return f"{value:.{0 if value >= 0.1 else 1}%}"
