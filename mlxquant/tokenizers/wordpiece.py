"""BERT's WordPiece: `tokenizer.ggml.model` bert."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError
from ..files.quote import quote
from .draft import Draft
from .habits import BERT_CUTS, SPACE, bert_steps
from .vocabulary import TokenType

__all__ = ["gguf_text", "wordpiece"]


def gguf_text(text: str, kind: int) -> str:
    """A token as a GGUF has it: what begins a word is marked, not what continues one."""
    if kind != TokenType.NORMAL or (text[0] == "[" and text[-1] == "]"):
        return text
    return text[2:] if text.startswith("##") and len(text) > 2 else SPACE + text


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
        draft.tokens[i] = gguf_text(text, draft.types[i])
    if len(set(draft.tokens.values())) < len(draft.tokens):
        raise draft.source.wrong("model.vocab", "two tokens would have one text in a GGUF")
    steps, cuts = draft.steps("normalizer"), draft.steps("pre_tokenizer")
    settings = steps[-1] if steps else {}
    lower = bool(settings.get("lowercase", True))
    strip = settings.get("strip_accents")
    strip = lower if strip is None else bool(strip)
    own = steps[:-1] == bert_steps(strip, lower)
    if settings.get("type") != "BertNormalizer" or not (own or len(steps) == 1):
        draft.inexact("it does not normalize text as BERT does")
    if not settings.get("clean_text", True) or not settings.get("handle_chinese_chars", True):
        draft.inexact("it keeps control characters, or Chinese characters together")
    if cuts not in (BERT_CUTS, BERT_CUTS[1:]):
        draft.inexact("it does not cut text as BERT does")
    draft.set("model", "bert")
    draft.set("pre", "default")
    draft.set("normalizer.lowercase", lower)
    draft.set("normalizer.strip_accents", strip)
    if not own:
        draft.note("cuts words at vertical tabs, form feeds and U+0085 too")
        if strip:
            draft.note("drops marks that take space, and all but the beginning of Hangul syllables")
    longest = model.get("max_input_chars_per_word", 100)
    if type(longest) is int and longest < 1 << 20:
        draft.note(f"cuts up words of more than {longest} characters too")
