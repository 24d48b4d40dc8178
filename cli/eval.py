"""`mlxquant eval`: what quantization did to a model, in figures that can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .running import Progress
from .tables import prepare, say

if TYPE_CHECKING:
    from ..load.checkpoint import Checkpoint
    from ..measure.kept import Kept
    from ..measure.reference import ReferenceFile
    from ..measure.text import Cutting, Text

__all__ = ["command"]

DTYPES = ("float16", "bfloat16", "float32")
STYLES = ("mlx-lm", "llama.cpp")

#: what the bundled model and text are called
BUNDLED = "bundled"


@click.command("eval", short_help="Measure what quantization did to a model.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--reference",
    metavar="REF",
    help="Compare with this model, usually the one that MODEL was made of, or with a file of its "
    "predictions.",
)
@click.option(
    "--reference-cache",
    metavar="FILE",
    help="Keep the predictions of REF in FILE, and take them from there next time.",
)
@click.option(
    "--text", metavar="FILE", default=BUNDLED, show_default=True, help="UTF-8 text to measure on."
)
@click.option(
    "--length",
    "--ctx-size",
    "--sequence-length",
    type=int,
    default=512,
    show_default=True,
    help="Tokens of a window.",
)
@click.option(
    "--stride",
    type=int,
    help="Tokens from one window to the next; LENGTH if left out. With less, windows overlap and "
    "each token is scored once.",
)
@click.option("--windows", "--chunks", type=int, help="So many windows at most.")
@click.option(
    "--like",
    type=click.Choice(STYLES),
    default=STYLES[0],
    show_default=True,
    help="Whose windows: mlx_lm.perplexity's, or llama-perplexity's, of which the second half is "
    "scored.",
)
@click.option("--layers", is_flag=True, help="What each tensor's quantization does alone.")
@click.option(
    "--tasks",
    metavar="TASKS",
    help="Multiple-choice questions: a .jsonl or .yaml file, or names that lm-evaluation-harness "
    "knows, with commas between. Needs: pip install 'mlxquant[tasks]'.",
)
@click.option("--num-fewshot", type=click.IntRange(0), help="Worked examples before a question.")
@click.option("--limit", type=click.IntRange(1), help="So many questions of each task at most.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="What the models compute in; the models' own on a GPU, float32 on a CPU if left out.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the results to FILE, as JSON.")
@click.option("--resume", is_flag=True, help="Finish an interrupted run with the same -o.")
@click.option("--force", is_flag=True, help="Discard an interrupted run and start over.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code the models come with.")
@click.option(
    "--approximate-tokenizer",
    is_flag=True,
    help="Accept a GGUF vocabulary that no tokenizer.json splits exactly as llama.cpp does.",
)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Measure perplexity, and how far each MODEL is from a reference.

    MODEL is a folder, a GGUF file or a hub id (org/name); without one, the model that comes with
    mlxquant. With --reference: how far its predictions are from REF's, and how often both expect
    the same token. Figures come with 95 % intervals. With --reference-cache and no MODEL, only the
    file is made: on a machine that can hold REF, for one that cannot.

    \b
    Examples:
      mlxquant eval ./books-4bit --reference bundled
      mlxquant eval a-4bit a-Q4_K_M.gguf --reference org/a -o a.json
      mlxquant eval --reference org/large --reference-cache large.ref
      mlxquant eval ./large-4bit --reference large.ref
      mlxquant eval ./books-2bit --reference bundled --layers
    """
    prepare()
    _check(ctx, given)
    if given["layers"]:
        from .eval_layers import show_layers

        show_layers(given)
    elif given["tasks"]:
        from .eval_tasks import show_tasks

        show_tasks(given)
    else:
        _evaluate(given)


