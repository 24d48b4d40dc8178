r"""How byte-level BPE vocabularies cut text into words before merging: llama.cpp's names for it.

A name (`tokenizer.ggml.pre`) stands for regular expressions that are applied one after another:
each cuts every piece so far into its matches and what lies between them. The `tokenizers` library
does the same with a sequence of isolated `Split`s, so a name is its expressions, and its
expressions are its name. Facts: src/llama-vocab.cpp and src/unicode.cpp of llama.cpp.

llama.cpp's engine is `std::regex` over text whose characters beyond ASCII are reduced to their
general category, and its expressions allow for that; what Oniguruma would read differently is
written out here so that the matches are the same ones: `$` is the end of the piece (`\z`), the
whitespace beyond ASCII belongs to no explicit class (`(?!\s)`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "Unknown", "pieces_of", "recognise", "to_json"]

_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACE

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}{_OTHER}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{_OTHER}"
_WORD_M = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_QWEN35_END = r"|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACE
_QWEN35 = f"{_CONTRACTIONS}|{_WORD_M}{_QWEN35_END}"

# Capitals and small letters are told apart in ASCII only, and combining marks are no letters.
_UP, _LOW = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED_END = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACE
_TEKKEN = rf"{_LEAD}{_UP}*{_LOW}+|{_LEAD}{_UP}+{_LOW}*|\p{{N}}{_CASED_END}"
_GPT4O = (
    f"{_LEAD}{_UP}*{_LOW}+{_CONTRACTIONS}?|{_LEAD}{_UP}+{_LOW}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}{_CASED_END}"
)
_UP_HF, _LOW_HF = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_HF = rf"{_LEAD}{_UP_HF}*{_LOW_HF}+|{_LEAD}{_UP_HF}+{_LOW_HF}*|\p{{N}}{_CASED_END}"
_GPT4O_HF = (
    f"{_LEAD}{_UP_HF}*{_LOW_HF}+{_ANY_CASE}?|{_LEAD}{_UP_HF}+{_LOW_HF}*{_ANY_CASE}?"
    rf"|\p{{N}}{{1,3}}{_CASED_END}"
)

_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3 = (
    _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By number: Unicode normalization, wherever this file goes through it, changes some of them.
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_WORDS = rf"\s?[{_DEEPSEEK_LETTERS}]+"
_DEEPSEEK_MARKS_HF = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"
_DEEPSEEK_MARKS = r"\s?[!-/:-~！-／：-～‘-‟、-。]+"
_DEEPSEEK_CJK_HF = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_CJK = "(?:(?!\\s)[一-龥ࠀ-一가-\ud7ff])+"
_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"

_BAILING = (
    rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_BAILING_HF = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SPARK = _DEEPSEEK3.replace(r"+[\r\n]*|\s*[\r\n]+|", r"+|[\r\n]|")
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[！…“”‘’—：；，、-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|[一-龥\u3040-ゟ゠-ヿ]+"
)
_CASCADE = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
_CASCADE += r"|\s{1}"

_FALCON_MARKS = r"[\p{P}\$\+<=>\^~\|`]+"
_DEFAULT_MARKS = r"[\p{P}\$\+<=>\^~\|]+"
_THREE_DIGITS = "[0-9][0-9][0-9]"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"

_GPT2_WORDS = (_GPT2,)
_DIGIT_WORDS = (r"\p{N}", _GPT2)
_DEEPSEEK3_WORDS = (r"\p{N}{1,3}", _KANA, _DEEPSEEK3)


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for.

    Attributes:
        patterns: the expressions, in the order in which they are applied.
        ignore_merges: a word that is itself a token is never looked at further.
        add_bos: whether llama.cpp puts BOS first where the file does not say.
        add_sep: whether it declares a separator where the file does not say.
        clean_spaces: whether llama.cpp closes up the space before punctuation in output.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    add_sep: bool = False
    clean_spaces: bool = False


def _rows() -> dict[str, PreTokenizer]:
    rows: dict[str, PreTokenizer] = {}

    def add(names: str, *patterns: str, **flags: bool) -> None:
        rows.update(dict.fromkeys(names.split(), PreTokenizer(patterns, **flags)))

    add(
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        _LLAMA3,
        ignore_merges=True,
        add_bos=True,
        clean_spaces=True,
    )
    add("glm4 glm5", _LLAMA3, ignore_merges=True, clean_spaces=True)
    add("chatglm-bpe dbrx smaug-bpe", _LLAMA3, clean_spaces=True)
    add("qwen2 deepseek-r1-qwen kormo f2llmv2 hunyuan grok-2 solar-open", _QWEN2)
    add("stablelm2 megrez", _QWEN2, clean_spaces=True)
    add("qwen35", _QWEN35)
    add(
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert"
        " mpt olmo jais exaone4",
        *_GPT2_WORDS,
        clean_spaces=True,
    )
    add("trillion granite-docling", *_GPT2_WORDS)
    add("jina-v1-en jina-v2-code roberta-bpe", *_GPT2_WORDS, add_sep=True, clean_spaces=True)
    add("starcoder refact codeshell exaone minerva-7b mellum2", *_DIGIT_WORDS, clean_spaces=True)
    add("smollm command-r", *_DIGIT_WORDS)
    add("falcon", _FALCON_MARKS, _GPT2, _THREE_DIGITS, clean_spaces=True)
    add("default", _DEFAULT_MARKS, _GPT2, r"\p{N}+", _THREE_DIGITS, clean_spaces=True)
    add(
        "deepseek-llm",
        r"[\r\n]",
        _DEEPSEEK_WORDS,
        _DEEPSEEK_MARKS,
        r"\s+\z",
        _DEEPSEEK_CJK,
        r"\p{N}+",
    )
    add("deepseek-coder", r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")
    add("deepseek-v3 hunyuan-dense joyai-llm hy_v4", *_DEEPSEEK3_WORDS)
    add("tekken", _TEKKEN, ignore_merges=True, add_bos=True)
    add("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O)
    add("poro-chat", _BLOOM)
    add("bloom gpt3-finnish", _BLOOM, clean_spaces=True)
    add("viking", _BLOOM, r"\p{N}")
    add(
        "seed-coder",
        rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_SPACE}",
    )
    add("bailingmoe bailingmoe2 llada-moe", _BAILING)
    _add_rare(add)
    return rows


def _add_rare(add: Callable[..., None]) -> None:
    add("ufakzeka", rf"{_WORD}|\p{{N}}{_OTHER}")
    add("laguna", r"[^\n]+|[\n]+", _QWEN2)
    add("jais-2", _LLAMA3.replace(r"\s+(?!\S)|\s+", _CASCADE), clean_spaces=True)
    add(
        "minicpm5",
        r"\p{N}{1,3}",
        _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"),
        ignore_merges=True,
        clean_spaces=True,
    )
    add("spark2_5", *_DEEPSEEK3_WORDS[:2], _SPARK, r"\p{N}")
    letter = r"[\p{L}\p{M}]"
    add(
        "youtu",
        _YOUTU,
        f"{_LEAD}{letter}*{letter}+{_CONTRACTIONS}?|{_LEAD}{letter}+{letter}*{_CONTRACTIONS}?"
        rf"|\p{{N}}{_CASED_END}",
        ignore_merges=True,
    )
    add(
        "granite-embed-multi-97m",
        _GPT4O.replace(_UP, r"[\p{L}\p{M}&&[^a-z]]").replace(_LOW, r"[\p{L}\p{M}&&[^A-Z]]"),
        ignore_merges=True,
    )
    add(
        "chameleon",
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        _GPT2,
        add_bos=True,
    )


#: llama.cpp's name to what it stands for; a name that is not here is not known exactly
PRE_TOKENIZERS: dict[str, PreTokenizer] = _rows()

_CASES = (
    "tells capitals from small letters in ASCII only and takes combining marks for punctuation, "
    "so words of other scripts are cut elsewhere"
)
_WHITE = "keeps whitespace beyond ASCII out of the classes"

#: expressions as model folders hold them: what llama.cpp runs instead, and how that differs.
_ALIASES: dict[str, tuple[str, str]] = {
    _TEKKEN_HF: (_TEKKEN, _CASES),
    _GPT4O_HF: (_GPT4O, _CASES),
    _DEEPSEEK_MARKS_HF: (_DEEPSEEK_MARKS, _WHITE),
    _DEEPSEEK_CJK_HF: (_DEEPSEEK_CJK, _WHITE),
    _BAILING_HF: (_BAILING, ""),
    r"\s+$": (r"\s+\z", ""),
}

#: the names to write: of those that stand for the same, the one in widest use
_NAMES = (
    "llama-bpe chatglm-bpe qwen2 qwen35 gpt-2 smollm falcon deepseek-llm deepseek-coder"
    " deepseek-v3 tekken gpt-4o poro-chat viking seed-coder bailingmoe default"
    " ufakzeka laguna jais-2 minicpm5 spark2_5 youtu granite-embed-multi-97m chameleon"
)

_PUNCTUATION = "punctuation"


class Unknown(Exception):
    """A structure that llama.cpp has no name for; its message is what the structure is."""


def to_json(row: PreTokenizer) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json that cuts text as `row` does."""
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in row.patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*steps, _byte_level()]}


