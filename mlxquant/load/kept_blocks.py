"""ggml blocks in a model folder: what config.json's `mlxquant` says, held against the arrays.

    "mlxquant": {"version": 1, "blocks": {"model.layers.0.mlp.up_proj": "Q4_K", …}}

    P.weight   U8 [..., rows, row_bytes]     a row's blocks one after the other, as in a GGUF file

A layer is in `blocks` or packed by MLX (`quantization`), not both. MLX has no such arrays: other
programs refuse them by their shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..files.gguf_types import TENSOR_TYPES, GgmlType
from ..files.quote import quote, show
from .checkpoint import LazyTensor, QuantizedTensor, StoredTensor
from .folder import refuse
from .packed import hidden_size

__all__ = ["KEY", "VERSION", "group_blocks", "read_blocks"]

#: of config.json
KEY = "mlxquant"
VERSION = 1

_OWN_KEYS = ("version", "blocks")

#: name → type, of those that are decoded; Q8_1 is for activations
_TYPES = {
    each.name: each for each in TENSOR_TYPES.values() if each.block_size > 1 and each.name != "Q8_1"
}


def read_blocks(path: Path, config: dict[str, Any]) -> dict[str, str]:
    """The ggml type of every layer that config.json says is kept in blocks; none without the entry.

    Args:
        path: of config.json, to blame.

    Raises:
        ModelError: another version, or something that is no such entry.
    """
    entry = config.get(KEY)
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        raise refuse(path, KEY, f"{show(entry)}: an object expected")
    version = entry.get("version")
    if type(version) is not int or version != VERSION:
        found = "missing" if version is None else show(version)
        remedy = "a newer mlxquant may know it (pip install -U mlxquant)"
        raise refuse(path, f"{KEY}.version", f"{found}, {VERSION} expected; {remedy}")
    for key in entry:
        if key not in _OWN_KEYS:
            reason = f"unknown {quote(key)}: {show(entry[key])}; version {VERSION} has only"
            raise refuse(path, KEY, f"{reason} {' and '.join(_OWN_KEYS)}")
    blocks = entry.get("blocks")
    if not isinstance(blocks, dict):
        raise refuse(
            path, f"{KEY}.blocks", f"{show(blocks)}: an object of layers and types expected"
        )
    for layer, name in blocks.items():
        if not isinstance(name, str) or name not in _TYPES:
            reason = f"{show(name)} is no block type; choose one of {', '.join(_TYPES)}"
            raise refuse(path, _field(layer), reason)
    return blocks


def group_blocks(
    path: Path,
    config: dict[str, Any],
    quantization: dict[str, Any] | None,
    blocks: Mapping[str, str],
    stored: Mapping[str, StoredTensor],
) -> tuple[dict[str, LazyTensor], str]:
    """The weights that are kept in blocks, by name, and a note if there are any.

    Args:
        path: of config.json, to blame.
        quantization: of `read_quantization`; blocks: of `read_blocks`.

    Raises:
        ModelError: the stored arrays or `quantization` contradict `blocks`, with both values.
        FileFormatError: rows that are no whole blocks.
    """
    found: dict[str, LazyTensor] = {}
    for layer, name in blocks.items():
        weight = stored.get(f"{layer}.weight")
        said = f"conflict: {name}, but"
        if weight is None:
            raise refuse(path, _field(layer), f"{said} the weights hold no such layer")
        entry = (quantization or {}).get(layer)
        if entry is not None and entry is not False:
            raise refuse(path, _field(layer), f"{said} quantization says {show(entry)}")
        if f"{layer}.scales" in stored:
            reason = f"{said} {weight.file.name} holds scales beside it, as of MLX's own formats"
            raise refuse(path, _field(layer), reason)
        if weight.dtype != "U8":
            holds = f"{weight.dtype} {list(weight.shape)}, not U8"
            raise refuse(path, _field(layer), f"{said} {weight.file.name} holds {holds}")
        found[weight.name] = _grouped(path, config, layer, _TYPES[name], weight)
    if not found:
        return found, ""
    types = Counter(tensor.format for tensor in found.values())
    shown = ", ".join(f"{count} {name}" for name, count in types.most_common())
    return found, f"weights in GGUF's blocks, which mlxquant reads and mlx-lm does not: {shown}"


def _grouped(
    path: Path, config: dict[str, Any], layer: str, kind: GgmlType, weight: StoredTensor
) -> QuantizedTensor:
    """One weight, its rows held against the type's blocks and the model's width."""
    shape, row_bytes = weight.shape, weight.shape[-1] if weight.shape else 0
    if len(shape) < 2 or row_bytes % kind.block_bytes:
        reason = f"U8 {list(shape)}; rows of whole blocks of {kind.block_bytes} bytes expected"
        field = f"tensor {quote(weight.name)}"
        raise FileFormatError(weight.file, field, f"{reason} ({kind.name})")
    width = row_bytes // kind.block_bytes * kind.block_size
    hidden = hidden_size(config) if layer.endswith(("embed_tokens", "lm_head")) else None
    if hidden not in (None, width):
        reason = f"conflict: {kind.name}, so rows of {width}, but hidden_size is {hidden}"
        raise refuse(path, _field(layer), reason)
    return QuantizedTensor(weight.name, (*shape[:-1], width), kind.name, (weight,))


def _field(layer: str) -> str:
    return f"{KEY}.blocks[{quote(layer)}]"
