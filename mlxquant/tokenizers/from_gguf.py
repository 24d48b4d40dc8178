"""From a GGUF vocabulary to the files of a Hugging Face tokenizer that gives llama.cpp's ids.

Ids and not names are what is kept: the tokenizer cuts text as llama.cpp does with this file, which
is not always what the model's authors wrote (llama.cpp never normalizes for byte-level BPE).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..errors import FileFormatError, ModelError
from ..files.quote import quote
from .habits import ENDS_BY_TEXT, NOT_STRIPPED, bert_steps, effective_types, unigram_steps
from .merges import loose_characters, merges_from_scores
from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, to_json
from .vocabulary import TokenType, Vocabulary, read_vocabulary

__all__ = ["from_gguf"]

_SPACE = "▁"
#: bound on the squared lengths of all tokens: forty times that of the largest vocabulary in use
_MOST_WORK = 1 << 29
#: the types of tokens that are found in the text before anything else is done with it
_FOUND = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


def from_gguf(
    metadata: Mapping[str, Any],
    *,
    file: str | PathLike[str] = "GGUF metadata",
    approximate: bool = False,
) -> dict[str, str]:
    """The files of a tokenizer that gives the ids that llama.cpp gives for this vocabulary.

    Args:
        metadata: the GGUF's keys and values as Python values; only `tokenizer.*` and
            `general.name` are read.
        file: the GGUF's name for messages.
        approximate: take llama.cpp's `default` for a pre-tokenizer that is not known exactly, and
            accept what can only be had nearly.
    Returns:
        file name to text: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
        generation_config.json (the ids alone) and, where the GGUF has one, chat_template.jinja.
    Raises:
        FileFormatError: a bad vocabulary.
        ModelError: a tokenizer that is not known exactly, and not `approximate`.
    """
    vocabulary = read_vocabulary(metadata, file)
    builder = _Builder(vocabulary, file, approximate)
    files = {
        "tokenizer.json": json.dumps(builder.tokenizer(), ensure_ascii=False) + "\n",
        "tokenizer_config.json": _json(builder.config()),
        "special_tokens_map.json": _json(builder.special_tokens()),
        "generation_config.json": _json(builder.generation()),
    }
    for name, text in vocabulary.templates.items():
        files[f"additional_chat_templates/{name}.jinja" if name else "chat_template.jinja"] = text
    return files


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


class _Builder:
    def __init__(
        self, vocabulary: Vocabulary, file: str | PathLike[str], approximate: bool
    ) -> None:
        self.vocabulary = vocabulary
        self.file = file
        self.approximate = approximate
        self.row = PreTokenizer(())
        if vocabulary.model == "gpt2":
            self.row = self._row()
        self.types = effective_types(vocabulary)
        self.texts = self._texts()

    def _row(self) -> PreTokenizer:
        name = self.vocabulary.pre or "default"
        if name in PRE_TOKENIZERS:
            return PRE_TOKENIZERS[name]
        if self.approximate:
            return PRE_TOKENIZERS["default"]
        raise self._inexact(f"its pre-tokenizer {quote(name)} is not known exactly")

    def _inexact(self, what: str) -> ModelError:
        return ModelError(
            f"{self.file}: {what}; pass --approximate-tokenizer to accept other ids than"
            " llama.cpp's for some texts"
        )

    def _texts(self) -> tuple[str, ...]:
        """The tokens as the library's model holds them: WordPiece marks what continues a word."""
        tokens = self.vocabulary.tokens
        if self.vocabulary.model != "bert":
            return tokens
        texts = []
        for token, kind in zip(tokens, self.types, strict=True):
            if token.startswith(_SPACE):
                texts.append(token[1:])
            elif kind == TokenType.NORMAL and not (token[0] == "[" and token[-1] == "]"):
                texts.append(f"##{token}")
            else:
                texts.append(token)
        if len(set(texts)) < len(texts):
            raise FileFormatError(
                self.file,
                "tokenizer.ggml.tokens",
                "bad vocabulary: two tokens are the same piece of a word",
            )
        return tuple(texts)

    def flag(self, name: str, default: bool) -> bool:
        return self.vocabulary.flags.get(name, default)

    def tokenizer(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        build = {
            "gpt2": self._byte_level,
            "llama": self._sentencepiece,
            "bert": self._wordpiece,
            "t5": self._unigram,
        }[self.vocabulary.model]
        parts = {
            "normalizer": None,
            "pre_tokenizer": None,
            "decoder": None,
        } | build()
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_tokens(),
            "normalizer": parts["normalizer"],
            "pre_tokenizer": parts["pre_tokenizer"],
            "post_processor": self._post_processor(),
            "decoder": parts["decoder"],
            "model": parts["model"],
        }

    def _added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are found in the text before anything else is done with it."""
        phi3 = any(name in self.vocabulary.name.lower() for name in ("phi-3", "phi3"))
        mask = self.vocabulary.pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code")
        return [
            {
                "id": i,
                "content": self.texts[i],
                "single_word": False,
                "lstrip": mask and self.texts[i] == "<mask>",
                "rstrip": phi3 and self.texts[i] not in NOT_STRIPPED,
                "normalized": False,
                "special": kind != TokenType.USER_DEFINED,
            }
            for i, kind in enumerate(self.types)
            if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        ]

    def _post_processor(self) -> dict[str, Any] | None:
        """What llama.cpp puts around a text."""
        model = self.vocabulary.model
        bert = model == "bert"
        bos = bert or self.flag("add_bos_token", model == "llama" or self.row.add_bos)
        eos = not bert and self.flag("add_eos_token", model == "t5")
        before = [self._id("bos", "add_bos_token")] if bos else []
        after = [self._id("sep" if bert else "eos", "add_eos_token")] if bert or eos else []
        if not before and not after:
            return None

        def special(id_: int, type_id: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": self.texts[id_], "type_id": type_id}}

        def around(name: str, type_id: int) -> list[dict[str, Any]]:
            sequence = {"Sequence": {"id": name, "type_id": type_id}}
            return [
                *(special(i, type_id) for i in before),
                sequence,
                *(special(i, type_id) for i in after),
            ]

        return {
            "type": "TemplateProcessing",
            "single": around("A", 0),
            "pair": [*around("A", 0), *around("B", 1)],
            "special_tokens": {
                self.texts[i]: {"id": self.texts[i], "ids": [i], "tokens": [self.texts[i]]}
                for i in {*before, *after}
            },
        }

    def _id(self, role: str, flag: str) -> int:
        if role not in self.vocabulary.ids:
            raise FileFormatError(
                self.file,
                f"tokenizer.ggml.{flag}",
                f"bad vocabulary: a token is to be added, but there is no {role} token",
            )
        return self.vocabulary.ids[role]

    def _byte_level(self) -> dict[str, Any]:
        return {
            "pre_tokenizer": to_json(self.row),
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": self._bpe(self.vocabulary.merges, ignore_merges=self.row.ignore_merges),
        }

    def _bpe(self, merges: Any, **settings: Any) -> dict[str, Any]:
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            **settings,
            "vocab": {text: i for i, text in enumerate(self.texts)},
            "merges": [list(pair) for pair in merges],
        }

    def _scores(self) -> tuple[float, ...]:
        if not self.vocabulary.scores:
            raise FileFormatError(
                self.file, "tokenizer.ggml.scores", "bad vocabulary: the key is missing"
            )
        return self.vocabulary.scores

    def _sentencepiece(self) -> dict[str, Any]:
        ids = {text: i for i, text in enumerate(self.texts)}
        missing = [f"<0x{b:02X}>" for b in range(256) if f"<0x{b:02X}>" not in ids]
        if missing:
            raise FileFormatError(
                self.file,
                "tokenizer.ggml.tokens",
                f"bad vocabulary: the byte token {missing[0]} is missing",
            )
        if sum(len(text) ** 2 for text in self.texts) > _MOST_WORK:
            raise FileFormatError(
                self.file,
                "tokenizer.ggml.tokens",
                "bad vocabulary: too many long tokens to find their merges",
            )
        found = {self.texts[i] for i, kind in enumerate(self.types) if kind in _FOUND}
        loose = next(loose_characters((t for t in self.texts if t not in found), ids), None)
        if loose is not None and not self.approximate:
            raise self._inexact(
                f"llama.cpp can join the token {quote(loose)} from a character that is no token"
            )
        prefix = self.flag("add_space_prefix", True)
        escape = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        steps = [{"type": "Prepend", "prepend": _SPACE}, escape] if prefix else [escape]
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
        unknown = self.vocabulary.ids.get("unk")
        return {
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                    *strip,
                ],
            },
            "model": self._bpe(
                merges_from_scores(ids, self._scores()),
                unk_token=None if unknown is None else self.texts[unknown],
                fuse_unk=True,
                byte_fallback=True,
            ),
        }

    def _wordpiece(self) -> dict[str, Any]:
        lower = self.flag("normalizer.lowercase", True)
        strip = self.flag("normalizer.strip_accents", lower)
        normalizer = {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": strip,
            "lowercase": lower,
        }
        return {
            "normalizer": {"type": "Sequence", "normalizers": [*bert_steps(strip), normalizer]},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": self.texts[self._id("unk", "unknown_token_id")],
                "continuing_subword_prefix": "##",
                # llama.cpp gives up on no word for its length.
                "max_input_chars_per_word": 1 << 31,
                "vocab": {text: i for i, text in enumerate(self.texts)},
            },
        }

    def _unigram(self) -> dict[str, Any]:
        if self.flag("treat_whitespace_as_suffix", False) and not self.approximate:
            raise self._inexact("its tokens end in spaces instead of beginning with them")
        scores = self._scores()
        normal = [s for s, kind in zip(scores, self.types, strict=True) if kind == TokenType.NORMAL]
        # The unknown token costs 10 more than the least likely normal one, so no other token
        # may be less likely; tokens that stand in no text keep their place in the list.
        least = min(normal, default=0.0)
        pieces = [[text, max(score, least)] for text, score in zip(self.texts, scores, strict=True)]
        steps = unigram_steps(
            self.vocabulary.charsmap,
            self.flag("remove_extra_whitespaces", False),
            self.flag("add_space_prefix", False),
        )
        return {
            "normalizer": {"type": "Sequence", "normalizers": steps},
            "decoder": {
                "type": "Metaspace",
                "replacement": _SPACE,
                "prepend_scheme": "always",
                "split": True,
            },
            "model": {
                "type": "Unigram",
                "unk_id": self._id("unk", "unknown_token_id"),
                "vocab": pieces,
                "byte_fallback": False,
            },
        }

    def config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json."""
        return {
            # The one class that adds nothing of its own to what tokenizer.json says.
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special_tokens(),
            "add_bos_token": self._adds("single", 0),
            "add_eos_token": self._adds("single", -1),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1000000000000000019884624838656,
        }

    def _adds(self, which: str, at: int) -> bool:
        processor = self._post_processor()
        return processor is not None and "SpecialToken" in processor[which][at]

    def special_tokens(self) -> dict[str, str]:
        """The content of special_tokens_map.json."""
        ids = self.vocabulary.ids
        tokens = {
            f"{role}_token": self.texts[ids[role]]
            for role in ("bos", "eos", "mask", "pad", "sep", "unk")
            if role in self.vocabulary.given
            # An id that llama.cpp assumes may be any token in this vocabulary.
            or (role in ids and self.types[ids[role]] in _FOUND[:2])
        }
        if self.vocabulary.model == "bert" and "bos_token" in tokens:
            tokens["cls_token"] = tokens.pop("bos_token")
        return tokens

    def generation(self) -> dict[str, Any]:
        """The ids that generation needs: where it begins, and everything that ends it."""
        ids = self.vocabulary.ids
        known = self.vocabulary.given
        ends = [ids[role] for role in ("eos", "eot", "eom") if role in known]
        texts = set(self.texts)
        # With these two, <|end|> only ends one of several messages of an answer.
        several = {"<|return|>", "<|call|>"} <= texts or {"<|calls|>", "<|flush|>"} <= texts
        ends += [
            i
            for i, (text, kind) in enumerate(zip(self.texts, self.vocabulary.types, strict=True))
            if kind == TokenType.CONTROL
            and text in ENDS_BY_TEXT
            and not (several and text == "<|end|>")
            and not (text == "</s>" and "<|tool_response>" in texts)
        ]
        result: dict[str, Any] = {}
        if "bos" in known:
            result["bos_token_id"] = ids["bos"]
        if ends:
            unique = list(dict.fromkeys(ends))
            result["eos_token_id"] = unique[0] if len(unique) == 1 else unique
        if "pad" in known:
            result["pad_token_id"] = ids["pad"]
        return result
