"""What a model is called in results: name, base, format, tool, method, size, vocabulary.

From headers and small files alone; neither mlx nor NumPy is imported.

    format   a GGUF's file type (`Q4_K_M`), else a manifest's recipe (`mixed_4_6`), else what its
             quantized weights are in, the most first (`affine4-g64+affine6-g64`), else what most
             of its weights are in (`bf16`)
    tool     who quantized it: mlxquant by its manifest; mlx-lm by MLX's layout without one; of a
             GGUF file, and of what was imported from one as it was, whom the file names, else
             llama.cpp. None for floats
    method   as the manifest or another tool's config says
    base     what it was made of: as the manifest says; as mlx_lm's model card says; of a GGUF
             file, its name without the type
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeGuard

from ..errors import FileFormatError
from ..files.gguf import GgufHeader
from ..files.gguf_types import TENSOR_TYPES
from ..files.safetensors import read_header
from ..files.sniff import open_regular
from ..inspection.census import TensorRow, tensor_rows
from ..inspection.gguf import GgufModel, rows_of
from ..inspection.made_by import ManifestFacts, read_manifest
from ..load.checkpoint import Checkpoint
from ..quantize.llama_types import ALIASES, FILE_TYPES
from .fingerprint import folder_fingerprint, gguf_fingerprint

__all__ = ["describe"]

_BLOCKS = frozenset(kind.name for kind in TENSOR_TYPES.values() if kind.block_size > 1)
_PACKED = ("affine", "mxfp4", "mxfp8", "nvfp4", "int")
_FILE_TYPES = {each.number: each.name for each in FILE_TYPES.values() if each.number is not None}

#: llama.cpp's mark on a file type that it guessed
_GUESSED = 1024

_PART = re.compile(r"-\d{5}-of-\d{5}$")
_TYPE = re.compile(r"[-._](?:UD-|i1-)?([A-Z]+\d+[A-Z0-9_]*)$", re.IGNORECASE)
_CARD_BASE = re.compile(r"^base_model:[ \t]*(?:\n[ \t]*-[ \t]*)?([^\s#'\"]+)", re.MULTILINE)

#: bytes of a model card that are looked at
_CARD = 16 << 10

#: characters of a name
_LONGEST = 200


def describe(checkpoint: Checkpoint | GgufModel) -> dict[str, Any]:
    """The `model` of a record of results.

    Args:
        checkpoint: as `pipeline.open_checkpoint` or `inspection.facts.open_path` gives it.

    Raises:
        FileFormatError: a broken tokenizer.json.
    """
    if isinstance(checkpoint, GgufModel):
        return _gguf(checkpoint)
    headers = getattr(checkpoint, "headers", ())
    return _gguf(GgufModel(headers)) if headers else _folder(checkpoint)


def _gguf(model: GgufModel) -> dict[str, Any]:
    header = model.parts[0]
    rows = rows_of(model)
    stem = _PART.sub("", header.path.stem)
    quantized = any(row.format in _BLOCKS for row in rows)
    return {
        "name": _short(stem),
        "base": _base_of_stem(stem) or _other(_text(header, "general.name"), stem),
        "format": _file_type(header) or _formats(rows),
        "tool": (_text(header, "general.quantized_by") or "llama.cpp") if quantized else None,
        "method": None,
        **_sizes(rows),
        "tokenizer": gguf_fingerprint(header),
    }


def _folder(checkpoint: Checkpoint) -> dict[str, Any]:
    rows = tensor_rows(checkpoint)
    made = read_manifest(checkpoint.path, []) if checkpoint.config else None
    quantized = any(_is_quantized(row.format) for row in rows)
    request = made.request if made else {}
    recipe = request.get("recipe")
    return {
        "name": _short(_name(checkpoint)),
        "base": _base(checkpoint, made, quantized),
        "format": recipe if isinstance(recipe, str) and quantized else _formats(rows),
        **(_origin(checkpoint, made) if quantized else {"tool": None, "method": None}),
        **_sizes(rows),
        "tokenizer": folder_fingerprint(checkpoint),
    }


def _sizes(rows: Iterable[TensorRow]) -> dict[str, Any]:
    rows = list(rows)
    parameters = max(1, sum(row.weights for row in rows))
    nbytes = max(1, sum(row.bytes for row in rows))
    return {
        "parameters": parameters,
        "bytes": nbytes,
        "bits_per_weight": 8 * nbytes / parameters,
    }


def _formats(rows: Iterable[TensorRow]) -> str:
    weights = Counter[str]()
    for row in rows:
        weights[row.format] += row.weights
    quantized = [name for name, _ in weights.most_common() if _is_quantized(name)]
    return _short("+".join(quantized)) if quantized else weights.most_common(1)[0][0].lower()


def _is_quantized(name: str) -> bool:
    return name in _BLOCKS or name.startswith(_PACKED) or name.endswith("+scales")


def _file_type(header: GgufHeader) -> str | None:
    number = header.get("general.file_type")
    return _FILE_TYPES.get(number & ~_GUESSED) if type(number) is int else None


def _origin(checkpoint: Checkpoint, made: ManifestFacts | None) -> dict[str, str | None]:
    """Tool and method of a quantized folder."""
    if made is not None:
        if made.request.get("import") == "exact":
            return {"tool": "llama.cpp", "method": None}
        method = made.request.get("method")
        return {"tool": "mlxquant", "method": _short(method) if _is_text(method) else None}
    if checkpoint.quantization is not None:
        by_mlx = any(read_header(p).metadata.get("format") == "mlx" for p in checkpoint.shards[:1])
        return {"tool": "mlx-lm" if by_mlx else None, "method": None}
    foreign = checkpoint.config.get("quantization_config")
    method = foreign.get("quant_method") if isinstance(foreign, dict) else None
    return {"tool": None, "method": _short(method) if _is_text(method) else None}


def _name(checkpoint: Checkpoint) -> str:
    """A hub model's name without its owner, a folder's own name."""
    if checkpoint.revision is not None:
        return _last(checkpoint.source)
    return checkpoint.path.resolve().name or "model"


def _base(checkpoint: Checkpoint, made: ManifestFacts | None, quantized: bool) -> str | None:
    if made is not None and made.source:
        stem = _PART.sub("", _last(made.source).removesuffix(".gguf"))
        return _short(_base_of_stem(stem) or stem) if stem else None
    # of a model that is not quantized, a card names what it was trained from
    card = _card_base(checkpoint) if quantized else None
    return _other(_short(_last(card)), _name(checkpoint)) if card else None


def _card_base(checkpoint: Checkpoint) -> str | None:
    try:
        with open_regular(checkpoint.path / "README.md") as (handle, _):
            text = os.pread(handle, _CARD, 0).decode(errors="replace")
    except (OSError, FileFormatError):
        return None
    head, fence, _ = text.removeprefix("---\n").partition("\n---")
    found = _CARD_BASE.search(head) if text.startswith("---\n") and fence else None
    return found[1] if found else None


def _base_of_stem(stem: str) -> str | None:
    """`books-7m-Q4_K_M` → `books-7m`; None where no type is at the end."""
    found = _TYPE.search(stem)
    if found is None or found.start() == 0:
        return None
    name = found[1].upper()
    return _short(stem[: found.start()]) if name in FILE_TYPES or name in ALIASES else None


def _text(header: GgufHeader, key: str) -> str | None:
    value = header.get(key)
    return _short(value) if _is_text(value) else None


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _other(name: str | None, than: str) -> str | None:
    return name if name != than else None


def _last(name: str) -> str:
    """`org/name` → `name`."""
    return name.removesuffix(" (bundled)").rstrip("/").rpartition("/")[2]


def _short(text: str) -> str:
    """At most _LONGEST characters that can be written as UTF-8."""
    return text.encode(errors="replace").decode()[:_LONGEST]
