"""Where generation stops: every place in a model that names an end of sequence.

    config.json              eos_token_id: an id or a list; of a text_config where there is none
    generation_config.json   eos_token_id: an id or a list
    tokenizer_config.json    eos_token: text
    special_tokens_map.json  eos_token: text
    tokenizer.json           added tokens that end a turn in known chat formats

    GGUF, tokenizer.ggml.    eos_token_id, eot_token_id, eom_token_id, fim_pad_token_id,
                             fim_rep_token_id, fim_sep_token_id: an id
                             tokens: those that llama.cpp stops at for their text, and those that
                             end a turn in known chat formats

They often contradict each other: a fine-tune changes one file and not the others. Missing a stop
makes a model babble for ever, an extra one hardly matters, so generation stops at the union.
Nothing here imports mlx or transformers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..files.json_file import TOKENIZER_LIMIT, read_json_object
from ..load.checkpoint import Checkpoint

__all__ = ["TURN_ENDS", "eos_sources", "stop_ids"]

#: tokens that end a turn, or a text, in chat formats that are in use
TURN_ENDS = (
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",
    "<|eot|>",  # Llama 4
    "<|eom|>",
    "<|im_end|>",  # ChatML: Qwen, Yi, Hermes, …
    "<end_of_turn>",  # Gemma
    "<turn|>",
    "<|end|>",  # Phi-3, Phi-4-mini
    "<|return|>",  # gpt-oss
    "<|call|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",  # Command
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<|role_end|>",
)

#: how much of tokenizer.json is searched for its added tokens, which stand near the beginning
_PREFIX_BYTES = 8 << 20

#: what a GGUF file names that llama.cpp stops at
_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


def eos_sources(checkpoint: Checkpoint) -> dict[str, list[int | str]]:
    """Each source that names an end of sequence → what it names, ids or token texts.

    Raises:
        FileFormatError: a file is not JSON, or names something that is neither id nor text.
    """
    if checkpoint.path.is_file():
        return _gguf_sources(checkpoint)
    folder = checkpoint.path
    found: dict[str, list[int | str]] = {}
    config = folder / "config.json"
    text = checkpoint.config.get("text_config")
    for part in (checkpoint.config, text if isinstance(text, Mapping) else {}):
        if part.get("eos_token_id") is not None:
            found[config.name] = _ids(config, part["eos_token_id"])
            break
    for name, key, read in (
        ("generation_config.json", "eos_token_id", _ids),
        ("tokenizer_config.json", "eos_token", _texts),
        ("special_tokens_map.json", "eos_token", _texts),
    ):
        if (folder / name).is_file():
            value = read_json_object(folder / name, limit=TOKENIZER_LIMIT).get(key)
            if value is not None:
                found[name] = read(folder / name, value)
    if ends := _turn_ends(added_tokens(folder).values()):
        found["tokenizer.json"] = list(ends)
    return found


def stop_ids(checkpoint: Checkpoint, vocabulary: Mapping[str, int]) -> set[int]:
    """The union of all sources as token ids.

    Args:
        checkpoint: the model.
        vocabulary: token text → id; texts that are not in it are left out.
    """
    ids: set[int] = set()
    for values in eos_sources(checkpoint).values():
        for value in values:
            if isinstance(value, int):
                ids.add(value)
            elif value in vocabulary:
                ids.add(vocabulary[value])
    return ids


def added_tokens(folder: Path) -> dict[int, str]:
    """tokenizer.json's added tokens, id → text; empty where there is no such file.

    A tokenizer.json may hold 30 MB of vocabulary, so the list is decoded where it stands.

    Raises:
        FileFormatError: the file is not JSON.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return {}
    with file.open("rb") as handle:
        text = handle.read(_PREFIX_BYTES).decode("utf-8", "ignore")
    key = re.search(r'"added_tokens"\s*:\s*', text)
    try:
        if key is None:
            raise ValueError("not near the beginning")
        listed, _ = json.JSONDecoder().raw_decode(text, key.end())
    except (ValueError, RecursionError):
        listed = read_json_object(file, limit=TOKENIZER_LIMIT).get("added_tokens")
    found: dict[int, str] = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            token, content = entry.get("id"), entry.get("content")
            if type(token) is int and isinstance(content, str):
                found[token] = content
    return found


def _gguf_sources(checkpoint: Checkpoint) -> dict[str, list[int | str]]:
    """`eos_sources` of a GGUF file."""
    from ..load.from_gguf import GgufCheckpoint
    from ..tokenizers.habits import ENDS_BY_TEXT, FILL_IN_MIDDLE

    assert isinstance(checkpoint, GgufCheckpoint)
    header = checkpoint.headers[0]
    keys = {role: f"tokenizer.ggml.{role}_token_id" for role in _ROLES}
    found: dict[str, list[int | str]] = {
        key: [index] for key in keys.values() if type(index := header.get(key)) is int
    }
    ends = {*TURN_ENDS, *ENDS_BY_TEXT}
    for role, texts in FILL_IN_MIDDLE.items():
        # A role that the file names needs no text to be known by.
        if role in _ROLES and keys[role] not in found:
            ends |= texts
    if by_text := _turn_ends(header.get("tokenizer.ggml.tokens", ()), ends):
        found["tokenizer.ggml.tokens"] = list(by_text)
    return found


def _turn_ends(contents: Iterable[str], known: Container[str] = TURN_ENDS) -> list[str]:
    """Those of the known ends of a turn that a tokenizer has, in its order."""
    ends = [content for content in contents if content in known]
    if {"<|return|>", "<|call|>"} <= {*ends} or {"<|flush|>", "<|calls|>"} <= {*ends}:
        # In gpt-oss's format <|end|> ends a message, and the answer is the message after it.
        ends = [content for content in ends if content != "<|end|>"]
    if "<|tool_response>" in ends:
        # Gemma 4 has </s> as a word of HTML.
        ends = [content for content in ends if content != "</s>"]
    return ends


def _ids(file: str | os.PathLike[str], value: Any) -> list[int | str]:
    """An id or a list of ids."""
    values = value if isinstance(value, list) else [value]
    for item in values:
        if type(item) is not int or not 0 <= item < 1 << 31:
            raise FileFormatError(
                file, "eos_token_id", f"{item!r} is not a token id (a number from 0 up)"
            )
    return list(dict.fromkeys(values))


def _texts(file: str | os.PathLike[str], value: Any) -> list[int | str]:
    """A token's text, bare or as an object's `content`."""
    content = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(content, str):
        raise FileFormatError(file, "eos_token", f"{value!r} is not a token's text")
    return [content]
