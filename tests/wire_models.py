"""Small GGUF models whose blocks are random bytes: every code and every scale that a type can have,
but no NaN and no infinity.

    make(folder / "model.gguf", "llama", types="Q4_K")
    make(…, types={"*ffn_down*": "Q6_K", "*": "Q4_0"}, edit={"output_norm.weight": change})
"""

from __future__ import annotations

import fnmatch
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import tiny_models

from mlxquant import formats, open_checkpoint
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_scales import SCALES, bad_blocks
from mlxquant.files.gguf_types import tensor_type
from mlxquant.files.gguf_values import Value
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.formats.base import Array
from mlxquant.load.blocks import BLOCK_TYPES, floats_of
from mlxquant.models.families import family_of_config, typed
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.tokenizers import as_values, to_gguf

#: types that models are stored in, by name
STORED = tuple(sorted(BLOCK_TYPES - {"Q8_1"}))

#: of `make`'s models, so that rows take every type's blocks
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "moe_intermediate_size": 256}


def random_blocks(type_name: str, count: int, seed: int = 0) -> Array:
    """uint8 [count, block_bytes]: anything but non-finite scales, of which f16's are below 2."""
    kind = tensor_type(type_name)
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    for offset, field in SCALES[type_name]:
        if field == "F16":
            blocks[:, offset + 1] &= 0xBF
        elif field == "F32":
            blocks[:, offset + 3] &= 0xBF
        elif field == "IQ1_M":
            blocks[:, offset + 7] &= 0xBF
        elif field == "E8M0":
            blocks[:, offset] = random.integers(90, 140, count)
        elif field == "E4M3":
            blocks[:, offset] = random.integers(0, 127, count)
    assert not any(bad.any() for bad in bad_blocks(type_name, blocks))
    return blocks


def make(
    file: Path,
    family: str = "llama",
    types: str | Mapping[str, str] = "Q4_K",
    *,
    edit: Mapping[str, Callable[[Array], Any]] | None = None,
    wide: Mapping[str, Any] = WIDE,
    parts: int = 1,
    vocabulary: bool = False,
    **config: Any,
) -> Path:
    """Write a model of tiny_models' family as a GGUF file.

    Args:
        types: of matrices: one, or the first of whose globs matches GGUF's name. Vectors, routers
            and what the type's blocks do not fit are F32.
        edit: tensor → what changes its bytes, uint8 [rows, row_bytes], in place.
        parts: files; with several `file` is the first one's name without `-0000n-of-…`.
        vocabulary: the bundled model's; else the file has none.
        wide, config: entries of config.json.

    Returns: the file, or its first part.
    """
    chosen = {"*": types} if isinstance(types, str) else types
    with tempfile.TemporaryDirectory() as made:
        settings = {key: value for key, value in wide.items() if key in tiny_models.CONFIGS[family]}
        settings |= {"vocab_size": 4096} if vocabulary else {}
        folder = tiny_models.make(Path(made) / "model", family, **{**settings, **config})
        source = resolve_model(open_checkpoint(folder))
        architecture = family_of_config(source.config)
        metadata: dict[str, Value] = {**typed(architecture.metadata(source.config))}
        if vocabulary:
            metadata.update(as_values(to_gguf(folder, rows=source.config["vocab_size"])))
        else:
            metadata["tokenizer.ggml.model"] = Value.of("str", "no_vocab")
        tensors: list[tuple[str, str, tuple[int, ...], Array]] = []
        for name, node in architecture.to_gguf(source.parameters, source.config).items():
            floats = floats_of(node).flat(0, node.size).reshape(-1, node.shape[-1])
            type_name = _type_of(name, node.shape, chosen)
            if type_name in BLOCK_TYPES:
                kind = tensor_type(type_name)
                blocks = random_blocks(
                    type_name, node.size // kind.block_size, crc32(name.encode())
                )
                wire = blocks.reshape(len(floats), -1)
            else:
                (wire,) = formats.get(type_name).encode(floats)
                wire = np.ascontiguousarray(wire).view(np.uint8).reshape(len(floats), -1)
            if edit and name in edit:
                edit[name](wire)
            tensors.append((name, type_name, node.shape, wire))
    return _write(file, metadata, tensors, parts)


def wires(file: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor of a file: its type and its bytes."""
    data = file.read_bytes()
    return {
        entry.name: (entry.type_name, data[entry.start : entry.stop])
        for entry in read_gguf(file).entries.values()
    }


def spoil(wire: Array, type_name: str, row: int, what: str) -> None:
    """Put `nan` or `inf` in a scale of the first block of a row, uint8 [rows, row_bytes]."""
    offset, kind = SCALES[type_name][0]
    if kind in ("E8M0", "E4M3"):
        wire[row, offset] = 0xFF if kind == "E8M0" else 0x7F
    elif kind == "IQ1_M":
        for place, digit in enumerate(_half(what)):
            wire[row, offset + 2 * place + 1] = (
                wire[row, offset + 2 * place + 1] & 0x0F | digit << 4
            )
    else:
        dtype = {"F16": "<f2", "F32": "<f4", "BF16": "<u2", "F64": "<f8"}[kind]
        value = {"nan": 0x7FC0, "inf": 0x7F80}[what] if kind == "BF16" else float(what)
        raw = np.array([value], dtype=dtype).view(np.uint8)
        wire[row, offset : offset + len(raw)] = raw


def _half(what: str) -> list[int]:
    bits = int(np.array([float(what)], dtype="<f2").view("<u2")[0])
    return [bits >> 4 * place & 15 for place in range(4)]


def _type_of(name: str, shape: tuple[int, ...], chosen: Mapping[str, str]) -> str:
    if len(shape) == 1 or "norm" in name or "gate_inp" in name or name.endswith(".bias"):
        named = [type_name for glob, type_name in chosen.items() if glob == name]
        return named[0] if named else "F32"
    found = next((each for glob, each in chosen.items() if fnmatch.fnmatchcase(name, glob)), "F32")
    return found if shape[-1] % tensor_type(found).block_size == 0 else "F32"


def _write(
    file: Path,
    metadata: dict[str, Value],
    tensors: list[tuple[str, str, tuple[int, ...], Array]],
    parts: int,
) -> Path:
    written = []
    for number in range(parts):
        some = tensors[len(tensors) * number // parts : len(tensors) * (number + 1) // parts]
        keys = metadata if number == 0 else {}
        path = file
        if parts > 1:
            path = file.with_name(f"{file.stem}-{number + 1:05d}-of-{parts:05d}.gguf")
            keys = keys | {
                "split.no": Value.of("u16", number),
                "split.count": Value.of("u16", parts),
                "split.tensors.count": Value.of("i32", len(tensors)),
            }
        header, ranges = build_gguf(keys, [(n, t, s) for n, t, s, _ in some])
        content = bytearray(-(-max(stop for _, stop in ranges) // 32) * 32)
        content[: len(header)] = header
        for (_, _, _, wire), (start, stop) in zip(some, ranges, strict=True):
            content[start:stop] = wire.tobytes()
        path.write_bytes(content)
        written.append(path)
    return written[0]
