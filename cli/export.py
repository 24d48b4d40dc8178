"""`mlxquant export`: a model becomes a GGUF file, or a folder for a Swift app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]

# Written out, so that `--help` need not import the quantizers; a test compares them.
OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")


@click.command("export", short_help="Write a model as a GGUF file, losing nothing.")
@click.argument("model", required=False)
@click.option("-o", "--output", "--outfile", metavar="OUT", help="File, or folder, to write.")
@click.option(
    "--to",
    "target",
    type=click.Choice(("gguf", "swift"), case_sensitive=False),
    default="gguf",
    show_default=True,
    help="For llama.cpp and its kin, or for an app with the Swift package.",
)
@click.option(
    "--outtype",
    type=click.Choice(OUTTYPES, case_sensitive=False),
    default="auto",
    show_default=True,
    help="Type of the matrices; auto is the type that holds each as it is stored.",
)
@click.option(
    "--split-max-size", metavar="N(M|G)", help="Split into parts of at most so many bytes."
)
@click.option(
    "--approximate-tokenizer",
    is_flag=True,
    help="Accept a tokenizer that llama.cpp has no exact name for.",
)
@click.option(
    "--context",
    "contexts",
    type=int,
    multiple=True,
    metavar="TOKENS",
    help="Swift: estimate memory at this length of text; may be repeated.",
)
@click.option(
    "--type-name",
    default="ModelInfo",
    show_default=True,
    metavar="NAME",
    help="Swift: the type of the generated constants.",
)
@click.option("--dry-run", is_flag=True, help="Show what each tensor becomes; write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists, or start over.")
@click.option("--resume", is_flag=True, help="Finish an interrupted run: the same bytes.")
@click.option("--threads", type=click.IntRange(1), help="Worker threads; one a core if left out.")
@click.option("--revision", help="Branch, tag or commit on the hub.")
@click.option("--trust-remote-code", is_flag=True, help="Accept a model folder with Python code.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str | None,
    output: str | None,
    target: str,
    split_max_size: str | None,
    contexts: tuple[int, ...],
    type_name: str,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL, a folder or a hub id, as a GGUF file for llama.cpp and its kin.

    Weights keep their codes: floats as they are, MLX's 4-bit and 5-bit ones as Q4_1 and Q5_1 (or
    Q4_0, Q5_0), mxfp4 and nvfp4 as MXFP4 and NVFP4. What GGUF cannot hold exactly is named with
    its error before anything is written.

    With --to swift, OUT is a folder for an app: the same weights, in an order in which a GPU takes
    them as they lie in the file, with an estimate of memory and constants for the app's code. MODEL
    may be a GGUF file then; the folder holds it as it is.

    \b
    mlxquant export folder -o model.gguf
    mlxquant export org/model -o model.gguf --outtype f16
    mlxquant export folder --to swift -o App/Model
    mlxquant export model.gguf --to swift -o App/Model
    """
    if target == "swift":
        _export_swift(model, output, split_max_size, contexts, type_name, dry_run, as_json, options)
        return
    _refuse(
        {"--context": bool(contexts), "--type-name": type_name != "ModelInfo"},
        "is of --to swift; a GGUF file has none",
    )
    from ..pipeline_gguf import export
    from .gguf_plans import show_inexact, show_result
    from .progress import ByteProgress, say_what_is_kept

    output = output or default_output(model)
    try:
        with ByteProgress("exporting") as progress:
            result = export(
                model,
                output,
                dry_run=dry_run,
                split_bytes=_part_bytes(split_max_size),
                progress=progress,
                planned=show_inexact,
                **options,
            )
    except KeyboardInterrupt:
        say_what_is_kept(output)
        raise
    show_result(result, as_json=as_json, planned=dry_run, errors=True)


def _export_swift(
    model: str | None,
    output: str | None,
    split_max_size: str | None,
    contexts: tuple[int, ...],
    type_name: str,
    dry_run: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    from ..pipeline_swift import export_swift
    from .progress import ByteProgress, say_what_is_kept
    from .swift_plans import show_swift

    _refuse(
        {
            "--outtype": options.pop("outtype") != "auto",
            "--split-max-size": split_max_size is not None,
            "--approximate-tokenizer": options.pop("approximate_tokenizer"),
        },
        "is of GGUF files; --to swift writes every weight as it is stored",
    )
    output = output or f"{default_output(model).removesuffix('.gguf')}-swift"
    try:
        with ByteProgress("exporting") as progress:
            result = export_swift(
                model,
                output,
                contexts=contexts,
                type_name=type_name,
                dry_run=dry_run,
                progress=progress,
                **options,
            )
    except KeyboardInterrupt:
        say_what_is_kept(output)
        raise
    show_swift(result, as_json=as_json)


def _refuse(given: dict[str, bool], why: str) -> None:
    """Raise for the first option that was given and means nothing here."""
    from ..errors import RequestError

    for name, is_given in given.items():
        if is_given:
            raise RequestError(f"{name} {why}")


def default_output(model: str | None, kind: str = "") -> str:
    """`<model>.gguf` and the like, in the working folder."""
    name = Path(model).resolve().name.removesuffix(".gguf") if model else "books-7m"
    return f"{name}-{kind}.gguf" if kind else f"{name}.gguf"


def _part_bytes(text: str | None) -> int | None:
    from ..save.to_gguf import part_size

    return None if text is None else part_size(text)
