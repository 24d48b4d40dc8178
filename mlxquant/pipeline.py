"""The main line: load, quantize, save. Small enough to read in one breath.

open_checkpoint   a folder, a hub id or nothing (the bundled model) → a lazy Checkpoint
quantize          Checkpoint → plan → streamed MLX folder
import_gguf       GGUF file → plan → streamed MLX folder, every code kept
quantize_gguf     Checkpoint → plan → streamed GGUF file, llama-quantize's types
importance        Checkpoint → llama.cpp's importance matrix, measured on a text
export            Checkpoint → plan → streamed GGUF file, as exact as it can be
load              a model folder → (model, tokenizer), what mlx_lm.generate takes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeGuard

from .errors import RequestError

if TYPE_CHECKING:
    from .files.gguf_values import Value
    from .load.checkpoint import Checkpoint
    from .measure.fates import ImportResult
    from .models.gguf_model import GgufModel
    from .models.source_model import SourceModel
    from .quantize.exact import ImportRequest
    from .quantize.forecast import Forecast
    from .quantize.gguf_plan import GgufPlan
    from .quantize.imatrix import Imatrix
    from .quantize.llama_types import TypeRequest
    from .quantize.request import Request
    from .save.stream import Options
    from .save.to_gguf import GgufResult
    from .save.to_mlx import Result

__all__ = [
    "export",
    "import_gguf",
    "importance",
    "load",
    "open_checkpoint",
    "quantize",
    "quantize_gguf",
]

Source = str | PathLike[str] | None


def open_checkpoint(
    model: Source = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    approximate_tokenizer: bool = False,
) -> Checkpoint:
    """Open a model without reading its weights.

    Args:
        model: a folder, a GGUF file, a hub id (`org/name`), or None for the bundled model.
        revision: branch, tag or commit on the hub.
        trust_remote_code: accept a folder that carries Python code for transformers to run.
        approximate_tokenizer: accept a GGUF vocabulary that no tokenizer.json splits exactly as
            llama.cpp does.

    Raises:
        InputError: not a model, or one that lies about itself.
        HubError: it could not be fetched.
    """
    from .load.from_hf import open_folder
    from .load.hub import resolve

    if _is_gguf(model):
        from .load.from_gguf import open_gguf

        return open_gguf(model, approximate=approximate_tokenizer)
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
    # mlx-lm takes a second to import: whatever can be refused was refused before
    from .models.mlx_lm import resolve_model

    source = resolve_model(checkpoint)
    if request.takes_own_bytes:
        plan = make_plan(source, request)
        request = request.within(sum(o.stop - o.start for o in lay_out(plan, source).outputs))
    if announce is not None:
        from .quantize.forecast import forecast

        announce(forecast(source, request, threads))
    if request.rotate:
        from .quantize.rotate import rotate

        source = rotate(source, seed=request.seed, residual=request.rotate == "full")
    only_plan = dry_run or output is None
    if not request.calibrate or (only_plan and not request.has_target):
        plan = make_plan(source, request)
        if only_plan or output is None:
            return Result(plan, lay_out(plan, source), checkpoint.nbytes, checkpoint.notes)
        return save_folder(plan, source, output, how)
    return _quantize_calibrated(source, request, None if only_plan else output, how)


def _quantize_calibrated(
    source: SourceModel, request: Request, output: str | PathLike[str] | None, how: Options
) -> Result:
    """`quantize` with a text; without an output as far as the plan."""
    from .quantize.prepare import opened_workspace, planned, prepared, read_calibration
    from .save.folder import lay_out
    from .save.manifest import described_options
    from .save.to_mlx import Result, save_folder

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


def export(
    model: Source = None,
    output: str | PathLike[str] | None = None,
    *,
    outtype: str = "auto",
    approximate_tokenizer: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    split_bytes: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    planned: Callable[[GgufPlan], None] | None = None,
) -> GgufResult:
    """Write a model as a GGUF file that holds it as exactly as GGUF can.

    Args: as `quantize`, and
        output: the file to write.
        outtype: `auto` for every tensor in the type that holds it as it is stored; `f32`, `f16`,
            `bf16` or `q8_0` for every matrix.
        approximate_tokenizer: accept a tokenizer that llama.cpp has no exact name for.
        split_bytes: split the file into parts of at most so many bytes of tensors.
        planned: called with the plan, errors measured, before anything is written.

    Raises: as `quantize`.
    """
    from .quantize.gguf_plan import export_plan
    from .save.partial import check_output
    from .save.stream import Options
    from .save.to_gguf import GgufResult, lay_out_gguf, save_gguf

    options = Options(force, resume, threads, progress)
    if not dry_run:
        check_output(output, force=force, resume=resume, file=True)
    named = _in_gguf_names(model, revision, trust_remote_code, approximate_tokenizer)
    plan = export_plan(named, outtype, progress=progress)
    if planned is not None:
        planned(plan)
    if dry_run or output is None:
        return GgufResult(plan, lay_out_gguf(plan, "out.gguf", split_bytes=split_bytes))
    return save_gguf(plan, output, options, split_bytes=split_bytes)


def quantize_gguf(
    model: Source = None,
    output: str | PathLike[str] | None = None,
    request: TypeRequest | str = "Q4_K_M",
    *,
    overrides: Mapping[str, Value] | None = None,
    imatrix: str | PathLike[str] | Imatrix | None = None,
    calibrate: str | None = None,
    calibrate_windows: int = 128,
    method: str | None = None,
    approximate_tokenizer: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    split_bytes: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> GgufResult:
    """Quantize a model into a GGUF file with llama-quantize's types.

    Args: as `export`, and
        request: a file type's name, or all of llama-quantize's options.
        overrides: metadata to replace or add.
        imatrix: importance data, by GGUF's names of tensors: a file of llama.cpp's, or what
            `mlxquant.quantize.imatrix` holds.
        calibrate: instead of it, a text to measure the model on: a file, or `bundled`.
        calibrate_windows: of that text at most, 512 tokens each.
        method: with `calibrate`, `search` for blocks by importance alone; `gptq`, the default, for
            weights that make good what rounding others did.

    Raises: as `quantize`.
    """
    from .models.gguf_model import as_gguf
    from .quantize.gguf_plan import type_plan
    from .quantize.imatrix import Imatrix, read_imatrix
    from .quantize.llama_types import TypeRequest
    from .quantize.workspace import check_workspace
    from .save.partial import check_output
    from .save.stream import Options
    from .save.to_gguf import GgufResult, lay_out_gguf, save_gguf

    options = Options(force, resume, threads, progress)
    asked = request if isinstance(request, TypeRequest) else TypeRequest(request)
    parts: dict[str, Any] = {"split_bytes": split_bytes, "keep_split": asked.keep_split}
    text = _text_for_gguf(calibrate, calibrate_windows, method, imatrix is not None)
    if not dry_run:
        check_output(output, force=force, resume=resume, file=True)
        if text is not None and output is not None:
            check_workspace(Path(output), force=force, resume=resume)
    if imatrix is not None and not isinstance(imatrix, Imatrix):
        imatrix = read_imatrix(imatrix)
    if text is not None:
        checkpoint = open_checkpoint(
            model,
            revision=revision,
            trust_remote_code=trust_remote_code,
            approximate_tokenizer=approximate_tokenizer,
        )
        named = as_gguf(checkpoint, approximate=approximate_tokenizer)
        # the rules go by whether there are data, not by what they say
        plan = type_plan(named, replace(asked, importance=True), overrides)
        if not dry_run and output is not None:
            plan_by = partial(type_plan, named, asked, overrides)
            return _quantize_gguf_calibrated(
                checkpoint, text, plan, plan_by, Path(output), options, parts
            )
    else:
        named = _in_gguf_names(model, revision, trust_remote_code, approximate_tokenizer)
        plan = type_plan(named, asked, overrides, imatrix)
    if dry_run or output is None:
        return GgufResult(plan, lay_out_gguf(plan, "out.gguf", **parts))
    return save_gguf(plan, output, options, **parts)


def _text_for_gguf(
    calibrate: str | None, windows: int, method: str | None, has_imatrix: bool
) -> Request | None:
    """What is asked of a text for a GGUF file; None where none is given."""
    from .quantize.request import Request

    if calibrate is None:
        if method is not None:
            raise RequestError(
                f"--method {method} for a GGUF file needs a text: --calibrate FILE, or "
                "--calibrate bundled for English"
            )
        return None
    if has_imatrix:
        raise RequestError(
            "--calibrate measures what --imatrix FILE holds already: leave one of them out"
        )
    return Request(calibrate=calibrate, calibrate_windows=windows, method=method)


def _quantize_gguf_calibrated(
    checkpoint: Checkpoint,
    text: Request,
    plan: GgufPlan,
    plan_by: Callable[[Imatrix], GgufPlan],
    output: Path,
    options: Options,
    parts: dict[str, Any],
) -> GgufResult:
    """`quantize_gguf` with a text.

    Args:
        plan: without data; plan_by: with them.
    """
    from .models.mlx_lm import resolve_model
    from .quantize.calibrated_gguf import measured_importance, with_feedback
    from .quantize.prepare import opened_workspace, read_calibration
    from .save.to_gguf import save_gguf

    source = resolve_model(checkpoint)
    calibration = read_calibration(source, text)
    asked = [text.how, plan.described, [(item.tensor.name, item.type) for item in plan.items]]
    with opened_workspace(asked, source, calibration, output, options) as work:
        names = [item.tensor.name for item in plan.items]
        progress = options.progress
        plan = plan_by(measured_importance(source, calibration, work, progress, names))
        described = {"method": text.how, "calibration": calibration.described()}
        plan = replace(plan, described={**plan.described, **described})
        if text.how == "gptq":
            plan = with_feedback(plan, source, calibration, work, progress)
        result = save_gguf(plan, output, options, **parts)
        work.remove()
    return result


def importance(
    model: Source = None,
    output: str | PathLike[str] | None = None,
    *,
    calibrate: str = "bundled",
    calibrate_windows: int = 128,
    revision: str | None = None,
    trust_remote_code: bool = False,
    approximate_tokenizer: bool = False,
    force: bool = False,
    resume: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Imatrix:
    """Measure on a text what every matrix's columns count, and write llama.cpp's file of it.

    Args: as `quantize`, and
        output: the file to write: `….gguf`, or `….dat` for the older layout.
        calibrate: a text: a file, or `bundled`. calibrate_windows: of it at most, 512 tokens each.

    Returns: what is in the file, by GGUF's names of tensors.

    Raises: as `quantize`.
    """
    from .models.gguf_model import gguf_as_it_is
    from .quantize.request import Request
    from .quantize.workspace import check_workspace
    from .save.stream import Options
    from .save.to_imatrix import check_imatrix_output, save_imatrix

    final = check_imatrix_output(output, force=force)
    check_workspace(final, force=force, resume=resume)
    text = Request(calibrate=calibrate, calibrate_windows=calibrate_windows)
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        approximate_tokenizer=approximate_tokenizer,
    )
    from .models.mlx_lm import resolve_model
    from .quantize.calibrated_gguf import measured_importance
    from .quantize.prepare import opened_workspace, read_calibration

    source = resolve_model(checkpoint)
    calibration = read_calibration(source, text)
    options = Options(force, resume, None, progress)
    with opened_workspace("imatrix", source, calibration, final, options) as work:
        names = [t.name for t in gguf_as_it_is(model).tensors] if _is_gguf(model) else None
        found = measured_importance(source, calibration, work, progress, names)
        save_imatrix(found, final)
        work.remove()
    return replace(found, name=final.name)


def _in_gguf_names(
    model: Source, revision: str | None, trust_remote_code: bool, approximate: bool
) -> GgufModel:
    """A GGUF file as it is, of whatever architecture; any other model in GGUF's names."""
    from .models.gguf_model import as_gguf, gguf_as_it_is

    if _is_gguf(model):
        return gguf_as_it_is(model)
    checkpoint = open_checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
    return as_gguf(checkpoint, approximate=approximate)


def _is_gguf(model: Source) -> TypeGuard[str | PathLike[str]]:
    return model is not None and str(model).endswith(".gguf") and Path(model).is_file()


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
