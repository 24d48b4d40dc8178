"""The arrays of an MLX folder and their bytes: a plan laid out, and the work that fills it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ModelError, one_line
from ..files.gguf_scales import bad_blocks
from ..files.gguf_types import tensor_type
from ..files.quote import quote
from ..files.safetensors import build_header
from ..formats.base import Array, NonFiniteError
from ..formats.repack import to_mlx
from ..load.checkpoint import carrier_of
from ..quantize.exact import stored_tensors
from ..quantize.request import Request
from ..quantize.rows import check_finite, encode_rows, float_rows, stored_rows
from .layout import Job, Layout, Output, Shard, cut

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Item, Plan

__all__ = ["Staged", "lay_out"]

#: a shard is closed before it would pass this; mlx_lm's size
SHARD_BYTES = 5 << 30

Spec = tuple[str, str, tuple[int, ...]]  # name, element type, shape

#: rows [begin, end) of a weight → the wire arrays of its format
Staged = Callable[[int, int], tuple[Array, ...]]


def lay_out(
    plan: Plan,
    source: SourceModel,
    *,
    finite: bool = False,
    staged: Mapping[str, Staged] | None = None,
) -> Layout:
    """Give every array its place and cut the work into units.

    Args:
        finite: refuse NaN and infinity also where the output could hold them.
        staged: weights that are encoded already, by the item's name.
    """
    arrays: list[Spec] = []
    of_item: list[range] = []
    for item in plan.items:
        first = len(arrays)
        arrays.extend(_arrays(item, source))
        of_item.append(range(first, len(arrays)))
    outputs, shards = _shards(arrays)
    jobs = [
        job
        for item, indices in zip(plan.items, of_item, strict=True)
        for job in _jobs(item, source, indices, outputs, finite, staged or {}, _method(plan))
    ]
    return Layout(outputs, shards, cut(jobs), sum(item.size for item in plan.items))


def _method(plan: Plan) -> str:
    """How `encode_rows` is to encode; what has error feedback too is staged where it can be."""
    plain = not isinstance(plan.request, Request) or plan.request.how == "rtn"
    return "rtn" if plain else "search"


def _arrays(item: Item, source: SourceModel) -> Iterator[Spec]:
    """The output arrays of one item."""
    if item.target is not None:
        for part in item.target.parts:
            columns = item.shape[-1] // item.target.block_size * part.per_block
            yield f"{item.module}.{part.suffix}", part.dtype, (*item.shape[:-1], columns)
    elif item.blocks is not None:
        yield item.name, "U8", source.blocks[item.name].shape
    elif item.module is not None and source.modules[item.module].quantized and not item.decoded:
        for suffix in ("weight", "scales", "biases"):
            node = source.parameters.get(f"{item.module}.{suffix}")
            if node is not None:
                is_float = node.dtype in ("F32", "F16", "BF16")
                dtype = item.dtype if is_float else node.dtype
                yield f"{item.module}.{suffix}", dtype, node.shape
    else:
        yield item.name, item.dtype, item.shape


def _shards(arrays: list[Spec]) -> tuple[tuple[Output, ...], tuple[Shard, ...]]:
    """The arrays in files of at most SHARD_BYTES, as far as one array allows."""
    groups: list[list[int]] = []
    filled = 0
    for index, (_, dtype, shape) in enumerate(arrays):
        nbytes = math.prod(shape) * carrier_of(dtype).itemsize
        if not groups or (filled and filled + nbytes > SHARD_BYTES):
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += nbytes
    outputs, shards = [], []
    for number, group in enumerate(groups):
        header, ranges = build_header([arrays[i] for i in group], {"format": "mlx"})
        name = (
            f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
            if len(groups) > 1
            else "model.safetensors"
        )
        shards.append(Shard(name, header, ranges[-1][1] if ranges else len(header)))
        for index, (start, stop) in zip(group, ranges, strict=True):
            outputs.append(Output(*arrays[index], number, start, stop))
    return tuple(outputs), tuple(shards)


def _jobs(
    item: Item,
    source: SourceModel,
    indices: range,
    outputs: tuple[Output, ...],
    finite: bool,
    staged: Mapping[str, Staged],
    method: str,
) -> Iterator[Job]:
    """One job for rows that are computed, one an array for what is passed through."""
    place = source.parameters[item.name].origin
    rows = math.prod(item.shape[:-1])
    produce: Callable[[int, int], tuple[Array, ...]]
    if item.blocks is not None:
        produce = partial(_blocks, source, item, finite)
        row_bytes = source.blocks[item.name].shape[-1]
        yield Job(item.name, tuple(indices), place, rows, row_bytes, produce)
        return
    if item.target is not None or item.decoded:
        produce = staged.get(item.name) or partial(_computed, source, item, finite, method)
        yield Job(item.name, tuple(indices), place, rows, 2 * item.shape[-1], produce)
        return
    for index in indices:
        output = outputs[index]
        size = math.prod(output.shape)
        produce = partial(_passed_on, source, output.name, output.dtype, finite)
        width = carrier_of(output.dtype).itemsize
        yield Job(item.name, (index,), place, size, width, produce)


def _passed_on(
    source: SourceModel, name: str, dtype: str, finite: bool, begin: int, end: int
) -> tuple[Array, ...]:
    """Elements as they are, or cast.

    Raises:
        ModelError: one is out of the new type's range; or, where that is asked for, not finite.
    """
    values = stored_rows(source, name, dtype, begin, end)
    if finite:
        try:
            check_finite(values.reshape(1, -1), dtype)
        except NonFiniteError as problem:
            row = (begin + problem.column) // (source.parameters[name].shape or (1,))[-1]
            raise _not_finite(source, name, f"{problem.value} in row {row}") from problem
    return (values,)


def _blocks(
    source: SourceModel, item: Item, finite: bool, begin: int, end: int
) -> tuple[Array, ...]:
    """Rows of ggml blocks: their wire bytes, or the arrays of the format that holds them.

    Raises:
        ModelError: a scale is NaN or infinite, where that is asked for.
    """
    block = source.blocks[item.name]
    wire = block.rows(begin, end)
    if item.target is not None:
        return to_mlx(block.dtype, wire)  # what it holds is finite
    if finite:
        per_row = wire.shape[1] // tensor_type(block.dtype).block_bytes
        for what, bad in zip(
            ("NaN", "infinity"),
            bad_blocks(block.dtype, wire.reshape(len(wire) * per_row, -1)),
            strict=True,
        ):
            if bad.any():
                row = begin + int(bad.argmax()) // per_row
                raise _not_finite(source, item.name, f"{what} in a scale of row {row}")
    return (wire,)


def _not_finite(source: SourceModel, name: str, what: str) -> ModelError:
    owner = stored_tensors(source)[name]
    return ModelError(
        f"{owner.file}: tensor {quote(owner.name)}: {what} of {quote(name)} (`mlxquant inspect "
        "--verify` lists all of them; --allow-nonfinite takes them as they are)"
    )


def _computed(
    source: SourceModel, item: Item, imported: bool, method: str, begin: int, end: int
) -> tuple[Array, ...]:
    """Rows decoded, and encoded in the item's format.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    rows = float_rows(source, item, begin, end)
    if item.target is None:
        return (rows,)
    try:
        return encode_rows(item.target, rows, item.dtype, method=method)
    except NonFiniteError as problem:
        remedy = f"; --tensor '{item.module}=keep' leaves this one as it is" * (not imported)
        raise ModelError(
            f"{source.checkpoint.path}: tensor {one_line(item.name, 80)!r}: "
            f"{problem.value} at row {begin + problem.row}, column {problem.column}: "
            f"{item.target.name} cannot hold it (`mlxquant inspect --verify` lists every "
            f"such weight{remedy})"
        ) from problem
