"""Special token ids, what is put around a text, and chat templates."""

from __future__ import annotations

import re
from typing import Any

from ..files.quote import quote
from .draft import Draft
from .vocabulary import SPECIAL_IDS, TokenType

__all__ = ["chat_templates", "special_tokens"]

#: ends of a turn, as llama.cpp knows them by text
_TURN_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "[EOT]",
    "<end_of_utterance>",
)
_FROM_CONFIG = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")


def special_tokens(draft: Draft) -> None:
    """Set the ids of special tokens and the flags of what is added."""
    ids = _ids(draft)
    bert = draft.metadata["tokenizer.ggml.model"] == "bert"
    before, after = _around(draft, ids)
    first, last = ids.get("bos"), ids.get("sep" if bert else "eos")
    for id_, given, role in ((before, first, "bos"), (after, last, "sep" if bert else "eos")):
        if len(id_) == 1 and given is None:
            ids[role] = id_[0]
    add_bos = bool(before) and before == [ids.get("bos")]
    add_last = bool(after) and after == [ids.get("sep" if bert else "eos")]
    for added, done in ((before, add_bos), (after, add_last)):
        if added and not done:
            texts = " ".join(quote(draft.tokens.get(i, "?")) for i in added)
            draft.note(f"adds no {texts} around a text; a chat template must do it")
    if bert and not (add_bos and add_last):
        draft.inexact("llama.cpp puts [CLS] and [SEP] around every text")
    for role in SPECIAL_IDS:
        if role in ids:
            draft.set(SPECIAL_IDS[role], ids[role])
    draft.set("add_bos_token", add_bos)
    draft.set("add_eos_token", add_last and not bert)
    if bert:
        draft.set("add_sep_token", True)


def _ids(draft: Draft) -> dict[str, int]:
    """Role to id: by the text of the token, else by the model's config."""
    source = draft.source
    by_text = {text: i for i, text in draft.tokens.items()}
    ids: dict[str, int] = {}
    unknown = draft.metadata.get("tokenizer.ggml.unknown_token_id")
    if unknown is not None:
        ids["unk"] = unknown
    specials = dict(source.specials)
    bert = draft.metadata["tokenizer.ggml.model"] == "bert"
    if bert and "cls" in specials:
        specials["bos"] = specials["cls"]
    for role, text in specials.items():
        if role not in SPECIAL_IDS:
            continue
        if text not in by_text:
            raise source.wrong(f"{role}_token", f"{quote(text)} is not in the vocabulary")
        ids[role] = by_text[text]
    for role in ("bos", "eos", "pad"):
        for config in (source.generation, source.model_config):
            if role not in ids and (found := _listed(draft, config, f"{role}_token_id")):
                ids[role] = found[0]
    _turn_ends(draft, ids)
    return ids


def _listed(draft: Draft, config: dict[str, Any], key: str) -> list[int]:
    value = config.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    for id_ in values:
        if type(id_) is not int or id_ not in draft.tokens:
            raise draft.source.wrong(
                key, f"id {id_!r:.40} is outside the vocabulary of {len(draft.tokens)} tokens"
            )
    return values


def _turn_ends(draft: Draft, ids: dict[str, int]) -> None:
    """The end of a turn: an end of generation beside EOS, known by its text."""
    ends = _listed(draft, draft.source.generation, "eos_token_id")
    ends += _listed(draft, draft.source.model_config, "eos_token_id")
    texts = {draft.tokens[i]: i for i in ends if i != ids.get("eos")}
    for text in _TURN_ENDS:
        if text in texts and draft.types[texts[text]] == TokenType.CONTROL:
            ids.setdefault("eot", texts[text])
    if "<|eom_id|>" in texts:
        ids["eom"] = texts["<|eom_id|>"]


def _around(draft: Draft, ids: dict[str, int]) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and behind a text."""
    before: list[int] = []
    after: list[int] = []
    waiting = [draft.source.tokenizer.get("post_processor")]
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, dict):
            continue
        kind = part.get("type")
        if kind == "Sequence" and isinstance(part.get("processors"), list):
            waiting += part["processors"][:20]
        elif kind in ("BertProcessing", "RobertaProcessing"):
            before, after = [_pair(draft, part, "cls")], [_pair(draft, part, "sep")]
        elif kind == "TemplateProcessing":
            before, after = _template_ids(draft, part)
    config = draft.source.config
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    if name in _FROM_CONFIG or not draft.source.tokenizer:
        # These classes build the post-processor anew from their settings.
        default = not draft.source.tokenizer
        adds_bos = config.get("add_bos_token", default or bool(before))
        before = [ids["bos"]] if adds_bos and "bos" in ids else []
        adds_eos = config.get("add_eos_token", bool(after))
        after = [ids["eos"]] if adds_eos and "eos" in ids else []
    return before, after


def _pair(draft: Draft, part: dict[str, Any], name: str) -> int:
    pair = part.get(name)
    if not isinstance(pair, list) or len(pair) != 2 or pair[1] not in draft.tokens:
        raise draft.source.wrong("post_processor", f"{name} is no token")
    return int(pair[1])


def _template_ids(draft: Draft, part: dict[str, Any]) -> tuple[list[int], list[int]]:
    single, tokens = part.get("single"), part.get("special_tokens")
    if not isinstance(single, list) or not isinstance(tokens, dict):
        raise draft.source.wrong("post_processor", "a template without its parts")
    sides: tuple[list[int], list[int]] = ([], [])
    side = 0
    for step in single:
        if isinstance(step, dict) and "Sequence" in step:
            side = 1
            continue
        special = step.get("SpecialToken") if isinstance(step, dict) else None
        entry = tokens.get(special.get("id")) if isinstance(special, dict) else None
        found = entry.get("ids") if isinstance(entry, dict) else None
        if not isinstance(found, list) or not all(i in draft.tokens for i in found):
            raise draft.source.wrong("post_processor", "a template that adds what is no token")
        sides[side].extend(found)
    return sides


def chat_templates(draft: Draft) -> None:
    """Set the chat templates."""
    names = [name for name in draft.source.templates if name]
    for name, text in draft.source.templates.items():
        if re.fullmatch(r"(\w[\w-]{0,63})?", name):
            key = "tokenizer.chat_template" + (f".{name}" if name else "")
            draft.metadata[key] = text
    if names:
        draft.metadata["tokenizer.chat_templates"] = names
