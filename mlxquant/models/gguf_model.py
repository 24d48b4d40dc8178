"""A model in GGUF's names: what a GGUF file of it holds, before a type is chosen for each tensor.

    a folder     names, layouts and settings by `families`, the vocabulary by `tokenizers`
    a GGUF file  as it is: of any architecture, nothing renamed, every key kept

Weights that GGUF's types hold exactly as they are stored come as blocks: those of a GGUF, and MLX's
packed ones where `formats.repack` has a type for their codes and scales. All else comes as floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..files.gguf_types import ALIGNMENT
from ..files.gguf_values import Value
from ..load.blocks import is_blocks, weight_shape
from ..load.checkpoint import Checkpoint, QuantizedTensor
from ..load.from_gguf import GgufCheckpoint, open_tensors
from ..load.gguf_identity import read_identity
from ..load.lazy import Node, leaf
from .families import Family, family_of_config, typed

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

    family = family_of_config(checkpoint.config)
    tensors = _tensors(checkpoint, family)
    notes: list[str] = [*checkpoint.notes]
    unread = family.unread(checkpoint.config)
    if unread:
        notes.append(f"config.json: a GGUF file has no place for {', '.join(unread)}")
    identity = read_identity(checkpoint.path)
    named = identity.setdefault("general.name", Value.of("str", model_name(checkpoint)))
    name = str(named.value)
    rows = next((t.shape[0] for t in tensors if t.name == "token_embd.weight"), None)
    vocabulary = to_gguf(
        checkpoint.path,
        rows=rows,
        name=name,
        architecture=family.architecture,
        approximate=approximate,
        notes=notes,
    )
    settings = typed(family.metadata(checkpoint.config))
    metadata = {
        "general.architecture": settings.pop("general.architecture"),
        "general.type": Value.of("str", "model"),
        **identity,
        **settings,
        **as_values(vocabulary),
    }
    return GgufModel(
        checkpoint.path,
        checkpoint.shards,
        metadata,
        tensors,
        ALIGNMENT,
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


@dataclass(frozen=True)
class _Weight:
    """A weight by its Hugging Face name; the fields are GgufTensor's."""

    node: Node
    source: str
    inexact: str = ""


def _tensors(checkpoint: Checkpoint, family: Family) -> tuple[GgufTensor, ...]:
    """The tensors of the file to be.

    Names as they are stored will mostly do. Where they do not (towers that GGUF has no place for,
    weights that another tool packed), mlx-lm rearranges them first, which takes a second to import.
    """
    if not checkpoint.config.get("quantization_config") or checkpoint.quantization:
        try:
            return _renamed(family, _as_stored(checkpoint), checkpoint.config)
        except ModelError:
            pass  # what is wrong with it for good is said below
    from .mlx_lm import resolve_model

    source = resolve_model(checkpoint)
    return _renamed(family, _as_mlx_lm_has_them(source), source.config)


def _renamed(
    family: Family, weights: Mapping[str, _Weight], config: Mapping[str, Any]
) -> tuple[GgufTensor, ...]:
    found = family.to_gguf({name: weight.node for name, weight in weights.items()}, config)
    origins = family.origins(weights, config)
    tensors = []
    for name, node in found.items():
        inputs = [weights[each] for each in origins.get(name, [])]
        kinds = sorted({weight.source for weight in inputs}) or [_stored_as(node)]
        why = next((weight.inexact for weight in inputs if weight.inexact), "")
        tensors.append(GgufTensor(name, node, ", ".join(kinds), why))
    return tuple(tensors)


def _as_stored(checkpoint: Checkpoint) -> dict[str, _Weight]:
    """Every weight by the name that its file has for it."""
    blocks = checkpoint.blocks()
    weights = {}
    for name, tensor in checkpoint.tensors.items():
        if name in blocks:
            weights[name] = _plain(blocks[name])
        elif isinstance(tensor, QuantizedTensor):
            weights[name] = _unpacked(tensor.format, [leaf(part) for part in tensor.parts])
        else:
            weights[name] = _plain(leaf(tensor))
    return weights


def _as_mlx_lm_has_them(source: SourceModel) -> dict[str, _Weight]:
    """Every weight by the name of mlx-lm's parameter."""
    weights = {}
    packed = {path for path, module in source.modules.items() if module.quantized}
    for name, node in source.parameters.items():
        path, _, last = name.rpartition(".")
        if path not in packed or last not in ("weight", "scales", "biases"):
            weights[name] = _plain(source.blocks.get(name, node))
        elif last == "weight":
            names = (f"{path}.{part}" for part in ("weight", "scales", "biases"))
            parts = [source.parameters[each] for each in names if each in source.parameters]
            weights[name] = _unpacked(str(source.modules[path].quantized), parts)
    return weights


def _plain(node: Node) -> _Weight:
    return _Weight(node, _stored_as(node))


def _unpacked(name: str, parts: list[Node]) -> _Weight:
    """One of MLX's packed weights: as blocks where they hold it, else as floats."""
    from .packed_nodes import as_blocks, as_floats, packed_format

    fmt = packed_format(name, parts[1])
    held, why = as_blocks(fmt, parts)
    return _Weight(held or as_floats(fmt, parts), name, why)


def _stored_as(node: Node) -> str:
    return node.dtype if is_blocks(node) else node.dtype.lower()


def _nbytes(header: GgufHeader) -> int:
    return sum(entry.stop - entry.start for entry in header.entries.values())
