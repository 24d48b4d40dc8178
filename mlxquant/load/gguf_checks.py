"""Whether what a GGUF file says of its model and its vocabulary can be true.

The file itself was checked when it was opened; here its values are held against each other before
anything is built or allocated from them. Key names: https://github.com/ggml-org/ggml/blob/master/
docs/gguf.md; token types are llama.cpp's `llama_token_type`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import FileFormatError
from ..files.gguf import GgufHeader, Value
from ..files.quote import quote

__all__ = ["check_model", "check_vocabulary"]

# Bounds beyond any model's.
_MAX_LAYERS = 10_000
_MAX_WIDTH = 1 << 24
_MAX_CONTEXT = 1 << 40
_MAX_TOKENS = 1 << 22

_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_SPECIAL = re.compile(r"tokenizer\.ggml\.\w+_token_id")
_BYTE = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
_LIKE_BYTE = re.compile(rb"<0x..>", re.DOTALL)
_BYTE_TYPE, _LAST_TYPE = 6, 6
_NONE = 0xFFFF_FFFF  # how llama.cpp writes that there is no such token
_PAIRED = ("gpt2",)  # tokenizers that need merge rules

#: (key behind the architecture's name, least, most) of integers, where they are there
_INTEGERS = (
    ("context_length", 1, _MAX_CONTEXT),
    ("feed_forward_length", 0, _MAX_WIDTH),
    ("attention.head_count", 0, _MAX_WIDTH),
    ("attention.head_count_kv", 0, _MAX_WIDTH),
    ("attention.key_length", 1, _MAX_WIDTH),
    ("attention.value_length", 1, _MAX_WIDTH),
    ("rope.dimension_count", 0, _MAX_WIDTH),
    ("vocab_size", 1, _MAX_TOKENS),
    ("expert_count", 0, 1 << 16),
    ("expert_used_count", 0, 1 << 16),
)
_FLOATS = (
    "rope.freq_base",
    "rope.scaling.factor",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
)


def check_model(headers: Sequence[GgufHeader]) -> None:
    """Check the numbers that a model's size follows from.

    Args:
        headers: all parts of the model in order; the first holds the metadata.

    Raises:
        FileFormatError: no architecture, or an implausible model: no layers or more than there are
            tensors, no width, no heads, values of a wrong type.
    """
    first = headers[0]
    name = first.get("general.architecture")
    if not isinstance(name, str) or not name:
        _fail(first, "general.architecture", "missing: implausible model, its kind is not named")
    names = [entry for header in headers for entry in header.entries]
    layers = _integer(first, f"{name}.block_count", 1, _MAX_LAYERS)
    _integer(first, f"{name}.embedding_length", 1, _MAX_WIDTH)
    if names and layers > len(names):
        reason = f"implausible model: {layers} layers, but {len(names)} tensors"
        _fail(first, f"{name}.block_count", reason)
    for tensor in names:
        found = _LAYER.match(tensor)
        if found and int(found[1]) >= layers:
            reason = f"implausible model: {layers} layers, but there is {quote(tensor)}"
            _fail(first, f"{name}.block_count", reason)
    for key, least, most in _INTEGERS:
        if f"{name}.{key}" in first.metadata:
            _integers(first, f"{name}.{key}", least, most, layers)
    recurrent = any(key.startswith((f"{name}.ssm.", f"{name}.wkv.")) for key in first.metadata)
    heads = first.get(f"{name}.attention.head_count")
    if (
        not recurrent
        and heads is not None
        and not any(heads if isinstance(heads, list) else [heads])
    ):
        _fail(first, f"{name}.attention.head_count", "implausible model: 0 heads")
    for key in _FLOATS:
        number = first.get(f"{name}.{key}")
        if number is not None and not (
            isinstance(number, float) and math.isfinite(number) and number >= 0
        ):
            _fail(first, f"{name}.{key}", f"implausible model: {_shown(number)}")
    used, experts = (first.get(f"{name}.{key}", 0) for key in ("expert_used_count", "expert_count"))
    if isinstance(used, int) and isinstance(experts, int) and used > experts:
        reason = f"implausible model: {used} experts a token of {experts}"
        _fail(first, f"{name}.expert_used_count", reason)


def check_vocabulary(header: GgufHeader) -> None:
    """Check the vocabulary against itself and against the embedding; a file may have none.

    Raises:
        FileFormatError: bad vocabulary: a token that is not UTF-8 or names no byte, types or scores
            of a wrong number or type, a special token or a merge rule that cannot be.
    """
    model = header.get("tokenizer.ggml.model")
    found = header.metadata.get("tokenizer.ggml.tokens")
    if found is None:
        if model not in (None, "none", "no_vocab"):
            _bad(header, "tokenizer.ggml.tokens", "missing")
        return
    if not isinstance(model, str) or not model:
        _bad(header, "tokenizer.ggml.model", "missing or no text: the tokens' kind is not named")
    tokens = _texts(header, "tokenizer.ggml.tokens")
    if not 0 < len(tokens) <= _MAX_TOKENS:
        _bad(header, "tokenizer.ggml.tokens", f"{len(tokens)} tokens, 1 to {_MAX_TOKENS} expected")
    types = _parallel(header, "token_type", ("i32", "u32"), len(tokens))
    wrong = next((i for i, value in enumerate(types or ()) if not 0 <= value <= _LAST_TYPE), None)
    if types and wrong is not None:
        reason = f"type {types[wrong]} of token {wrong}, 0 to {_LAST_TYPE} expected"
        _bad(header, "tokenizer.ggml.token_type", reason)
    scores = _parallel(header, "scores", ("f32",), len(tokens))
    wrong = next((i for i, value in enumerate(scores or ()) if not math.isfinite(value)), None)
    if scores and wrong is not None:
        _bad(header, "tokenizer.ggml.scores", f"{scores[wrong]} for token {wrong}")
    pieces = model == "llama"  # where `<0x..>` means a byte whatever its type is
    for index, token in enumerate(tokens):
        is_byte = types is not None and types[index] == _BYTE_TYPE
        if (is_byte or (pieces and _LIKE_BYTE.fullmatch(token))) and not _BYTE.fullmatch(token):
            reason = f"token {index}, {_text(token)}, is to be a byte such as <0x0A>"
            _bad(header, "tokenizer.ggml.tokens", reason)
    if "tokenizer.ggml.merges" in header.metadata:
        for index, rule in enumerate(_texts(header, "tokenizer.ggml.merges")):
            if b" " not in rule[1:-1]:
                reason = f"rule {index}, {_text(rule)}, is not two tokens with a space between"
                _bad(header, "tokenizer.ggml.merges", reason)
    elif model in _PAIRED:
        _bad(header, "tokenizer.ggml.merges", f"missing, {model} tokenizers need them")
    _special_tokens(header, len(tokens))
    rows = next((e.shape[0] for n, e in header.entries.items() if n == "token_embd.weight"), None)
    if rows is not None and rows < len(tokens):
        reason = f"{len(tokens)} tokens, but token_embd.weight has {rows} rows"
        _bad(header, "tokenizer.ggml.tokens", reason)


def _special_tokens(header: GgufHeader, count: int) -> None:
    """Check the ids of BOS, EOS and their kin."""
    for key, value in header.metadata.items():
        if not _SPECIAL.fullmatch(key):
            continue
        index = value.value
        if type(index) is not int:
            _bad(header, key, f"of type {value.kind}, an integer expected")
        if index == _NONE and key != "tokenizer.ggml.eos_token_id":
            continue
        if not 0 <= index < count:
            _bad(header, key, f"{index} is outside the vocabulary of {count} tokens")


def _texts(header: GgufHeader, key: str) -> list[bytes]:
    """An array of texts, each of them UTF-8."""
    found = header.metadata[key]
    if found.item != "str":
        _bad(header, key, f"of type {found.kind}, [str] expected")
    texts = found.texts()
    for index, text in enumerate(texts):
        try:
            text.decode()
        except UnicodeDecodeError:
            _bad(header, key, f"text {index} is not UTF-8: {text[:40]!r}")
    return texts


def _parallel(
    header: GgufHeader, name: str, items: tuple[str, ...], count: int
) -> list[Any] | None:
    """An array with an item for each token; None where there is none."""
    key = f"tokenizer.ggml.{name}"
    found = header.metadata.get(key)
    if found is None:
        return None
    if found.item not in items:
        _bad(header, key, f"of type {found.kind}, [{items[0]}] expected")
    if found.count != count:
        _bad(header, key, f"{found.count} items for {count} tokens")
    values: list[Any] = found.value
    return values


def _integer(header: GgufHeader, key: str, least: int, most: int) -> int:
    """A plain integer in these bounds."""
    found = header.get(key)
    if type(found) is not int or not least <= found <= most:
        reason = "missing" if found is None else _shown(found)
        _fail(header, key, f"implausible model: {reason}, {least} to {most} expected")
    return found


def _integers(header: GgufHeader, key: str, least: int, most: int, layers: int) -> None:
    """An integer, or one for each layer."""
    found = header.metadata[key]
    if found.type != "arr":
        _integer(header, key, least, most)
        return
    if found.count < layers:
        _fail(header, key, f"implausible model: {found.count} values for {layers} layers")
    for index, value in enumerate(found.value):
        if type(value) is not int or not least <= value <= most:
            reason = f"implausible model: {_shown(value)} for layer {index}"
            _fail(header, key, f"{reason}, {least} to {most} expected")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _text(raw: bytes) -> str:
    return quote(raw.decode("utf-8", "replace"), 60)


def _bad(header: GgufHeader, key: str, reason: str) -> NoReturn:
    _fail(header, key, f"bad vocabulary: {reason}")


def _fail(header: GgufHeader, key: str, reason: str) -> NoReturn:
    value: Value | None = header.metadata.get(key)
    raise FileFormatError(header.path, key, reason, value.offset if value else None)
