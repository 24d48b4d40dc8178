"""A GGUF file in an app: what its metadata tells, and what the Swift package's runtime takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from ..files.gguf import GgufHeader
    from ..inspection.architecture import Architecture
    from ..measure.memory_model import Memory

__all__ = ["gguf_info", "runtime_memory"]

_CONTROL = 3  # llama.cpp's type of tokens that mean something to the model
_ENDS = ("eos", "eot", "eom")

#: of the runtime: bytes of a number that it computes with, tokens that its cache begins with, and
#: tokens of a prompt that go through the model together
_NUMBER, _FIRST, _STEP = 4, 256, 256


def gguf_info(header: GgufHeader) -> dict[str, Any]:
    """What the tokenizer's keys say, as fields of ModelInfo."""
    tokens = header.get("tokenizer.ggml.tokens", [])
    types = header.get("tokenizer.ggml.token_type", [])
    ends = (header.get(f"tokenizer.ggml.{role}_token_id") for role in _ENDS)
    return {
        "runner": "MLXQuantRuntime",
        "tokenizer_class": None,
        "end_tokens": tuple(dict.fromkeys(id_ for id_ in ends if type(id_) is int)),
        "special_tokens": {
            id_: text
            for id_, (text, kind) in enumerate(zip(tokens, types, strict=False))
            if kind == _CONTROL
        },
        "has_chat_template": any(
            key.startswith("tokenizer.chat_template") for key in header.metadata
        ),
    }


def runtime_memory(shape: Architecture, weights: int, context: int) -> Memory:
    """What MLXQuantRuntime takes for a text of `context` tokens.

    Its cache (KeyValueCache.swift) holds keys and values of every layer for a number of tokens that
    doubles, and while it grows those of one layer twice. The rest is room for the tokens that go
    through a layer together (`Workspace` in LanguageModel.swift) and three rows of scores.

    Args:
        shape: of the model.
        weights: bytes of the weights.

    Raises:
        ModelError: the settings do not tell.
    """
    from ..measure.memory_model import Memory

    def known(name: str) -> int:
        value: int | None = getattr(shape, name)
        if value is None:
            raise ModelError(f"the settings do not tell {name.replace('_', ' ')}")
        return value

    heads, hidden, mlp = known("heads"), known("hidden"), known("feed_forward")
    layers, size, vocabulary = known("layers"), known("head_dim"), known("vocabulary")
    room = _FIRST
    while room < context:
        room *= 2
    layer = 2 * room * known("kv_heads") * size * _NUMBER
    together = min(_STEP, context) * (3 * hidden + 2 * heads * size + 2 * mlp)
    working = (together + 3 * vocabulary) * _NUMBER
    return Memory(weights, layers * layer, working + (layer if room > _FIRST else 0))
