"""Opening a model folder: Hugging Face's layout, and MLX's, which is the same with packed weights.

    config.json                        the model's settings; `quantization` if MLX packed it, and
                                       `mlxquant` if weights are ggml's blocks
    model.safetensors                  the weights, or
    model-00001-of-0000N.safetensors   … in shards, with
    model.safetensors.index.json       … {"weight_map": {tensor: shard}}
    tokenizer.json, …                  what accompanies them (`Checkpoint.extra_files`)

Opening reads the settings and the headers, never a weight. Every file is taken for hostile: names
and links stay inside the folder, pickles are never opened, code is never run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, one_line
from ..files.json_file import INDEX_LIMIT, TOKENIZER_LIMIT, check_json_ends, read_json_object
from ..files.quote import quote, show
from ..files.safetensors import read_header
from .checkpoint import DTYPES, Checkpoint, StoredTensor
from .config import read_config, refuse_code
from .folder import PICKLES, Folder, refuse
from .kept_blocks import group_blocks, read_blocks
from .packed import group_packed, read_quantization

__all__ = ["open_folder"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SHARD = re.compile(r"(model.*)-(\d{5,6})-of-(\d{5,6})\.safetensors")

#: files that must be JSON objects where they exist, and the largest that is read
_JSON_FILES = {
    "tokenizer_config.json": TOKENIZER_LIMIT,  # may hold every added token
    "generation_config.json": 1 << 20,
    "special_tokens_map.json": 16 << 20,
}
_TOKENIZER = "tokenizer.json"


def open_folder(
    path: str | os.PathLike[str],
    *,
    source: str = "",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quick: bool = False,
) -> Checkpoint:
    """Open a model folder without reading its weights.

    Args:
        path: the folder.
        source: what the user typed, for messages and the manifest; `path` if empty.
        revision: the hub commit, where the folder came from there.
        trust_remote_code: accept a folder that wants its own Python code run (here nothing is).
        quick: look at the ends of tokenizer.json only. Reading all of it takes longer than all
            the rest (up to a second for 30 MB), and who only looks on may report it differently.

    Raises:
        FileFormatError: one of its files is broken, or not what its name says.
        ModelError: its parts contradict each other or are missing, it leads outside of itself, its
            weights are pickles, or it wants code run and `trust_remote_code` is false.
    """
    folder = Folder(Path(path))
    config = read_config(folder)
    side = {name: _read_side_file(folder, name) for name in _JSON_FILES if name in folder.names}
    if _TOKENIZER in folder.names:
        check = check_json_ends if quick else read_json_object
        check(folder.member(_TOKENIZER), limit=TOKENIZER_LIMIT)
    tokenizer_config = side.get("tokenizer_config.json", {})
    refuse_code(folder, config, tokenizer_config, trusted=trust_remote_code)
    config_path = folder.path / "config.json"
    quantization, note = read_quantization(config_path, config)
    weight_map, shards, notes = _find_shards(folder)
    stored = _read_shards(shards)
    notes += _check_index(folder, weight_map, stored)
    types = read_blocks(config_path, config)
    kept, kept_note = group_blocks(config_path, config, quantization, types, stored)
    tensors, more = group_packed(config_path, config, quantization, stored)
    return Checkpoint(
        path=folder.path,
        config=config,
        stored=stored,
        tensors=tensors | kept,
        quantization=quantization,
        shards=tuple(shards),
        extra_files=folder.extra_files(code=trust_remote_code),
        notes=tuple(one_line(line) for line in (note, *notes, *more, kept_note) if line),
        source=source or os.fspath(path),
        revision=revision,
        trust_remote_code=trust_remote_code,
    )


def _read_side_file(folder: Folder, name: str) -> dict[str, Any]:
    return read_json_object(folder.member(name), limit=_JSON_FILES[name])


def _find_shards(folder: Folder) -> tuple[dict[str, str], list[Path], list[str]]:
    """`(weight_map, weight files, notes)`: what the index names, or the files that are there."""
    present = [name for name in folder.names if name.endswith(".safetensors")]
    weight_map: dict[str, str] = {}
    if _INDEX in folder.names:
        weight_map = _read_index(folder)
        names, why = sorted(set(weight_map.values())), f"not in {_INDEX}"
    elif _SINGLE in present:
        names, why = [_SINGLE], f"{_SINGLE} holds the model"
    else:
        names, why = [name for name in present if name.startswith("model")], "not named model*"
        _check_complete(folder, names)
    if not names:
        _refuse_without_weights(folder, present)
    notes = [f"{name} is ignored: {why}" for name in present if name not in names]
    pickles = [name for name in folder.names if name.lower().endswith(PICKLES)]
    if pickles:
        notes.append(f"{pickles[0]} is ignored: pickles can run code and are never opened")
    shards = []
    for name in names:
        blamed = (folder.path / _INDEX, "weight_map") if weight_map else (None, "file")
        shard = folder.member(name, *blamed)
        if not os.path.lexists(shard) and weight_map:
            tensor = next(key for key, value in weight_map.items() if value == name)
            reason = f"{quote(tensor)} is in {quote(name)}, which is missing; download it again"
            raise refuse(folder.path / _INDEX, "weight_map", reason)
        shards.append(shard)
    return weight_map, shards, notes


def _read_index(folder: Folder) -> dict[str, str]:
    """The index's weight map: tensor to file, each a file of this folder."""
    path = folder.member(_INDEX)
    weight_map = read_json_object(path, limit=INDEX_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise refuse(path, "weight_map", "an object of tensor names and file names expected")
    for tensor, name in weight_map.items():
        field = f"weight_map[{quote(tensor)}]"
        if not isinstance(name, str):
            raise refuse(path, field, f"{show(name)}: a file name expected")
        if name.lower().endswith(PICKLES):
            reason = f"{quote(name)} is a pickle, which can run code and is never opened"
            raise refuse(path, field, f"{reason}; use a model with safetensors weights")
        if not name.endswith(".safetensors"):
            raise refuse(path, field, f"{quote(name)} is no .safetensors file of the model folder")
    return weight_map


def _check_complete(folder: Folder, names: list[str]) -> None:
    """Refuse a set of shards with one missing, where their names tell how many there are."""
    for name in names:
        found = _SHARD.fullmatch(name)
        if found is None:
            continue
        stem, _, total = found.groups()
        for number in range(1, min(int(total), 100_000) + 1):
            wanted = f"{stem}-{number:0{len(total)}d}-of-{total}.safetensors"
            if wanted not in names:
                raise refuse(folder.path, wanted, "this shard is missing; download it again")
        return


def _refuse_without_weights(folder: Folder, present: list[str]) -> None:
    """Say what is there instead of weights."""
    pickles = [name for name in folder.names if name.lower().endswith(PICKLES)]
    if pickles:
        reason = "pickled weights can run code and are never opened"
        raise refuse(folder.path, pickles[0], f"{reason}; use a model with safetensors weights")
    others = present or [name for name in folder.names if name.lower().endswith((".gguf", ".npz"))]
    found = f"found only {others[0]}" if others else "found none"
    raise refuse(folder.path, "weights", f"model.safetensors or model-*.safetensors: {found}")


def _read_shards(shards: list[Path]) -> dict[str, StoredTensor]:
    """Every stored array by name, shard after shard, in the order of their bytes."""
    stored: dict[str, StoredTensor] = {}
    for shard in shards:
        for entry in read_header(shard).entries.values():
            field = f"tensor {quote(entry.name)}"
            if entry.name in stored:
                reason = f"is also in {stored[entry.name].file.name}: duplicate name"
                raise FileFormatError(shard, field, reason)
            if entry.dtype not in DTYPES:
                reason = f"dtype {entry.dtype} is not supported: MLX has no such type"
                raise FileFormatError(shard, field, reason)
            stored[entry.name] = StoredTensor(
                entry.name, entry.dtype, entry.shape, shard, entry.start, entry.stop
            )
    if not stored:
        raise FileFormatError(shards[0], "header", "holds no tensors")
    return stored


def _check_index(
    folder: Folder, weight_map: dict[str, str], stored: dict[str, StoredTensor]
) -> list[str]:
    """Refuse an index that names tensors where they are not; note tensors that it leaves out."""
    for name, shard in weight_map.items():
        tensor = stored.get(name)
        if tensor is None or tensor.file != folder.path / shard:
            where = "in no shard" if tensor is None else f"in {tensor.file.name}"
            reason = f"conflict: says {quote(shard)}, but the tensor is {where}"
            raise refuse(folder.path / _INDEX, f"weight_map[{quote(name)}]", reason)
    missing = [name for name in stored if name not in weight_map] if weight_map else []
    if not missing:
        return []
    return [f"{_INDEX} leaves out {len(missing)} tensors that its shards hold: {missing[0]}, …"]
