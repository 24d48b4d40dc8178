"""`ModelInfo.swift`: what an app's code may know of a model before it opens it, as constants.

The same folder gives the same bytes: there is no time in it, nor a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .swift_names import comment, identifiers, number, text

if TYPE_CHECKING:
    from ..measure.memory_model import Memory

__all__ = ["FILE", "ModelInfo", "source_of"]

FILE = "ModelInfo.swift"


@dataclass(frozen=True)
class ModelInfo:
    """What the constants are made of.

    Attributes:
        type_name: of the Swift type.
        runner: what the estimate of memory is for.
        name: of the model; model_type, tokenizer_class: as its settings have them.
        parameters: weights; nbytes: of their files.
        formats: of the weights, the one of most bytes first.
        context, vocabulary, layers: None where the settings do not say.
        end_tokens: ids that end a text, in order.
        special_tokens: texts of special tokens, by id.
        has_chat_template: whether the model comes with one.
        manifest: SHA-256 of mlxquant.json.
        memory: the estimate by context, in tokens.
    """

    type_name: str
    runner: str
    name: str
    model_type: str
    tokenizer_class: str | None
    parameters: int
    nbytes: int
    formats: tuple[str, ...]
    context: int | None
    vocabulary: int | None
    layers: int | None
    end_tokens: tuple[int, ...]
    special_tokens: Mapping[int, str]
    has_chat_template: bool
    manifest: str
    memory: Mapping[int, Memory]


def source_of(info: ModelInfo, version: str) -> str:
    """The file's text.

    Args:
        version: of mlxquant.
    """
    constants = [
        ("What the model is called.", "name", "String", text(info.name)),
        (
            "The architecture, as `model_type` in config.json has it.",
            "modelType",
            "String",
            text(info.model_type),
        ),
        (
            "`tokenizer_class` in tokenizer_config.json, where there is one.",
            "tokenizerClass",
            "String?",
            "nil" if info.tokenizer_class is None else text(info.tokenizer_class),
        ),
        ("How many weights there are.", "parameters", "Int", number(info.parameters)),
        ("Bytes of the weight files.", "weightBytes", "Int", number(info.nbytes)),
        (
            "Formats of the weights; the first has the most bytes.",
            "formats",
            "[String]",
            f"[{', '.join(map(text, info.formats))}]",
        ),
        ("The longest text, in tokens.", "contextLength", "Int?", _optional(info.context)),
        ("Rows of the embedding.", "vocabularySize", "Int?", _optional(info.vocabulary)),
        ("Decoder layers.", "layers", "Int?", _optional(info.layers)),
        (
            "Ids of the tokens that end a text.",
            "endTokens",
            "[Int]",
            f"[{', '.join(map(number, info.end_tokens))}]",
        ),
        (
            "Whether the model comes with a chat template.",
            "hasChatTemplate",
            "Bool",
            "true" if info.has_chat_template else "false",
        ),
        (
            "SHA-256 of mlxquant.json, which has that of every file.",
            "manifestSHA256",
            "String",
            text(info.manifest),
        ),
    ]
    declared = "\n".join(
        f"    /// {what}\n    public static let {name}: {kind} = {value}"
        for what, name, kind, value in constants
    )
    return f"""\
// Written by mlxquant {comment(version)} for {comment(info.name)}; not to be edited.
// swift-format-ignore-file

/// What is known of a model before it is opened.
public enum {info.type_name} {{
{declared}

    /// Ids of the special tokens, by their texts.
    public enum Token {{
{_tokens(info.special_tokens)}    }}

    /// What the model takes with a text of some length, in bytes: an estimate for
    /// {info.runner}.
    public struct Memory: Sendable, Hashable {{
        /// Tokens of the text.
        public let context: Int
        /// Of the weights.
        public let weights: Int
        /// Of the keys and values of all tokens.
        public let cache: Int
        /// Of what is computed on the way.
        public let working: Int

        /// All of it.
        public var total: Int {{ weights + cache + working }}
    }}

    /// By length of the text, the shortest first; empty where the settings do not tell.
    public static let memory: [Memory] = [
{_memory(info.memory)}    ]

    /// The estimate for the longest text that fits into so many bytes; nil where none does.
    public static func memory(within bytes: Int) -> Memory? {{
        memory.last {{ $0.total <= bytes }}
    }}
}}
"""


def _optional(value: int | None) -> str:
    return "nil" if value is None else number(value)


def _tokens(tokens: Mapping[int, str]) -> str:
    ids = sorted(tokens)
    names = identifiers(tokens[id_] for id_ in ids)
    return "".join(
        f"        /// {text(tokens[id_])}\n        public static let {name} = {number(id_)}\n"
        for id_, name in zip(ids, names, strict=True)
    )


def _memory(memory: Mapping[int, Memory]) -> str:
    rows: Sequence[tuple[int, Memory]] = sorted(memory.items())
    return "".join(
        f"        Memory(context: {number(context)}, weights: {number(each.weights)}, "
        f"cache: {number(each.cache)}, working: {number(each.working)}),\n"
        for context, each in rows
    )
