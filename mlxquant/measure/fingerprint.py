"""Vocabularies told apart by what they hold, wherever it is written: a folder or a GGUF file.

    fingerprint   the first 16 hexadecimal digits of SHA-256 over `id NUL piece NUL`, by id

Two spellings that differ between the two kinds of files are read as one: `▁` is a space (GGUF
writes user-defined tokens with spaces), and the tokens `[PAD7]` that fill up a GGUF's vocabulary
count for nothing. Merges and how words are cut are not looked at: what they change shows in the
tokens of the text that is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.json_file import TOKENIZER_LIMIT, read_json_object
from ..inspection.tokenizer import token_ids

if TYPE_CHECKING:
    from ..files.gguf import GgufHeader
    from ..load.checkpoint import Checkpoint

__all__ = ["fingerprint", "folder_fingerprint", "gguf_fingerprint"]

_SPACE = "▁"

#: where transformers declares added tokens that tokenizer.json may not have
_CONFIG, _DECLARED = "tokenizer_config.json", "added_tokens_decoder"


def fingerprint(pieces: Mapping[int, str]) -> str:
    """The fingerprint of a vocabulary, by id; bytes that are no text are lone surrogates."""
    digest = hashlib.sha256()
    for i, piece in sorted(pieces.items()):
        if piece != f"[PAD{i}]":
            text = f"{i}\0{piece.replace(_SPACE, ' ')}\0"
            digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def gguf_fingerprint(header: GgufHeader) -> str | None:
    """Of the vocabulary in a GGUF file; None where there is none."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if tokens is None or tokens.item != "str":
        return None
    return fingerprint(
        {i: text.decode("utf-8", "surrogateescape") for i, text in enumerate(tokens.texts())}
    )


def folder_fingerprint(checkpoint: Checkpoint) -> str | None:
    """Of the tokenizer.json or vocab.json in a folder; None where there is neither.

    Raises:
        FileFormatError: the file is malformed.
    """
    names = {file.as_posix() for file in checkpoint.extra_files}
    for name in ("tokenizer.json", "vocab.json"):
        if name in names:
            pieces = {i: text for text, i in token_ids(checkpoint.path / name).items()}
            if _CONFIG in names:
                pieces |= _declared(checkpoint.path / _CONFIG)
            return fingerprint(pieces) if pieces else None
    return None


def _declared(path: Path) -> dict[int, str]:
    """The added tokens that tokenizer_config.json declares."""
    listed = read_json_object(path, limit=TOKENIZER_LIMIT).get(_DECLARED)
    found = {}
    for i, token in listed.items() if isinstance(listed, dict) else ():
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and i.isascii() and i.isdecimal() and len(i) < 10:
            found[int(i)] = content
    return found
