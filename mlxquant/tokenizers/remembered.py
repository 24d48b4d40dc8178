"""What a GGUF says of its vocabulary and a tokenizer's files have no place for, in a file beside.

    tokenizer_gguf.json   keys         numbers, truth values and short texts of `tokenizer.ggml.*`
                          token_type   [[type, tokens in a row], …]
                          scores       [[score, tokens in a row], …]; null is tokenizer.json's own
                          templates    the names of the chat templates, in order

`recall` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from .vocabulary import Vocabulary

__all__ = ["REMEMBERED", "is_small", "remember"]

REMEMBERED = "tokenizer_gguf.json"

_PREFIX = "tokenizer.ggml."
_LONGEST = 200


def remember(
    metadata: Mapping[str, Any], vocabulary: Vocabulary, tokenizer: Mapping[str, Any]
) -> str:
    """The text of the file.

    Args:
        metadata: the GGUF's.
        vocabulary: the same, checked.
        tokenizer: the content of tokenizer.json that was made of it.
    """
    facts: dict[str, Any] = {
        "keys": {
            key.removeprefix(_PREFIX): value
            for key, value in metadata.items()
            if key.startswith(_PREFIX) and is_small(value)
        },
        "token_type": _runs(vocabulary.types),
    }
    if len(vocabulary.templates) > 1:
        facts["templates"] = list(vocabulary.templates)
    scores: Iterable[float | None] = vocabulary.scores
    if vocabulary.model == "t5":
        own = (score for _, score in tokenizer["model"]["vocab"])
        scores = (None if s == o else s for s, o in zip(vocabulary.scores, own, strict=True))
    if vocabulary.scores:
        facts["scores"] = _runs(scores)
    return json.dumps(facts) + "\n"


def is_small(value: Any) -> bool:
    """Whether it is a value that the file keeps."""
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return isinstance(value, int | float) and 0 <= value < 1 << 32


def _runs(values: Iterable[Any]) -> list[list[Any]]:
    return [[value, len(list(group))] for value, group in groupby(values)]
