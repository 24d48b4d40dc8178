"""The part of `mlxquant quantize` that writes GGUF: llama-quantize's options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["gguf_options", "quantize_gguf", "take_gguf_options"]

_OPTIONS = (
    click.option(
        "--type",
        "file_type",
        metavar="TYPE",
        help="Write a GGUF file of this type, with llama-quantize's names and rules: Q4_K_M, "
        "Q6_K, IQ4_XS, …",
    ),
    click.option(
        "--imatrix",
        metavar="FILE",
        help="GGUF: importance of the columns, an importance matrix of llama.cpp's (GGUF or .dat). "
        "--calibrate measures it, and more.",
    ),
    click.option(
        "--include-weights",
        multiple=True,
        metavar="NAME",
        help="GGUF: use the importance of the tensors that have NAME in theirs, and no other's.",
    ),
    click.option(
        "--exclude-weights",
        multiple=True,
        metavar="NAME",
        help="GGUF: use no importance for the tensors that have NAME in theirs.",
    ),
    click.option("--pure", is_flag=True, help="GGUF: every matrix in one type."),
    click.option("--leave-output-tensor", is_flag=True, help="GGUF: keep output.weight as it is."),
    click.option("--output-tensor-type", metavar="TYPE", help="GGUF: type of output.weight."),
    click.option(
        "--token-embedding-type", metavar="TYPE", help="GGUF: type of the token embeddings."
    ),
    click.option(
        "--tensor-type",
        "tensor_types",
        multiple=True,
        metavar="NAME=TYPE",
        help="GGUF: type of the tensors whose name has NAME, an expression, in it. May be "
        "repeated; the first match wins.",
    ),
    click.option(
        "--override-kv",
        "overrides",
        multiple=True,
        metavar="KEY=TYPE:VALUE",
        help="GGUF: set a key of the metadata; TYPE is int, float, bool or str.",
    ),
    click.option("--keep-split", is_flag=True, help="GGUF: split the output as the source is."),
    click.option(
        "--split-max-size", metavar="N(M|G)", help="GGUF: parts of at most so many bytes."
    ),
    click.option(
        "--approximate-tokenizer",
        is_flag=True,
        help="GGUF: accept a tokenizer that has no exact counterpart on the other side.",
    ),
)
_NAMES = (
    "imatrix",
    "include_weights",
    "exclude_weights",
    "pure",
    "leave_output_tensor",
    "output_tensor_type",
    "token_embedding_type",
    "tensor_types",
    "overrides",
    "keep_split",
    "split_max_size",
)
#: options of MLX folders → what they are when nobody asks
_MLX_ONLY = {
    "bits": None,
    "group_size": None,
    "mode": "affine",
    "recipe": None,
    "tensors": (),
    "embed_bits": None,
    "head_bits": None,
    "target_bpw": None,
    "target_size": None,
    "target_kl": None,
    "prefer": None,
    "chip": None,
    "results": None,
    "rotate": None,
    "awq": False,
    "distill": False,
    "seed": 0,
    "dtype": None,
    "dequantize": False,
}


def gguf_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_gguf_options(options: dict[str, Any], output: str | None) -> dict[str, Any] | None:
    """Take GGUF's options out of a command's; None where a folder is asked for.

    Raises:
        click.UsageError: options for a GGUF file and for a folder together.
    """
    file_type = options.pop("file_type")
    asked = {name: options.pop(name) for name in _NAMES}
    if file_type is None:
        if any(asked.values()):
            name = next(name for name in _NAMES if asked[name])
            raise click.UsageError(f"{_flag(name)} is for GGUF files: say which with --type")
        if output is not None and output.endswith(".gguf"):
            raise click.UsageError(f"{output} is a GGUF file: say which type, e.g. --type Q4_K_M")
        return None
    if options["quality"] is not None:
        raise click.UsageError(
            "--quality is for MLX folders: with --type, leave it out for what fast does, or give "
            "--calibrate bundled for what balanced does"
        )
    for name, default in _MLX_ONLY.items():
        if options[name] != default:
            raise click.UsageError(f"{_flag(name)} is for MLX folders; leave it out with --type")
    if asked["imatrix"] is None and options["calibrate"] is None:
        for name in ("include_weights", "exclude_weights"):
            if asked[name]:
                raise click.UsageError(
                    f"{_flag(name)} is about importance: give --imatrix FILE or --calibrate TEXT"
                )
    return {"file_type": file_type, **asked}


def quantize_gguf(
    model: str | None,
    output: str | None,
    asked: dict[str, Any],
    options: dict[str, Any],
    run: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Quantize into a GGUF file and say what happened."""
    from .. import pipeline_gguf
    from ..quantize.llama_types import TypeRequest, parse_override, parse_tensor_type
    from ..save.to_gguf import part_size
    from .export import default_output
    from .gguf_plans import show_result
    from .progress import ByteProgress, say_what_is_kept

    overrides = dict(parse_override(text) for text in asked.pop("overrides"))
    size, imatrix = asked.pop("split_max_size"), asked.pop("imatrix")
    asked["tensor_types"] = tuple(parse_tensor_type(text) for text in asked["tensor_types"])
    request = TypeRequest(**asked, requantize=options["requantize"])
    output = output or default_output(model, request.file_type)
    try:
        with ByteProgress("quantizing") as progress:
            result = pipeline_gguf.quantize_gguf(
                model,
                output,
                request,
                overrides=overrides,
                imatrix=imatrix,
                calibrate=options["calibrate"],
                calibrate_windows=options["calibrate_windows"],
                method=options["method"],
                approximate_tokenizer=options["approximate_tokenizer"],
                split_bytes=None if size is None else part_size(size),
                progress=progress,
                **run,
            )
    except KeyboardInterrupt:
        say_what_is_kept(output)
        raise
    show_result(result, as_json=as_json, planned=run["dry_run"], errors=False)


def _flag(name: str) -> str:
    names = {"tensor_types": "tensor-type", "tensors": "tensor", "overrides": "override-kv"}
    return f"--{names.get(name, name).replace('_', '-')}"
