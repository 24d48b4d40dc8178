"""The line to an app: load, put in order, save.

export_swift   a model folder or a GGUF file → the same weights in a folder that an app bundles
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .pipeline import Source, is_gguf, open_checkpoint

if TYPE_CHECKING:
    from .load.checkpoint import Checkpoint
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
        model: a folder, a hub id, None for the bundled model, a GGUF file (of a split one any
            part), or a folder with one GGUF model.
        contexts: lengths of text, in tokens, to estimate memory at; none for some usual ones.
        type_name: of the Swift type that holds the constants.

    Raises: as `pipeline.quantize`.
    """
    from .load.from_gguf import open_gguf
    from .load.gguf_folder import gguf_in
    from .save.partial import check_output
    from .save.stream import Options
    from .save.swift_names import check_type_name
    from .save.to_swift import plan_swift, save_swift

    options = Options(force, resume, threads, progress)
    check_type_name(type_name)
    if not dry_run:
        check_output(output, force=force, resume=resume)
    file = model if is_gguf(model) else None if model is None else gguf_in(model)
    if file is not None:
        # The runtime reads the vocabulary itself: no tokenizer.json need be made of it.
        checkpoint: Checkpoint = open_gguf(file, source=str(model), tokenizer=False)
    else:
        checkpoint = open_checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
    if dry_run or output is None:
        return plan_swift(checkpoint, contexts)
    return save_swift(checkpoint, Path(output), options, contexts=contexts, type_name=type_name)