def _byte_level() -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True} | {
        "use_regex": False
    }


def pieces_of(step: Any) -> list[dict[str, Any]]:
    """A pre_tokenizer or normalizer as the list of its parts, sequences within it opened.

    Raises:
        Unknown: a part is no object, or the sequences are nested beyond reason.
    """
    parts: list[dict[str, Any]] = []
    waiting = [step]
    while waiting:
        part = waiting.pop(0)
        if part is None:
            continue
        if not isinstance(part, dict) or len(parts) + len(waiting) > 100:
            raise Unknown("a step that is no object")
        kind = part.get("type")
        if kind == "Sequence":
            inner = part.get("pretokenizers", part.get("normalizers"))
            if not isinstance(inner, list):
                raise Unknown("a Sequence without steps")
            waiting = [*inner, *waiting]
        else:
            parts.append(part)
    return parts


def recognise(
    pre_tokenizer: Any, ignore_merges: bool, own_merges: Callable[[], bool]
) -> tuple[str, list[str]]:
    """llama.cpp's name for a tokenizer.json's `pre_tokenizer`.

    Args:
        pre_tokenizer: the member of tokenizer.json.
        ignore_merges: the model's flag.
        own_merges: tells whether every token is what the merges make of its text, so that the
            flag makes no difference.
    Returns:
        the name, and what llama.cpp does otherwise, one clause each.
    Raises:
        Unknown: no name stands for exactly this.
    """
    patterns, notes = _patterns(pre_tokenizer)
    for name in _NAMES.split():
        row = PRE_TOKENIZERS[name]
        if patterns != row.patterns and _falcon(patterns) != row.patterns:
            continue
        if row.ignore_merges == ignore_merges or own_merges():
            return name, notes
    raise Unknown(f"splits {' then '.join(patterns) or 'nothing'}, ignore_merges {ignore_merges}")


