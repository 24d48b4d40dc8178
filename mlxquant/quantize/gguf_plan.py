"""Which ggml type every tensor of a GGUF file gets, and what that loses.

export        the type that holds a tensor as it is stored; where there is none, Q8_0
--type NAME   llama-quantize's rules for a file type (llama_plan.py)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import formats
from ..errors import ModelError, RequestError, one_line
from ..files.gguf_types import tensor_type
from ..files.gguf_values import Value
from ..formats.base import Array, NonFiniteError
from ..load.blocks import floats_of
from ..models.gguf_model import GgufModel, GgufTensor
from .encode import encoded
from .imatrix import Imatrix
from .importance import Weighed, importance_notes, weigh
from .llama_plan import choose_types, file_number, visiting_order
from .llama_types import FILE_TYPES, TypeRequest

__all__ = ["GgufItem", "GgufPlan", "export_plan", "refused", "type_plan"]

#: what `--outtype` may say, as convert_hf_to_gguf has it
OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")

#: weights whose error is measured at a time
_CHUNK = 1 << 20
_VERSION = 2  # of ggml's quantized types, which a file with any of them states


@dataclass(frozen=True)
class GgufItem:
    """What happens to one tensor.

    Attributes:
        tensor: the source.
        type: of ggml, in the file to be.
        chosen: what chose it.
        reason: why it is not the type that was asked for, or not exact; None where neither.
        error: ‖w − ŵ‖ / ‖w‖ of the weights as stored, where it was measured; 0 where nothing is
            lost; None where it is not known beforehand.
        importance: of its columns, where it is encoded by them: float32 [matrices, columns], of a
            stack of experts a row for each.
    """

    tensor: GgufTensor
    type: str
    chosen: str
    reason: str | None = None
    error: float | None = None
    importance: Array | None = field(default=None, repr=False, compare=False)

    @property
    def is_copy(self) -> bool:
        """Whether the bytes go over as they are."""
        return self.tensor.node.dtype == self.type

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.tensor.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file to be."""
        return tensor_type(self.type).nbytes(self.tensor.shape)


@dataclass(frozen=True)
class GgufPlan:
    """A GGUF file to be.

    Attributes:
        model: what it is made of.
        items: its tensors, in order.
        metadata: its keys, in order.
        described: the request, as plain data.
        notes: what a user should know, a line each.
    """

    model: GgufModel
    items: tuple[GgufItem, ...]
    metadata: dict[str, Value]
    described: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def inexact(self) -> tuple[GgufItem, ...]:
        """What loses something on the way."""
        return tuple(item for item in self.items if item.error != 0)


