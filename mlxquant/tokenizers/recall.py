"""The vocabulary of a GGUF from the files that were made of it: key for key, or not at all.

`remembered` says what is kept. It counts as long as the GGUF that it leads to makes the very
tokenizer.json that is there; and what it says of special tokens, as long as the other files are
those too. Whoever changes a file is not overruled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

from ..errors import InputError
from ..files.json_file import TOKENIZER_LIMIT, read_json_object
from .byte_level import read_merges
from .draft import Draft
from .from_gguf import from_gguf
from .remembered import REMEMBERED, is_small
from .unigram import read_charsmap
from .vocabulary import MERGED, SPECIAL_IDS
from .wordpiece import gguf_text

__all__ = ["recall"]

_PREFIX = "tokenizer.ggml."
_ARRAYS = frozenset(("tokens", "token_type", "scores", "merges", "precompiled_charsmap"))
#: the keys in which the files beside tokenizer.json have a say
_SPECIAL = frozenset((*SPECIAL_IDS.values(), "add_bos_token", "add_eos_token", "add_sep_token"))


class _Other(Exception):
    """What is remembered belongs to another tokenizer."""


def recall(draft: Draft) -> bool | None:
    """Fill a draft from what was remembered.

    Returns:
        None where nothing is remembered of this tokenizer, and the draft is as it was; else whether
        the special tokens are known too.
    Raises:
        FileFormatError: the file is no JSON.
    """
    source = draft.source
    file = source.path / REMEMBERED
    if not file.exists() or not source.tokenizer:
        return None
    facts = read_json_object(file, limit=TOKENIZER_LIMIT)
    names = {"general.name": draft.name, "general.architecture": draft.architecture}
    try:
        metadata = _metadata(facts, draft)
        made = from_gguf({**metadata, **names}, file=file, approximate=True)
    except (_Other, InputError):
        made = {"tokenizer.json": "{}"}
    files = {name: json.loads(text) for name, text in made.items() if name.endswith(".json")}
    if files["tokenizer.json"] != source.tokenizer:
        draft.notes.append(f"{REMEMBERED} is not of this tokenizer.json and is left aside")
        return None
    same = bool(
        files["special_tokens_map.json"] == source.special_tokens_map
        and files["generation_config.json"] == source.generation
        and files["tokenizer_config.json"] == _without_template(source.config)
    )
    _fill(draft, metadata, same)
    named = facts.get("templates")
    for name in named if isinstance(named, list) else ():
        if isinstance(name, str) and name in source.templates:
            source.templates[name] = source.templates.pop(name)
    return same


def _without_template(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "chat_template"}


def _fill(draft: Draft, metadata: Mapping[str, Any], special: bool) -> None:
    keys = {key.removeprefix(_PREFIX): value for key, value in metadata.items()}
    draft.tokens = dict(enumerate(keys.pop("tokens")))
    draft.types = dict(enumerate(keys.pop("token_type")))
    draft.scores = dict(enumerate(keys.pop("scores", ())))
    for key, value in keys.items():
        if special or key not in _SPECIAL:
            draft.set(key, value)


def _metadata(facts: Mapping[str, Any], draft: Draft) -> dict[str, Any]:
    """The keys of the GGUF, but for its templates.

    Raises:
        _Other: the two files do not fit together.
    """
    keys, model = facts.get("keys"), draft.source.tokenizer.get("model")
    if not isinstance(keys, dict) or not isinstance(model, dict):
        raise _Other
    if not _ARRAYS.isdisjoint(keys) or not all(map(is_small, keys.values())):
        raise _Other
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        texts = {i: entry[0] for i, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    elif isinstance(vocab, dict):
        texts = {i: text for text, i in vocab.items()}
    else:
        raise _Other
    texts |= {token.id: token.content for token in draft.source.added.values()}
    count = len(texts)
    tokens = [text for i in range(count) if isinstance(text := texts.get(i), str) and text]
    if len(tokens) < count:
        raise _Other
    types = _values(facts.get("token_type"), count)
    if keys.get("model") == "bert":
        tokens = [gguf_text(text, kind) for text, kind in zip(tokens, types, strict=True)]
    metadata = {**keys, "tokens": tokens, "token_type": types}
    if "scores" in facts:
        scores = _values(facts["scores"], count)
        own = [entry[-1] for entry in vocab] if isinstance(vocab, list) else [None] * count
        metadata["scores"] = [o if s is None else s for s, o in zip(scores, own, strict=False)]
    if keys.get("model") in MERGED:
        pairs = read_merges(draft, model, {text: i for i, text in enumerate(tokens)})
        metadata["merges"] = [f"{left} {right}" for left, right in pairs]
    elif charsmap := read_charsmap(draft):
        metadata["precompiled_charsmap"] = charsmap
    return {_PREFIX + key: value for key, value in metadata.items()}


def _values(runs: Any, count: int) -> list[Any]:
    """Runs of one value each, written out."""
    try:
        if sum(length for _, length in runs) != count or any(length < 1 for _, length in runs):
            raise _Other
        return list(chain.from_iterable(repeat(value, length) for value, length in runs))
    except (TypeError, ValueError):
        raise _Other from None