def _falcon(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Falcon's own steps with the one that llama.cpp leaves out, runs of digits, left out."""
    if patterns == (_PUNCTUATION, _GPT2, r"\p{N}+", _THREE_DIGITS):
        return PRE_TOKENIZERS["falcon"].patterns
    deepseek = PRE_TOKENIZERS["deepseek-llm"].patterns
    return deepseek if patterns == (*deepseek[:-1], r"\p{N}") else patterns


def _patterns(pre_tokenizer: Any) -> tuple[tuple[str, ...], list[str]]:
    patterns: list[str] = []
    notes: list[str] = []
    bytes_done = False
    parts = pieces_of(pre_tokenizer)
    for at, part in enumerate(parts):
        kind = part.get("type")
        if kind == "ByteLevel":
            if part.get("add_prefix_space", True):
                raise Unknown("ByteLevel with add_prefix_space")
            if part.get("use_regex", True):
                patterns.append(_GPT2)
            bytes_done = True
            continue
        found = _pattern(part, at == 0 and len(parts) == 2)
        if bytes_done and found not in (r"\p{N}+", _THREE_DIGITS):
            raise Unknown(f"{kind} after ByteLevel")
        # (?i:'s) also matches U+017F behind an apostrophe, which no text has.
        plain = found.replace(_ANY_CASE, _CONTRACTIONS)
        known, note = _ALIASES.get(found, (plain, ""))
        patterns.append(known)
        if note:
            notes.append(note)
    if not bytes_done:
        raise Unknown("no ByteLevel")
    return tuple(patterns), notes


def _pattern(part: dict[str, Any], alone: bool) -> str:
    """One step as the expression whose matches it isolates."""
    kind = part.get("type")
    if kind == "Digits":
        return r"\p{N}" if part.get("individual_digits") else r"\p{N}+"
    if kind == "Punctuation" and part.get("behavior") == "Contiguous":
        return _PUNCTUATION
    if kind != "Split":
        raise Unknown(f"a step of type {str(kind)[:40]!r}")
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if not isinstance(regex, str):
        raise Unknown("a Split without a Regex")
    # Removing what does not match keeps everything where the expression matches everything.
    how = (part.get("behavior"), bool(part.get("invert")))
    if how != ("Isolated", False) and not (how == ("Removed", True) and alone):
        raise Unknown(f"a Split with behavior {str(how[0])[:40]!r}")
    return regex.replace("\r", r"\r").replace("\n", r"\n")
