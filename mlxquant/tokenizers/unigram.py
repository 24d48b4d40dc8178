"""Unigram: `tokenizer.ggml.model` t5."""

from __future__ import annotations

import base64
import binascii
import math
from itertools import product
from typing import Any

from ..files.quote import quote
from .alphabet import closed
from .draft import Draft
from .habits import ESCAPE, SPACE, unigram_steps
from .vocabulary import TokenType

__all__ = ["read_charsmap", "set_charsmap", "unigram"]

_REAL = (TokenType.NORMAL, TokenType.BYTE)
_PREFIX = {"type": "Prepend", "prepend": SPACE}
_MERGE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}


def set_charsmap(draft: Draft, charsmap: bytes) -> None:
    """Set the precompiled normalization, where there is one.

    Raises:
        FileFormatError: it cannot be one.
    """
    if charsmap:
        if len(charsmap) < 4 or int.from_bytes(charsmap[:4], "little") + 4 >= len(charsmap):
            raise draft.source.wrong("precompiled_charsmap", f"{len(charsmap)} bytes hold no map")
        draft.set("precompiled_charsmap", charsmap)


def read_charsmap(draft: Draft) -> bytes:
    """The precompiled normalization of tokenizer.json; empty where it has none.

    Raises:
        FileFormatError: it is no base64.
    """
    for step in draft.steps("normalizer"):
        if step.get("type") == "Precompiled":
            try:
                return base64.b64decode(str(step.get("precompiled_charsmap")), validate=True)
            except (binascii.Error, ValueError):
                message = "precompiled_charsmap is no base64"
                raise draft.source.wrong("normalizer", message) from None
    return b""


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
    normal = [i for i, kind in draft.types.items() if kind in _REAL]
    least = min((draft.scores[i] for i in normal), default=-math.inf)
    if min(draft.scores.values()) < least and not closed(
        draft.tokens.values(), (draft.tokens[i] for i in normal)
    ):
        draft.inexact("a special token is less likely than every normal one")
    draft.set("model", "t5")
    draft.set("pre", "default")
    _unigram_spaces(draft)


def _unigram_spaces(draft: Draft) -> None:
    """Recognise how spaces are prepared: as llama.cpp does it, or as T5 and XLM-R say it."""
    steps, cuts = draft.steps("normalizer"), draft.steps("pre_tokenizer")
    charsmap = read_charsmap(draft)
    set_charsmap(draft, charsmap)
    for merge, prefix in product((False, True), repeat=2):
        if not cuts and steps == unigram_steps(charsmap, merge, prefix):
            _set_spaces(draft, merge, prefix)
            return
    if charsmap and steps[0].get("type") == "Precompiled":
        draft.note("normalizes by the longest match where a letter has combining marks")
        steps = steps[1:]
    stripped = bool(steps) and steps[0].get("type") == "Strip"
    steps = steps[stripped:]
    merged = bool(steps) and steps[0] == _MERGE
    steps = steps[merged:]
    prefixed = steps == [_PREFIX, ESCAPE]
    kinds = [cut.get("type") for cut in cuts]
    if not steps and kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        if cuts[-1].get("prepend_scheme", "always") != "always":
            draft.inexact("it puts a space before the first word alone (Metaspace)")
        if kinds == ["Metaspace"] and not (merged and stripped):
            draft.note("drops spaces at the text's ends, and joins several to one")
        prefixed = merged = True
    elif cuts or not (prefixed or steps == [ESCAPE]):
        names = ", ".join(str(s.get("type"))[:40] for s in (*steps, *cuts)) or "none"
        draft.inexact(f"it prepares spaces by {names}")
    _set_spaces(draft, merged, prefixed)


def _set_spaces(draft: Draft, merge: bool, prefix: bool) -> None:
    draft.set("add_space_prefix", prefix or merge)
    draft.set("remove_extra_whitespaces", merge)
