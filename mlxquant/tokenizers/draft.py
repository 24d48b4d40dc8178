"""A GGUF vocabulary in the making: tokens by id, their types, and what is to be said about them."""

from __future__ import annotations

from array import array
from math import isfinite
from typing import Any

from ..errors import ModelError
from ..files.quote import quote
from .folder import AddedToken, TokenizerFolder
from .habits import ALWAYS_FOUND, ENDS_BY_TEXT, swallows
from .recognise import Unknown, pieces_of
from .vocabulary import LONGEST_TOKEN, MOST_TOKENS, TokenType

__all__ = ["Draft"]


class Draft:
    """What becomes the metadata.

    Attributes:
        source: the folder's files.
        name, architecture: the GGUF's `general.name` and `general.architecture`.
        tokens, types: by id; None where no token has the id.
        scores: by id, for models that have scores.
        metadata: the keys as they become known.
        notes: what llama.cpp does otherwise, a sentence each.
    """

    def __init__(
        self, source: TokenizerFolder, name: str, architecture: str, approximate: bool
    ) -> None:
        self.source = source
        self.name = name
        self.architecture = architecture
        self.approximate = approximate
        self.tokens: dict[int, str] = {}
        self.types: dict[int, int] = {}
        self.scores: dict[int, float] = {}
        self.metadata: dict[str, Any] = {}
        self.notes: list[str] = []

    def steps(self, member: str) -> list[dict[str, Any]]:
        """The parts of tokenizer.json's normalizer or pre_tokenizer, in order.

        Raises:
            FileFormatError: the member is not what it should be.
        """
        try:
            return pieces_of(self.source.tokenizer.get(member))
        except Unknown as problem:
            raise self.source.wrong(member, str(problem)) from None

    def set(self, key: str, value: Any) -> None:
        """Set `tokenizer.ggml.<key>`."""
        self.metadata[f"tokenizer.ggml.{key}"] = value

    def note(self, what: str) -> None:
        """Say what llama.cpp does otherwise; `what` follows its name."""
        self.notes.append(f"llama.cpp {what}")

    def inexact(self, what: str) -> None:
        """Refuse the tokenizer for `what`, or note it where that was asked for.

        Raises:
            ModelError: not `approximate`.
        """
        if not self.approximate:
            raise ModelError(
                f"{self.source.file}: the tokenizer is not known exactly: {what}; pass"
                " --approximate-tokenizer to write one that gives other ids for some texts"
            )
        self.notes.append(f"not exact: {what}")

    def vocabulary(self, vocab: Any, unknown: str | None = None) -> dict[str, int]:
        """Take in the model's own vocabulary, text to id, and the added tokens.

        Returns:
            text to id, of all tokens.
        """
        if not isinstance(vocab, dict) or not 0 < len(vocab) <= MOST_TOKENS:
            raise self.source.wrong("model.vocab", f"expected 1 to {MOST_TOKENS} tokens")
        for text, id_ in vocab.items():
            if type(id_) is not int or not 0 <= id_ < MOST_TOKENS:
                raise self.source.wrong("model.vocab", f"{quote(text)} has no id but {id_!r:.40}")
            if len(text) > LONGEST_TOKEN:
                raise self.source.wrong("model.vocab", f"a token of {len(text)} characters")
            if self.tokens.setdefault(id_, text) is not text:
                raise self.source.wrong(
                    "model.vocab",
                    f"id {id_} is given to {quote(self.tokens[id_])} and {quote(text)}",
                )
            self.types[id_] = TokenType.NORMAL
        ids = dict(vocab)
        for token in self.source.added.values():
            if self.tokens.get(token.id, token.content) != token.content:
                raise self.source.wrong(
                    "added_tokens",
                    f"id {token.id} is {quote(token.content)} here and"
                    f" {quote(self.tokens[token.id])} in the vocabulary",
                )
            if ids.setdefault(token.content, token.id) != token.id:
                raise self.source.wrong(
                    "added_tokens",
                    f"{quote(token.content)} has the ids {ids[token.content]} and {token.id}",
                )
            self.tokens[token.id] = token.content
            self.types[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
            self._check_added(token)
        if unknown is not None:
            if unknown not in ids:
                raise self.source.wrong("model.unk_token", f"{quote(unknown)} is no token")
            self.types[ids[unknown]] = TokenType.UNKNOWN
            self.set("unknown_token_id", ids[unknown])
        if "" in ids:
            raise self.source.wrong("model.vocab", f"token {ids['']} is empty")
        return ids

    def _check_added(self, token: AddedToken) -> None:
        content = quote(token.content)
        if token.single_word:
            self.inexact(f"the added token {content} counts as a single word only")
        if (token.lstrip, token.rstrip) != swallows(
            token.content, self.name, self.architecture, ""
        ):
            does = "swallows" if token.lstrip or token.rstrip else "does not swallow"
            self.inexact(
                f"the added token {content} {does} the whitespace beside it, and llama.cpp"
                " takes that from the model's name and architecture alone"
            )
        if token.normalized and not self._unmoved(token.content):
            self.inexact(f"the added token {content} is looked for in normalized text")

    def _unmoved(self, content: str) -> bool:
        """Whether looking for `content` in normalized text is looking for it in the text."""
        try:
            steps = pieces_of(self.source.tokenizer.get("normalizer"))
        except Unknown:
            return False
        return all(step.get("type") == "NFC" for step in steps) and content.isascii()

    def finish(self, rows: int | None) -> None:
        """Fill the gaps with unused tokens, up to the embedding's rows, and set the arrays.

        Raises:
            ModelError: more tokens than rows.
        """
        count = max(self.tokens) + 1
        if rows is not None and count > rows:
            raise ModelError(
                f"{self.source.file}: token id {count - 1} is beyond the embedding's {rows} rows;"
                " the tokenizer belongs to another model"
            )
        count = max(count, rows or 0)
        if count > MOST_TOKENS:
            raise self.source.wrong("model.vocab", f"{count} tokens; at most {MOST_TOKENS}")
        taken = set(self.tokens.values())
        for i in range(count):
            if i not in self.tokens:
                text = f"[PAD{i}]"
                while text in taken:
                    text = f"[{text}]"
                self.tokens[i] = text
                self.types[i] = TokenType.UNUSED
        self.set("tokens", [self.tokens[i] for i in range(count)])
        if self.scores:
            least = min(self.scores.values())
            scores = array("f", (self.scores.get(i, least) for i in range(count))).tolist()
            if not all(map(isfinite, scores)):
                raise self.source.wrong("model.vocab", "a score beyond what a float32 holds")
            self.set("scores", scores)
        self.set("token_type", [int(self.types[i]) for i in range(count)])

    def text_habits(self) -> None:
        """Note the tokens that llama.cpp treats by their text and not by their type."""
        for i, text in sorted(self.tokens.items()):
            kind = self.types[i]
            if text in ALWAYS_FOUND and kind == TokenType.CONTROL:
                self.note(f"finds {quote(text)} in text even where special tokens are not parsed")
            elif text in ENDS_BY_TEXT and kind in (TokenType.NORMAL, TokenType.USER_DEFINED):
                self.note(f"takes {quote(text)} for a special token that ends an answer")
