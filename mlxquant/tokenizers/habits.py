"""What llama.cpp makes of tokens by their text, whatever the file says of them.

Facts: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

import base64
from collections.abc import Container
from typing import Any

from .charsmap import replacement
from .vocabulary import TokenType, Vocabulary

__all__ = [
    "ALWAYS_FOUND",
    "BERT_CUTS",
    "ENDS_BY_TEXT",
    "ESCAPE",
    "SPACE",
    "WORDS_ALONE",
    "FILL_IN_MIDDLE",
    "bert_steps",
    "effective_types",
    "ends_message_only",
    "lowercase_steps",
    "swallows",
    "unigram_steps",
]

#: what stands for a space
SPACE = "▁"
#: spaces written so, as a step of a tokenizer.json
ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
#: the one letter whose small form is two characters
_DOTTED = {"type": "Replace", "pattern": {"String": "\u0130"}, "content": "i"}
#: BERT's words, with the punctuation that is too new for the library's own step, as such steps
BERT_CUTS: list[dict[str, Any]] = [
    {
        "type": "Split",
        "pattern": {"Regex": r"\p{P}"},
        "behavior": "Isolated",
        "invert": False,
    },
    {"type": "BertPreTokenizer"},
]
#: whitespace left out, as a step of a tokenizer.json
WORDS_ALONE = {
    "type": "Split",
    "pattern": {"Regex": r"\s+"},
    "behavior": "Removed",
    "invert": False,
}
#: a character that SentencePiece's own normalizations delete
_APART = "\x01"
#: between two marks of which none takes space; but for the one pair that makes a third
_MARKS = r"(?<=[\p{Mn}&&[^\x{0C46}]])(?=\p{Mn})"
#: between two characters that may be shown as one
_BETWEEN = r"(?<=[^\x00-\x7F])(?=[\s\S])|(?<=[\s\S])(?=[^\x00-\x7F])|(?<=\r)(?=\n)"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: tokens that llama.cpp stops at and takes for control tokens, whatever their type
ENDS_BY_TEXT = _words(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn>"
    " <|endoftext|> </s> <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance>"
    " <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~["
)
#: role to the tokens that it takes for control tokens where the file names none for the role
FILL_IN_MIDDLE = {
    "fim_pre": _words(
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|>"
        " <|prefix|>"
    ),
    "fim_suf": _words(
        "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|>"
        " <|suffix|>"
    ),
    "fim_mid": _words(
        "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|>"
        " <|middle|>"
    ),
    "fim_pad": _words("<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]"),
    "fim_rep": _words("<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>"),
    "fim_sep": _words("<|file_sep|>"),
}
#: tokens that it always finds in text
ALWAYS_FOUND = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))
#: special tokens of Phi-3 that do not swallow the whitespace behind them
_NOT_STRIPPED = frozenset(("<unk>", "<s>", "<|endoftext|>"))


def swallows(token: str, name: str, architecture: str, pre: str) -> tuple[bool, bool]:
    """Whether a token found in the text takes the whitespace before and behind it along.

    llama.cpp goes by `general.name`, `general.architecture` and the pre-tokenizer's name.
    """
    if any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")) or any(
        part in architecture for part in ("nomic-bert-moe", "jina-bert-v3")
    ):
        return token == "<mask>", False
    name = name.lower()
    if "phi-3" in name or "phi3" in name:
        return False, token not in _NOT_STRIPPED
    return "modern-bert" in name and token == "[MASK]", False


def lowercase_steps() -> list[dict[str, Any]]:
    """How llama.cpp writes small letters: one character for one, where Unicode has two."""
    return [_DOTTED, {"type": "Lowercase"}]


def bert_steps(strip_accents: bool, lowercase: bool) -> list[dict[str, Any]]:
    """What llama.cpp does to a text before BERT's own normalizer, as steps of a tokenizer.json.

    It cuts words at whitespace that the normalizer drops as control characters. Where accents are
    stripped, a character is replaced by the first of its decomposition, which for a Hangul
    syllable is its leading consonant, and then marks of every kind are dropped, not only those
    that take no space. Small letters are one character for one, where Unicode has two.
    """
    steps = [_replace({"Regex": r"[\x0B\x0C\x{85}]"}, " ")]
    if strip_accents:
        for i in range(19):
            first, last = 0xAC00 + 588 * i, 0xAC00 + 588 * i + 587
            syllables = rf"[\x{{{first:X}}}-\x{{{last:X}}}]"
            steps.append(_replace({"Regex": syllables}, chr(0x1100 + i)))
        steps.append(_replace({"Regex": r"\p{M}"}, ""))
    elif lowercase:
        steps.append(_DOTTED)
    return steps


def unigram_steps(charsmap: bytes, merge_spaces: bool, prefix: bool) -> list[dict[str, Any]]:
    """How llama.cpp prepares a text for a Unigram model, as steps of a tokenizer.json.

    Args:
        charsmap: the precompiled normalization; empty for none.
        merge_spaces: spaces at the ends are dropped, and several are one.
        prefix: a space is put before the text, and always is where spaces are merged.
    """
    steps = _normalized(charsmap) if charsmap else []
    if merge_spaces:
        steps += (_replace({"Regex": r"\A +| +\z"}, ""), _replace({"Regex": " {2,}"}, " "))
    if merge_spaces or prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
        if not merge_spaces:
            # Nothing is put before a text of spaces alone.
            steps.append(_replace({"Regex": rf"\A{SPACE}(?= *\z)"}, ""))
    return [*steps, ESCAPE]


def _normalized(charsmap: bytes) -> list[dict[str, Any]]:
    """The precompiled normalization by its longest matches.

    The library's own step takes what Unicode shows as one character whole, and drops what the map
    has no place for. So letters and marks are composed first, a mark at a time, that none changes
    places with another; and then characters are kept apart by one that the map deletes.
    """
    encoded = base64.b64encode(charsmap).decode()
    own = {"type": "Precompiled", "precompiled_charsmap": encoded}
    if replacement(charsmap, _APART) != "":
        return [own]
    compose: list[dict[str, Any]] = []
    if replacement(charsmap, "e\u0301") == "\u00e9":
        compose = [_replace({"Regex": _MARKS}, _APART), {"type": "NFC"}]
        compose += [_replace({"String": _APART}, ""), *compose]
    return [*compose, _replace({"Regex": _BETWEEN}, _APART), own]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def effective_types(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The types that llama.cpp goes by: some texts have a type of their own."""
    texts = frozenset(vocabulary.tokens)
    eos = vocabulary.ids.get("eos")
    answers = "<|tool_response>" in texts or (
        eos is not None and vocabulary.tokens[eos] == "<|plamo:eos|>"
    )
    control = set(ENDS_BY_TEXT)
    for role, names in FILL_IN_MIDDLE.items():
        if role not in vocabulary.given:
            control |= names
    found = ALWAYS_FOUND | ({"<|end|>"} if ends_message_only(texts) else set())
    return tuple(
        int(TokenType.USER_DEFINED)
        if token in found
        else int(TokenType.NORMAL)
        if token == "</s>" and answers
        else int(TokenType.CONTROL)
        if token in control
        else kind
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    )


def ends_message_only(texts: Container[str]) -> bool:
    """Whether `<|end|>` ends one of several messages of an answer, not the answer."""
    calls = "<|call|>" in texts or "<|calls|>" in texts
    return calls and ("<|return|>" in texts or "<|flush|>" in texts)
