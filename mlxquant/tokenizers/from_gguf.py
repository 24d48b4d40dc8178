"""From a GGUF vocabulary to the files of a Hugging Face tokenizer that gives llama.cpp's ids.

Ids and not names are what is kept: the tokenizer cuts text as llama.cpp does with this file, which
is not always what the model's authors wrote (llama.cpp never normalizes for byte-level BPE).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

from .decimals import tokenizer_text
from .gguf_parts import merged, sentencepiece, unigram, wordpiece
from .gguf_source import FOUND, GgufSource
from .habits import ENDS_BY_TEXT, ends_message_only, swallows
from .remembered import REMEMBERED, remember
from .vocabulary import TokenType, read_vocabulary

__all__ = ["from_gguf"]

_PARTS = {
    "gpt2": merged,
    "gemma4": merged,
    "whitespace": merged,
    "llama": sentencepiece,
    "bert": wordpiece,
    "t5": unigram,
}


def from_gguf(
    metadata: Mapping[str, Any],
    *,
    file: str | PathLike[str] = "GGUF metadata",
    approximate: bool = False,
    notes: list[str] | None = None,
) -> dict[str, str]:
    """The files of a tokenizer that gives the ids that llama.cpp gives for this vocabulary.

    Args:
        metadata: the GGUF's keys and values as Python values; only `tokenizer.*`, `general.name`
            and `general.architecture` are read.
        file: the GGUF's name for messages.
        approximate: take llama.cpp's `default` for a pre-tokenizer that is not known exactly, and
            accept what can only be had nearly.
        notes: what the tokenizer does otherwise than llama.cpp is added here, a sentence each.
    Returns:
        file name to text: tokenizer.json, tokenizer_config.json, special_tokens_map.json,
        generation_config.json (the ids alone), tokenizer_gguf.json (what the others have no place
        for) and, where the GGUF has one, chat_template.jinja.
    Raises:
        FileFormatError: a bad vocabulary.
        ModelError: a tokenizer that is not known exactly, and not `approximate`.
    """
    vocabulary = read_vocabulary(metadata, file)
    builder = _Builder(GgufSource(vocabulary, file, approximate))
    tokenizer = builder.tokenizer()
    files = {
        "tokenizer.json": tokenizer_text(tokenizer),
        "tokenizer_config.json": _json(builder.config()),
        "special_tokens_map.json": _json(builder.special_tokens()),
        "generation_config.json": _json(builder.generation()),
        REMEMBERED: remember(metadata, vocabulary, tokenizer),
    }
    for name, text in vocabulary.templates.items():
        files[f"additional_chat_templates/{name}.jinja" if name else "chat_template.jinja"] = text
    if notes is not None:
        notes += builder.source.notes
    return files


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


class _Builder:
    def __init__(self, source: GgufSource) -> None:
        self.source = source
        self.vocabulary = source.vocabulary
        self.types = source.types
        self.texts = source.texts

    def tokenizer(self) -> dict[str, Any]:
        """The content of tokenizer.json."""
        parts = _PARTS[self.vocabulary.model](self.source)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self._added_tokens(),
            "normalizer": parts.get("normalizer"),
            "pre_tokenizer": parts.get("pre_tokenizer"),
            "post_processor": self._post_processor(),
            "decoder": parts["decoder"],
            "model": parts["model"],
        }

    def _added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are found in the text before anything else is done with it."""
        vocabulary = self.vocabulary
        tokens = []
        for i, (text, kind) in enumerate(zip(self.texts, self.types, strict=True)):
            if kind not in FOUND:
                continue
            left, right = swallows(text, vocabulary.name, vocabulary.architecture, vocabulary.pre)
            tokens.append(
                {
                    "id": i,
                    "content": text,
                    "single_word": False,
                    "lstrip": left,
                    "rstrip": right,
                    "normalized": False,
                    "special": kind != TokenType.USER_DEFINED,
                }
            )
        if any(token["lstrip"] or token["rstrip"] for token in tokens):
            self.source.notes.append(
                "the tokenizer swallows whitespace beyond ASCII beside special tokens too"
            )
        return tokens

    def _post_processor(self) -> dict[str, Any] | None:
        """What llama.cpp puts around a text."""
        model = self.vocabulary.model
        bert = model == "bert"
        source = self.source
        bos = bert or source.adds_bos
        eos = not bert and source.flag("add_eos_token", model == "t5")
        before = [source.id_of("bos", "add_bos_token")] if bos else []
        after = [source.id_of("sep" if bert else "eos", "add_eos_token")] if bert or eos else []
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
            or (role in ids and self.types[ids[role]] in FOUND[:2])
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
        several = ends_message_only(texts)
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
