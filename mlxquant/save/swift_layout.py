"""Where the arrays of a folder for an app lie: so that large ones need not be copied to a GPU.

    0                    PAGE                                                       size
    ┌──────────┬────────┬──────────────────────────────┬─────────────────┬────────┐
    │ n, JSON  │ spaces │ arrays of whole pages        │ … of half pages │ … odd  │
    └──────────┴────────┴──────────────────────────────┴─────────────────┴────────┘

Metal makes a buffer of mapped memory without a copy where it begins at a page and is whole pages;
PAGE is Apple's own chips'. safetensors has no holes, so arrays cannot be padded: the header is, and
arrays come in the order of the largest power of two that their bytes are a multiple of. Then every
array begins at a multiple of its own power of two, PAGE at most, and what is whole pages begins at
a page. Names, types, shapes and bytes are the source's: every reader of safetensors files reads the
result.

A GGUF file is taken as it is, byte for byte: its tensors lie at multiples of 32 bytes or more,
where the Swift package's runtime reads them, and it keeps the SHA-256 that it is known by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..files.safetensors import build_header, read_header
from ..load.checkpoint import StoredTensor
from .layout import Job, Layout, Output, Shard, cut

if TYPE_CHECKING:
    from ..files.gguf import GgufHeader
    from ..formats.base import Array
    from ..load.checkpoint import Checkpoint

__all__ = ["PAGE", "alignment", "in_place", "lay_out_gguf_files", "lay_out_swift"]

#: bytes of a page of memory on Apple's own chips; a multiple of every other system's
PAGE = 16_384

#: a shard is closed before it would pass this; mlx_lm's size
SHARD_BYTES = 5 << 30


def alignment(nbytes: int) -> int:
    """The largest power of two that divides a size, PAGE at most."""
    return min(PAGE, nbytes & -nbytes) if nbytes else PAGE


def lay_out_swift(checkpoint: Checkpoint, shard_bytes: int = SHARD_BYTES) -> Layout:
    """Give every stored array its place, and cut the copying into units.

    Args:
        shard_bytes: of a file at most, as far as one array allows.
    """
    stored = sorted(checkpoint.stored.values(), key=lambda tensor: -alignment(tensor.nbytes))
    groups = _groups(stored, shard_bytes)
    metadata = read_header(checkpoint.shards[0]).metadata if checkpoint.shards else {}
    outputs: list[Output] = []
    shards: list[Shard] = []
    jobs: list[Job] = []
    for number, group in enumerate(groups):
        entries = [(tensor.name, tensor.dtype, tensor.shape) for tensor in group]
        header, ranges = build_header(entries, metadata, align=PAGE)
        name = "model.safetensors"
        if len(groups) > 1:
            name = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        shards.append(Shard(name, header, ranges[-1][1] if ranges else len(header)))
        for tensor, (start, stop) in zip(group, ranges, strict=True):
            jobs.append(_job(tensor, len(outputs)))
            outputs.append(Output(tensor.name, tensor.dtype, tensor.shape, number, start, stop))
    weights = sum(tensor.size for tensor in checkpoint.tensors.values())
    return Layout(tuple(outputs), tuple(shards), cut(jobs), weights)


def lay_out_gguf_files(headers: Sequence[GgufHeader]) -> tuple[Layout, tuple[Output, ...]]:
    """Take files as they are, and cut the copying into units.

    Args:
        headers: of a GGUF file, or of all parts of a split one.

    Returns: the layout, whose outputs are whole files; and every tensor at its place in them.
    """
    files: list[Output] = []
    shards: list[Shard] = []
    jobs: list[Job] = []
    tensors: list[Output] = []
    for number, header in enumerate(headers):
        name, size = header.path.name, header.size
        stored = StoredTensor(name, "U8", (size,), header.path, 0, size)
        jobs.append(_job(stored, number))
        shards.append(Shard(name, b"", size))
        files.append(Output(name, "U8", (size,), number, 0, size))
        tensors += [
            Output(entry.name, entry.type_name, entry.shape, number, entry.start, entry.stop)
            for entry in header.entries.values()
        ]
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    return Layout(tuple(files), tuple(shards), cut(jobs), weights), tuple(tensors)


def in_place(outputs: Iterable[Output]) -> list[Output]:
    """The arrays that are whole pages at a page: a GPU has them without a copy."""
    return [
        output
        for output in outputs
        if output.stop > output.start
        and output.start % PAGE == 0
        and (output.stop - output.start) % PAGE == 0
    ]


def _groups(stored: Sequence[StoredTensor], shard_bytes: int) -> list[list[StoredTensor]]:
    """The arrays in files of at most so many bytes; one file at least."""
    groups: list[list[StoredTensor]] = [[]]
    filled = 0
    for tensor in stored:
        if filled and filled + tensor.nbytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    return groups


def _job(tensor: StoredTensor, index: int) -> Job:
    """An array's bytes as they are."""
    place = (str(tensor.file), tensor.start)
    as_bytes = replace(tensor, dtype="U8", shape=(tensor.nbytes,))
    return Job(tensor.name, (index,), place, tensor.nbytes, 1, partial(_read, as_bytes))


def _read(tensor: StoredTensor, begin: int, end: int) -> tuple[Array, ...]:
    return (tensor.read(begin, end),)
