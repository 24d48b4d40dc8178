"""The formats that a model could have, each with its plan, its bytes and the command that makes it.

MLX   affine in 8 to 2 bits with groups of 64 and 32, mlx-lm's mixed recipes, the fp formats
GGUF  llama-quantize's types
as it is   what is on disk already
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..files.gguf_types import tensor_type
from ..load.checkpoint import Checkpoint
from ..load.from_gguf import GgufCheckpoint
from ..models.families import family_of_config
from ..quantize.llama_plan import Tensor, choose_types
from ..quantize.llama_types import TypeRequest
from ..quantize.policy import Item, make_plan
from ..quantize.request import RECIPES, Request
from .memory_model import Footprint, Part, item_bytes

__all__ = ["AS_IT_IS", "GGUF_TYPES", "Candidate", "as_it_is", "gguf_candidates", "mlx_candidates"]

#: how a table calls the model as it is on disk
AS_IT_IS = "as it is"

GGUF_TYPES = (
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_0",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
)

_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(
        (f"affine{bits}-g{group}", {"bits": bits, "group_size": group})
        for bits in (8, 6, 5, 4, 3, 2)
        for group in (32, 64)
    ),
    *((mode, {"mode": mode}) for mode in ("mxfp8", "nvfp4", "mxfp4")),
    *((recipe, {"recipe": recipe}) for recipe in RECIPES),
)


@dataclass(frozen=True)
class Candidate:
    """A format for the whole model.

    Attributes:
        name: as results and tables call it: `affine4-g64`, `mixed_4_6`, `Q4_K_M`, `as it is`.
        parts: every parameter and its bytes.
        formats: weights in each quantized format, by its name.
        parameters: number of weights.
        itemsize: bytes of a number of the type that the model computes in.
        options: of `mlxquant quantize`, as a shell takes them; None where nothing is to be done.
    """

    name: str
    parts: tuple[Part, ...]
    formats: dict[str, int]
    parameters: int
    itemsize: int
    options: tuple[str, ...] | None

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(part.bytes for part in self.parts)

    @property
    def bits_per_weight(self) -> float:
        """Scales and what stays unquantized included."""
        return 8 * self.weights / max(1, self.parameters)

    def command(self, model: str | None, also: Sequence[str] = ()) -> str:
        """The command that makes it of a model; where there is nothing to make, that runs it.

        Args:
            model: what the user typed; None for the bundled model.
            also: further options.
        """
        words = [] if model is None else [model]
        if self.options is None:
            return shlex.join(["mlxquant", "chat", *words, *also])
        stem = "books-7m" if model is None else Path(model).resolve().name.removesuffix(".gguf")
        output = f"{stem}-{self.name}" + (".gguf" if "--type" in self.options else "")
        return shlex.join(["mlxquant", "quantize", *words, "-o", output, *self.options, *also])


def mlx_candidates(footprint: Footprint) -> tuple[list[Candidate], list[str]]:
    """What `mlxquant quantize` can make for MLX, and why some formats are left out."""
    source = footprint.source
    again = bool(source.modules) and all(m.quantized for m in source.modules.values())
    found: list[Candidate] = []
    left_out: dict[str, list[str]] = {}  # reason → names
    for name, given in _REQUESTS:
        try:
            plan = make_plan(source, Request(**given, requantize=again))
        except RequestError as problem:
            left_out.setdefault(str(problem).replace(name, "it"), []).append(name)
            continue
        if not any(item.target for item in plan.items):
            left_out.setdefault("no tensor of this model can take it", []).append(name)
            continue
        words = [word for key, value in given.items() for word in (_flag(key), str(value))]
        words += ["--requantize"] * again
        found.append(_of_plan(name, plan.items, footprint, tuple(words)))
    notes = [f"{', '.join(names)}: left out, {why}" for why, names in left_out.items()]
    return found, notes


def as_it_is(footprint: Footprint) -> Candidate:
    """The model on disk."""
    source, blocks = footprint.source, footprint.source.checkpoint.blocks()
    formats = Counter[str]()
    beside = Counter[str]()  # bytes of scales and biases, by the weight
    parts, floats = [], Counter[str]()
    for name, node in source.parameters.items():
        path, _, last = name.rpartition(".")
        module = source.modules.get(path)
        packed = module is not None and module.quantized is not None
        if packed and last in ("scales", "biases"):
            beside[f"{path}.weight"] += node.nbytes
            continue
        shape, label, stored = node.shape, "", node
        if module is not None and last == "weight":
            shape, label = module.shape, module.quantized or ""
        if name in blocks:
            stored = blocks[name]
            label = stored.dtype
        if label:
            formats[label] += math.prod(shape)
        else:
            floats[node.dtype] += 1
        parts.append(Part(name, shape, stored.nbytes))
    wide = not blocks and floats["F32"] > 0 == floats["BF16"] + floats["F16"]
    return Candidate(
        AS_IT_IS,
        tuple(part._replace(bytes=part.bytes + beside[part.name]) for part in parts),
        dict(formats),
        footprint.parameters,
        4 if wide else 2,
        None,
    )


def gguf_candidates(footprint: Footprint) -> list[Candidate]:
    """llama-quantize's types.

    Raises:
        ModelError: GGUF has no place for this model, or its names are not known.
        RequestError: it is quantized already.
    """
    metadata, tensors = _in_gguf_names(footprint.source.checkpoint)
    found = []
    for kind in GGUF_TYPES:
        choices = choose_types(TypeRequest(kind), metadata, tensors)
        formats, parts = Counter[str](), []
        for name, shape, _ in tensors:
            chosen = tensor_type(choices[name].type)
            parts.append(Part(name, shape, chosen.nbytes(shape)))
            if chosen.block_size > 1:
                formats[chosen.name] += math.prod(shape)
        options = ("--type", kind)
        found.append(Candidate(kind, tuple(parts), dict(formats), footprint.parameters, 2, options))
    return found


def _in_gguf_names(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], list[Tensor]]:
    """Metadata, and (name, shape, type) of every tensor."""
    if isinstance(checkpoint, GgufCheckpoint):
        metadata = {key: value.value for key, value in checkpoint.headers[0].metadata.items()}
        entries = [entry for header in checkpoint.headers for entry in header.entries.values()]
        return metadata, [(entry.name, entry.shape, entry.type_name) for entry in entries]
    if checkpoint.quantization is not None or checkpoint.blocks():
        raise RequestError("it is quantized already; start from the original weights")
    family = family_of_config(checkpoint.config)
    nodes = family.to_gguf(checkpoint.nodes(), checkpoint.config)
    return family.metadata(checkpoint.config), [
        (name, node.shape, node.dtype) for name, node in nodes.items()
    ]


def _of_plan(
    name: str, items: Sequence[Item], footprint: Footprint, options: tuple[str, ...]
) -> Candidate:
    source = footprint.source
    formats = Counter[str]()
    for item in items:
        kept = source.modules[item.module].quantized if item.module else None
        label = item.target.name if item.target is not None else kept
        if label:
            formats[label] += item.size
    floats = {item.dtype for item in items if item.module is None}
    return Candidate(
        name,
        tuple(Part(item.name, item.shape, item_bytes(item, source)) for item in items),
        dict(formats),
        footprint.parameters,
        4 if "F32" in floats and not floats & {"BF16", "F16"} else 2,
        options,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
