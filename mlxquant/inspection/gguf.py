"""The facts of a GGUF model, from the headers of its parts; and the search for NaN in its bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError
from ..files.gguf import GgufEntry, GgufHeader, Value
from ..files.gguf_split import open_split
from ..load.gguf_checks import check_model, check_vocabulary
from ..models.roles import role_of
from .architecture import Architecture
from .bad_blocks import BadBlocks
from .census import TensorRow
from .problems import Problem
from .tokenizer import TemplateFacts, TokenizerFacts, describe_template

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "GgufModel",
    "MetadataRow",
    "architecture_of",
    "check",
    "eos_of",
    "metadata_rows",
    "notes_of",
    "open_gguf",
    "rows_of",
    "scan_gguf",
    "template_of",
    "tokenizer_of",
]

#: items of an array that a row of metadata shows
_SHOWN_ITEMS = 6
_CHUNK = 4 << 20  # bytes read at once

_KINDS = {
    "llama": "SentencePiece BPE (llama)",
    "gpt2": "BPE (gpt2)",
    "bert": "WordPiece (bert)",
    "t5": "Unigram (t5)",
    "rwkv": "RWKV",
}
_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types
_STOPS = ("eos", "eot", "eom")
_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True)
class GgufModel:
    """A GGUF model, opened but not read.

    Attributes:
        parts: the headers of its files, in order.
        folder: that mlxquant wrote it into, with a manifest; None for a file that lies anywhere.
    """

    parts: tuple[GgufHeader, ...]
    folder: Path | None = None

    @property
    def path(self) -> Path:
        """The first part."""
        return self.parts[0].path

    @property
    def entries(self) -> Iterator[tuple[GgufHeader, GgufEntry]]:
        """Every tensor and the part it is in."""
        return ((part, entry) for part in self.parts for entry in part.entries.values())

    def get(self, key: str, default: Any = None) -> Any:
        """The Python value of a key, or `default`."""
        return self.parts[0].get(key, default)


@dataclass(frozen=True)
class MetadataRow:
    """A key of the metadata.

    Attributes:
        key, type: e.g. `llama.block_count`, `u32`; `[str]` for an array of texts.
        count: items of an array; None for what is none.
        value: what it holds; of an array the first items.
    """

    key: str
    type: str
    count: int | None
    value: Any


def open_gguf(path: str | os.PathLike[str]) -> GgufModel:
    """Open a GGUF file, and with any part of a split model all of it.

    Raises:
        FileFormatError: see `open_split`.
    """
    return GgufModel(tuple(open_split(path)))


def metadata_rows(model: GgufModel) -> tuple[MetadataRow, ...]:
    """A row for every key, long arrays summed up."""
    return tuple(_row(key, value) for key, value in model.parts[0].metadata.items())


def _row(key: str, value: Value) -> MetadataRow:
    if value.type != "arr":
        return MetadataRow(key, value.kind, None, value.value)
    return MetadataRow(key, value.kind, value.count, value.head(_SHOWN_ITEMS))


def rows_of(model: GgufModel) -> list[TensorRow]:
    """A row for every tensor, in file order."""
    return [
        TensorRow(
            name=entry.name,
            role=role_of(entry.name),
            shape=entry.shape,
            format=entry.type_name,
            weights=math.prod(entry.shape),
            bytes=entry.stop - entry.start,
            file=part.path.name,
        )
        for part, entry in model.entries
    ]


def architecture_of(model: GgufModel) -> Architecture:
    """The shape that the metadata give; values of a wrong type count as not said."""
    name = model.get("general.architecture")
    name = name if isinstance(name, str) else ""
    hidden = _count(model.get(f"{name}.embedding_length"))
    heads = _count(model.get(f"{name}.attention.head_count"))
    names = {entry.name for _, entry in model.entries}
    rows = next((e.shape[0] for _, e in model.entries if e.name == "token_embd.weight"), None)
    tokens = model.parts[0].metadata.get("tokenizer.ggml.tokens")
    rows = rows or _count(model.get(f"{name}.vocab_size")) or (tokens.count if tokens else None)
    theta = model.get(f"{name}.rope.freq_base")
    prefix = f"{name}.rope.scaling."
    scaling = {
        key.removeprefix(prefix): value.value
        for key, value in model.parts[0].metadata.items()
        if key.startswith(prefix) and value.type != "arr"
    }
    head_dim = _count(model.get(f"{name}.attention.key_length"))
    return Architecture(
        model_type=name,
        class_name=None,
        layers=_count(model.get(f"{name}.block_count")),
        hidden=hidden,
        feed_forward=_count(model.get(f"{name}.feed_forward_length")),
        heads=heads,
        kv_heads=_count(model.get(f"{name}.attention.head_count_kv")) or heads,
        head_dim=head_dim or (hidden // heads if hidden and heads else None),
        experts=_count(model.get(f"{name}.expert_count")),
        experts_per_token=_count(model.get(f"{name}.expert_used_count")),
        vocabulary=rows,
        context=_count(model.get(f"{name}.context_length")),
        sliding_window=_count(model.get(f"{name}.attention.sliding_window")),
        rope_theta=theta if isinstance(theta, float) else None,
        rope_scaling=scaling if scaling.get("type", "none") != "none" else None,
        tied="output.weight" not in names if "token_embd.weight" in names else None,
    )


def tokenizer_of(model: GgufModel) -> TokenizerFacts:
    """The vocabulary, as the metadata describe it."""
    tokens = model.parts[0].metadata.get("tokenizer.ggml.tokens")
    kind = model.get("tokenizer.ggml.model")
    if tokens is None or tokens.item != "str" or not isinstance(kind, str):
        return TokenizerFacts()
    pre = model.get("tokenizer.ggml.pre")
    types = model.get("tokenizer.ggml.token_type")
    texts = tokens.value

    def text(name: str) -> str | None:
        index = model.get(f"tokenizer.ggml.{name}_token_id")
        return str(texts[index]) if type(index) is int and 0 <= index < len(texts) else None

    return TokenizerFacts(
        files=(model.path.name,),
        kind=_KINDS.get(kind, kind),
        vocabulary=tokens.count,
        added=sum(value in (_CONTROL, _USER_DEFINED) for value in types)
        if isinstance(types, list)
        else None,
        largest_id=tokens.count - 1,
        pre_tokenizer=pre if isinstance(pre, str) else None,
        bos=text("bos"),
        eos=text("eos"),
        pad=text("padding"),
        unk=text("unknown"),
    )


def template_of(model: GgufModel) -> TemplateFacts:
    """The chat template; further ones have names behind its key."""
    others = [
        key.removeprefix(f"{_TEMPLATE}.")
        for key in model.parts[0].metadata
        if key.startswith(f"{_TEMPLATE}.")
    ]
    text = model.get(_TEMPLATE)
    if not isinstance(text, str):
        return TemplateFacts(others=tuple(others))
    return describe_template(_TEMPLATE, text, tuple(others))


def eos_of(model: GgufModel) -> dict[str, list[int | str]]:
    """The keys that name an end of sequence → its id."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in _STOPS)
    return {key: [index] for key in keys if type(index := model.get(key)) is int}


