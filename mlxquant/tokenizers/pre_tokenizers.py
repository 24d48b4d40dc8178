r"""How BPE vocabularies cut text into words before merging: llama.cpp's names for it.

A name (`tokenizer.ggml.pre`) stands for regular expressions that are applied one after another:
each cuts every piece so far into its matches and what lies between them. The `tokenizers` library
does the same with a sequence of isolated `Split`s, so a name is its expressions, and its
expressions are its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import patterns as p

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "to_json"]


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for.

    Attributes:
        patterns: the expressions, in the order in which they are applied.
        ignore_merges: a word that is itself a token is never looked at further.
        raw: tokens are made of characters; else of bytes, each of which a character stands for.
        escape: spaces are written as U+2581 first.
        lines: a run of newlines that is itself a token is never looked at further.
        add_bos: whether llama.cpp puts BOS first where the file does not say.
        add_sep: whether it declares a separator where the file does not say.
        clean_spaces: whether llama.cpp closes up the space before punctuation in output.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    raw: bool = False
    escape: bool = False
    lines: bool = False
    add_bos: bool = False
    add_sep: bool = False
    clean_spaces: bool = False


def _rows() -> dict[str, PreTokenizer]:
    rows: dict[str, PreTokenizer] = {}

    def add(names: str, *patterns: str, **flags: bool) -> None:
        rows.update(dict.fromkeys(names.split(), PreTokenizer(patterns, **flags)))

    add(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        p.LLAMA3,
        ignore_merges=True,
        add_bos=True,
        clean_spaces=True,
    )
    add("glm4 glm5", p.LLAMA3, ignore_merges=True, clean_spaces=True)
    add("chatglm-bpe dbrx smaug-bpe", p.LLAMA3, clean_spaces=True)
    add("qwen2 deepseek-r1-qwen kormo f2llmv2 hunyuan grok-2 solar-open", p.QWEN2)
    add("stablelm2 megrez", p.QWEN2, clean_spaces=True)
    add("qwen35", p.QWEN35)
    add(
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert"
        " mpt olmo jais exaone4",
        p.GPT2,
        clean_spaces=True,
    )
    add("trillion granite-docling", p.GPT2)
    add("jina-v1-en jina-v2-code roberta-bpe", p.GPT2, add_sep=True, clean_spaces=True)
    add("starcoder refact codeshell exaone minerva-7b mellum2", r"\p{N}", p.GPT2, clean_spaces=True)
    add("smollm command-r", r"\p{N}", p.GPT2)
    add("falcon", p.FALCON_MARKS, p.GPT2, p.THREE_DIGITS, clean_spaces=True)
    add("default", p.DEFAULT_MARKS, p.GPT2, r"\p{N}+", p.THREE_DIGITS, clean_spaces=True)
    add(
        "deepseek-llm",
        r"[\r\n]",
        p.DEEPSEEK_WORDS,
        p.DEEPSEEK_MARKS,
        r"\s+\z",
        p.DEEPSEEK_CJK,
        r"\p{N}+",
    )
    add("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", p.DEEPSEEK_CJK, r"\p{N}")
    add("deepseek-v3 hunyuan-dense joyai-llm hy_v4", r"\p{N}{1,3}", p.KANA, p.DEEPSEEK3)
    add("tekken", p.TEKKEN, ignore_merges=True, add_bos=True)
    add("gpt-4o llama4 kanana2 talkie minimax-m2", p.GPT4O)
    add("poro-chat", p.BLOOM)
    add("bloom gpt3-finnish", p.BLOOM, clean_spaces=True)
    add("viking", p.BLOOM, r"\p{N}")
    add(
        "seed-coder",
        rf"{p.CONTRACTIONS}|{p.WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{p.SPACE}",
    )
    add("bailingmoe bailingmoe2 llada-moe", p.BAILING)
    _add_rare(add)
    return rows


def _add_rare(add: Callable[..., None]) -> None:
    add("ufakzeka", rf"{p.WORD}|\p{{N}}{p.OTHER}")
    add("laguna", p.LINES, p.QWEN2)
    add("jais-2", p.LLAMA3.replace(r"\s+(?!\S)|\s+", p.CASCADE), clean_spaces=True)
    add(
        "minicpm5",
        r"\p{N}{1,3}",
        p.LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"),
        ignore_merges=True,
        clean_spaces=True,
    )
    add("spark2_5", r"\p{N}{1,3}", p.KANA, p.SPARK, r"\p{N}")
    add("youtu", p.YOUTU, rf"{p.MARKED_WORD}|\p{{N}}{p.CASED_END}", ignore_merges=True)
    add("exaone-moe", p.JOINED_WORDS, clean_spaces=True)
    add("tiny_aya cohere2moe", p.DIGIT_GROUPS, rf"{p.MARKED_WORD}|\p{{N}}{{1,3}}{p.CASED_END}")
    add("afmoe", p.DIGIT_GROUPS, p.ASIAN, p.DEEPSEEK3)
    add("superbpe", r"\p{N}+", p.SUPER_DIGITS)
    add("kimi-k2", p.KIMI)
    add(
        "gemma4 granite-embed-multi-311m",
        p.LINES,
        raw=True,
        escape=True,
        lines=True,
        add_bos=True,
        clean_spaces=True,
    )
    add("sarvam-moe", p.LINES, raw=True, escape=True)
    add("whitespace", r"\S+", raw=True, clean_spaces=True)
    add(
        "granite-embed-multi-97m",
        p.GPT4O.replace(p.UP, r"[\p{L}\p{M}&&[^a-z]]").replace(p.LOW, r"[\p{L}\p{M}&&[^A-Z]]"),
        ignore_merges=True,
    )
    add(
        "chameleon",
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        p.GPT2,
        add_bos=True,
    )


#: llama.cpp's name to what it stands for; a name that is not here is not known exactly
PRE_TOKENIZERS: dict[str, PreTokenizer] = _rows()


def to_json(row: PreTokenizer, missing: str = "") -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json that cuts text as `row` does.

    Args:
        missing: an expression for characters that are no tokens. llama.cpp drops them after
            merging, the library before; cut off, they keep what is beside them apart.
    """
    steps: list[dict[str, Any]] = [_isolated(pattern) for pattern in row.patterns]
    if not row.raw:
        steps.append(
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            }
        )
    if missing:
        steps.append(_isolated(missing))
    return {"type": "Sequence", "pretokenizers": steps}


def _isolated(pattern: str) -> dict[str, Any]:
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
