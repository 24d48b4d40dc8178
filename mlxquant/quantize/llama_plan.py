"""The type that llama-quantize gives every tensor of a model: a pure function of names and shapes.

The order of authority, the first that speaks wins:

    1. what is never quantized       vectors, norms, routers, positions, …: as they are
    2. the user's words for the      --token-embedding-type, --output-tensor-type
       embedding and the output
    3. --tensor-type                 the first pattern that is in the name
    4. --pure                        the file type's default
    5. the file type's rules         llama_rules.py
    6. the file type's default

Where a row is no whole number of the type's blocks, a type of smaller blocks takes its place. The
file types of floats know 1, 2 and 6 alone.

Some rules go by how many tensors of a role were seen before, so the order of visits matters: by
layer, then by name, as in the file that llama-quantize writes. Facts: src/llama-quant.cpp of
llama.cpp (https://github.com/ggml-org/llama.cpp).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError, RequestError
from ..files.gguf_types import tensor_type
from ..files.gguf_values import Value
from .llama_rules import (
    AT_LEAST_Q8_0,
    EMBEDDINGS,
    LOW,
    Case,
    ModelFacts,
    kept_because,
    role_in_gguf,
    rule_for,
)
from .llama_types import ALIASES, FILE_TYPES, FLOATS, TypeRequest

__all__ = ["Choice", "Tensor", "choose_types", "file_number", "visiting_order"]

#: (name, shape as NumPy has it, ggml type in the source)
Tensor = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class Choice:
    """What becomes of one tensor.

    Attributes:
        type: of ggml, e.g. `Q6_K`.
        chosen: what chose it: `default`, `--pure`, `router`, `attn_v, eight experts`, ….
        reason: why it is not the type that was chosen; None when it is.
        needs_importance: llama-quantize refuses to encode this tensor without importance data.
    """

    type: str
    chosen: str
    reason: str | None = None
    needs_importance: bool = False


def choose_types(
    request: TypeRequest,
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor],
    overrides: Mapping[str, Value] | None = None,
) -> dict[str, Choice]:
    """Decide every tensor's type.

    Args:
        metadata: the source's, plain values by GGUF's keys.
        tensors: of the whole model, every part of it.
        overrides: what `parse_override` made of the user's; the rules see these.

    Returns: by name, in llama-quantize's order of tensors: `visiting_order`, or with
        `keep_split` the order given.

    Raises:
        RequestError: a tensor is quantized already, and would have to be quantized again.
        ModelError: the metadata lack what the rules ask for, or contradict a name.
    """
    if not request.keep_split:
        tensors = visiting_order(tensors)
    chooser = _Chooser(request, _facts(metadata, overrides or {}, [name for name, _, _ in tensors]))
    choices = {name: chooser.choose(name, shape, stored) for name, shape, stored in tensors}
    if not request.requantize:
        _refuse_twice(choices, tensors)
    return choices


def visiting_order(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors as llama.cpp sorts them: those of no layer, then layer by layer; each by name."""
    return sorted(tensors, key=lambda tensor: (_layer(tensor[0]), tensor[0].encode()))


def file_number(
    request: TypeRequest, metadata: Mapping[str, Any], tensors: Sequence[Tensor]
) -> int:
    """What `general.file_type` becomes.

    For COPY that is what it was; where the source does not say, the most frequent type's number
    plus 1024, llama.cpp's mark of a guess.
    """
    number = request.target.number
    if number is not None:
        return number
    known = metadata.get("general.file_type")
    if known is not None:
        return int(known)
    seen: Counter[str] = Counter()
    most = "F32"
    for _, _, stored in visiting_order(tensors):
        seen[stored] += 1
        if seen[stored] > seen[most]:
            most = stored
    # llama.cpp knows a file type of NVFP4 that llama-quantize has not
    guess = {"NVFP4": 39, "MXFP4": 0}.get(most)
    if guess is None:
        named = FILE_TYPES.get(ALIASES.get(most, most))
        guess = (named and named.number) or 0
    return 1024 | guess