def _check(ctx: click.Context, given: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    layers, tasks, reference = given["layers"], given["tasks"], given["reference"]
    if layers and tasks:
        raise click.UsageError("--layers and --tasks: one at a time")
    if (layers or tasks) and given["output"]:
        raise click.UsageError(
            f"-o holds perplexity and divergence; of {'--layers' if layers else '--tasks'}, "
            "--json prints the results"
        )
    if layers and not reference:
        raise click.UsageError("--layers needs --reference: the model that MODEL was made of")
    if layers and len(given["models"]) > 1:
        raise click.UsageError("--layers takes one MODEL at a time")
    if tasks and reference:
        raise click.UsageError("--tasks compares with the right answers; leave --reference out")
    for option in ("num_fewshot", "limit"):
        if given[option] is not None and not tasks:
            raise click.UsageError(f"--{option.replace('_', '-')} is for --tasks")
    if given["reference_cache"] and (not reference or layers):
        raise click.UsageError("--reference-cache keeps what --reference predicts; give a REF")
    if (given["resume"] or given["force"]) and not given["output"]:
        raise click.UsageError("--resume and --force go with -o: what is finished is kept there")
    given["chosen"] = {
        name
        for name in ("text", "length", "stride", "windows", "like")
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }


def open_model(name: str | None, given: dict[str, Any]) -> Checkpoint:
    """The checkpoint of a MODEL or REF; `bundled` is the model that comes with mlxquant."""
    from ..pipeline import open_checkpoint

    bundled = name is None or (name == BUNDLED and not Path(name).exists())
    return open_checkpoint(
        None if bundled else name,
        trust_remote_code=given["trust_remote_code"],
        approximate_tokenizer=given["approximate_tokenizer"],
    )


def what_on(given: dict[str, Any], windows: int | None) -> tuple[Text, Cutting]:
    """The text and how it is cut; `windows` at most where nobody says."""
    from ..measure.text import Cutting, read_text

    most = windows if given["windows"] is None else given["windows"]
    cutting = Cutting(given["like"], given["length"], given["stride"], most)
    name = given["text"]
    return read_text(None if name == BUNDLED and not Path(name).exists() else name), cutting


def progress_line(progress: Progress, what: str, done: int, total: int) -> None:
    """What is going on, on stderr."""
    if done < total or not total:
        progress.show(f"{what}: window {done + 1:,} of {total:,} …" if total else f"{what} …")
    else:
        progress.clear()


def _evaluate(given: dict[str, Any]) -> None:
    """Perplexity and divergence."""
    text, cutting = what_on(given, None)
    names = given["models"] or (() if given["reference_cache"] else (None,))
    models = [open_model(name, given) for name in names]
    reference = _reference(given)
    kept = _kept(given, text, cutting)
    from ..measure.evaluate import evaluate
    from ..measure.results import header
    from ..measure.session import usual_dtype
    from .eval_tables import show_results

    document = header("eval")
    dtype = given["dtype"] or usual_dtype()
    document["conditions"]["notes"].append(f"computed in {dtype or 'the models own types'}")
    progress = Progress()
    cache = given["reference_cache"]
    if cache is None and kept is not None:
        cache = kept.reference
    try:
        for record in evaluate(
            models,
            text,
            cutting,
            reference=reference,
            cache=Path(cache) if cache else None,
            dtype=given["dtype"],
            known=kept.records if kept else (),
            progress=lambda what, done, total: progress_line(progress, what, done, total),
        ):
            document["records"].append(record)
            if kept is not None:
                kept.keep(document)
    except KeyboardInterrupt:
        progress.clear()
        if kept is not None:
            click.echo("the same command with --resume goes on where this was", err=True)
        raise
    finally:
        progress.clear()
    if kept is not None:
        kept.finish(document)
    if given["as_json"]:
        say(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        show_results(document)
    if kept is not None:
        click.echo(f"results: {kept.output}", err=True)


def _reference(given: dict[str, Any]) -> Checkpoint | ReferenceFile | None:
    """What --reference names, if it names something."""
    from ..errors import RequestError
    from ..measure.evaluate import is_reference
    from ..measure.reference import open_reference

    name = given["reference"]
    if name is None:
        return None
    if not is_reference(name):
        return open_model(name, given)
    chosen = given["chosen"]
    if given["reference_cache"] or chosen:
        option = "--reference-cache" if given["reference_cache"] else f"--{min(chosen)}"
        raise RequestError(
            f"{option}: {name} holds predictions for a text and windows of its own; leave it out"
        )
    return open_reference(name)


def _kept(given: dict[str, Any], text: Text, cutting: Cutting) -> Kept | None:
    """Where the results are kept while they are made, with -o."""
    from ..measure.kept import Kept

    if given["output"] is None:
        return None
    request = {
        "models": list(given["models"]),
        "reference": given["reference"],
        "text": text.sha256,
        "windows": str(cutting),
        "dtype": given["dtype"],
    }
    return Kept(Path(given["output"]), request, resume=given["resume"], force=given["force"])
