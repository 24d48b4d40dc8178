"""What llama.cpp makes of tokens by their text, whatever the file says of them.

Facts: `llama_vocab::impl::load` in src/llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

from .vocabulary import TokenType, Vocabulary

__all__ = ["ALWAYS_FOUND", "ENDS_BY_TEXT", "NOT_STRIPPED", "effective_types"]


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
