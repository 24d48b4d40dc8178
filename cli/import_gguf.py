"""`mlxquant import`: a GGUF file becomes an MLX folder that keeps every code."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..measure.fates import Fate, ImportResult

__all__ = ["command"]

# Written out, so that `--help` need not import the quantizers; a test compares them.
DTYPES = ("float16", "bfloat16", "float32")


@click.command("import", short_help="Turn a GGUF file into an MLX folder, losing nothing.")
@click.argument("file", metavar="FILE.gguf")
@click.option(
    "-o",
    "--output",
    "--mlx-path",
    metavar="OUT",
    help="Folder to write; named after FILE if left out.",
)
@click.option("--exact", is_flag=True, help="Keep every tensor's codes; this is the default.")
@click.option(
    "--requantize",
    metavar="FORMAT",
    help="Decode and quantize again for stock mlx-lm: affine4-g64, mxfp4, or a number of bits.",
)
@click.option("--dequantize", is_flag=True, help="Decode: a folder of floats.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Type of scales and floats, unless exact; the file's own if left out.",
)
@click.option("--allow-nonfinite", is_flag=True, help="Take NaN and infinity as they are.")
@click.option(
    "--approximate-tokenizer",
    is_flag=True,
    help="Accept a vocabulary that no tokenizer.json splits exactly as llama.cpp does.",
)
@click.option("--dry-run", is_flag=True, help="Show what each tensor becomes; write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists, or start over.")
@click.option("--resume", is_flag=True, help="Finish an interrupted run: the same bytes.")
@click.option("--threads", type=click.IntRange(1), help="Worker threads; one a core if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: str,
    output: str | None,
    exact: bool,
    as_json: bool,
    dry_run: bool,
    requantize: str | None,
    dequantize: bool,
    **options: Any,
) -> None:
    """Turn FILE.gguf, or a split model by any of its parts, into an MLX folder.

    Every tensor keeps its codes. What MLX has a format for (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4,
    NVFP4) is repacked for it; everything else stays in its own bytes, which mlxquant runs and stock
    mlx-lm does not. The last lines say what became of each tensor.

    \b
    mlxquant import model-Q4_K_M.gguf -o model
    mlxquant import model-Q4_K_M.gguf -o model-4bit --requantize affine4-g64
    mlxquant import model-Q8_0.gguf -o model-bf16 --dequantize --dtype bfloat16
    """
    if exact and (requantize is not None or dequantize):
        raise click.UsageError("--exact keeps the codes: leave out --requantize and --dequantize")
    from ..errors import RequestError
    from ..pipeline import import_gguf
    from ..quantize.exact import ImportRequest
    from .progress import ByteProgress, say_what_is_kept
    from .tables import prepare, say

    if Path(file).is_dir():
        raise RequestError(f"{file}: this is a directory; quantize and export take model folders")
    dtype, nonfinite = options.pop("dtype"), options.pop("allow_nonfinite")
    request = ImportRequest(requantize, dequantize, dtype, nonfinite)
    output = output or default_output(file, request)
    try:
        with ByteProgress("importing") as progress:
            result = import_gguf(
                file, output, request, dry_run=dry_run, progress=progress, **options
            )
    except KeyboardInterrupt:
        say_what_is_kept(output)
        raise
    prepare()
    if as_json:
        say(json.dumps(result.to_json(), indent=1))
    else:
        show(result)


def default_output(file: str, request: Any) -> str:
    """`<file>-mlx`, `<file>-affine4-g64` or `<file>-dequantized`, in the working folder."""
    name = Path(file).name.removesuffix(".gguf")
    name = re.sub(r"-\d{5}-of-\d{5}$", "", name)
    if request.is_exact:
        return f"{name}-mlx"
    return f"{name}-{request.requantize or 'dequantized'}"


def show(result: ImportResult) -> None:
    """What became of each tensor, sizes before and after, and how much is exact."""
    from .plans import layer_groups, show_result
    from .tables import safe, say, table

    fates = {fate.item.name: fate for fate in result.fates}
    items = [replace(fate.item, source=fate.stored) for fate in result.fates]
    table(
        [(title, "left") for title in ("tensor", "shape", "from", "to", "how")],
        [
            (
                safe(name),
                "×".join(map(str, members[0].shape)),
                members[0].source,
                members[0].target.name if members[0].target else members[0].kept_format,
                _how([fates[item.name] for item in members]),
            )
            for name, members in layer_groups(items)
        ],
    )
    say()
    show_result(result)
    if all(fate.error is not None for fate in result.fates):
        line = f"\n{result.exact} of {len(fates)} tensors are exact"
        if result.worst is not None:
            line += f"; largest error {result.worst.error:.3g} in {safe(result.worst.item.name)}"
        say(line)


def _how(fates: Sequence[Fate]) -> str:
    """One word for tensors of one kind, and how far off the worst of them is."""
    errors = [fate.error for fate in fates if fate.error is not None]
    if not errors:
        return fates[0].how
    return f"{fates[0].how}, " + (f"error {max(errors):.3g}" if max(errors) else "exact")
