"""A checked GGUF vocabulary on its way to a tokenizer.json: what every kind of model asks of it."""

from __future__ import annotations

from os import PathLike

from ..errors import FileFormatError, ModelError
from ..files.quote import quote
from .habits import SPACE, effective_types
from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from .vocabulary import MERGED, TokenType, Vocabulary

__all__ = ["FOUND", "GgufSource"]

#: the types of tokens that are found in the text before anything else is done with it
FOUND = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


class GgufSource:
    """A vocabulary as llama.cpp goes by it.

    Attributes:
        vocabulary: what the file says.
        row: how words are cut, for BPE; empty for other models.
        types: of the tokens; some texts have a type of their own.
        texts: the tokens as the library's model holds them.
        notes: what the tokenizer does otherwise than llama.cpp, a sentence each.
    """

    def __init__(
        self, vocabulary: Vocabulary, file: str | PathLike[str], approximate: bool
    ) -> None:
        self.vocabulary = vocabulary
        self.file = file
        self.approximate = approximate
        self.notes: list[str] = []
        self.types = effective_types(vocabulary)
        self.row = self._row() if vocabulary.model in MERGED else PreTokenizer(())
        self.texts = self._texts()

    def inexact(self, what: str) -> None:
        """Refuse the vocabulary for `what`, or note it where that was asked for.

        Raises:
            ModelError: not `approximate`.
        """
        if not self.approximate:
            raise ModelError(
                f"{self.file}: {what}; pass --approximate-tokenizer to accept other ids than"
                " llama.cpp's for some texts"
            )
        self.notes.append(f"tokenizer not exact: {what}")

    def wrong(self, key: str, reason: str) -> FileFormatError:
        """An error about a key of the vocabulary."""
        return FileFormatError(self.file, f"tokenizer.ggml.{key}", f"bad vocabulary: {reason}")

    def flag(self, name: str, default: bool) -> bool:
        """One of the file's flags."""
        return self.vocabulary.flags.get(name, default)

    def id_of(self, role: str, flag: str) -> int:
        """The id of a role that `flag` has need of.

        Raises:
            FileFormatError: there is none.
        """
        if role not in self.vocabulary.ids:
            raise self.wrong(flag, f"a token is to be added, but there is no {role} token")
        return self.vocabulary.ids[role]

    def scores(self) -> tuple[float, ...]:
        """One a token.

        Raises:
            FileFormatError: the file has none.
        """
        if not self.vocabulary.scores:
            raise self.wrong("scores", "the key is missing")
        return self.vocabulary.scores

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp begins a text with BOS."""
        default = self.vocabulary.model in ("llama", "bert") or self.row.add_bos
        # It does so for this pre-tokenizer whatever the file says.
        return self.row.lines or self.flag("add_bos_token", default)

    def _row(self) -> PreTokenizer:
        name = self.vocabulary.pre
        if name not in PRE_TOKENIZERS:
            self.inexact(f"its pre-tokenizer {quote(name)} is not known exactly")
            self.notes[-1] += "; text is cut into words by llama.cpp's 'default' instead"
        return PRE_TOKENIZERS.get(name, PRE_TOKENIZERS["default"])

    def _texts(self) -> tuple[str, ...]:
        """WordPiece marks what continues a word; every other model has the tokens as they are."""
        tokens = self.vocabulary.tokens
        if self.vocabulary.model != "bert":
            return tokens
        texts = []
        for token, kind in zip(tokens, self.types, strict=True):
            if token.startswith(SPACE):
                texts.append(token[1:])
            elif kind == TokenType.NORMAL and not (token[0] == "[" and token[-1] == "]"):
                texts.append(f"##{token}")
            else:
                texts.append(token)
        if len(set(texts)) < len(texts):
            raise self.wrong("tokens", "two tokens are the same piece of a word")
        return tuple(texts)
