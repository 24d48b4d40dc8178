"""What llama-quantize can be asked for: its file types, and its options about single tensors.

A file type such as `Q4_K_M` is a recipe: most tensors get its default type, some get another
(llama_rules.py). Names, numbers and defaults are those of llama.cpp (https://github.com/ggml-org/
llama.cpp): tools/quantize/quantize.cpp, include/llama.h, and `llama_ftype_get_default_type`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import RequestError
from ..files.gguf_types import TENSOR_TYPES
from ..files.gguf_values import Value

__all__ = [
    "ALIASES",
    "FILE_TYPES",
    "FLOATS",
    "TARGETS",
    "FileType",
    "TypeRequest",
    "file_type",
    "parse_override",
    "parse_tensor_type",
]

#: types that are plain floats
FLOATS = ("F32", "F16", "BF16")

#: types that a tensor can be given; llama.cpp itself cannot write the others
TARGETS: tuple[str, ...] = tuple(
    each.name
    for each in TENSOR_TYPES.values()
    if each.name in FLOATS or (each.block_size > 1 and each.name not in ("Q8_1", "Q8_K"))
)


@dataclass(frozen=True)
class FileType:
    """A recipe for a whole model.

    Attributes:
        name: llama-quantize's, e.g. `Q4_K_M`.
        number: what `general.file_type` says of such a file; None for COPY, which keeps the number.
        default: the type that most tensors get, e.g. `Q4_K`; None for COPY, which keeps types.
    """

    name: str
    number: int | None
    default: str | None

    @property
    def is_float(self) -> bool:
        """Whether tensors keep their values: F32, F16, BF16 and COPY."""
        return self.default is None or self.default in FLOATS


#: by name, in the order of their numbers
FILE_TYPES: dict[str, FileType] = {
    name: FileType(name, number, default)
    for name, number, default in (
        ("F32", 0, "F32"),
        ("F16", 1, "F16"),
        ("Q4_0", 2, "Q4_0"),
        ("Q4_1", 3, "Q4_1"),
        ("Q8_0", 7, "Q8_0"),
        ("Q5_0", 8, "Q5_0"),
        ("Q5_1", 9, "Q5_1"),
        ("Q2_K", 10, "Q2_K"),
        ("Q3_K_S", 11, "Q3_K"),
        ("Q3_K_M", 12, "Q3_K"),
        ("Q3_K_L", 13, "Q3_K"),
        ("Q4_K_S", 14, "Q4_K"),
        ("Q4_K_M", 15, "Q4_K"),
        ("Q5_K_S", 16, "Q5_K"),
        ("Q5_K_M", 17, "Q5_K"),
        ("Q6_K", 18, "Q6_K"),
        ("IQ2_XXS", 19, "IQ2_XXS"),
        ("IQ2_XS", 20, "IQ2_XS"),
        ("Q2_K_S", 21, "Q2_K"),
        ("IQ3_XS", 22, "IQ3_S"),
        ("IQ3_XXS", 23, "IQ3_XXS"),
        ("IQ1_S", 24, "IQ1_S"),
        ("IQ4_NL", 25, "IQ4_NL"),
        ("IQ3_S", 26, "IQ3_S"),
        ("IQ3_M", 27, "IQ3_S"),
        ("IQ2_S", 28, "IQ2_XS"),
        ("IQ2_M", 29, "IQ2_S"),
        ("IQ4_XS", 30, "IQ4_XS"),
        ("IQ1_M", 31, "IQ1_M"),
        ("BF16", 32, "BF16"),
        ("TQ1_0", 36, "TQ1_0"),
        ("TQ2_0", 37, "TQ2_0"),
        ("MXFP4_MOE", 38, "MXFP4"),
        ("Q1_0", 40, "Q1_0"),
        ("Q2_0", 41, "Q2_0"),
        ("COPY", None, None),
    )
}

#: other names that are understood
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}

_BY_NUMBER = {str(each.number): each for each in FILE_TYPES.values() if each.number is not None}


def file_type(name: str) -> FileType:
    """The file type of a name, in any case, or of a number, as llama-quantize takes them.

    Raises:
        RequestError: there is none; lists what there is.
    """
    text = name.strip().upper()
    found = FILE_TYPES.get(ALIASES.get(text, text)) or _BY_NUMBER.get(text)
    if found is None:
        raise RequestError(f"type {name!r}: choose one of {', '.join((*FILE_TYPES, *ALIASES))}")
    return found


@dataclass(frozen=True)
class TypeRequest:
    """What a user asks of the types in a GGUF file; llama-quantize's options by their names.

    Attributes:
        file_type: a name or number of `FILE_TYPES`; becomes the name.
        pure: every matrix gets the file type's default.
        leave_output_tensor: `output.weight` stays as it is.
        output_tensor_type: type of `output.weight`; of the embedding where that is the output too.
        token_embedding_type: type of the token embeddings.
        tensor_types: (pattern, type) pairs; a pattern is searched for in the tensor's name, the
            first that is found wins. Without effect on the float file types.
        importance: whether importance data is at hand; some rules spend bits where it is not.
        include_weights: parts of names; of importance data, use those of such tensors alone.
        exclude_weights: parts of names; leave out those of such tensors. Not with the former.
        keep_split: tensors are visited in the order they are given in, not by layer and name.
        requantize: allow a source that is quantized already to be decoded and quantized again.
    """

    file_type: str
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    importance: bool = False
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    keep_split: bool = False
    requantize: bool = False
    target: FileType = field(init=False, repr=False, compare=False)
    patterns: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field; raises RequestError."""
        target = file_type(self.file_type)
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "file_type", target.name)
        if self.include_weights and self.exclude_weights:
            raise RequestError("give --include-weights or --exclude-weights, not both")
        for option in ("output_tensor_type", "token_embedding_type"):
            name = getattr(self, option)
            if name is not None:
                words = "--" + option.replace("_", "-")
                object.__setattr__(self, option, _target(words, name))
        pairs = tuple(
            (text, _target(f"--tensor-type {text}", name)) for text, name in self.tensor_types
        )
        object.__setattr__(self, "tensor_types", pairs)
        object.__setattr__(self, "patterns", tuple(_pattern(text) for text, _ in pairs))

    def named_type(self, tensor: str) -> tuple[str, str] | None:
        """The first of `tensor_types` whose pattern is in the tensor's name."""
        for pattern, pair in zip(self.patterns, self.tensor_types, strict=True):
            if pattern.search(tensor):
                return pair
        return None

    def unused_patterns(self, tensors: Sequence[str]) -> tuple[str, ...]:
        """Patterns that are in the name of none of `tensors`; llama-quantize ignores them."""
        return tuple(p.pattern for p in self.patterns if not any(map(p.search, tensors)))


