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

from ..errors import FileFormatError, ModelError, one_line
from ..files.gguf import GgufEntry, GgufHeader
from ..files.gguf_split import open_split
from ..files.gguf_types import tensor_type
from ..models.families import family_of_metadata
from ..tokenizers import from_gguf
from .blocks import decoder, floats_of, is_blocks
from .checkpoint import Checkpoint, StoredTensor
from .gguf_checks import check_model, check_vocabulary
from .gguf_identity import IDENTITY, identity_text
from .lazy import Node, leaf

__all__ = ["GgufCheckpoint", "open_gguf", "open_tensors"]

_NO_VOCABULARY = "the file has no vocabulary, so there is no tokenizer"


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """A Checkpoint whose tensors are GGUF's.

    Attributes:
        lazy: every tensor by mlx-lm's name, as the file holds it.
        headers: of its files, in order.
    """

    lazy: Mapping[str, Node] = field(default_factory=dict)
    headers: tuple[GgufHeader, ...] = ()

    def nodes(self) -> dict[str, Node]:
        """Every tensor as floats, decoded when its rows are asked for."""
        plain = ("F32", "F16", "BF16")
        return {
            name: node if node.dtype in plain else floats_of(node)
            for name, node in self.lazy.items()
        }

    def blocks(self) -> dict[str, Node]:
        """Every tensor of blocks, undecoded."""
        return {name: node for name, node in self.lazy.items() if is_blocks(node)}


def open_tensors(path: str | PathLike[str]) -> tuple[list[GgufHeader], dict[str, Node]]:
    """The headers of a GGUF file, or of all parts of a split one, and every tensor by its name.

    Raises:
        FileFormatError: a file that lies or is damaged, a vocabulary or a model that cannot be.
    """
    headers = open_split(path)
    check_model(headers)
    check_vocabulary(headers[0])
    return headers, {
        name: _leaf(header, entry) for header in headers for name, entry in header.entries.items()
    }


def open_gguf(
    path: str | PathLike[str],
    *,
    source: str = "",
    approximate: bool = False,
    tokenizer: bool = True,
) -> GgufCheckpoint:
    """Open a GGUF model; any part of a split one opens them all.

    Args:
        source: what the user typed; the path if left out.
        approximate: accept a vocabulary that no tokenizer.json splits exactly as llama.cpp does.
        tokenizer: make the tokenizer's files; who only looks on needs none.

    Raises:
        FileFormatError: a file that lies or is damaged, a vocabulary or a model that cannot be.
        ModelError: an architecture, a setting, a tensor or a tokenizer that is not known here.
    """
    headers, leaves = open_tensors(path)
    first = headers[0]
    stored = {
        entry.name: StoredTensor(
            entry.name, entry.type_name, entry.shape, header.path, entry.start, entry.stop
        )
        for header in headers
        for entry in header.entries.values()
    }
    try:
        family = family_of_metadata(first.metadata, leaves)
        config = family.config(first.metadata, leaves)
        lazy = family.to_hf(leaves, config)
    except ModelError as problem:
        raise ModelError(one_line(f"{first.path}: {problem}")) from problem
    types = Counter(tensor.dtype for tensor in stored.values())
    config["torch_dtype"] = "float16" if types["F16"] > types["BF16"] else "bfloat16"
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos")):
        token = first.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            config[name] = token
    plain = {key: value.value for key, value in first.metadata.items() if _is_text_part(key)}
    made: dict[str, str] = {}
    notes: list[str] = []
    if tokenizer and "tokenizer.ggml.tokens" in plain:
        made = from_gguf(plain, file=first.path, approximate=approximate, notes=notes)
        made[IDENTITY] = identity_text(first.metadata)
    elif tokenizer:
        notes.append(_NO_VOCABULARY)
    shown = ", ".join(f"{count} {name}" for name, count in types.most_common())
    return GgufCheckpoint(
        path=first.path,
        config=config,
        stored=stored,
        tensors=stored,
        quantization=None,
        shards=tuple(header.path for header in headers),
        extra_files=(),
        notes=(f"GGUF tensors: {shown}", *notes),
        source=source or str(path),
        made_files={name: text.encode() for name, text in made.items()},
        lazy=lazy,
        headers=tuple(headers),
    )


def _is_text_part(key: str) -> bool:
    return key.startswith("tokenizer.") or key in ("general.name", "general.architecture")


def _leaf(header: GgufHeader, entry: GgufEntry) -> Node:
    """A tensor as its file holds it: plain numbers, or the bytes of its rows' blocks.

    Raises:
        FileFormatError: a type that has no decoder.
    """
    kind = tensor_type(entry.type_name)
    shape = entry.shape
    if kind.block_size > 1:
        try:
            decoder(kind.name)
        except ValueError as problem:
            where = f"tensor {entry.name!r}"
            raise FileFormatError(header.path, where, str(problem)) from problem
        shape = (*shape[:-1], shape[-1] // kind.block_size * kind.block_bytes)
    return leaf(StoredTensor(entry.name, kind.name, shape, header.path, entry.start, entry.stop))
