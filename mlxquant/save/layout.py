"""Where every byte of the output goes, known before the first weight is read.

    Plan ──▶ Output tensors, in order ──▶ Shards (header, byte ranges) ──▶ Units of work

A unit is a run of rows of one item, small enough that memory is bounded by the units in flight.
Units do not depend on the number of threads, so a run may be resumed with another number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..files.safetensors import build_header
from ..load.checkpoint import carrier_of

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Item, Plan

__all__ = ["Layout", "Output", "Shard", "Unit", "lay_out"]

#: bytes of float source that one unit reads; about what a core keeps in its own cache
UNIT_BYTES = 1 << 20

#: a shard is closed before it would pass this; mlx_lm's size
SHARD_BYTES = 5 << 30


@dataclass(frozen=True)
class Output:
    """One array of the output.

    Attributes:
        name, dtype, shape: as in the file.
        shard: index of its file; start, stop: absolute byte range there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """One file: its name, its header, and its size when it is complete."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True)
class Unit:
    """Rows [begin, end) of an item, or elements of an array that is passed through.

    Attributes:
        number: the unit's place in the journal.
        item: index in the plan.
        outputs: indices of the output arrays that it fills.
        begin, end: rows (quantized) or elements (passed through).
    """

    number: int
    item: int
    outputs: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The whole output: arrays, files, and the work in the order in which the source is read."""

    outputs: tuple[Output, ...]
    shards: tuple[Shard, ...]
    units: tuple[Unit, ...]
    parameters: int

    @property
    def nbytes(self) -> int:
        """Bytes of all weight files."""
        return sum(shard.size for shard in self.shards)


def lay_out(plan: Plan, source: SourceModel) -> Layout:
    """Give every array its place and cut the work into units."""
    arrays: list[tuple[str, str, tuple[int, ...]]] = []
    of_item: list[range] = []
    for item in plan.items:
        first = len(arrays)
        arrays.extend(_arrays(item, source))
        of_item.append(range(first, len(arrays)))

    groups: list[list[int]] = []
    filled = 0
    for index, (_, dtype, shape) in enumerate(arrays):
        nbytes = math.prod(shape) * carrier_of(dtype).itemsize
        if not groups or (filled and filled + nbytes > SHARD_BYTES):
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += nbytes

    outputs: dict[int, Output] = {}
    shards = []
    for number, group in enumerate(groups):
        header, ranges = build_header([arrays[i] for i in group], {"format": "mlx"})
        name = (
            f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
            if len(groups) > 1
            else "model.safetensors"
        )
        shards.append(Shard(name, header, ranges[-1][1] if ranges else len(header)))
        for index, (start, stop) in zip(group, ranges, strict=True):
            array_name, dtype, shape = arrays[index]
            outputs[index] = Output(array_name, dtype, shape, number, start, stop)
    ordered = [outputs[i] for i in range(len(arrays))]
    units = _units(plan, source, of_item, ordered)
    parameters = sum(item.size for item in plan.items)
    return Layout(tuple(ordered), tuple(shards), units, parameters)


def _arrays(item: Item, source: SourceModel) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The output arrays of one item."""
    if item.target is not None:
        for part in item.target.parts:
            columns = item.shape[-1] // item.target.block_size * part.per_block
            yield f"{item.module}.{part.suffix}", part.dtype, (*item.shape[:-1], columns)
    elif item.module is not None and source.modules[item.module].quantized and not item.decoded:
        for suffix in ("weight", "scales", "biases"):
            node = source.parameters.get(f"{item.module}.{suffix}")
            if node is not None:
                is_float = node.dtype in ("F32", "F16", "BF16")
                dtype = item.dtype if is_float else node.dtype
                yield f"{item.module}.{suffix}", dtype, node.shape
    else:
        yield item.name, item.dtype, item.shape


def _units(
    plan: Plan, source: SourceModel, of_item: list[range], outputs: list[Output]
) -> tuple[Unit, ...]:
    """The work, in the order in which the source's bytes lie on disk."""
    work: list[tuple[tuple[str, int], int, tuple[int, ...], int, int]] = []
    for index, item in enumerate(plan.items):
        place = source.parameters[item.name].origin
        if item.target is not None or item.decoded:
            rows = math.prod(item.shape[:-1])
            step = max(1, UNIT_BYTES // (2 * item.shape[-1]))
            spans = [(b, min(b + step, rows)) for b in range(0, rows, step)]
            work.extend((place, index, tuple(of_item[index]), b, e) for b, e in spans)
            continue
        for output in of_item[index]:
            size = math.prod(outputs[output].shape)
            step = UNIT_BYTES // carrier_of(outputs[output].dtype).itemsize
            spans = [(b, min(b + step, size)) for b in range(0, size, step)]
            work.extend((place, index, (output,), b, e) for b, e in spans)
    work.sort(key=lambda entry: entry[0])
    return tuple(Unit(n, i, o, b, e) for n, (_, i, o, b, e) in enumerate(work))