def _target(option: str, name: str) -> str:
    """The type that `name` means, in any case, if tensors can be given it."""
    found = name.strip().upper()
    if found not in TARGETS:
        raise RequestError(f"{option}: type {name!r}: choose one of {', '.join(TARGETS)}")
    return found


#: what Python's expressions have that std::regex lacks or reads otherwise → words for it
_FOREIGN = {
    r"\\(?![dDsSwWbB])[A-Za-z]": "escapes other than \\d \\s \\w \\b",
    r"\(\?(?![:=!])": "groups that begin with (? other than (?: (?= (?!",
    r"\[\^?[^\]]*\[[:.=]": "classes such as [:alpha:]",
    r"\[\^?\]": "classes that begin with ]",
    r"[*+?}]\+": "quantifiers behind quantifiers",
}


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern that means the same to llama-quantize, whose expressions are std::regex's."""
    option = f"--tensor-type {text!r}"
    unescaped = re.sub(r"\\[^A-Za-z]", "_", text)
    for construct, words in _FOREIGN.items():
        if re.search(construct, unescaped):
            raise RequestError(f"{option}: {words} are not understood; write it without")
    try:
        return re.compile(text, re.ASCII)
    except (re.error, OverflowError, RecursionError) as problem:
        raise RequestError(f"{option}: bad pattern: {problem}") from problem


def parse_tensor_type(text: str) -> tuple[str, str]:
    """`NAME=TYPE` as --tensor-type takes it: (pattern in lower case, type).

    Raises:
        RequestError: not of that form, or no type that a tensor can be given.
    """
    name, equals, type_name = text.partition("=")
    if not (name and equals and type_name):
        raise RequestError(f"--tensor-type {text!r} is not NAME=TYPE, e.g. attn_v=Q8_0")
    return name.lower(), _target(f"--tensor-type {text}", type_name)


def parse_override(text: str) -> tuple[str, Value]:
    """`KEY=TYPE:VALUE` as --override-kv takes it: the key, and the value as it is written.

    int → u32, float → f32, bool (`true` or `false`) → bool, str → str, as llama-quantize has it.

    Raises:
        RequestError: not of that form, or a value that is none of its type.
    """
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    option = f"--override-kv {text!r}"
    if not (key and equals and colon) or kind not in _READ_VALUE:
        kinds = ", ".join(_READ_VALUE)
        raise RequestError(f"{option} is not KEY=TYPE:VALUE with a TYPE of {kinds}")
    if key == "general.alignment":
        raise RequestError(f"{option}: the alignment belongs to the file's layout; leave it out")
    try:
        return key, _READ_VALUE[kind](value)
    except ValueError as problem:
        raise RequestError(f"{option}: {problem}") from None


def _read_int(text: str) -> Value:
    """An unsigned number of 32 bits."""
    if not re.fullmatch(r"\+?[0-9]{1,10}", text) or int(text) >= 2**32:
        raise ValueError(f"{text!r} is no whole number from 0 to {2**32 - 1}")
    return Value.of("u32", int(text))


def _read_float(text: str) -> Value:
    """A finite float32."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not finite")
    return Value.of("f32", number)


def _read_bool(text: str) -> Value:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return Value.of("bool", text == "true")


_READ_VALUE: dict[str, Callable[[str], Value]] = {
    "int": _read_int,
    "float": _read_float,
    "bool": _read_bool,
    "str": lambda text: Value.of("str", text),
}
