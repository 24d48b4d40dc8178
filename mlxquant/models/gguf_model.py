"""A model in GGUF's names: what a GGUF file of it holds, before a type is chosen for each tensor.

    a folder     names, layouts and settings by `families`, the vocabulary by `tokenizers`
    a GGUF file  as it is: of any architecture, nothing renamed, every key kept

Weights that GGUF's types hold exactly as they are stored come as blocks: those of a GGUF, and MLX's
packed ones where `formats.repack` has a type for their codes and scales. All else comes as floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.gguf_values import Value
from ..load.blocks import is_blocks, weight_shape
from ..load.checkpoint import Checkpoint
from ..load.from_gguf import GgufCheckpoint, open_tensors
from ..load.lazy import Node
from .families import family_of_config, typed

if TYPE_CHECKING:
    from ..files.gguf import GgufHeader
    from .mlx_lm import SourceModel

__all__ = ["GgufModel", "GgufTensor", "as_gguf", "gguf_as_it_is"]

#: metadata of one part of a split file
_SPLIT = ("split.no", "split.count", "split.tensors.count")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor, lazy.

    Attributes:
        name: GGUF's.
        node: floats, integers, or blocks (see load/blocks.py).
        source: how the model stores it: `bf16`, `affine4-g64`, `Q4_K`, ….
        inexact: why no type of GGUF holds it as it is stored, and `node` is floats; else empty.
        part: which file of a split source it is in.
    """

    name: str
    node: Node
    source: str
    inexact: str = ""
    part: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights, rows first."""
        return weight_shape(self.node)


@dataclass(frozen=True)
class GgufModel:
    """A model in GGUF's names.

    Attributes:
        path: what is read; files: its weight files.
        metadata: every key of the file to be, in order.
        tensors: in the order of the file to be.
        alignment: of its tensors, bytes.
        nbytes: of the source's weights.
        notes: what a user should know, a line each.
    """

    path: Path
    files: tuple[Path, ...]
    metadata: dict[str, Value]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    nbytes: int
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> int:
        """Files that the source is split into."""
        return 1 + max((tensor.part for tensor in self.tensors), default=0)

    def plain_metadata(self) -> dict[str, Any]:
        """Every value that is no array of texts, decoded."""
        return {k: v.value for k, v in self.metadata.items() if v.item != "str"}


def gguf_as_it_is(path: str | PathLike[str]) -> GgufModel:
    """A GGUF file, or the set that it is a part of.

    Raises:
        FileFormatError: a file that lies or is damaged.
    """
    headers, leaves = open_tensors(path)
    first = headers[0]
    tensors = tuple(
        GgufTensor(name, leaves[name], _stored_as(leaves[name]), part=part)
        for part, header in enumerate(headers)
        for name in header.entries
    )
    return GgufModel(
        first.path,
        tuple(header.path for header in headers),
        {key: value for key, value in first.metadata.items() if key not in _SPLIT},
        tensors,
        first.alignment,
        sum(_nbytes(header) for header in headers),
    )


def as_gguf(checkpoint: Checkpoint, *, approximate: bool = False) -> GgufModel:
    """A checkpoint's model in GGUF's names.

    Args:
        approximate: accept a tokenizer that llama.cpp has no exact name for.

    Raises:
        ModelError: an architecture, a setting, a tensor or a tokenizer that GGUF has no place for.
    """
    if isinstance(checkpoint, GgufCheckpoint):
        return gguf_as_it_is(checkpoint.path)
    from ..tokenizers import as_values, to_gguf
    from .mlx_lm import resolve_model

    family = family_of_config(checkpoint.config)
    source = resolve_model(checkpoint)
    nodes, stored, inexact = _stored_nodes(source)
    found = family.to_gguf(nodes, source.config)
    origins = family.origins(nodes, source.config)
    tensors = []
    for name, node in found.items():
        inputs = origins.get(name, [])
        kinds = sorted({stored[each] for each in inputs}) or [node.dtype.lower()]
        why = next((inexact[each] for each in inputs if each in inexact), "")
        tensors.append(GgufTensor(name, node, ", ".join(kinds), why))
    notes: list[str] = [*checkpoint.notes]
    unread = family.unread(source.config)
    if unread:
        notes.append(f"config.json: a GGUF file has no place for {', '.join(unread)}")
    name = model_name(checkpoint)
    rows = next((t.shape[0] for t in tensors if t.name == "token_embd.weight"), None)
    vocabulary = to_gguf(
        checkpoint.path, rows=rows, name=name, approximate=approximate, notes=notes
    )
    settings = typed(family.metadata(source.config))
    metadata = {
        "general.architecture": settings.pop("general.architecture"),
        "general.type": Value.of("str", "model"),
        "general.name": Value.of("str", name),
        **settings,
        **as_values(vocabulary),
    }
    return GgufModel(
        checkpoint.path,
        checkpoint.shards,
        metadata,
        tuple(tensors),
        32,
        checkpoint.nbytes,
        tuple(notes),
    )


def model_name(checkpoint: Checkpoint) -> str:
    """What `general.name` says: the hub's name of the model, or the folder's."""
    known = checkpoint.config.get("_name_or_path")
    if isinstance(known, str) and known.strip("/"):
        return known.strip("/").rsplit("/", 1)[-1]
    if checkpoint.revision is not None:  # the folder is a snapshot's
        return checkpoint.source.rsplit("/", 1)[-1]
    return checkpoint.path.resolve().name


def _stored_nodes(
    source: SourceModel,
) -> tuple[dict[str, Node], dict[str, str], dict[str, str]]:
    """Every weight by name: as blocks where they hold it, else as floats.

    Returns: the nodes; what each is stored as; why some of them are not held by blocks.
    """
    from .packed_nodes import as_blocks, as_floats

    nodes: dict[str, Node] = {}
    stored: dict[str, str] = {}
    inexact: dict[str, str] = {}
    packed = {path for path, module in source.modules.items() if module.quantized}
    for name, node in source.parameters.items():
        path, _, last = name.rpartition(".")
        if path in packed and last in ("scales", "biases"):
            continue
        if path in packed and last == "weight":
            stored[name] = str(source.modules[path].quantized)
            held, why = as_blocks(source, path)
            nodes[name] = held or as_floats(source, path)
            if held is None:
                inexact[name] = why
        else:
            nodes[name] = source.blocks.get(name, node)
            stored[name] = _stored_as(nodes[name])
    return nodes, stored, inexact


def _stored_as(node: Node) -> str:
    return node.dtype if is_blocks(node) else node.dtype.lower()


def _nbytes(header: GgufHeader) -> int:
    return sum(entry.stop - entry.start for entry in header.entries.values())
