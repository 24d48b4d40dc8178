"""The steps and the model of a tokenizer.json, for each model of a GGUF vocabulary.

Each function gives those of the members `normalizer`, `pre_tokenizer`, `decoder` and `model` that
are not null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..files.quote import quote
from .alphabet import ALPHABET, byte_tokens, closed, missing_bytes, missing_characters
from .byte_level import merges_make_all
from .gguf_source import FOUND, GgufSource
from .habits import (
    BERT_CUTS,
    ESCAPE,
    SPACE,
    WORDS_ALONE,
    bert_steps,
    lowercase_steps,
    unigram_steps,
)
from .merges import loose_characters, merges_from_scores
from .pre_tokenizers import to_json
from .vocabulary import TokenType

__all__ = ["merged", "sentencepiece", "unigram", "wordpiece"]

#: bound on the squared lengths of all tokens: forty times that of the largest vocabulary in use
_MOST_WORK = 1 << 29

#: the types of tokens that a Unigram model looks for
_IN_TEXT = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
#: less likely than a whole text; sums of scores are still exact beside it
_NEVER = 1e6

_UNESCAPE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


def merged(source: GgufSource) -> dict[str, Any]:
    """BPE with a list of merges: `gpt2`, `gemma4` and `whitespace`."""
    parts = _characters(source) if source.row.raw else _bytes(source)
    steps: list[dict[str, Any]] = [ESCAPE] if source.row.escape else []
    if source.vocabulary.model == "whitespace":
        if source.flag("normalizer.lowercase", False):
            steps += lowercase_steps()
        parts["pre_tokenizer"]["pretokenizers"].insert(0, WORDS_ALONE)
    if steps:
        parts["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return parts


def _bytes(source: GgufSource) -> dict[str, Any]:
    tokens = set(source.texts)
    missing = missing_bytes(tokens)
    if missing and source.row.ignore_merges:
        lacking = frozenset(ALPHABET) - tokens
        for text, kind in zip(source.texts, source.types, strict=True):
            if kind not in FOUND and not lacking.isdisjoint(text):
                source.inexact(f"its token {quote(text)} has a byte that is no token")
                break
    return {
        "pre_tokenizer": to_json(source.row, missing),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _bpe(source, source.vocabulary.merges, ignore_merges=source.row.ignore_merges),
    }


def _characters(source: GgufSource) -> dict[str, Any]:
    """BPE of characters; those that are no tokens become their bytes, or nothing."""
    vocab = {text: i for i, text in enumerate(source.texts)}
    known = [token for token in byte_tokens() if token in vocab]
    if 0 < len(known) < 256:
        source.inexact(f"{len(known)} of its 256 byte tokens are there")
    if source.row.lines:
        _check_lines(source, vocab)
    fallback = len(known) == 256
    decoders = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    return {
        "pre_tokenizer": to_json(source.row, "" if fallback else missing_characters(vocab)),
        "decoder": {
            "type": "Sequence",
            "decoders": [_UNESCAPE, *decoders] if source.row.escape else decoders,
        },
        "model": _bpe(source, source.vocabulary.merges, byte_fallback=fallback),
    }


def _check_lines(source: GgufSource, vocab: dict[str, int]) -> None:
    """llama.cpp takes a run of newlines that is a token whole; see that merging does too."""
    runs = {text: i for text, i in vocab.items() if not text.strip("\n")}
    merges = [pair for pair in source.vocabulary.merges if pair[0] in runs and pair[1] in runs]
    ordered = {text: i for i, text in enumerate(runs)}
    if runs and not merges_make_all(merges, ordered):
        source.inexact("it has a token of newlines that its merges do not make")


def _bpe(source: GgufSource, merges: Iterable[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": {text: i for i, text in enumerate(source.texts)},
        "merges": [list(pair) for pair in merges],
    }


def sentencepiece(source: GgufSource) -> dict[str, Any]:
    """BPE by scores: `llama`."""
    texts = source.texts
    ids = {text: i for i, text in enumerate(texts)}
    missing = next((token for token in byte_tokens() if token not in ids), None)
    if missing is not None:
        raise source.wrong("tokens", f"the byte token {missing} is missing")
    if sum(len(text) ** 2 for text in texts) > _MOST_WORK:
        raise source.wrong("tokens", "too many long tokens to find their merges")
    found = {texts[i] for i, kind in enumerate(source.types) if kind in FOUND}
    loose = next(loose_characters((t for t in texts if t not in found), ids), None)
    if loose is not None:
        source.inexact(
            f"llama.cpp can join the token {quote(loose)} from a character that is no token"
        )
    prefix = source.flag("add_space_prefix", True)
    steps = [{"type": "Prepend", "prepend": SPACE}, ESCAPE] if prefix else [ESCAPE]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = source.vocabulary.ids.get("unk")
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _UNESCAPE,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": _bpe(
            source,
            merges_from_scores(ids, source.scores()),
            unk_token=None if unknown is None else texts[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def wordpiece(source: GgufSource) -> dict[str, Any]:
    """BERT's: `bert`."""
    lower = source.flag("normalizer.lowercase", True)
    strip = source.flag("normalizer.strip_accents", lower)
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": strip,
        "lowercase": lower,
    }
    steps = [*bert_steps(strip, lower), normalizer]
    source.notes.append(f"the tokenizer does not know words that have {SPACE} inside")
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": BERT_CUTS},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": source.texts[source.id_of("unk", "unknown_token_id")],
            "continuing_subword_prefix": "##",
            # llama.cpp gives up on no word for its length.
            "max_input_chars_per_word": 1 << 31,
            "vocab": {text: i for i, text in enumerate(source.texts)},
        },
    }


def unigram(source: GgufSource) -> dict[str, Any]:
    """Unigram: `t5`. llama.cpp puts the space before words also where the file says behind."""
    steps = unigram_steps(
        source.vocabulary.charsmap,
        source.flag("remove_extra_whitespaces", False),
        source.flag("add_space_prefix", False),
    )
    if any(step["type"] == "Precompiled" for step in steps):
        source.notes.append(
            "the tokenizer keeps a combining mark apart from a character that stands for others,"
            " and composes marks in an unusual order"
        )
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "decoder": {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "always",
            "split": True,
        },
        "model": {
            "type": "Unigram",
            "unk_id": source.id_of("unk", "unknown_token_id"),
            "vocab": _scored_pieces(source),
            "byte_fallback": False,
        },
    }


def _scored_pieces(source: GgufSource) -> list[list[Any]]:
    """The tokens and their scores, such that tokens of no text are never the best.

    An unknown character costs 10 more than the least likely token of all. Where every character of
    every token is itself a token, it is the one way to go on, and what it costs does not matter.
    """
    rows = list(zip(source.texts, source.scores(), source.types, strict=True))
    taken = [(text, score) for text, score, kind in rows if kind in _IN_TEXT]
    if closed(source.texts, (text for text, _ in taken)):
        never = min((score for _, score in taken), default=0.0) - _NEVER
        return [[text, score if kind in _IN_TEXT else never] for text, score, kind in rows]
    if len(taken) < len(rows):
        source.notes.append(
            "the tokenizer finds special tokens even where they are to be read as plain text"
        )
    least = min((score for _, score, kind in rows if kind == TokenType.NORMAL), default=0.0)
    return [[text, max(score, least)] for text, score, _ in rows]
