"""Byte-level BPE (GPT-2 and after): `tokenizer.ggml.model` gpt2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..files.quote import quote
from .alphabet import missing_bytes
from .draft import Draft
from .recognise import Unknown, recognise

__all__ = ["byte_level", "merges_make_all", "plain_bpe", "read_merges"]


def byte_level(draft: Draft, model: dict[str, Any]) -> None:
    """Fill a draft from the BPE model of a tokenizer.json."""
    ids = draft.vocabulary(model.get("vocab"))
    merges = list(read_merges(draft, model, ids))
    plain_bpe(draft, model)
    unknown = model.get("unk_token")
    missing = missing_bytes(ids)
    if unknown is not None and missing:
        draft.inexact("it has an unknown token, and bytes that are no token")

    def own_merges() -> bool:
        return merges_make_all(merges, model["vocab"])

    try:
        ignore = bool(model.get("ignore_merges"))
        pre, notes = recognise(
            draft.source.tokenizer.get("pre_tokenizer"), ignore, own_merges, missing
        )
    except Unknown as problem:
        draft.inexact(f"llama.cpp has no pre-tokenizer that {problem}")
        pre, notes = "default", []
    draft.set("model", "gpt2")
    draft.set("pre", pre)
    for note in notes:
        draft.note(note)
    _normalizer(draft)
    draft.set("merges", [f"{left} {right}" for left, right in merges])


def plain_bpe(draft: Draft, model: dict[str, Any]) -> None:
    """Refuse what changes how BPE merges."""
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            draft.inexact(f"its BPE model has {name} {str(model[name])[:40]!r}")


def read_merges(
    draft: Draft, model: dict[str, Any], ids: dict[str, int]
) -> Iterator[tuple[str, str]]:
    """The merges of a BPE model, pairs of tokens, in the order of their ranks."""
    listed = model.get("merges")
    if not isinstance(listed, list):
        raise draft.source.wrong("model.merges", "expected a list")
    for i, merge in enumerate(listed):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(token, str) and token for token in pair)
        ):
            raise draft.source.wrong(f"model.merges[{i}]", "expected a pair of tokens")
        left, right = pair
        for token in (left, right, left + right):
            if token not in ids:
                raise draft.source.wrong(
                    f"model.merges[{i}]",
                    f"{quote(f'{left} {right}')} names {quote(token)}, which is no token",
                )
        if " " in left or " " in right:
            draft.inexact(f"the merge {quote(f'{left} {right}')} has a space within a token")
        yield left, right


def _normalizer(draft: Draft) -> None:
    for step in draft.steps("normalizer"):
        if step.get("type") == "NFC":
            draft.note("does not bring the text into Unicode's normal form C first")
        else:
            draft.inexact(f"it normalizes text by {str(step.get('type'))[:40]!r}")


def merges_make_all(merges: list[tuple[str, str]], vocab: dict[str, int]) -> bool:
    """Whether merging the text of each token gives that token alone."""
    from tokenizers.models import BPE

    model = BPE(vocab=vocab, merges=merges)
    return all(len(model.tokenize(token)) == 1 for token in vocab)
