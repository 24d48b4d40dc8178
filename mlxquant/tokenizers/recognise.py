r"""llama.cpp's name for the steps by which a tokenizer.json cuts text into words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import patterns as p
from .pre_tokenizers import PRE_TOKENIZERS

__all__ = ["Unknown", "pieces_of", "recognise"]

_CASES = (
    "tells capitals from small letters in ASCII only and takes combining marks for punctuation, "
    "so words of other scripts are cut elsewhere"
)
_NO_CASES = "does not tell capitals from small letters, so words within a word are not cut apart"
_WHITE = "keeps whitespace beyond ASCII out of the classes"
_GROUPS = "counts digits of every script, and letters beside them, when it puts digits in threes"

_UP, _LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = rf"{p.LEAD}{_UP}*{_LOW}+|{p.LEAD}{_UP}+{_LOW}*|\p{{N}}{p.CASED_END}"
_GPT4O = (
    f"{p.LEAD}{_UP}*{_LOW}+{p.ANY_CASE}?|{p.LEAD}{_UP}+{_LOW}*{p.ANY_CASE}?"
    rf"|\p{{N}}{{1,3}}{p.CASED_END}"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)

#: expressions as model folders hold them: what llama.cpp runs instead, and how that differs
_ALIASES: dict[str, tuple[str, str]] = {
    _TEKKEN: (p.TEKKEN, _CASES),
    _GPT4O: (p.GPT4O, _CASES),
    "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+": (p.DEEPSEEK_MARKS, _WHITE),
    "[一-龥ࠀ-一가-\ud7ff]+": (p.DEEPSEEK_CJK, _WHITE),
    _GPT4O.replace("{1,3}", ""): (p.GPT4O.replace("{1,3}", ""), _CASES),
    _BAILING: (p.BAILING, ""),
    r"\s+$": (r"\s+\z", ""),
    r"\d{1,3}(?=(?:\d{3})*\b)": (p.DIGIT_GROUPS, _GROUPS),
    r"(?=(\d{3})+(?!\d))": (
        p.SUPER_DIGITS,
        "counts digits of ASCII only when it puts them in threes",
    ),
}

#: the names to write: of those that stand for the same, the one in widest use
_NAMES = (
    "llama-bpe chatglm-bpe qwen2 qwen35 gpt-2 smollm falcon deepseek-llm deepseek-coder"
    " deepseek-v3 tekken gpt-4o poro-chat viking seed-coder bailingmoe default"
    " ufakzeka laguna jais-2 minicpm5 spark2_5 youtu granite-embed-multi-97m chameleon"
    " exaone-moe tiny_aya afmoe superbpe kimi-k2"
)

_PUNCTUATION = "punctuation"


class Unknown(Exception):
    """A structure that llama.cpp has no name for; its message is what the structure is."""


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
    pre_tokenizer: Any, ignore_merges: bool, own_merges: Callable[[], bool], missing: str = ""
) -> tuple[str, list[str]]:
    """llama.cpp's name for the `pre_tokenizer` of a byte-level tokenizer.json.

    Args:
        pre_tokenizer: the member of tokenizer.json.
        ignore_merges: the model's flag.
        own_merges: tells whether every token is what the merges make of its text, so that the
            flag makes no difference.
        missing: the expression for bytes that are no tokens; see `alphabet.missing_bytes`.
    Returns:
        the name, and what llama.cpp does otherwise, one clause each.
    Raises:
        Unknown: no name stands for exactly this.
    """
    parts = pieces_of(pre_tokenizer)
    notes: list[str] = []
    if missing:
        if parts and _regex(parts[-1]) == missing:
            parts.pop()
        else:
            notes.append("drops bytes that are no token after merging what is beside them")
    patterns = _patterns(parts, notes)
    own = _own_steps().get(patterns)
    if own in ("tiny_aya", "youtu"):
        notes[:] = [_NO_CASES if note == _CASES else note for note in notes]
    for name in _NAMES.split() if own is None else [own]:
        row = PRE_TOKENIZERS[name]
        if own is None and patterns != row.patterns:
            continue
        if row.ignore_merges == ignore_merges or own_merges():
            return name, notes
    raise Unknown(f"splits {' then '.join(patterns) or 'nothing'}, ignore_merges {ignore_merges}")


def _own_steps() -> dict[tuple[str, ...], str]:
    """Steps of some models' own, one of which llama.cpp leaves out or puts otherwise."""
    deepseek = PRE_TOKENIZERS["deepseek-llm"].patterns
    return {
        (_PUNCTUATION, p.GPT2, r"\p{N}+", p.THREE_DIGITS): "falcon",
        (*deepseek[:-1], r"\p{N}"): "deepseek-llm",
        (p.DIGIT_GROUPS, p.GPT4O): "tiny_aya",
        (p.YOUTU, p.GPT4O.replace("{1,3}", "")): "youtu",
    }


def _patterns(parts: list[dict[str, Any]], notes: list[str]) -> tuple[str, ...]:
    patterns: list[str] = []
    bytes_done = False
    for at, part in enumerate(parts):
        kind = part.get("type")
        if kind == "ByteLevel":
            if part.get("add_prefix_space", True):
                raise Unknown("ByteLevel with add_prefix_space")
            if part.get("use_regex", True):
                patterns.append(p.GPT2)
            bytes_done = True
            continue
        found = _pattern(part, at == 0 and len(parts) == 2)
        if bytes_done and found not in (r"\p{N}+", p.THREE_DIGITS):
            raise Unknown(f"{kind} after ByteLevel")
        # (?i:'s) also matches U+017F behind an apostrophe, which no text has.
        plain = found.replace(p.ANY_CASE, p.CONTRACTIONS)
        known, note = _ALIASES.get(found, (plain, ""))
        patterns.append(known)
        if note:
            notes.append(note)
    if not bytes_done:
        raise Unknown("no ByteLevel")
    return tuple(patterns)


def _pattern(part: dict[str, Any], alone: bool) -> str:
    """One step as the expression whose matches it isolates."""
    kind = part.get("type")
    if kind == "Digits":
        return r"\p{N}" if part.get("individual_digits") else r"\p{N}+"
    if kind == "Punctuation" and part.get("behavior") == "Contiguous":
        return _PUNCTUATION
    if kind != "Split":
        raise Unknown(f"a step of type {str(kind)[:40]!r}")
    regex = _regex(part)
    if not regex:
        raise Unknown("a Split without a Regex")
    # Removing what does not match keeps everything where the expression matches everything.
    how = (part.get("behavior"), bool(part.get("invert")))
    if how != ("Isolated", False) and not (how == ("Removed", True) and alone):
        raise Unknown(f"a Split with behavior {str(how[0])[:40]!r}")
    return regex


def _regex(part: dict[str, Any]) -> str:
    """A step's expression; empty where it has none."""
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return regex.replace("\r", r"\r").replace("\n", r"\n") if isinstance(regex, str) else ""