# -- the model ------------------------------------------------------------------------------------

#: architecture → layers of what llama.cpp takes for a model of 70 billion weights
_LARGE = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68, "llama-embed": 80}

#: keys whose value may be a list, one item a layer; the rules go by the first
_OF_EACH_LAYER = ("attention.head_count", "attention.head_count_kv")


def _facts(
    metadata: Mapping[str, Any], overrides: Mapping[str, Value], names: Sequence[str]
) -> ModelFacts:
    """What the rules ask of a model, from its metadata."""

    def read(key: str, kind: str) -> Any:
        found, given = metadata.get(key), overrides.get(key)
        # llama.cpp lets no override speak of every layer where the file does not
        unheard = key.endswith(_OF_EACH_LAYER) and (found is None or isinstance(found, list))
        return given.value if given and given.type == kind and not unheard else found

    architecture = str(read("general.architecture", "str"))

    def count(key: str, default: int | None = None) -> int:
        value = read(f"{architecture}.{key}", "u32")
        first = value[0] if isinstance(value, list) and value else value
        first = default if first is None else first
        if type(first) is not int or first < 0:
            raise ModelError(
                f"{architecture}.{key} is {first!r}, a whole number is needed to choose types; "
                "mend the model's metadata, or set it with --override-kv"
            )
        return first

    layers, experts = count("block_count"), count("expert_count", 0)
    if architecture == "graniteswitch":
        layers += 1  # of its router
    predicting = count("nextn_predict_layers", 0)
    if architecture == "nanbeige" and (loops := count("num_loops", 1)) > 1:
        layers = loops * (layers - predicting)  # what predicts is in no loop
    heads = count("attention.head_count", 0)
    key_heads = count("attention.head_count_kv", heads)
    large = layers - predicting == _LARGE.get(architecture)
    if architecture in ("llama", "llama-embed"):
        large &= heads != key_heads and experts != 8
    return ModelFacts(
        architecture=architecture,
        layers=layers,
        experts=experts,
        sharing=heads // key_heads if key_heads else 0,
        large=large,
        tied="output.weight" not in names,
        values=sum(role_in_gguf(name) == "attn_v" for name in names),
    )


def _layer(name: str) -> int:
    """The number behind `blk.`; -1 for a tensor of no layer."""
    found = re.match(r"blk\.([0-9]+)", name)
    return int(found[1]) if found else -1


# -- one tensor after the other -------------------------------------------------------------------

#: type → the type that takes its place where rows are no whole number of its blocks
_FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "IQ4_NL"),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

#: types that llama-quantize does not make without importance data
_NEED_IMPORTANCE = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")


