"""`mlxquant imatrix`: what every column of a model's matrices counts, in llama.cpp's file of it."""

from __future__ import annotations

import json
from typing import Any

import click

__all__ = ["command"]


@click.command("imatrix", short_help="Measure on a text what a model's weights count.")
@click.argument("model", required=False)
@click.option("-o", "--output", metavar="FILE", help="File to write: FILE.gguf or FILE.dat.")
@click.option(
    "--calibrate",
    default="bundled",
    is_flag=False,
    flag_value="bundled",
    show_default=True,
    metavar="[TEXT]",
    help="The text: a file, or `bundled` for English prose.",
)
@click.option(
    "--windows",
    "--calibrate-windows",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Windows of that text at most, of 512 tokens each.",
)
@click.option(
    "--approximate-tokenizer",
    is_flag=True,
    help="Accept a tokenizer that has no exact counterpart on the other side.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists, or start over.")
@click.option("--resume", is_flag=True, help="Finish an interrupted run: the same bytes.")
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Accept a model folder with Python code.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str | None, output: str | None, windows: int, as_json: bool, **options: Any
) -> None:
    """Run MODEL, a folder, a GGUF file of floats or a hub id, on a text and write the mean squares
    of what its matrices are multiplied with: an importance matrix, by the names that the model's
    tensors have in GGUF. mlxquant and llama-quantize take it with --imatrix.

    \b
    mlxquant imatrix folder -o folder.imatrix.gguf
    mlxquant imatrix folder -o folder.dat --calibrate my-text.txt
    """
    from ..pipeline_gguf import importance
    from .running import Progress
    from .tables import prepare, safe, say

    progress = Progress()

    def show(done: int, total: int, name: str) -> None:
        progress.show(f"measuring: {done:,} of {total:,} layers …")

    try:
        found = importance(model, output, calibrate_windows=windows, progress=show, **options)
    finally:
        progress.clear()
    prepare()
    unseen = {name: entry.unseen for name, entry in found.entries.items() if entry.unseen}
    if as_json:
        facts = {
            "output": output,
            "tensors": len(found.entries),
            "datasets": list(found.datasets),
            "chunks": found.chunks,
            "chunk_size": found.chunk_size,
            "unseen_experts": unseen,
        }
        say(json.dumps(facts, indent=1))
        return
    texts = ", ".join(map(safe, found.datasets))
    say(
        f"{len(found.entries)} matrices measured on {found.chunks} windows of {found.chunk_size} "
        f"tokens of {texts}"
    )
    for name, count in unseen.items():
        say(
            f"note: {safe(name)}: {count} of {len(found.entries[name].counts)} experts saw no input"
        )
    name = f"{safe(model)} " if model else ""
    say(f"\nwritten to {safe(output)}")
    say(f"try it: mlxquant quantize {name}--type Q4_K_M --imatrix {safe(output)}")
