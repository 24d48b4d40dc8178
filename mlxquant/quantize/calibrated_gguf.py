"""Calibration for GGUF: importance by GGUF's names, and blocks made with error feedback.

    mlx-lm's model ──collect──▶ mean squares by module ──by_tensors──▶ Imatrix ──▶ plan of types
    plan of types ──types by module──▶ quantize_layers ──blocks by module──▶ GGUF's tensors

mlx-lm runs the model, so that what is measured and encoded is by its modules; what a family's
rules do to weights on the way to GGUF they do to the rows of blocks as well, undecoded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from .. import formats
from ..errors import ModelError, one_line
from ..files.gguf_types import tensor_type
from ..formats.base import Array
from ..formats.floats import Float32
from ..load.blocks import BLOCK_TYPES, floats_of
from ..load.lazy import Node, Region, region_of_flat
from ..models.families import family_of_config
from ..models.source_model import SourceModel
from .calibrate import Target, quantize_layers, wire_step
from .encoder import Encoder
from .gguf_plan import GgufItem, GgufPlan
from .imatrix import Entry, Imatrix
from .imatrix_names import by_tensors
from .measuring import Progress, collect, head_statistics
from .prepare import Calibration
from .stages import stage
from .statistics import Statistics
from .workspace import Workspace

__all__ = ["measured_importance", "with_feedback"]


def measured_importance(
    source: SourceModel,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
    tensors: Collection[str] | None = None,
) -> Imatrix:
    """What a text shows of every matrix's input, by GGUF's names of tensors.

    Args:
        tensors: as of `by_tensors`.

    Raises:
        ModelError: as `collect` and `by_tensors`.
    """
    stage(progress, "measuring inputs")
    found = collect(source, calibration.tokens, work, progress)
    entries = {path: _entry(each) for path, each in found.items()}
    windows, length = calibration.tokens.shape
    return Imatrix(
        by_tensors(entries, source.config, tensors),
        datasets=(calibration.text.name,),
        chunks=windows,
        chunk_size=length,
    )


def _entry(found: list[Statistics]) -> Entry:
    return Entry.of(np.stack([each.squares for each in found]), [each.count for each in found])


def with_feedback(
    plan: GgufPlan,
    source: SourceModel,
    calibration: Calibration,
    work: Workspace,
    progress: Progress | None = None,
) -> GgufPlan:
    """The plan with the blocks of its tensors made already, each weight to make good what those
    before did, behind predecessors that are quantized.

    A tensor that no single module of mlx-lm's holds the rows of, or that is not measured, stays in
    the plan as it was, to be encoded by what importance there is; a note says so.

    Args:
        plan: of the same model, in GGUF's names.

    Raises:
        ModelError: a model that cannot be run layer by layer; NaN or infinity, where from.
    """
    targets = _targets(plan, source)
    tables = [p for p, m in source.modules.items() if m.kind == "Embedding" and p in targets]
    known: dict[str, Statistics] = {}
    if tables:
        stage(progress, "measuring the head's input")
        known = head_statistics(source, tables, calibration.tokens, work, progress)
    stage(progress, "quantizing")
    notes = quantize_layers(
        source,
        targets,
        calibration.tokens,
        work,
        Encoder("gptq"),
        known=known,
        progress=progress,
    )
    nodes = dict(source.parameters)
    for target in targets.values():
        if work.has(wire_step(target.name)):
            nodes[target.name] = _blocks(work, target, nodes[target.name].origin)
    made = family_of_config(source.config).to_gguf(nodes, source.config)
    items = tuple(_made(item, made) for item in plan.items)
    left = [item.tensor.name for item in items if _is_encoded(item)]
    if left:
        shown = one_line(left[0], 80)
        notes.append(
            f"no error feedback for {shown}{f' and {len(left) - 1} more' if left[1:] else ''}: no "
            "module of the model that ran holds the same rows"
        )
    described = {**plan.described, "without_feedback": left}
    return replace(plan, items=items, described=described, notes=(*plan.notes, *notes))


def _is_encoded(item: GgufItem) -> bool:
    """Whether a tensor becomes blocks that are yet to be made."""
    return not item.is_copy and item.type in BLOCK_TYPES


def _targets(plan: GgufPlan, source: SourceModel) -> dict[str, Target]:
    """What is encoded by mlx-lm's modules, by path."""
    origins = family_of_config(source.config).origins(source.parameters, source.config)
    made_of: dict[str, list[GgufItem]] = {}
    for item in plan.items:
        for name in origins.get(item.tensor.name, ()):
            made_of.setdefault(name, []).append(item)
    targets = {}
    for name, items in made_of.items():
        path, _, last = name.rpartition(".")
        # a weight that is parted in GGUF (latent attention) does not go there row by row
        if last == "weight" and path in source.modules and len(items) == 1:
            (item,) = items
            node = source.parameters[name]
            whole = node.shape[-1] % tensor_type(item.type).block_size == 0
            if _is_encoded(item) and whole:
                rows = partial(_rows, source, name)
                targets[path] = Target(name, formats.get(item.type), node.shape, rows)
    return targets


def _rows(source: SourceModel, name: str, begin: int, end: int) -> Float32:
    """Rows of a parameter, float32.

    Raises:
        ModelError: a weight is NaN or infinite, with its place.
    """
    rows: Float32 = floats_of(source.parameters[name]).rows(begin, end)
    if not np.isfinite(rows).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
        raise ModelError(
            f"{source.checkpoint.path}: tensor {one_line(name, 80)!r}: {rows[row, column]} at row "
            f"{begin + row}, column {column} (`mlxquant inspect --verify` lists every such weight)"
        )
    return rows


def _blocks(work: Workspace, target: Target, origin: tuple[str, int]) -> Node:
    """The blocks of a weight that is encoded, read from the workspace."""
    (part,) = target.format.parts
    step = wire_step(target.name)
    width = target.shape[-1] // target.format.block_size * part.per_block
    shape = (*target.shape[:-1], width)

    def read(begin: int, end: int) -> Array:
        first = begin // width
        rows = work.rows(step, part.suffix, first, math.ceil(end / width)).reshape(-1)
        return rows[begin - first * width : end - first * width]

    def compute(region: Region) -> Array:
        return region_of_flat(shape, region, read, np.dtype(np.uint8))

    return Node(shape, target.format.name, compute, "Staged", origin)


def _made(item: GgufItem, made: Mapping[str, Node]) -> GgufItem:
    """The item with its blocks, if they are made."""
    node = made.get(item.tensor.name)
    if node is None or not _is_encoded(item) or node.dtype != item.type:
        return item
    tensor = replace(item.tensor, node=node)
    return replace(item, tensor=tensor) if tensor.shape == item.tensor.shape else item
