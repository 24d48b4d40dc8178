"""The main line: load, quantize, save. Small enough to read in one breath.

open_checkpoint   a folder, a hub id or nothing (the bundled model) → a lazy Checkpoint
quantize          Checkpoint → plan → streamed MLX folder
import_gguf       GGUF file → plan → streamed MLX folder, every code kept
load              a model folder → (model, tokenizer), what mlx_lm.generate takes

To GGUF files: pipeline_gguf.py; to a folder for an app: pipeline_swift.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from .load.checkpoint import Checkpoint
    from .measure.fates import ImportResult
    from .models.source_model import SourceModel
    from .quantize.exact import ImportRequest
    from .quantize.forecast import Forecast
    from .quantize.request import Request
    from .save.stream import Options
    from .save.to_mlx import Result

__all__ = ["Source", "import_gguf", "is_gguf", "load", "open_checkpoint", "quantize"]

Source = str | PathLike[str] | None


def is_gguf(model: Source) -> TypeGuard[str | PathLike[str]]:
    """Whether a model is a GGUF file that is there."""
    return model is not None and str(model).endswith(".gguf") and Path(model).is_file()


def open_checkpoint(
    model: Source = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    approximate_tokenizer: bool = False,
) -> Checkpoint:
    """Open a model without reading its weights.

    Args:
        model: a folder, a GGUF file (or the folder that `export --to swift` made of one), a hub id
            (`org/name`), or None for the bundled model.
        revision: branch, tag or commit on the hub.
        trust_remote_code: accept a folder that carries Python code for transformers to run.
        approximate_tokenizer: accept a GGUF vocabulary that no tokenizer.json splits exactly as
            llama.cpp does.

    Raises:
        InputError: not a model, or one that lies about itself.
        HubError: it could not be fetched.
    """
    from .load.from_hf import open_folder
    from .load.gguf_folder import exported_gguf
    from .load.hub import resolve

    if is_gguf(model):
        from .load.from_gguf import open_gguf

        return open_gguf(model, approximate=approximate_tokenizer)
    found = resolve(model, revision=revision, trust_remote_code=trust_remote_code)
    if (inside := exported_gguf(found.path)) is not None:
        from .load.from_gguf import open_gguf

        return open_gguf(inside, source=found.source, approximate=approximate_tokenizer)
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
    approximate_tokenizer: bool = False,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    announce: Callable[[Forecast], None] | None = None,
    **options: Any,
) -> Result:
    """Quantize a model into an MLX folder that stock mlx-lm opens.

    Args:
        model: a folder, a hub id, or None for the bundled model.
        output: the folder to write; may be None with `dry_run`.
        request: what is asked for. Instead of it, give its fields as keywords: `bits`,
            `group_size`, `mode`, `recipe`, `tensors`, `embed_bits`, `head_bits`, `dtype`,
            `dequantize`, `method`, `quality`, `calibrate` (see `quantize.request.Request`).
        dry_run: plan only; nothing is written.
        force: replace an output folder that exists; `resume`: go on where a run was interrupted.
        threads: worker threads; None for one a core. The bytes do not depend on it.
        progress: called with (bytes done, bytes in all, name of the tensor).
        announce: called before the work with what it will take; asking for it costs some seconds.

    Returns:
        The plan, and after a real run the files' sizes and hashes.

    Raises:
        InputError: the model, the options or the output folder will not do; nothing was written.
        WriteError: the disk is full or failed; `resume=True` later finishes the same bytes.
    """
    from .quantize.policy import make_plan
    from .quantize.request import Request
    from .quantize.workspace import check_workspace
    from .save.folder import lay_out
    from .save.partial import check_apart
    from .save.stream import Options
    from .save.to_mlx import Result, check_output, save_folder

    how = Options(force, resume, threads, progress)
    request = request or Request(**options)
    if not dry_run:
        check_output(output, force=force, resume=resume)
        if request.calibrate and output is not None:
            check_workspace(Path(output), force=force, resume=resume)
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        approximate_tokenizer=approximate_tokenizer,
    )
    if not dry_run and output is not None:
        check_apart(Path(output), checkpoint.path)
    # mlx-lm takes a second to import: whatever can be refused was refused before
    from .models.mlx_lm import resolve_model

    source = resolve_model(checkpoint)
    if request.takes_own_bytes:
        plan = make_plan(source, request)
        request = request.within(sum(o.stop - o.start for o in lay_out(plan, source).outputs))
    if announce is not None:
        from .quantize.forecast import forecast

        announce(forecast(source, request, threads))
    parameters = None
    if request.rotate:
        from .quantize.rotate import rotate

        parameters = sum(node.size for node in source.parameters.values())
        source = rotate(source, seed=request.seed, residual=request.rotate == "full")
    only_plan = dry_run or output is None
    if not request.calibrate or (only_plan and not request.has_target):
        plan = make_plan(source, request)
        if only_plan or output is None:
            result = Result(plan, lay_out(plan, source), checkpoint.nbytes, checkpoint.notes)
        else:
            result = save_folder(plan, source, output, how)
    else:
        result = _quantize_calibrated(source, request, None if only_plan else output, how)
    return replace(result, source_parameters=parameters)


def _quantize_calibrated(
    source: SourceModel, request: Request, output: str | PathLike[str] | None, how: Options
) -> Result:
    """`quantize` with a text; without an output as far as the plan."""
    from .quantize.policy import make_plan
    from .quantize.prepare import opened_workspace, planned, prepared, read_calibration
    from .quantize.stages import stage
    from .save.folder import lay_out
    from .save.manifest import described_options
    from .save.partial import check_space
    from .save.to_mlx import Result, save_folder

    if output is not None and not how.resume:
        size = min(request.target_size or 0, source.checkpoint.nbytes)
        if not request.has_target:
            size = lay_out(make_plan(source, request), source).nbytes
        what = "the output, and its weights that wait until it is complete, take"
        check_space(Path(output), 2 * size, what)
    calibration = read_calibration(source, request)
    asked = described_options(request)
    with TemporaryDirectory(prefix="mlxquant-") as temporary:
        place = Path(temporary, "plan") if output is None else Path(output)
        with opened_workspace(asked, source, calibration, place, how) as work:
            if output is None:
                ready = planned(source, request, calibration, work, how.progress)
                layout, notes = lay_out(ready.plan, source), source.checkpoint.notes
                size = source.checkpoint.nbytes
                return Result(ready.plan, layout, size, notes, spent=ready.spent)
            ready = prepared(source, request, calibration, work, how.progress)
            source = ready.source or source
            stage(how.progress, "writing", bytes_=True)
            result = save_folder(
                ready.plan,
                source,
                output,
                how,
                staged=ready.staged,
                files=ready.files,
                notes=ready.notes,
            )
            work.remove()
    return replace(result, spent=ready.spent, measured=ready.measured)


def import_gguf(
    file: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    request: ImportRequest | None = None,
    *,
    approximate_tokenizer: bool = False,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> ImportResult:
    """Turn a GGUF file into an MLX folder in which every tensor keeps its codes.

    What MLX's formats hold is repacked for them, everything else stays in its wire bytes, which
    mlxquant runs and stock mlx-lm does not. `requantize` makes a folder for stock mlx-lm, and
    `dequantize` one of floats; both measure what that loses.

    Args: as `quantize`, and
        file: of a split model any part.
        request: what is asked for. Instead of it, give its fields as keywords: `requantize`,
            `dequantize`, `dtype`, `allow_nonfinite` (see `mlxquant.quantize.exact.ImportRequest`).
        approximate_tokenizer: as of `open_checkpoint`.

    Returns:
        The plan and what became of each tensor; after a real run also the files' sizes and hashes.

    Raises: as `quantize`.
    """
    from .load.from_gguf import open_gguf
    from .measure.fates import imported, measured_fates, planned_fates
    from .quantize.exact import ImportRequest
    from .save.folder import lay_out
    from .save.source_hash import SourceHashes
    from .save.stream import Options
    from .save.to_mlx import Result, check_output, save_folder

    how = Options(force, resume, threads, progress)
    request = request or ImportRequest(**options)
    if not dry_run:
        check_output(output, force=force, resume=resume)
    checkpoint = open_gguf(file, approximate=approximate_tokenizer)
    with nullcontext() if dry_run else SourceHashes(checkpoint.shards) as hashes:
        from .models.mlx_lm import resolve_model

        source = resolve_model(checkpoint)
        plan = request.plan(source, threads, progress)
        fates = planned_fates(plan, source)
        if dry_run or output is None:
            result = Result(plan, lay_out(plan, source), checkpoint.nbytes, checkpoint.notes)
            return imported(result, fates)
        finite = not request.allow_nonfinite
        result = save_folder(plan, source, output, how, finite=finite, hashes=hashes)
    if not request.is_exact:
        fates = measured_fates(fates, source, Path(output), threads=threads, progress=progress)
    return imported(result, fates)


def load(
    model: Source = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    approximate_tokenizer: bool = False,
    dtype: str | None = None,
) -> tuple[Any, Any]:
    """Load a model to run it: `(model, tokenizer)` as `mlx_lm.generate` takes them.

    Args: as `open_checkpoint`, and
        dtype: what it computes in: `float16`, `bfloat16` or `float32`; None for the model's own.

    Raises: as `open_checkpoint`, and ModelError for an architecture that mlx-lm does not know.
    """
    from .run.model import load as load_model

    return load_model(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        approximate_tokenizer=approximate_tokenizer,
        dtype=dtype,
    )
