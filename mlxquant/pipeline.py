"""The main line: load, quantize, save. Small enough to read in one breath.

open_checkpoint   a folder, a hub id or nothing (the bundled model) → a lazy Checkpoint
quantize          Checkpoint → plan → streamed MLX folder
load              a model folder → (model, tokenizer), what mlx_lm.generate takes
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .load.checkpoint import Checkpoint
    from .quantize.policy import Request
    from .save.to_mlx import Result

__all__ = ["load", "open_checkpoint", "quantize"]

Source = str | PathLike[str] | None


def open_checkpoint(
    model: Source = None, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Open a model without reading its weights.

    Args:
        model: a folder, a GGUF file, a hub id (`org/name`), or None for the bundled model.
        revision: branch, tag or commit on the hub.
        trust_remote_code: accept a folder that carries Python code for transformers to run.

    Raises:
        InputError: not a model, or one that lies about itself.
        HubError: it could not be fetched.
    """
    from .load.from_hf import open_folder
    from .load.hub import resolve

    if model is not None and str(model).endswith(".gguf") and Path(model).is_file():
        from .load.from_gguf import open_gguf

        return open_gguf(model)
    found = resolve(model, revision=revision, trust_remote_code=trust_remote_code)
    return open_folder(
        found.path,
        source=found.source,
        revision=found.revision,
        trust_remote_code=trust_remote_code,
    )


def quantize(
    model: Source = None,
    output: str | PathLike[str] | None = None,
    request: Request | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Result:
    """Quantize a model into an MLX folder that stock mlx-lm opens.

    Args:
        model: a folder, a hub id, or None for the bundled model.
        output: the folder to write; may be None with `dry_run`.
        request: what is asked for. Instead of it, give its fields as keywords: `bits`,
            `group_size`, `mode`, `recipe`, `tensors`, `embed_bits`, `head_bits`, `dtype`,
            `dequantize`, `method` (see `mlxquant.quantize.policy.Request`).
        dry_run: plan only; nothing is written.
        force: replace an output folder that exists; `resume`: go on where a run was interrupted.
        threads: worker threads; None for one a core. The bytes do not depend on it.
        progress: called with (bytes done, bytes in all, name of the tensor).

    Returns:
        The plan, and after a real run the files' sizes and hashes.

    Raises:
        InputError: the model, the options or the output folder will not do; nothing was written.
        WriteError: the disk is full or failed; `resume=True` later finishes the same bytes.
    """
    from .quantize.policy import Request, make_plan
    from .save.folder import lay_out
    from .save.stream import Options
    from .save.to_mlx import Result, check_output, save_folder

    how = Options(force, resume, threads, progress)
    request = request or Request(**options)
    if not dry_run:
        check_output(output, force=force, resume=resume)
    checkpoint = open_checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
    # mlx-lm takes a second to import: whatever can be refused was refused before
    from .models.mlx_lm import resolve_model

    source = resolve_model(checkpoint)
    plan = make_plan(source, request)
    if dry_run or output is None:
        return Result(plan, lay_out(plan, source), checkpoint.nbytes, checkpoint.notes)
    return save_folder(plan, source, output, how)


def load(
    model: Source = None, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Load a model to run it: `(model, tokenizer)` as `mlx_lm.generate` takes them.

    Args: as `open_checkpoint`.

    Raises: as `open_checkpoint`, and ModelError for an architecture that mlx-lm does not know.
    """
    from .run.model import load as load_model

    return load_model(model, revision=revision, trust_remote_code=trust_remote_code)
