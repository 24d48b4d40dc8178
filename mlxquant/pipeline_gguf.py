"""The main line to GGUF: load, quantize, save.

export            Checkpoint → plan → streamed GGUF file, as exact as it can be
quantize_gguf     Checkpoint → plan → streamed GGUF file, llama-quantize's types
importance        Checkpoint → llama.cpp's importance matrix, measured on a text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RequestError
from .pipeline import Source, is_gguf, open_checkpoint

if TYPE_CHECKING:
    from .files.gguf_values import Value
    from .load.checkpoint import Checkpoint
    from .models.gguf_model import GgufModel
    from .quantize.gguf_plan import GgufPlan
    from .quantize.imatrix import Imatrix
    from .quantize.llama_types import TypeRequest
    from .quantize.request import Request
    from .save.stream import Options
    from .save.to_gguf import GgufResult

__all__ = ["export", "importance", "quantize_gguf"]


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
    from .save.partial import check_apart, check_output
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
        if not dry_run and output is not None:
            check_apart(Path(output), checkpoint.path)
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

    if method == "rtn":
        raise RequestError(
            "--method rtn is for MLX's formats; blocks of GGUF files are made as llama-quantize "
            "makes them where no --method is given: leave it out"
        )
    if calibrate is None:
        if method == "gptq":
            raise RequestError(
                "--method gptq for a GGUF file needs a text: --calibrate FILE, or "
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
    from .quantize.stages import stage
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
        stage(progress, "writing", bytes_=True)
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
        names = [t.name for t in gguf_as_it_is(model).tensors] if is_gguf(model) else None
        found = measured_importance(source, calibration, work, progress, names)
        save_imatrix(found, final)
        work.remove()
    return replace(found, name=final.name)


def _in_gguf_names(
    model: Source, revision: str | None, trust_remote_code: bool, approximate: bool
) -> GgufModel:
    """A GGUF file as it is, of whatever architecture; any other model in GGUF's names."""
    from .models.gguf_model import as_gguf, gguf_as_it_is

    if is_gguf(model):
        return gguf_as_it_is(model)
    checkpoint = open_checkpoint(model, revision=revision, trust_remote_code=trust_remote_code)
    return as_gguf(checkpoint, approximate=approximate)
