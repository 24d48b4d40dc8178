"""llama-quantize itself, as the tests' oracle: `llama_model_quantize` of llama-cpp-python.

    planned(file, request)          the type of every tensor, by a dry run: nothing is encoded
    quantize(file, out, request)    the file that it writes

A dry run looks at headers alone. A request that ggml cannot meet can make it abort the whole
process, so it runs in one of its own, the same for every call.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from support import unchecked

from mlxquant.files.gguf_types import tensor_type
from mlxquant.files.gguf_values import Value
from mlxquant.quantize.llama_types import TypeRequest

__all__ = ["Aborted", "Planned", "Refused", "bindings", "planned", "quantize"]

# "[   1/  20] output.weight - [ 256, 320, 1, 1], type = f16, size = 1.00 MiB -> 0.50 MiB (q4_K)"
_LINE = re.compile(
    r"^\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\w+), size = [^(\n]*(?:\((\w+)\))?$", re.MULTILINE
)
_NEEDS_IMPORTANCE = "will require an imatrix"


class Refused(Exception):
    """llama-quantize fails; what it says last."""


class Aborted(Exception):
    """ggml ended the process; why is on stderr."""


@dataclass(frozen=True)
class Planned:
    """What a dry run says: each tensor's type, in order; whether importance data are missed."""

    types: dict[str, str]
    needs_importance: bool


def bindings() -> Any:
    """llama-cpp-python's module."""
    if importlib.util.find_spec("llama_cpp") is None:
        unchecked("llama-cpp-python", "whether tensors get the types that llama-quantize gives")
    import llama_cpp

    return llama_cpp


def planned(
    file: Path, request: TypeRequest, overrides: Mapping[str, Value] | None = None
) -> Planned:
    """What llama-quantize would do.

    Raises:
        Refused: it would not.
        Aborted: ggml ended the process.
    """
    said = _run(file, file.with_name("unwritten"), request, {}, overrides or {}, dry_run=True)
    types = {name: (after or before).upper() for name, before, after in _LINE.findall(said)}
    return Planned(types, _NEEDS_IMPORTANCE in said)


def quantize(
    file: Path,
    out: Path,
    request: TypeRequest,
    importance: Mapping[str, np.ndarray] | None = None,
    overrides: Mapping[str, Value] | None = None,
) -> None:
    """Write the quantized model.

    Args:
        importance: by tensor, one weight a column; used where the request says there is any.

    Raises:
        Refused: it does not.
        Aborted: ggml ended the process.
    """
    _run(file, out, request, importance or {}, overrides or {}, dry_run=False)


def _run(
    file: Path,
    out: Path,
    request: TypeRequest,
    importance: Mapping[str, np.ndarray],
    overrides: Mapping[str, Value],
    *,
    dry_run: bool,
) -> str:
    """Call it, in the process that is for it; what it says."""
    bindings()
    try:
        call = _process().submit(
            _call, file, out, request, dict(importance), dict(overrides), dry_run
        )
        status, text = call.result()
    except BrokenProcessPool as death:
        _process.cache_clear()
        raise Aborted(f"ggml aborted on {request}") from death
    if status:
        raise Refused(text.strip().splitlines()[-1])
    return text


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _call(
    file: Path,
    out: Path,
    request: TypeRequest,
    importance: Mapping[str, np.ndarray],
    overrides: Mapping[str, Value],
    dry_run: bool,
) -> tuple[int, str]:
    """Call it here: its status, and what it says."""
    llama = bindings()
    llama.llama_backend_init()
    params = llama.llama_model_quantize_default_params()
    params.nthread = 2
    params.dry_run = dry_run
    params.ftype = request.target.number or 0
    params.only_copy = request.target.name == "COPY"
    params.pure = request.pure
    params.keep_split = request.keep_split
    params.allow_requantize = request.requantize
    params.quantize_output_tensor = not request.leave_output_tensor
    if request.output_tensor_type:
        params.output_tensor_type = tensor_type(request.output_tensor_type).number
    if request.token_embedding_type:
        params.token_embedding_type = tensor_type(request.token_embedding_type).number
    if request.tensor_types:
        pairs = [(text.encode(), tensor_type(name).number) for text, name in request.tensor_types]
        params.tt_overrides = _array(llama.llama_model_tensor_override, pairs)
    if request.importance:
        pointer = ctypes.POINTER(ctypes.c_float)
        arrays = [np.ascontiguousarray(array, np.float32) for array in importance.values()]
        rows = [
            (name.encode(), array.ctypes.data_as(pointer), array.size)
            for name, array in zip(importance, arrays, strict=True)
        ]
        params.imatrix = _array(llama.llama_model_imatrix_data, rows)
    if overrides:
        params.kv_overrides = _overrides(llama, overrides)
    said: list[bytes] = []
    listen = llama.llama_log_callback(lambda level, text, data: said.append(text))
    llama.llama_log_set(listen, None)
    try:
        status = llama.llama_model_quantize(bytes(file), bytes(out), ctypes.byref(params))
    finally:
        llama.llama_log_set(llama._logger.llama_log_callback, None)
    return status, b"".join(said).decode()


def _array(kind: Any, rows: Sequence[tuple[Any, ...]]) -> Any:
    """A C array of structures, with an empty one behind."""
    return (kind * (len(rows) + 1))(*(kind(*row) for row in rows))


def _overrides(llama: Any, values: Mapping[str, Value]) -> Any:
    """A C array of overrides, with an empty one behind."""
    found = (llama.llama_model_kv_override * (len(values) + 1))()
    for slot, (key, value) in zip(found, values.items(), strict=False):
        name, field = {
            "u32": ("INT", "val_i64"),
            "f32": ("FLOAT", "val_f64"),
            "bool": ("BOOL", "val_bool"),
            "str": ("STR", "val_str"),
        }[value.type]
        slot.key = key.encode()
        slot.tag = getattr(llama, f"LLAMA_KV_OVERRIDE_TYPE_{name}")
        setattr(slot.value, field, value.value.encode() if name == "STR" else value.value)
    return found
