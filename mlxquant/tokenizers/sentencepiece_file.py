"""SentencePiece's own file, of BPE or Unigram, as a draft."""

from __future__ import annotations

import re

from ..errors import ModelError
from ..files.quote import quote
from .characters import byte_types
from .draft import Draft
from .habits import SPACE
from .merges import pairs_of
from .sentencepiece_model import BPE, UNIGRAM, read_sentencepiece
from .unigram import set_charsmap
from .vocabulary import TokenType

__all__ = ["sentencepiece_file"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def sentencepiece_file(draft: Draft) -> None:
    """Fill a draft from a tokenizer.model."""
    source = draft.source
    file = read_sentencepiece(source.path / "tokenizer.model")
    for i, piece in enumerate(file.pieces):
        user = piece.type == TokenType.USER_DEFINED
        draft.tokens[i] = piece.text.replace(SPACE, " ") if user else piece.text
        draft.types[i] = piece.type
        draft.scores[i] = piece.score
        if piece.type == TokenType.BYTE and not _BYTE.fullmatch(piece.text):
            raise source.wrong("pieces", f"byte token {i} is {quote(piece.text)}")
    for token in source.added.values():
        text = token.content if token.special else token.content.replace(SPACE, " ")
        draft.tokens[token.id] = text
        if draft.types.get(token.id) != TokenType.UNKNOWN:
            special = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
            draft.types[token.id] = special
    ids = {text: i for i, text in draft.tokens.items()}
    if len(ids) < len(draft.tokens) or "" in ids:
        raise source.wrong("pieces", "a token stands twice, or is empty")
    for role, id_ in file.ids.items():
        if id_ in draft.tokens and id_ < len(file.pieces):
            source.specials.setdefault(role, draft.tokens[id_])
    if file.model_type == BPE:
        byte_types(draft)
        draft.set("model", "llama")
        draft.set("add_space_prefix", file.add_dummy_prefix)
        if file.charsmap or file.remove_extra_whitespaces:
            draft.inexact("its SentencePiece model normalizes text, and llama.cpp's does not")
        longest = max(map(len, ids))
        for i, text in draft.tokens.items():
            if draft.types[i] == TokenType.CONTROL and any(pairs_of(text, ids, longest)):
                draft.note(f"may merge text to the control token {quote(text)}")
    elif file.model_type == UNIGRAM:
        draft.set("model", "t5")
        draft.set("add_space_prefix", file.add_dummy_prefix)
        draft.set("remove_extra_whitespaces", file.remove_extra_whitespaces)
        set_charsmap(draft, file.charsmap)
        if file.as_suffix:
            draft.inexact("its tokens end in spaces, and llama.cpp puts spaces before words")
        if TokenType.BYTE in draft.types.values():
            draft.inexact("its Unigram model falls back to bytes, and llama.cpp's does not")
    else:
        raise ModelError(
            f"{source.path / 'tokenizer.model'}: SentencePiece model type {file.model_type} has no"
            " place in a GGUF; known are 1 (unigram) and 2 (BPE)"
        )
    draft.set("pre", "default")
