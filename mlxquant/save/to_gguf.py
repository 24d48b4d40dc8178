"""The GGUF sink: one file, or the parts of a split one, streamed in row chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .. import formats
from ..errors import RequestError
from ..files.gguf_types import padded
from ..files.gguf_values import Value
from ..files.gguf_writer import build_gguf
from ..formats.base import Array, NonFiniteError
from ..load.blocks import floats_of
from ..load.checkpoint import carrier_of
from ..load.lazy import Node
from ..quantize.encode import encoded
from ..quantize.gguf_plan import GgufItem, GgufPlan, refused
from .layout import Job, Layout, Output, Shard, cut
from .manifest import versions
from .stream import Options, stream

__all__ = ["GgufResult", "lay_out_gguf", "part_size", "save_gguf"]

_UNITS = {"M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class GgufResult:
    """What a run did, or with a dry run what it would do.

    Attributes:
        plan: every tensor with its type.
        layout: every byte range.
        outputs: the files; empty for a dry run.
    """

    plan: GgufPlan
    layout: Layout
    outputs: tuple[Path, ...] = ()

    @property
    def output_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(item.nbytes for item in self.plan.items)

    @property
    def bpw(self) -> float:
        """Bits per weight over the whole model."""
        return 8 * self.output_bytes / max(1, self.layout.parameters)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        parameters = max(1, self.layout.parameters)
        return {
            "output": [str(path) for path in self.outputs] or None,
            "parameters": self.layout.parameters,
            "source_bytes": self.plan.model.nbytes,
            "output_bytes": self.output_bytes,
            "source_bits_per_weight": 8 * self.plan.model.nbytes / parameters,
            "bits_per_weight": self.bpw,
            "request": self.plan.described,
            "plan": [
                {
                    "name": item.tensor.name,
                    "shape": list(item.tensor.shape),
                    "source": item.tensor.source,
                    "type": item.type,
                    "chosen": item.chosen,
                    "exact": item.error == 0,
                    **({"error": item.error} if item.error else {}),
                    **({"reason": item.reason} if item.reason else {}),
                }
                for item in self.plan.items
            ],
            "notes": list(self.plan.notes),
        }


def part_size(text: str) -> int:
    """Bytes of `--split-max-size`, `N(M|G)` as llama-gguf-split takes it.

    Raises:
        RequestError: anything else.
    """
    number, unit = text[:-1], text[-1:].upper()
    if not number.isdecimal() or unit not in _UNITS or int(number) < 1:
        raise RequestError(f"--split-max-size {text!r}: a number and M or G, e.g. 4G")
    return int(number) * _UNITS[unit]


def lay_out_gguf(
    plan: GgufPlan, name: str, *, split_bytes: int | None = None, keep_split: bool = False
) -> Layout:
    """Give every tensor its place and cut the work into units.

    Args:
        name: of the file; parts of a split one are named after it.
        split_bytes: the most bytes of tensors in a part; keep_split: the source's parts.
    """
    groups = _groups(plan, split_bytes, keep_split)
    outputs: dict[int, Output] = {}
    shards = []
    for number, group in enumerate(groups):
        entries = [(i.tensor.name, i.type, i.tensor.shape) for i in (plan.items[n] for n in group)]
        metadata = _metadata(plan, number, len(groups))
        header, ranges = build_gguf(metadata, entries, plan.model.alignment)
        size = padded(max((stop for _, stop in ranges), default=len(header)), plan.model.alignment)
        shards.append(Shard(_part_name(name, number, len(groups)), header, size))
        for index, (start, stop) in zip(group, ranges, strict=True):
            item = plan.items[index]
            outputs[index] = Output(
                item.tensor.name, item.type, item.tensor.shape, number, start, stop
            )
    jobs = [_job(item, index, plan) for index, item in enumerate(plan.items)]
    ordered = tuple(outputs[index] for index in range(len(plan.items)))
    return Layout(ordered, tuple(shards), cut(jobs), sum(item.size for item in plan.items))


def save_gguf(
    plan: GgufPlan,
    output: str | PathLike[str],
    options: Options,
    *,
    split_bytes: int | None = None,
    keep_split: bool = False,
) -> GgufResult:
    """Write a plan's file. Arguments as `lay_out_gguf`; errors as `pipeline.quantize`."""
    final = Path(output)
    layout = lay_out_gguf(plan, final.name, split_bytes=split_bytes, keep_split=keep_split)
    names = [shard.name for shard in layout.shards]
    identity = [plan.described, versions(), [(i.tensor.name, i.tensor.source) for i in plan.items]]
    model = plan.model
    stream(layout, final, model.path, model.files, identity, options, files=names)
    return GgufResult(plan, layout, tuple(final.with_name(name) for name in names))


def _groups(plan: GgufPlan, split_bytes: int | None, keep_split: bool) -> list[list[int]]:
    """Indices of the tensors in each part; a part has one at least."""
    everything = list(range(len(plan.items)))
    if keep_split:
        parts = range(plan.model.parts)
        found = [[i for i in everything if plan.items[i].tensor.part == part] for part in parts]
        return [group for number, group in enumerate(found) if group or number == 0]
    if split_bytes is None:
        return [everything]
    groups: list[list[int]] = [[]]
    filled = 0
    for index in everything:
        nbytes = padded(plan.items[index].nbytes, plan.model.alignment)
        if groups[-1] and filled + nbytes > split_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += nbytes
    return groups


def _metadata(plan: GgufPlan, number: int, count: int) -> dict[str, Value]:
    """Of one part: the first has all keys, and each says which it is."""
    if count == 1:
        return plan.metadata
    return {
        **(plan.metadata if number == 0 else {}),
        "split.no": Value.of("u16", number),
        "split.count": Value.of("u16", count),
        "split.tensors.count": Value.of("i32", len(plan.items)),
    }


def _part_name(name: str, number: int, count: int) -> str:
    if count == 1:
        return name
    return f"{name.removesuffix('.gguf')}-{number + 1:05d}-of-{count:05d}.gguf"


def _job(item: GgufItem, index: int, plan: GgufPlan) -> Job:
    node = item.tensor.node
    if item.is_copy:
        produce = partial(_copied, node)
        width = carrier_of(node.dtype).itemsize
        return Job(item.tensor.name, (index,), node.origin, node.size, width, produce)
    width = item.tensor.shape[-1] if item.tensor.shape else 1
    encode = partial(_encoded, item, floats_of(node), plan.model.path)
    return Job(item.tensor.name, (index,), node.origin, item.size // width, 2 * width, encode)


def _copied(node: Node, begin: int, end: int) -> tuple[Array, ...]:
    return (node.flat(begin, end),)


def _encoded(item: GgufItem, floats: Node, path: Path, begin: int, end: int) -> tuple[Array, ...]:
    """Rows in the item's type, each by the importance of its own matrix's columns.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    target = formats.get(item.type)
    pieces = []
    for first, last, importance in _matrices(item, begin, end):
        try:
            pieces.append(encoded(target, floats.rows(first, last), importance))
        except NonFiniteError as problem:
            raise refused(item, path, first, problem) from problem
    if len(pieces) == 1:
        return pieces[0]
    return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))


def _matrices(item: GgufItem, begin: int, end: int) -> Iterator[tuple[int, int, Array | None]]:
    """Rows [begin, end) cut where one matrix of a stack ends, with the columns' importance."""
    if item.importance is None:
        yield begin, end, None
        return
    rows = item.tensor.shape[-2]
    for number in range(begin // rows, -(-end // rows)):
        first, last = max(begin, number * rows), min(end, (number + 1) * rows)
        yield first, last, item.importance[number]
