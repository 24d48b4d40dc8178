"""A model on the hub, opened without its weights: config.json and the headers of its shards.

What is in the cache as a whole is taken from there. Otherwise config.json is fetched into the cache
and the headers are read by ranges, some 100 kB a shard; a 400 GB model costs a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError, MlxquantError, one_line
from ..files.quote import quote
from .checkpoint import DTYPES, Checkpoint, LazyTensor, StoredTensor
from .config import read_config, refuse_code
from .folder import Folder
from .from_hf import open_folder
from .hub import _explain
from .kept_blocks import group_blocks, read_blocks
from .packed import group_packed, read_quantization

__all__ = ["open_hub_headers"]

#: safetensors' element type → bits
_BITS = {"F8": 8, "BO": 8, "U8": 8, "I8": 8}

#: more dimensions, or more weights in one, has no tensor
_MOST_DIMENSIONS, _MOST = 8, 1 << 48


def open_hub_headers(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Open a model by its hub id; its values cannot be read where it is not in the cache.

    Args:
        name: `org/name`. revision: branch, tag or commit.
        trust_remote_code: accept a model that wants its own Python code run; none is.

    Raises:
        HubError: config.json or a header could not be fetched.
        InputError: no such model, or one without safetensors weights, or one that lies.
    """
    cached = _cached(name, revision, trust_remote_code)
    if cached is not None:
        return cached
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        config_path = Path(
            hf_hub_download(name, "config.json", revision=revision, library_name="mlxquant")
        )
        commit = config_path.parent.name
        found = HfApi(library_name="mlxquant").get_safetensors_metadata(name, revision=commit)
    except (errors.NotASafetensorsRepoError, errors.EntryNotFoundError) as problem:
        if isinstance(problem, errors.LocalEntryNotFoundError):
            raise _explain(name, revision, problem) from problem
        raise InputError(
            one_line(f"{name}: no model of safetensors weights on the hub: {problem}")
        ) from problem
    except errors.SafetensorsParsingError as problem:
        raise InputError(one_line(f"{name}: a broken header on the hub: {problem}")) from problem
    except Exception as problem:  # the HTTP library's exceptions differ between hub versions
        raise _explain(name, revision, problem) from problem
    folder = Folder(config_path.parent)
    config = read_config(folder)
    refuse_code(folder, config, {}, trusted=trust_remote_code)
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(found.files_metadata):
        stored |= _tensors(folder.path / shard, found.files_metadata[shard].tensors)
    quantization, note = read_quantization(config_path, config)
    types = read_blocks(config_path, config)
    kept, _ = group_blocks(config_path, config, quantization, types, stored)
    tensors, more = group_packed(config_path, config, quantization, stored)
    everything: dict[str, LazyTensor] = {**tensors, **kept}
    return Checkpoint(
        path=folder.path,
        config=config,
        stored=stored,
        tensors=everything,
        quantization=quantization,
        shards=tuple(folder.path / shard for shard in sorted(found.files_metadata)),
        extra_files=(),
        notes=tuple(one_line(line) for line in (note, *more) if line),
        source=name,
        revision=commit,
        trust_remote_code=trust_remote_code,
    )


def _cached(name: str, revision: str | None, trust_remote_code: bool) -> Checkpoint | None:
    """The model from the cache, if all of it is there."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
        return open_folder(
            path,
            source=name,
            revision=path.name,
            trust_remote_code=trust_remote_code,
            quick=True,
        )
    except (OSError, ValueError, MlxquantError):
        return None  # not there, or only a part; what is wrong is said by whoever asks the hub


def _tensors(shard: Path, found: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """A shard's tensors, from what its header says.

    Raises:
        FileFormatError: a type that is not known, a shape that cannot be, or another size.
    """
    stored = {}
    for name, info in found.items():
        field = f"tensor {quote(name)}"
        shape, (start, stop) = tuple(info.shape), info.data_offsets
        if info.dtype not in DTYPES:
            raise FileFormatError(shard, field, f"dtype {info.dtype} is not supported")
        plausible = len(shape) <= _MOST_DIMENSIONS and all(
            type(n) is int and 0 <= n < _MOST for n in shape
        )
        bits = _BITS.get(info.dtype[:2]) or int(info.dtype.lstrip("BFIUC"))
        if not plausible or math.prod(shape) * bits != 8 * (stop - start):
            reason = f"shape {list(shape)} of {info.dtype} does not take {stop - start} bytes"
            raise FileFormatError(shard, field, reason)
        stored[name] = StoredTensor(name, info.dtype, shape, shard, start, stop)
    return stored