def notes_of(model: GgufModel) -> list[str]:
    """What is unusual."""
    notes = []
    if not any(True for _ in model.entries):
        notes.append("no tensors: the metadata of a model, such as a vocabulary, alone")
    kind = model.get("general.type", "model")
    if kind != "model":
        notes.append(f"general.type is {kind!r}: this is no language model by itself")
    for part in model.parts:
        left = part.size - -(-part.stop // part.alignment) * part.alignment
        if left > 0:
            notes.append(f"{part.path.name}: {left} bytes behind the last tensor belong to nothing")
    return notes


def check(model: GgufModel) -> list[Problem]:
    """What the metadata claim that cannot be."""
    problems = []
    if model.get("general.type", "model") == "model":
        try:
            check_model(model.parts)
        except FileFormatError as problem:
            problems.append(_problem("config", problem))
    try:
        check_vocabulary(model.parts[0])
    except FileFormatError as problem:
        problems.append(_problem("tokenizer", problem))
    return problems


def scan_gguf(
    model: GgufModel, progress: Callable[[int, int, str], None] | None = None
) -> list[Problem]:
    """Read every byte of the tensors; list NaN and Inf in floats and in the scales of blocks.

    Args:
        model: an opened model.
        progress: called with (bytes done, bytes in all, file name).
    """
    total = sum(entry.stop - entry.start for _, entry in model.entries)
    problems: list[Problem] = []
    done = 0
    for part in model.parts:
        try:
            with part.path.open("rb", buffering=0) as file:
                for entry in part.entries.values():
                    found = BadBlocks(entry.type_name, entry.shape)
                    for start, blocks in _chunks(part, entry, file.fileno()):
                        found.examine(blocks, start)
                        done += blocks.size
                        if progress is not None:
                            progress(done, total, part.path.name)
                    problems += found.problems(part.path.name, entry.name)
        except FileFormatError as problem:
            problems.append(Problem("unreadable", part.path.name, None, problem.reason))
        except OSError as problem:
            reason = f"cannot be read: {problem.strerror}"
            problems.append(Problem("unreadable", part.path.name, None, reason))
    return problems


def _chunks(
    part: GgufHeader, entry: GgufEntry, handle: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(number of the first block, uint8 [n, block_bytes]) of a tensor, piece by piece."""
    import numpy as np

    from ..files.gguf_types import TENSOR_TYPES

    width = TENSOR_TYPES[entry.type].block_bytes
    step = _CHUNK // width * width
    for start in range(entry.start, entry.stop, step):
        wanted = min(step, entry.stop - start)
        data = os.pread(handle, wanted, start)
        if len(data) < wanted:
            reason = f"ends at byte {start + len(data)}, {entry.stop} expected; it changed while it"
            raise FileFormatError(part.path, "file", f"{reason} was read")
        yield (start - entry.start) // width, np.frombuffer(data, np.uint8).reshape(-1, width)


def _count(value: Any) -> int | None:
    """A positive integer; of a list of them, one for each layer, the largest."""
    if isinstance(value, list):
        value = max((item for item in value if type(item) is int), default=None)
    return value if type(value) is int and value > 0 else None


def _problem(kind: str, error: FileFormatError) -> Problem:
    where = error.field if error.offset is None else f"{error.field} @{error.offset}"
    return Problem(kind, Path(error.file).name, None, f"{where}: {error.reason}")
