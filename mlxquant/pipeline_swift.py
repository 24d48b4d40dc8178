"""The line to an app: load, put in order, save.

export_swift   a model folder → the same weights in a folder that an app bundles
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RequestError
from .pipeline import Source, is_gguf, open_checkpoint

if TYPE_CHECKING:
    from .save.to_swift import SwiftResult

__all__ = ["export_swift"]


def export_swift(
    model: Source = None,
    output: str | PathLike[str] | None = None,
    *,
    contexts: Sequence[int] = (),
    type_name: str = "ModelInfo",
    revision: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> SwiftResult:
    """Write a folder for a Swift app: every weight as it is stored, in an order for mapping.

    Args: as `pipeline.quantize`, and
        model: a folder, a hub id, or None for the bundled model; no GGUF file.
        contexts: lengths of text, in tokens, to estimate memory at; none for some usual ones.
        type_name: of the Swift type that holds the constants.

    Raises: as `pipeline.quantize`.
    """
    from .save.partial import check_output
    from .save.stream import Options
    from .save.swift_layout import lay_out_swift
    from .save.swift_names import check_type_name
    from .save.to_swift import SwiftResult, estimate, save_swift

    options = Options(force, resume, threads, progress)
    check_type_name(type_name)
    if is_gguf(model):
        raise RequestError(
            f"{model}: is a GGUF file; bundle it as it is, or make a folder of it first: "
            f"mlxquant import {model} -o FOLDER"
        )
    if not dry_run:
        check_output(output, force=force, resume=resume)
    checkpoint = open_checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
    if dry_run or output is None:
        memory, notes = estimate(checkpoint, contexts)
        return SwiftResult(lay_out_swift(checkpoint), memory, (*checkpoint.notes, *notes))
    return save_swift(checkpoint, Path(output), options, contexts=contexts, type_name=type_name)
