"""A GGUF model as a Checkpoint: the same thing as a Hugging Face folder from here on.

Names and layouts are those that mlx-lm's `sanitize` takes, through `models.families`; weights are
decoded by `formats` when rows are asked for, so nothing is converted beforehand and memory is
bounded by those rows. The tokenizer's files are made from the vocabulary (`tokenizers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

import numpy as np

from .. import formats
from ..errors import FileFormatError
from ..files.gguf import GgufEntry, GgufHeader
from ..files.gguf_split import open_split
from ..formats.base import Array
from ..models.families import family_of_metadata
from ..tokenizers import from_gguf
from .checkpoint import Checkpoint, StoredTensor
from .gguf_checks import check_model, check_vocabulary
from .lazy import Node, Region, region_of_flat

__all__ = ["GgufCheckpoint", "open_gguf"]

#: plain types that are read as they are
_PLAIN = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """A Checkpoint whose tensors are decoded from GGUF blocks.

    Attributes:
        lazy: every tensor by mlx-lm's name, as a node of floats.
    """

    lazy: Mapping[str, Node] = field(default_factory=dict)

    def nodes(self) -> dict[str, Node]:
        """Every tensor, decoded when its rows are asked for."""
        return dict(self.lazy)


def open_gguf(path: str | PathLike[str], *, source: str = "") -> GgufCheckpoint:
    """Open a GGUF model; any part of a split one opens them all.

    Raises:
        FileFormatError: a file that lies or is damaged, a vocabulary or a model that cannot be.
        ModelError: an architecture, a setting, a tensor or a tokenizer that is not known here.
    """
    headers = open_split(path)
    check_model(headers)
    first = headers[0]
    check_vocabulary(first)
    stored = {
        entry.name: StoredTensor(
            entry.name, entry.type_name, entry.shape, header.path, entry.start, entry.stop
        )
        for header in headers
        for entry in header.entries.values()
    }
    floats = {
        entry.name: _decoded(header, entry)
        for header in headers
        for entry in header.entries.values()
    }
    family = family_of_metadata(first.metadata, floats)
    config = family.config(first.metadata, floats)
    types = Counter(tensor.dtype for tensor in stored.values())
    config["torch_dtype"] = "float16" if types["F16"] > types["BF16"] else "bfloat16"
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        token = first.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            config[name] = token
    plain = {key: value.value for key, value in first.metadata.items() if _is_text_part(key)}
    made = from_gguf(plain, file=first.path)
    shown = ", ".join(f"{count} {name}" for name, count in types.most_common())
    return GgufCheckpoint(
        path=first.path,
        config=config,
        stored=stored,
        tensors=stored,
        quantization=None,
        shards=tuple(header.path for header in headers),
        extra_files=(),
        notes=(f"decoded from GGUF: {shown}",),
        source=source or str(path),
        made_files={name: text.encode() for name, text in made.items()},
        lazy=family.to_hf(floats, config),
    )


def _is_text_part(key: str) -> bool:
    return key.startswith("tokenizer.") or key == "general.name"


def _decoded(header: GgufHeader, entry: GgufEntry) -> Node:
    """A tensor as floats: plain ones in their own type, blocks in float32.

    Raises:
        FileFormatError: a type that has no decoder.
    """
    kind = entry.type_name if entry.type_name in _PLAIN else "U8"
    nbytes = entry.stop - entry.start
    shape: tuple[int, ...] = entry.shape if kind != "U8" else (nbytes,)
    wire = StoredTensor(entry.name, kind, shape, header.path, entry.start, entry.stop)
    origin = (str(header.path), entry.start)
    if kind != "U8":

        def as_stored(region: Region) -> Array:
            return region_of_flat(entry.shape, region, wire.read, carrier)

        carrier = np.dtype("<f4" if kind == "F32" else "<f2" if kind == "F16" else "<u2")
        return Node(entry.shape, kind, as_stored, "Load", origin)
    if entry.type_name not in formats.names():
        raise FileFormatError(
            header.path, f"tensor {entry.name!r}", f"type {entry.type_name} cannot be decoded"
        )
    block = formats.get(entry.type_name)

    def flat(begin: int, end: int) -> Array:
        first, last = begin // block.block_size, -(-end // block.block_size)
        raw = wire.read(first * block.block_bytes, last * block.block_bytes)
        values = block.decode((raw.reshape(1, -1),)).reshape(-1)
        skip = begin - first * block.block_size
        return values[skip : skip + end - begin]

    def decode(region: Region) -> Array:
        return region_of_flat(entry.shape, region, flat, np.dtype("<f4"))

    return Node(entry.shape, "F32", decode, entry.type_name, origin)
