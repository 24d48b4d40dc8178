"""From a Hugging Face tokenizer to a GGUF vocabulary that llama.cpp reads to the same ids.

What llama.cpp cannot do as the tokenizer does is refused by name. Where its own version of a known
tokenizer is a little different (no Unicode normalization, capitals of other scripts), the
vocabulary is what every GGUF of such a model has, and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..errors import ModelError
from ..files.gguf_values import Value
from ..files.quote import quote
from .byte_level import byte_level
from .characters import characters, of_characters, settle
from .draft import Draft
from .folder import open_tokenizer_folder
from .recall import recall
from .sentencepiece_file import sentencepiece_file
from .special import chat_templates, special_tokens
from .unigram import unigram
from .wordpiece import wordpiece

__all__ = ["as_values", "to_gguf"]


def to_gguf(
    folder: str | PathLike[str],
    *,
    rows: int | None = None,
    name: str | None = None,
    architecture: str = "",
    approximate: bool = False,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """The `tokenizer.*` metadata for a model folder's tokenizer.

    Args:
        folder: holds tokenizer.json or tokenizer.model, tokenizer_config.json and so on.
        rows: of the model's embedding; ids up to there that no token has become unused padding.
        name: what the GGUF's `general.name` will be (llama.cpp reads Phi-3's habits from it); the
            folder's name where it is not given.
        architecture: what its `general.architecture` will be, from which llama.cpp reads some too.
        approximate: accept a tokenizer that llama.cpp has no exact name for.
        notes: what llama.cpp does otherwise is added here, a sentence each.
    Returns:
        GGUF key to Python value: texts, numbers, truth values, lists, bytes; see `as_values`.
    Raises:
        FileFormatError: a bad vocabulary, or a file that cannot be read.
        ModelError: a tokenizer that llama.cpp has no exact name for, and not `approximate`; more
            tokens than `rows`.
    """
    source = open_tokenizer_folder(folder)
    named = source.path.resolve().name if name is None else name
    draft = Draft(source, named, architecture, approximate)
    recalled = recall(draft)
    if recalled is None:
        _read(draft)
    draft.finish(rows)
    if not recalled:
        special_tokens(draft)
    if recalled is None:
        settle(draft)
        draft.text_habits()
    chat_templates(draft)
    if notes is not None:
        notes += draft.notes
    return draft.metadata


def _read(draft: Draft) -> None:
    """Fill a draft from the tokenizer's own files."""
    source = draft.source
    model = source.tokenizer.get("model")
    if not source.tokenizer:
        sentencepiece_file(draft)
    elif not isinstance(model, dict):
        raise source.wrong("model", "the member is missing")
    elif model.get("type") == "BPE":
        (characters if of_characters(draft, model) else byte_level)(draft, model)
    elif model.get("type") == "Unigram":
        unigram(draft, model)
    elif model.get("type") == "WordPiece":
        wordpiece(draft, model)
    else:
        raise ModelError(
            f"{source.file}: model type {quote(str(model.get('type')))} has no place in a GGUF;"
            " known are BPE, Unigram and WordPiece"
        )


def as_values(metadata: Mapping[str, Any]) -> dict[str, Value]:
    """The metadata as typed values of a GGUF file, with the types that llama.cpp expects."""
    arrays = {
        "tokenizer.ggml.tokens": "str",
        "tokenizer.ggml.merges": "str",
        "tokenizer.ggml.scores": "f32",
        "tokenizer.ggml.token_type": "i32",
        "tokenizer.ggml.precompiled_charsmap": "u8",
        "tokenizer.chat_templates": "str",
    }
    values: dict[str, Value] = {}
    for key, value in metadata.items():
        if key in arrays:
            values[key] = Value.array(arrays[key], list(value))
        elif isinstance(value, bool):
            values[key] = Value.of("bool", value)
        else:
            kinds = {int: "u32", float: "f32"}
            values[key] = Value.of(kinds.get(type(value), "str"), value)
    return values
