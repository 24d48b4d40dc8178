"""What llama.cpp makes of tokens by their text, whatever the file says of them.

Facts: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

import base64
from typing import Any

from .vocabulary import TokenType, Vocabulary

__all__ = [
    "ALWAYS_FOUND",
    "ENDS_BY_TEXT",
    "NOT_STRIPPED",
    "bert_steps",
    "effective_types",
    "unigram_steps",
]


_SPACE = "▁"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: tokens that llama.cpp stops at and takes for control tokens, whatever their type
ENDS_BY_TEXT = _words(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn>"
    " <|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance>"
    " <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~["
)
#: tokens that it takes for control tokens where the file names none for their role
_CONTROL_BY_TEXT = _words(
    "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|>"
    " <|prefix|> <|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF>"
    " <|code_suffix|> <|suffix|> <|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID>"
    " ▁<MID> <|code_middle|> <|middle|> <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]"
    " <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>"
)
#: tokens that it always finds in text
ALWAYS_FOUND = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))
#: special tokens of Phi-3 that do not swallow the whitespace behind them
NOT_STRIPPED = frozenset(("<unk>", "<s>", "<|endoftext|>"))


def bert_steps(strip_accents: bool) -> list[dict[str, Any]]:
    """What llama.cpp does to a text before BERT's own normalizer, as steps of a tokenizer.json.

    It cuts words at whitespace that the normalizer drops as control characters. Where accents are
    stripped, a character is replaced by the first of its decomposition, which for a Hangul
    syllable is its leading consonant, and then marks of every kind are dropped, not only those
    that take no space.
    """
    steps = [_replace({"Regex": r"[\x0B\x0C\x{85}]"}, " ")]
    if strip_accents:
        for i in range(19):
            first, last = 0xAC00 + 588 * i, 0xAC00 + 588 * i + 587
            syllables = rf"[\x{{{first:X}}}-\x{{{last:X}}}]"
            steps.append(_replace({"Regex": syllables}, chr(0x1100 + i)))
        steps.append(_replace({"Regex": r"[\p{Mc}\p{Me}]"}, ""))
    return steps


def unigram_steps(charsmap: bytes, merge_spaces: bool, prefix: bool) -> list[dict[str, Any]]:
    """How llama.cpp prepares a text for a Unigram model, as steps of a tokenizer.json.

    Args:
        charsmap: the precompiled normalization; empty for none.
        merge_spaces: spaces at the ends are dropped, and several are one.
        prefix: a space is put before the text, and always is where spaces are merged.
    """
    steps: list[dict[str, Any]] = []
    if charsmap:
        encoded = base64.b64encode(charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if merge_spaces:
        steps += (_replace({"Regex": r"\A +| +\z"}, ""), _replace({"Regex": " {2,}"}, " "))
    if merge_spaces or prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
        if not merge_spaces:
            # Nothing is put before a text of spaces alone.
            steps.append(_replace({"Regex": rf"\A{_SPACE}(?= *\z)"}, ""))
    return [*steps, _replace({"String": " "}, _SPACE)]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def effective_types(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The types that llama.cpp goes by: some texts have a type of their own."""
    named = vocabulary.given
    several = {"<|return|>", "<|call|>", "<|end|>"} <= set(vocabulary.tokens)
    types = []
    for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True):
        if token in ALWAYS_FOUND or (several and token == "<|end|>"):
            types.append(int(TokenType.USER_DEFINED))
        elif token in ENDS_BY_TEXT or (
            token in _CONTROL_BY_TEXT and not any(role.startswith("fim") for role in named)
        ):
            types.append(int(TokenType.CONTROL))
        else:
            types.append(kind)
    return tuple(types)
