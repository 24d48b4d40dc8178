"""SentencePiece-style BPE, Unigram and WordPiece: `tokenizer.ggml.model` llama, t5 and bert."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any

from ..errors import ModelError
from ..files.quote import quote
from .byte_level import merges_make_all, plain_bpe, read_merges
from .draft import Draft
from .habits import bert_steps
from .merges import loose_characters, pairs_of, scores_from_merges
from .pre_tokenizers import Unknown, pieces_of
from .sentencepiece_model import BPE, UNIGRAM, read_sentencepiece
from .vocabulary import TokenType

__all__ = ["sentencepiece", "sentencepiece_file", "unigram", "wordpiece"]

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_REAL = (TokenType.NORMAL, TokenType.BYTE)


def sentencepiece(draft: Draft, model: dict[str, Any]) -> None:
    """Fill a draft from a BPE model with byte fallback."""
    unknown = model.get("unk_token")
    ids = draft.vocabulary(model.get("vocab"), unknown if isinstance(unknown, str) else None)
    merges = list(read_merges(draft, model, ids))
    plain_bpe(draft, model)
    if model.get("ignore_merges") and not merges_make_all(merges, model["vocab"]):
        draft.inexact("it takes words that are tokens whole, whatever the merges make of them")
    _bytes(draft, ids)
    for i, text in draft.tokens.items():
        # Found in the text as it stands, where a space is a space: what the merges make of
        # spaces is not found but merged.
        if draft.types[i] == TokenType.USER_DEFINED and _SPACE in text and text in model["vocab"]:
            draft.types[i] = TokenType.NORMAL
    split_off = frozenset(
        text for i, text in draft.tokens.items() if draft.types[i] == TokenType.USER_DEFINED
    )
    scores, problem = scores_from_merges(ids, merges, split_off)
    if problem:
        draft.inexact(f"llama.cpp merges by the score of what comes of it, and {problem}")
    loose = next(loose_characters((t for t in ids if t not in split_off), ids), None)
    if loose is not None:
        draft.inexact(f"the token {quote(loose)} has a character that is no token")
    draft.scores = dict(enumerate(scores))
    draft.set("model", "llama")
    draft.set("pre", "default")
    draft.set("add_space_prefix", _space_prefix(draft))


def _bytes(draft: Draft, ids: dict[str, int]) -> None:
    for byte in range(256):
        if f"<0x{byte:02X}>" not in ids:
            raise draft.source.wrong("model.vocab", f"the byte token <0x{byte:02X}> is missing")
    for i, text in draft.tokens.items():
        if _BYTE.fullmatch(text):
            draft.types[i] = TokenType.BYTE


def _steps(draft: Draft, member: str) -> list[dict[str, Any]]:
    try:
        return pieces_of(draft.source.tokenizer.get(member))
    except Unknown as problem:
        raise draft.source.wrong(member, str(problem)) from None


def _is_replace(step: dict[str, Any], pattern: dict[str, str], content: str) -> bool:
    found = step.get("pattern"), step.get("content")
    return step.get("type") == "Replace" and found == (pattern, content)


def _space_prefix(draft: Draft) -> bool:
    """Whether a space is put before the text; spaces become ▁ in any case."""
    steps, cuts = _steps(draft, "normalizer"), _steps(draft, "pre_tokenizer")
    escaped = bool(steps) and _is_replace(steps[-1], {"String": " "}, _SPACE)
    if escaped:
        steps = steps[:-1]
        # No space is left for it to cut at.
        cuts = [c for c in cuts if c.get("pattern") != {"String": " "}]
    prefix = bool(steps) and steps[0] == {"type": "Prepend", "prepend": _SPACE}
    if prefix and escaped:
        steps = steps[1:]
    if not escaped and len(cuts) == 1 and cuts[0].get("type") == "Metaspace":
        scheme = cuts[0].get("prepend_scheme", "always")
        prefix = scheme != "never" and bool(cuts[0].get("add_prefix_space", True))
        if cuts[0].get("replacement") != _SPACE or cuts[0].get("split", True):
            draft.inexact("it cuts the text at spaces")
        if prefix:
            where = "every piece of text" if scheme == "always" else "the text's beginning"
            draft.inexact(
                f"it puts a space before {where} unless there is one (Metaspace, {scheme!r});"
                " llama.cpp always does, and after each special token"
            )
        cuts, escaped = [], True
    for step in (*steps, *cuts):
        draft.inexact(f"it has a step of type {str(step.get('type'))[:40]!r}")
    if not escaped:
        draft.inexact("it does not write spaces as ▁")
    return prefix


def sentencepiece_file(draft: Draft) -> None:
    """Fill a draft from a tokenizer.model."""
    source = draft.source
    file = read_sentencepiece(source.path / "tokenizer.model")
    for i, piece in enumerate(file.pieces):
        user = piece.type == TokenType.USER_DEFINED
        draft.tokens[i] = piece.text.replace(_SPACE, " ") if user else piece.text
        draft.types[i] = piece.type
        draft.scores[i] = piece.score
        if piece.type == TokenType.BYTE and not _BYTE.fullmatch(piece.text):
            raise source.wrong("pieces", f"byte token {i} is {quote(piece.text)}")
    for token in source.added.values():
        text = token.content if token.special else token.content.replace(_SPACE, " ")
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
        _bytes(draft, ids)
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
        _charsmap(draft, file.charsmap)
        if file.as_suffix:
            draft.set("treat_whitespace_as_suffix", True)
        if TokenType.BYTE in draft.types.values():
            draft.inexact("its Unigram model falls back to bytes, and llama.cpp's does not")
    else:
        raise ModelError(
            f"{source.path / 'tokenizer.model'}: SentencePiece model type {file.model_type} has no"
            " place in a GGUF; known are 1 (unigram) and 2 (BPE)"
        )
    draft.set("pre", "default")


def _charsmap(draft: Draft, charsmap: bytes) -> None:
    if charsmap:
        if len(charsmap) < 4 or int.from_bytes(charsmap[:4], "little") + 4 >= len(charsmap):
            raise draft.source.wrong("precompiled_charsmap", f"{len(charsmap)} bytes hold no map")
        draft.set("precompiled_charsmap", charsmap)


def unigram(draft: Draft, model: dict[str, Any]) -> None:
    """Fill a draft from a Unigram model."""
    pieces = model.get("vocab")
    if not isinstance(pieces, list):
        raise draft.source.wrong("model.vocab", "expected a list")
    vocab: dict[str, int] = {}
    for i, entry in enumerate(pieces):
        if (
            not isinstance(entry, list)
            or len(entry) != 2
            or not isinstance(entry[0], str)
            or type(entry[1]) not in (int, float)
            or not math.isfinite(entry[1])
        ):
            raise draft.source.wrong(f"model.vocab[{i}]", "expected a text and its score")
        if vocab.setdefault(entry[0], i) != i:
            raise draft.source.wrong(
                f"model.vocab[{i}]", f"{quote(entry[0])} is token {vocab[entry[0]]} too"
            )
        draft.scores[i] = float(entry[1])
    unk = model.get("unk_id")
    if type(unk) is not int or not 0 <= unk < len(pieces):
        raise draft.source.wrong("model.unk_id", f"{unk!r:.40} is no id of {len(pieces)} tokens")
    draft.vocabulary(vocab, pieces[unk][0])
    if model.get("byte_fallback"):
        draft.inexact("its Unigram model falls back to bytes, and llama.cpp's does not")
    normal = [draft.scores[i] for i, kind in draft.types.items() if kind in _REAL]
    if normal and min(draft.scores.values()) < min(normal):
        draft.inexact("a special token is less likely than every normal one")
    draft.set("model", "t5")
    draft.set("pre", "default")
    _unigram_spaces(draft)


def _unigram_spaces(draft: Draft) -> None:
    """Recognise how spaces are prepared: as llama.cpp does it, or as T5 and XLM-R say it."""
    steps, cuts = _steps(draft, "normalizer"), _steps(draft, "pre_tokenizer")
    if steps and steps[0].get("type") == "Precompiled":
        try:
            charsmap = base64.b64decode(str(steps[0].get("precompiled_charsmap")), validate=True)
        except (binascii.Error, ValueError):
            raise draft.source.wrong("normalizer", "precompiled_charsmap is no base64") from None
        _charsmap(draft, charsmap)
        steps = steps[1:]
    trimmed = bool(steps) and _is_replace(steps[0], {"Regex": r"\A +| +\z"}, "")
    stripped = bool(steps) and steps[0].get("type") == "Strip"
    steps = steps[trimmed or stripped :]
    merged = bool(steps) and _is_replace(steps[0], {"Regex": " {2,}"}, " ")
    steps = steps[merged:]
    prefix = {"type": "Prepend", "prepend": _SPACE}
    rest = [s for s in steps if s != prefix]
    prefixed = len(rest) < len(steps)
    if prefixed and rest and _is_replace(rest[0], {"Regex": rf"\A{_SPACE}(?= *\z)"}, ""):
        rest = rest[1:]
    escaped = len(rest) == 1 and _is_replace(rest[0], {"String": " "}, _SPACE)
    kinds = [cut.get("type") for cut in cuts]
    if escaped and not cuts:
        pass
    elif not rest and not prefixed and kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        if cuts[-1].get("prepend_scheme", "always") != "always":
            draft.inexact("it puts a space before the first word alone (Metaspace)")
        if kinds == ["Metaspace"] and not (merged and (trimmed or stripped)):
            draft.note("drops spaces at the text's ends, and joins several to one")
        prefixed = merged = True
    else:
        names = ", ".join(str(s.get("type"))[:40] for s in (*rest, *cuts)) or "none"
        draft.inexact(f"it prepares spaces by {names}")
    draft.set("add_space_prefix", prefixed)
    draft.set("remove_extra_whitespaces", merged)


def wordpiece(draft: Draft, model: dict[str, Any]) -> None:
    """Fill a draft from a WordPiece model."""
    unknown = model.get("unk_token")
    if not isinstance(unknown, str):
        raise draft.source.wrong("model.unk_token", "expected a text")
    draft.vocabulary(model.get("vocab"), unknown)
    prefix = model.get("continuing_subword_prefix", "##")
    if prefix != "##":
        raise ModelError(
            f"{draft.source.file}: continuing_subword_prefix {quote(str(prefix))} has no place in"
            " a GGUF; only '##' has"
        )
    for i, text in draft.tokens.items():
        if draft.types[i] != TokenType.NORMAL or (text[0] == "[" and text[-1] == "]"):
            continue
        inner = text.startswith("##") and len(text) > 2
        draft.tokens[i] = text[2:] if inner else _SPACE + text
    if len(set(draft.tokens.values())) < len(draft.tokens):
        raise draft.source.wrong("model.vocab", "two tokens would have one text in a GGUF")
    steps, cuts = _steps(draft, "normalizer"), _steps(draft, "pre_tokenizer")
    own = next((n for n in (21, 1) if steps[:n] == bert_steps(n > 1)), 0)
    steps = steps[own:]
    if [s.get("type") for s in steps] != ["BertNormalizer"]:
        draft.inexact("it does not normalize text as BERT does")
    settings = steps[0] if steps else {}
    if not settings.get("clean_text", True) or not settings.get("handle_chinese_chars", True):
        draft.inexact("it keeps control characters, or Chinese characters together")
    if [c.get("type") for c in cuts] != ["BertPreTokenizer"]:
        draft.inexact("it does not cut text as BERT does")
    lower = bool(settings.get("lowercase", True))
    strip = settings.get("strip_accents")
    strip = lower if strip is None else bool(strip)
    draft.set("model", "bert")
    draft.set("pre", "default")
    draft.set("normalizer.lowercase", lower)
    draft.set("normalizer.strip_accents", strip)
    if own != len(bert_steps(strip)):
        draft.note("cuts words at vertical tabs, form feeds and U+0085 too")
        if strip:
            draft.note("drops marks that take space, and all but the beginning of Hangul syllables")
    longest = model.get("max_input_chars_per_word", 100)
    if type(longest) is int and longest < 1 << 20:
        draft.note(f"cuts up words of more than {longest} characters too")