class _Chooser:
    """Chooses for one tensor after the other, and counts how many of each role it has seen."""

    def __init__(self, request: TypeRequest, model: ModelFacts) -> None:
        self.request = request
        self.model = model
        self.default = request.target.default or ""
        self.seen: Counter[str] = Counter()

    def choose(self, name: str, shape: tuple[int, ...], stored: str) -> Choice:
        """The type of the next tensor."""
        kept = self.keep(name, shape, stored)
        if kept:
            return Choice(stored, kept)
        wanted, chosen = self.want(name, shape)
        type, reason = _fit(wanted, shape[-1])
        return Choice(type, chosen, reason, type != stored and self.needs_importance(name, type))

    def keep(self, name: str, shape: tuple[int, ...], stored: str) -> str | None:
        """Why this tensor stays as it is; None if it need not."""
        if not self.default:
            return self.request.file_type
        if name == "output.weight" and self.request.leave_output_tensor:
            return "--leave-output-tensor"
        if re.fullmatch("I[0-9]+", stored):
            return "integers"
        return kept_because(name, shape, self.model.architecture)

    def want(self, name: str, shape: tuple[int, ...]) -> tuple[str, str]:
        """(type, what chose it), whatever the length of a row."""
        request, role = self.request, role_in_gguf(name)
        named = request.named_type(name)
        embedding = request.token_embedding_type
        # --tensor-type may name the embeddings of the layers, but not those of the whole model
        if embedding and role == "token_embd" and not (named and name != EMBEDDINGS[0]):
            return embedding, "--token-embedding-type"
        if request.output_tensor_type and role == "output":
            return request.output_tensor_type, "--output-tensor-type"
        if self.default in FLOATS:
            return self.default, "default"
        if named:
            return named[1], f"--tensor-type {named[0]}"
        if request.pure:
            return self.default, "--pure"
        return self.by_rule(role, name, shape)

    def by_rule(self, role: str, name: str, shape: tuple[int, ...]) -> tuple[str, str]:
        """What the file type's rules say."""
        request, model = self.request, self.model
        if any(part in name for part in AT_LEAST_Q8_0.get(model.architecture, ())):
            return "Q8_0", "architecture"
        if role == "token_embd" and model.tied:
            role = "output"
        if role == "output" and request.output_tensor_type:
            return request.output_tensor_type, "--output-tensor-type"
        if request.file_type == "MXFP4_MOE" and role != "output":
            return self.by_experts(role, shape)
        index, count = self.place(role, name)
        case = Case(
            model, request.file_type, self.default, shape[-1], index, count, request.importance
        )
        type, chosen = rule_for(role, case) or (self.default, "default")
        if role == "attn_v" and model.large and request.file_type not in LOW:
            return {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}.get(type, type), chosen
        return type, chosen

    def by_experts(self, role: str, shape: tuple[int, ...]) -> tuple[str, str]:
        """MXFP4 for matrices that are stacked, one an expert."""
        stacked = len(shape) > 2 and shape[-3] > 1
        if self.model.architecture == "bailingmoe3":  # stacks attention's matrices as well
            stacked &= role.startswith("ffn_")
        return ("MXFP4", "experts") if stacked else ("Q8_0", "not experts")

    def place(self, role: str, name: str) -> tuple[int, int]:
        """(which of its role this is, of how many); feed-forward matrices go by layers."""
        index = self.seen[role]
        self.seen[role] += 1
        if not role.startswith("ffn_"):
            return index, self.model.values
        if self.model.experts > 1 and self.request.file_type not in LOW:
            index = _layer(name)
            if not 0 <= index < self.model.layers:
                raise ModelError(
                    f"tensor {name!r} is of no layer from 0 to {self.model.layers - 1}; types "
                    "cannot be chosen by layers: pass --pure"
                )
        return index, self.model.layers

    def needs_importance(self, name: str, type: str) -> bool:
        """Whether llama-quantize refuses without importance data."""
        if name == "output.weight" or name in EMBEDDINGS:
            return False
        # Q2_K_S is the one recipe that counts on it for Q2_K
        return type in _NEED_IMPORTANCE or (self.request.file_type, type) == ("Q2_K_S", "Q2_K")


def _fit(wanted: str, row: int) -> tuple[str, str | None]:
    """(type whose blocks fit rows of `row` weights, why it is another than `wanted`)."""
    block = tensor_type(wanted).block_size
    if row % block == 0:
        return wanted, None
    reason = f"rows of {row} are no multiple of {wanted}'s {block}"
    other = _FALLBACK.get(wanted, wanted)
    return ("F16" if row % tensor_type(other).block_size else other), reason


def _refuse_twice(choices: Mapping[str, Choice], tensors: Iterable[Tensor]) -> None:
    """Refuse to quantize what is quantized already."""
    twice = [
        (name, stored)
        for name, _, stored in tensors
        if choices[name].type != stored and tensor_type(stored).block_size > 1
    ]
    if twice:
        name, stored = twice[0]
        raise RequestError(
            f"{len(twice)} tensors are quantized already ({name!r} is {stored}); start from the "
            "original weights, or pass --requantize to decode and quantize again"
        )
