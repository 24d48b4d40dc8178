"""BPE of characters, and bytes for those that are no tokens: `tokenizer.ggml.model` llama, gemma4.

The same tokenizer.json may be either. `llama` joins by the score of what comes of it and can put a
space before the text; `gemma4` has a list of merges, and cuts the text at newlines first.
"""

from __future__ import annotations

import re
from typing import Any

from ..files.quote import quote
from .alphabet import byte_tokens, missing_characters
from .byte_level import merges_make_all, plain_bpe, read_merges
from .draft import Draft
from .habits import ESCAPE, SPACE, WORDS_ALONE, lowercase_steps
from .merges import loose_characters, scores_from_merges
from .pre_tokenizers import PRE_TOKENIZERS, to_json
from .vocabulary import TokenType

__all__ = ["byte_types", "characters", "of_characters", "settle"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

Steps = list[dict[str, Any]]
Merges = list[tuple[str, str]]


def characters(draft: Draft, model: dict[str, Any]) -> None:
    """Fill a draft from a BPE model whose pre-tokenizer does not go over to bytes."""
    unknown = model.get("unk_token")
    ids = draft.vocabulary(model.get("vocab"), unknown if isinstance(unknown, str) else None)
    merges = list(read_merges(draft, model, ids))
    plain_bpe(draft, model)
    if model.get("ignore_merges") and not merges_make_all(merges, model["vocab"]):
        draft.inexact("it takes words that are tokens whole, whatever the merges make of them")
    for i, text in draft.tokens.items():
        # Found in the text as it stands, where a space is a space: what the merges make of
        # spaces is not found but merged.
        if draft.types[i] == TokenType.USER_DEFINED and SPACE in text and text in model["vocab"]:
            draft.types[i] = TokenType.NORMAL
    steps, cuts = draft.steps("normalizer"), draft.steps("pre_tokenizer")
    missing = "" if model.get("byte_fallback") else missing_characters(model["vocab"])
    lines = to_json(PRE_TOKENIZERS["gemma4"], missing)["pretokenizers"]
    words = [WORDS_ALONE, *to_json(PRE_TOKENIZERS["whitespace"], missing)["pretokenizers"]]
    if cuts == words and steps in ([], lowercase_steps()):
        draft.set("normalizer.lowercase", bool(steps))
        _by_merges(draft, "whitespace", ids, merges)
    elif (cuts, steps) == (lines, [ESCAPE]):
        _by_merges(draft, "gemma4", ids, merges)
    else:
        _by_scores(draft, ids, merges, steps, cuts)


def of_characters(draft: Draft, model: dict[str, Any]) -> bool:
    """Whether a BPE model is one of characters; else it is one of bytes."""
    return (
        bool(model.get("byte_fallback"))
        or ESCAPE in draft.steps("normalizer")
        or WORDS_ALONE in draft.steps("pre_tokenizer")
    )


def byte_types(draft: Draft, needed: bool = True) -> None:
    """Give the byte tokens their type.

    Raises:
        FileFormatError: one of them is missing, and they are `needed`.
    """
    texts = set(draft.tokens.values())
    for token in byte_tokens():
        if needed and token not in texts:
            raise draft.source.wrong("model.vocab", f"the byte token {token} is missing")
    for i, text in draft.tokens.items():
        if _BYTE.fullmatch(text):
            draft.types[i] = TokenType.BYTE


def settle(draft: Draft) -> None:
    """Another name for the vocabulary where the one that it has brings a BOS of its own."""
    added = draft.metadata["tokenizer.ggml.add_bos_token"]
    if draft.metadata["tokenizer.ggml.model"] == "gemma4" and not added:
        draft.set("model", "gpt2")
        draft.set("pre", "sarvam-moe")


def _by_merges(draft: Draft, model: str, ids: dict[str, int], merges: Merges) -> None:
    byte_types(draft, needed=bool(draft.source.tokenizer["model"].get("byte_fallback")))
    draft.set("model", model)
    draft.set("pre", model)
    draft.set("merges", [f"{left} {right}" for left, right in merges])


def _by_scores(
    draft: Draft, ids: dict[str, int], merges: Merges, steps: Steps, cuts: Steps
) -> None:
    byte_types(draft)
    split_off = frozenset(
        text for i, text in draft.tokens.items() if draft.types[i] == TokenType.USER_DEFINED
    )
    merged = [token for token in ids if token not in split_off]
    scores, problem = scores_from_merges(ids, merges, split_off)
    prefix = _space_prefix(draft, merged, steps, cuts)
    if problem and not prefix and _whole_lines(merges, ids):
        _by_merges(draft, "gemma4", ids, merges)
        return
    if problem:
        draft.inexact(f"llama.cpp merges by the score of what comes of it, and {problem}")
    loose = next(loose_characters(merged, ids), None)
    if loose is not None:
        draft.inexact(f"the token {quote(loose)} has a character that is no token")
    draft.scores = dict(enumerate(scores))
    draft.set("model", "llama")
    draft.set("pre", "default")
    draft.set("add_space_prefix", prefix)


def _whole_lines(merges: Merges, ids: dict[str, int]) -> bool:
    """Whether merging the same within lines, and whole runs of newlines, changes nothing."""
    if any("\n" in left + right and (left + right).strip("\n") for left, right in merges):
        return False
    runs = [text for text in ids if not text.strip("\n")]
    own = [pair for pair in merges if "\n" in pair[0]]
    return not runs or merges_make_all(own, {text: i for i, text in enumerate(runs)})


def _space_prefix(draft: Draft, merged: list[str], steps: Steps, cuts: Steps) -> bool:
    """Whether a space is put before the text; spaces become U+2581 in any case."""
    escaped = bool(steps) and steps[-1] == ESCAPE
    if escaped:
        steps = steps[:-1]
        # No space is left for it to cut at.
        cuts = [c for c in cuts if c.get("pattern") != {"String": " "}]
    prefix = steps == [{"type": "Prepend", "prepend": SPACE}]
    if prefix and escaped:
        steps = []
    if not escaped and len(cuts) == 1 and cuts[0].get("type") == "Metaspace":
        scheme = cuts[0].get("prepend_scheme", "always")
        prefix = scheme != "never" and bool(cuts[0].get("add_prefix_space", True))
        # Cutting before each of them changes nothing where no token has one further in.
        split = cuts[0].get("split", True) and any(SPACE in token[1:] for token in merged)
        if cuts[0].get("replacement") != SPACE or split:
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
