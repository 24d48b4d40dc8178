"""`mlxquant quantize`: a model folder or hub id becomes a smaller MLX folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .progress import ByteProgress, say_what_is_kept
from .quantize_gguf import gguf_options, quantize_gguf, take_gguf_options

__all__ = ["command"]

# Written out, so that `--help` need not import the quantizers; a test compares them.
MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")
RECIPES = ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
DTYPES = ("float16", "bfloat16", "float32")
METHODS = ("rtn", "search", "gptq")
QUALITIES = ("fast", "balanced", "best")


def _overrides(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """`GLOB=FORMAT` pairs."""
    pairs = []
    for text in value:
        glob, equals, spec = text.rpartition("=")
        if not equals or not glob or not spec:
            raise click.BadParameter(f"{text!r} is not GLOB=FORMAT, e.g. 'model.layers.0.*=8'")
        pairs.append((glob, spec))
    return tuple(pairs)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes of `8GB`, `700 MB` or `4137472`; of files, so in powers of 1000."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgt]?)b?", value.lower())
    if found is None:
        raise click.BadParameter(f"{value!r} is no size, e.g. 8GB, 700MB, or a number of bytes")
    return int(float(found[1]) * 1000 ** "_kmgt".index(found[2] or "_"))


@click.command("quantize", short_help="Make a model small.")
@click.argument("model", required=False)
@click.option("--hf-path", "--model", "model_option", metavar="MODEL", help="The same as MODEL.")
@click.option(
    "-o",
    "--output",
    "--mlx-path",
    metavar="OUT",
    help="Folder to write; named after the model and the format if left out.",
)
@click.option("--bits", "--q-bits", type=int, help="1 2 3 4 5 6 8; 4 if left out.")
@click.option(
    "--group-size", "--q-group-size", type=int, help="Weights that share a scale: 32 64 128."
)
@click.option("--mode", "--q-mode", type=click.Choice(MODES), default="affine", show_default=True)
@click.option(
    "--recipe",
    "--quant-predicate",
    type=click.Choice(RECIPES),
    help="Two widths, the wider for the tensors that need it.",
)
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="GLOB=FORMAT",
    callback=_overrides,
    help="Format of the modules that match: bits, a format's name (mxfp8, affine4-g32) or keep. "
    "May be repeated; the last match wins.",
)
@click.option(
    "--plan",
    metavar="FILE",
    help="A plan file (YAML) with a format for every tensor; only --tensor is stronger.",
)
@click.option("--embed-bits", type=int, help="Bits of the embedding.")
@click.option("--head-bits", type=int, help="Bits of the output head.")
@click.option(
    "--quality",
    type=click.Choice(QUALITIES),
    help="A preset: fast looks at no text (the default), balanced at one, best also chooses "
    "formats tensor by tensor in the same bytes and trains scales. What it takes is said first.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How codes are chosen: search, the default, finds the scales of least error; rtn is plain "
    "rounding, mlx_lm.convert's bytes; gptq, the default with --calibrate, lets weights make good "
    "what rounding others did.",
)
@click.option(
    "--calibrate",
    is_flag=False,
    flag_value="bundled",
    metavar="[TEXT]",
    help="A text to measure activations on: a file, or `bundled` for English prose, which is taken "
    "where none is named.",
)
@click.option(
    "--calibrate-windows",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Windows of that text at most, of 512 tokens each.",
)
@click.option(
    "--target-bpw",
    type=float,
    metavar="BITS",
    help="Choose the formats: bits per weight of the whole model, at the least loss.",
)
@click.option(
    "--target-size",
    metavar="SIZE",
    callback=_size,
    help="The same with the size of the weights: 8GB, 700MB, or a number of bytes.",
)
@click.option(
    "--target-kl",
    type=float,
    metavar="NATS",
    help="The smallest model whose predictions diverge by at most so much from the original's.",
)
@click.option(
    "--prefer",
    type=click.Choice(("speed",)),
    help="With a target: spare the bytes that a token reads before those that are only stored.",
)
@click.option(
    "--chip",
    metavar="NAME",
    help="With --prefer speed and --results: the chip that the model is for, M2 or 'M3 Max'; this "
    "Mac's if left out.",
)
@click.option(
    "--results",
    metavar="DIR",
    help="With --prefer speed: a folder (or file) of what `mlxquant bench` measured; formats count "
    "by how fast the chip reads them.",
)
@click.option(
    "--rotate",
    type=click.Choice(("heads", "full")),
    help="Turn weights so that outliers spread, the model's predictions unchanged: values within "
    "their heads, or all (a tied head becomes a matrix of its own: more bytes).",
)
@click.option(
    "--awq",
    is_flag=True,
    help="With --calibrate: fold scales into what makes a weight's input, so that loud channels "
    "lose less.",
)
@click.option(
    "--distill",
    is_flag=True,
    help="With --calibrate: train scales, biases and norms against the original's predictions on "
    "the text; minutes, and the whole model in memory.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of --rotate and --distill.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Type of scales and of what stays unquantized; the config's if left out.",
)
@click.option("-d", "--dequantize", is_flag=True, help="Write a quantized model back as floats.")
@click.option(
    "--requantize",
    "--allow-requantize",
    is_flag=True,
    help="Allow a source that is quantized already.",
)
@gguf_options
@click.option("-q", "--quantize", "_quantize", is_flag=True, hidden=True)
@click.option("--dry-run", is_flag=True, help="Show what each tensor would get; write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists, or start over.")
@click.option("--resume", is_flag=True, help="Finish an interrupted run: the same bytes.")
@click.option("--threads", type=click.IntRange(1), help="Worker threads; one a core if left out.")
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Accept a model folder with Python code.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str | None,
    model_option: str | None,
    output: str | None,
    as_json: bool,
    _quantize: bool,
    dry_run: bool,
    force: bool,
    resume: bool,
    threads: int | None,
    revision: str | None,
    trust_remote_code: bool,
    **options: Any,
) -> None:
    """Quantize MODEL, a folder, a GGUF file or a hub id, into a folder that mlx-lm opens, or with
    --type into a GGUF file.

    \b
    mlxquant quantize                                   the bundled model, 4 bits
    mlxquant quantize org/model -o small --bits 4
    mlxquant quantize folder --mode mxfp4 --head-bits 8
    mlxquant quantize folder --bits 3 --tensor 'model.layers.0.*=8'
    mlxquant quantize folder -o small.gguf --type Q4_K_M
    """
    if model and model_option:
        raise click.UsageError("MODEL is given twice")
    model = model or model_option
    run: dict[str, Any] = {
        "dry_run": dry_run,
        "force": force,
        "resume": resume,
        "threads": threads,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    asked = take_gguf_options(options, output)
    if asked is not None:
        quantize_gguf(model, output, asked, options, run, as_json=as_json)
        return
    from ..pipeline import quantize
    from ..quantize.request import Request
    from .plans import show_plan, show_result
    from .tables import prepare, say

    approximate = options.pop("approximate_tokenizer")
    request = Request(**options)
    output = output or default_output(model, request)
    try:
        with ByteProgress("quantizing") as progress:
            result = quantize(
                model,
                output,
                request,
                approximate_tokenizer=approximate,
                progress=progress,
                announce=_announce(request),
                **run,
            )
    except KeyboardInterrupt:
        say_what_is_kept(output)
        raise
    prepare()
    if as_json:
        say(json.dumps(result.to_json(), indent=1))
        return
    if dry_run:
        show_plan(result.plan)
    show_result(result)


def _announce(request: Any) -> Callable[[Any], None] | None:
    """Says on stderr what a preset will take."""
    if request.quality is None:
        return None
    return lambda found: click.echo(f"--quality {request.quality} {found}", err=True)


def default_output(model: str | None, request: Any) -> str:
    """`<model>-4bit` and the like, in the working folder."""
    name = Path(model).resolve().name.removesuffix(".gguf") if model else "books-7m"
    if request.dequantize:
        return f"{name}-dequantized"
    if request.target_bpw is not None:
        return f"{name}-{request.target_bpw:g}bpw"
    if request.target_size is not None:
        return f"{name}-{request.target_size / 1e6:g}MB"
    if request.target_kl is not None:
        return f"{name}-kl{request.target_kl:g}"
    if request.recipe:
        return f"{name}-{request.recipe}"
    if request.planned:
        return f"{name}-{Path(request.planned.file).stem.removeprefix(f'{name}-')}"
    kind = request.mode if request.mode != "affine" else f"{request.default.bits}bit"
    return f"{name}-{kind}"
