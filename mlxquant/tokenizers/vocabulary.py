"""A GGUF vocabulary: the checked form of a file's `tokenizer.ggml.*` keys.

Nothing is repaired: llama.cpp would read past a short array or pick another id in silence, and a
tokenizer built from such a file would be a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from os import PathLike
from typing import Any

from ..errors import FileFormatError
from ..files.quote import quote

__all__ = ["MERGED", "SPECIAL_IDS", "TokenType", "Vocabulary", "read_vocabulary"]

#: the longest token, characters: the longest of real vocabularies have a few hundred
LONGEST_TOKEN = 4096
#: the most tokens: ten times the largest vocabularies in use
MOST_TOKENS = 4_000_000
#: the longest chat template, characters
LONGEST_TEMPLATE = 4 << 20

_PREFIX = "tokenizer.ggml."
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: role to the key that holds its id (`seperator` is how the format spells it)
SPECIAL_IDS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "fim_pre": "fim_pre_token_id",
    "fim_suf": "fim_suf_token_id",
    "fim_mid": "fim_mid_token_id",
    "fim_pad": "fim_pad_token_id",
    "fim_rep": "fim_rep_token_id",
    "fim_sep": "fim_sep_token_id",
}

#: the roles that have an older key beside theirs, which counts where both are there
_OLD_KEYS = {
    "fim_pre": "prefix_token_id",
    "fim_suf": "suffix_token_id",
    "fim_mid": "middle_token_id",
}

#: the models that are BPE with a list of merges
MERGED = ("gpt2", "gemma4", "whitespace")

#: what llama.cpp takes for the ids that a file leaves out
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "gpt2": {"bos": 11, "eos": 11},
    "whitespace": {"bos": 11, "eos": 11},
    "gemma4": {},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_LAST_TYPE = int(max(TokenType))


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says about its tokenizer.

    Attributes:
        model: `gpt2` (BPE, mostly of bytes), `gemma4` and `whitespace` (BPE of characters),
            `llama` (SentencePiece-style BPE), `bert` (WordPiece) or `t5` (Unigram).
        pre: the pre-tokenizer's name; BPE alone has one.
        tokens: texts, each once, in the order of their ids.
        scores: one a token; empty where the file has none.
        types: one a token.
        merges: pairs of token texts, the most urgent first.
        ids: role (see `SPECIAL_IDS`) to token id; llama.cpp's own where the file has none.
        given: the roles that the file itself names.
        flags: `add_bos_token`, `add_space_prefix`, … as far as the file has them.
        charsmap: the precompiled normalization of a Unigram model.
        templates: name to chat template; the first one's name is empty.
        name: `general.name`, which llama.cpp reads a model's habits from.
        architecture: `general.architecture`, from which it reads some too.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    merges: tuple[tuple[str, str], ...]
    ids: dict[str, int]
    given: frozenset[str]
    flags: dict[str, bool]
    charsmap: bytes
    templates: dict[str, str]
    name: str
    architecture: str


def read_vocabulary(metadata: Mapping[str, Any], file: str | PathLike[str]) -> Vocabulary:
    """Check the vocabulary of a GGUF file.

    Args:
        metadata: the file's keys and values as Python values; arrays as sequences.
        file: the file's name for messages.
    Raises:
        FileFormatError: `bad vocabulary`: a key is missing, or holds what cannot be.
    """
    return _Reader(metadata, file).read()


class _Reader:
    def __init__(self, metadata: Mapping[str, Any], file: str | PathLike[str]) -> None:
        self.metadata = metadata
        self.file = file

    def wrong(self, key: str, reason: str) -> FileFormatError:
        return FileFormatError(self.file, key, f"bad vocabulary: {reason}")

    def read(self) -> Vocabulary:
        model = self.text("model")
        if not model:
            raise self.wrong(f"{_PREFIX}model", "the key is missing; the file has no tokenizer")
        if model not in _DEFAULT_IDS:
            known = ", ".join(sorted(_DEFAULT_IDS))
            raise self.wrong(
                f"{_PREFIX}model", f"tokenizer {quote(model)} is not known; known are {known}"
            )
        tokens = self.tokens()
        types = self.types(tokens)
        ids, given = self.ids(model, len(tokens))
        return Vocabulary(
            model=model,
            pre="gemma4" if model == "gemma4" else self.text("pre") or "default",
            tokens=tokens,
            scores=self.scores(len(tokens)),
            types=types,
            merges=self.merges(set(tokens)) if model in MERGED else (),
            ids=ids,
            given=given,
            flags=dict(self.flags()),
            charsmap=self.charsmap(),
            templates=dict(self.templates()),
            name=self.text("general.name", ""),
            architecture=self.text("general.architecture", ""),
        )

    def text(self, key: str, prefix: str = _PREFIX) -> str:
        value = self.metadata.get(prefix + key, "")
        if not isinstance(value, str):
            raise self.wrong(prefix + key, f"expected a string, found {type(value).__name__}")
        return value

    def array(self, key: str, needed: bool = False) -> list[Any] | None:
        value = self.metadata.get(_PREFIX + key)
        if value is None:
            if needed:
                raise self.wrong(_PREFIX + key, "the key is missing")
            return None
        if isinstance(value, str | bytes) or not hasattr(value, "__len__"):
            raise self.wrong(_PREFIX + key, f"expected an array, found {type(value).__name__}")
        return list(value.tolist() if hasattr(value, "tolist") else value)

    def tokens(self) -> tuple[str, ...]:
        key = f"{_PREFIX}tokens"
        raw = self.array("tokens", needed=True) or []
        if not 0 < len(raw) <= MOST_TOKENS:
            raise self.wrong(key, f"{len(raw)} tokens; expected 1 to {MOST_TOKENS}")
        # llama.cpp names empty tokens so, and must: two of them would be one text.
        tokens = [f"[EMPTY_{i}]" if token == "" else token for i, token in enumerate(raw)]
        for i, token in enumerate(tokens):
            if not isinstance(token, str):
                raise self.wrong(key, f"token {i} is no string but {type(token).__name__}")
            if len(token) > LONGEST_TOKEN:
                raise self.wrong(
                    key, f"token {i} has {len(token)} characters; the limit is {LONGEST_TOKEN}"
                )
            if not token.isascii() and any("\ud800" <= c <= "\udfff" for c in token):
                raise self.wrong(key, f"token {i}, {quote(token)}, is not valid UTF-8")
        if len(set(tokens)) < len(tokens):
            seen: dict[str, int] = {}
            for i, token in enumerate(tokens):
                first = seen.setdefault(token, i)
                if first != i:
                    raise self.wrong(key, f"{quote(token)} is both token {first} and token {i}")
        return tuple(tokens)

    def types(self, tokens: tuple[str, ...]) -> tuple[int, ...]:
        key = f"{_PREFIX}token_type"
        types = self.array("token_type")
        if types is None:
            return (TokenType.NORMAL,) * len(tokens)
        self.length(key, types, len(tokens))
        for i, kind in enumerate(types):
            if type(kind) is not int or not 0 <= kind <= _LAST_TYPE:
                raise self.wrong(
                    key, f"token {i} has type {quote(str(kind))}; expected 0 to {_LAST_TYPE}"
                )
            if kind == TokenType.BYTE and not _BYTE.fullmatch(tokens[i]):
                raise self.wrong(
                    key, f"byte token {i} is {quote(tokens[i])}; expected <0x00> to <0xFF>"
                )
        return tuple(types)

    def scores(self, count: int) -> tuple[float, ...]:
        key = f"{_PREFIX}scores"
        scores = self.array("scores")
        if scores is None:
            return ()
        self.length(key, scores, count)
        for i, score in enumerate(scores):
            if type(score) not in (int, float) or not math.isfinite(score):
                raise self.wrong(key, f"token {i} has score {quote(str(score))}; expected a number")
        return tuple(map(float, scores))

    def length(self, key: str, found: list[Any], expected: int) -> None:
        if len(found) != expected:
            raise self.wrong(key, f"{len(found)} values for {expected} tokens")

    def merges(self, tokens: set[str]) -> tuple[tuple[str, str], ...]:
        key = f"{_PREFIX}merges"
        pairs: dict[tuple[str, str], None] = {}
        needed = self.text("pre") != "kimi-k2"
        for i, merge in enumerate(self.array("merges", needed=needed) or []):
            if not isinstance(merge, str):
                raise self.wrong(key, f"merge {i} is no string but {type(merge).__name__}")
            at = merge.find(" ", 1)
            if at < 0 or at == len(merge) - 1:
                raise self.wrong(key, f"merge {i}, {quote(merge)}, is no pair of tokens")
            left, right = merge[:at], merge[at + 1 :]
            for token in (left, right, left + right):
                if token not in tokens:
                    raise self.wrong(
                        key, f"merge {i}, {quote(merge)}, names {quote(token)}, which is no token"
                    )
            pairs.setdefault((left, right))
        return tuple(pairs)

    def ids(self, model: str, count: int) -> tuple[dict[str, int], frozenset[str]]:
        ids = {role: id_ for role, id_ in _DEFAULT_IDS[model].items() if id_ < count}
        given = set()
        for role, name in (*SPECIAL_IDS.items(), *_OLD_KEYS.items()):
            key = _PREFIX + name
            value = self.metadata.get(key)
            if value is None:
                continue
            if type(value) is not int:
                raise self.wrong(key, f"expected a token id, found {type(value).__name__}")
            if not 0 <= value < count:
                raise self.wrong(key, f"id {value} is outside the vocabulary of {count} tokens")
            ids[role] = value
            given.add(role)
        return ids, frozenset(given)

    def flags(self) -> Iterator[tuple[str, bool]]:
        for name in (
            "add_bos_token",
            "add_eos_token",
            "add_sep_token",
            "add_space_prefix",
            "remove_extra_whitespaces",
            "treat_whitespace_as_suffix",
            "normalizer.lowercase",
            "normalizer.strip_accents",
        ):
            value = self.metadata.get(_PREFIX + name)
            if value is None:
                continue
            if not isinstance(value, bool):
                raise self.wrong(
                    _PREFIX + name, f"expected true or false, found {type(value).__name__}"
                )
            yield name, value

    def charsmap(self) -> bytes:
        key = f"{_PREFIX}precompiled_charsmap"
        raw = self.metadata.get(key)
        if raw is None:
            return b""
        try:
            values = raw if isinstance(raw, bytes) else bytes(v & 255 for v in raw)
        except TypeError:
            raise self.wrong(key, "expected an array of bytes") from None
        # A 4-byte length, the trie of that length, and the texts that it points into.
        if len(values) < 4 or int.from_bytes(values[:4], "little") + 4 >= len(values):
            raise self.wrong(key, f"{len(values)} bytes hold no map")
        return values

    def templates(self) -> Iterator[tuple[str, str]]:
        for key, value in self.metadata.items():
            name = key.removeprefix("tokenizer.chat_template")
            if name == key or (name and not name.startswith(".")):
                continue
            if not isinstance(value, str) or len(value) > LONGEST_TEMPLATE:
                raise self.wrong(key, f"expected a string of at most {LONGEST_TEMPLATE} characters")
            if not re.fullmatch(r"(\.\w[\w-]{0,63})?", name):
                raise self.wrong(key, "the template's name is no file name")
            yield name[1:], value