def export_plan(
    model: GgufModel,
    outtype: str = "auto",
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> GgufPlan:
    """Every tensor as exact as GGUF can hold it, or with `outtype` every matrix in one type.

    What is not exact is encoded here once, to measure its error before anything is written.

    Raises:
        RequestError: an unknown `outtype`. ModelError: a weight is NaN or infinite.
    """
    name = outtype.lower()
    if name not in OUTTYPES:
        raise RequestError(f"--outtype {outtype!r}: choose one of {', '.join(OUTTYPES)}")
    items = [_exported(tensor, name) for tensor in model.tensors]
    doubtful = [i for i, item in enumerate(items) if item.error is None]
    total = sum(items[i].size for i in doubtful)
    done = 0
    for i in doubtful:
        items[i] = replace(items[i], error=_error(items[i], model))
        done += items[i].size
        if progress is not None:
            progress(done, total, items[i].tensor.name)
    kinds = Counter[str]()
    for item in items:
        if len(item.tensor.shape) > 1:
            kinds[item.type] += item.size
    most = kinds.most_common(1)[0][0] if kinds else "F32"
    stated = model.metadata.get("general.file_type")
    number = _number_of(most, None if stated is None else stated.value)
    metadata = _with_types(model.metadata, items, number)
    return GgufPlan(model, tuple(items), metadata, {"outtype": name}, model.notes)


def type_plan(
    model: GgufModel,
    request: TypeRequest,
    overrides: Mapping[str, Value] | None = None,
    imatrix: Imatrix | None = None,
) -> GgufPlan:
    """Every tensor in the type that llama-quantize gives it.

    Args:
        overrides: metadata that replace the model's, for the rules and in the file.
        imatrix: importance data, of which `request` may leave some out; some rules go by whether
            there are any, which overrides what the request says of it.

    Raises:
        RequestError: a tensor is quantized already, and `request.requantize` is not set; importance
            data of another model; ….
        ModelError: see `choose_types`.
    """
    by_name = {tensor.name: tensor for tensor in model.tensors}
    if imatrix is not None:
        imatrix = imatrix.only(request.include_weights, request.exclude_weights)
        request = replace(request, importance=bool(imatrix.entries))
    weighed = _weighed(imatrix, model)
    tensors = [(t.name, t.shape, _llama_type(t)) for t in model.tensors]
    plain = model.plain_metadata()
    set_by_user = {key: value.value for key, value in (overrides or {}).items()}
    choices = choose_types(request, plain, tensors, overrides)
    items = []
    for name, choice in choices.items():
        tensor = by_name[name]
        same = tensor.node.dtype == choice.type and not tensor.inexact
        item = GgufItem(tensor, choice.type, choice.chosen, choice.reason, 0.0 if same else None)
        if _is_weighed(item) and name in weighed:
            item = replace(item, importance=weighed[name].columns)
        items.append(item)
    if not request.keep_split:
        order = {name: i for i, (name, _, _) in enumerate(visiting_order(tensors))}
        items.sort(key=lambda item: order[item.tensor.name])
    notes = [*model.notes]
    blind = [name for name, choice in choices.items() if choice.needs_importance]
    if blind and not request.importance:
        notes.append(
            f"{len(blind)} tensors get a type so small that without importance data the loss is "
            f"large: {blind[0]}, …"
        )
    if imatrix is not None:
        quantized = [item.tensor.name for item in items if _is_weighed(item)]
        notes += importance_notes(imatrix, weighed, quantized, blind, list(by_name))
    for pattern in request.unused_patterns(list(by_name)):
        notes.append(f"--tensor-type {pattern!r} is in the name of no tensor")
    metadata = _with_types(model.metadata, items, file_number(request, plain, tensors))
    set_last = {**(overrides or {})}
    if imatrix is not None and imatrix.entries:
        set_last |= imatrix.metadata()
    for key, value in set_last.items():
        metadata.pop(key, None)  # what is set goes to the end
        metadata[key] = value
    described: dict[str, Any] = {
        key: getattr(request, key)
        for key in request.__dataclass_fields__
        if key not in ("target", "patterns")
    }
    described["overrides"] = set_by_user
    if imatrix is not None:
        described["imatrix"] = imatrix.described()
    return GgufPlan(model, tuple(items), metadata, described, tuple(notes))


def _weighed(imatrix: Imatrix | None, model: GgufModel) -> dict[str, Weighed]:
    """The importance of each of a model's tensors."""
    if imatrix is None:
        return {}
    found = weigh(imatrix, ((tensor.name, tensor.shape) for tensor in model.tensors))
    if imatrix.entries and not found:
        first = one_line(min(imatrix.entries), 80)
        raise RequestError(
            f"{imatrix.name or 'importance data'}: the model has none of its "
            f"{len(imatrix.entries)} tensors ({first!r}, …): it is another model's"
        )
    return found


def _is_weighed(item: GgufItem) -> bool:
    """Whether importance changes what a tensor becomes: it is encoded in blocks."""
    return not item.is_copy and tensor_type(item.type).block_size > 1


def refused(item: GgufItem, path: Path, begin: int, problem: NonFiniteError) -> ModelError:
    """The error that blames a weight, in rows that begin at `begin`."""
    return ModelError(
        f"{path}: tensor {one_line(item.tensor.name, 80)!r}: {problem.value} at row "
        f"{begin + problem.row}, column {problem.column}: {item.type} cannot hold it (`mlxquant "
        "inspect --verify` lists every such weight)"
    )


def _llama_type(tensor: GgufTensor) -> str:
    """What llama-quantize takes a tensor to be stored as: what is packed otherwise counts too."""
    return "Q8_0" if tensor.inexact else tensor.node.dtype


def _exported(tensor: GgufTensor, outtype: str) -> GgufItem:
    dtype = tensor.node.dtype
    matrix = len(tensor.shape) > 1 and not _stays_float(tensor.name)
    if outtype != "auto" and matrix:
        wanted, reason = _fitting(outtype.upper(), tensor)
        error = 0.0 if wanted == dtype and not tensor.inexact else None
        return GgufItem(tensor, wanted, "--outtype", reason, error)
    if tensor.inexact and matrix:
        wanted, reason = _fitting("Q8_0", tensor)
        return GgufItem(tensor, wanted, "nearest", f"{tensor.inexact}{_and(reason)}")
    return GgufItem(tensor, dtype, "as it is", None, 0.0)


def _and(reason: str | None) -> str:
    return f"; {reason}" if reason else ""


def _stays_float(name: str) -> bool:
    """What llama.cpp computes with in float32 only, although it may be a matrix."""
    return "_norm." in name or "ffn_gate_inp" in name or name.endswith(".bias")


def _fitting(wanted: str, tensor: GgufTensor) -> tuple[str, str | None]:
    block = tensor_type(wanted).block_size
    width = tensor.shape[-1]
    if width % block == 0:
        return wanted, None
    return "F32", f"rows of {width} are no multiple of {wanted}'s {block}"


def _error(item: GgufItem, model: GgufModel) -> float:
    """‖w − ŵ‖ / ‖w‖ of a tensor that is encoded, read in chunks."""
    floats = floats_of(item.tensor.node)
    target = formats.get(item.type)
    width = item.tensor.shape[-1]
    rows, step = item.size // width, max(1, _CHUNK // width)
    error = norm = 0.0
    for begin in range(0, rows, step):
        w = floats.rows(begin, min(begin + step, rows))
        try:
            difference = w - target.decode(encoded(target, w))
        except NonFiniteError as problem:
            raise refused(item, model.path, begin, problem) from problem
        error += float(np.sum(np.square(difference, dtype=np.float64)))
        norm += float(np.sum(np.square(w, dtype=np.float64)))
    return math.sqrt(error / norm) if norm else 0.0


def _number_of(type_name: str, stated: Any = None) -> int:
    """The file type whose tensors are mostly of this type; that of F32 where there is none.

    Of several (Q4_K_S, Q4_K_M) it is the one that the source has `stated`, else the first.
    """
    numbers = [
        each.number
        for each in FILE_TYPES.values()
        if each.default == type_name and each.number is not None
    ]
    if stated in numbers:
        return int(stated)
    return numbers[0] if numbers else 39 if type_name == "NVFP4" else 0


def _with_types(
    metadata: Mapping[str, Value], items: list[GgufItem], number: int
) -> dict[str, Value]:
    """The metadata with what they say of the tensors' types."""
    stated = ("general.quantization_version", "general.file_type")
    found = {key: value for key, value in metadata.items() if key not in stated}
    if any(tensor_type(item.type).block_size > 1 for item in items):
        found["general.quantization_version"] = Value.of("u32", _VERSION)
    found["general.file_type"] = Value.of("u32", number)
    return found
