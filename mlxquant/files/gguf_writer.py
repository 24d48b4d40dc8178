"""Laying out a GGUF file before any of its tensors exists."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from .gguf_cursor import is_bad
from .gguf_types import (
    ALIGNMENT,
    MAX_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_KEY,
    VALUE_TYPES,
    padded,
    tensor_type,
)
from .gguf_values import Value

__all__ = ["build_gguf"]

_MAX_NAME = 63  # bytes that llama.cpp takes


def build_gguf(
    metadata: Mapping[str, Value],
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    alignment: int = ALIGNMENT,
    version: int = 3,
) -> tuple[bytes, list[tuple[int, int]]]:
    """Lay out a GGUF file before any of its tensors exists.

    Args:
        metadata: in the order in which it is written. `general.alignment` is added where
            `alignment` is not the default.
        tensors: (name, type, shape in NumPy order) of each, in the order of their bytes.
        alignment: of the tensors, bytes.
        version: 2 or 3.

    Returns: the file's first bytes, padded, and each tensor's absolute byte range. Between two
        ranges, and from the last one to a multiple of `alignment`, the file holds zeros.

    Raises:
        ValueError: a name twice, empty or too long for llama.cpp, an unknown type, a shape that is
            no whole number of blocks, or an alignment that contradicts the metadata.
    """
    if version not in (2, 3):
        raise ValueError(f"version {version}: 2 and 3 can be written")
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment} is no power of two up to {MAX_ALIGNMENT}")
    wanted = Value.of("u32", alignment)
    if metadata.get("general.alignment", wanted) != wanted:
        raise ValueError(f"general.alignment in the metadata is not {alignment}")
    if alignment != ALIGNMENT:
        metadata = {**metadata, "general.alignment": wanted}
    parts = [struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        raw = key.encode()
        if not raw or len(raw) > MAX_KEY or is_bad(key):
            raise ValueError(f"key {key!r} is empty, too long or not printable")
        parts += (
            struct.pack("<Q", len(raw)),
            raw,
            struct.pack("<I", VALUE_TYPES[value.type][0]),
            value.wire,
        )
    offset, names, ranges = 0, set(), []
    for name, type_name, shape in tensors:
        raw, kind = name.encode(), tensor_type(type_name)
        if name in names or not raw or len(raw) > _MAX_NAME or is_bad(name):
            reason = f"used twice, empty, not printable or over {_MAX_NAME} bytes"
            raise ValueError(f"tensor name {name!r} is {reason}")
        if not 0 < len(shape) <= MAX_DIMENSIONS or min(shape) < 1 or shape[-1] % kind.block_size:
            reason = (
                f"rows of whole blocks of {kind.block_size} in 1 to {MAX_DIMENSIONS} dimensions"
            )
            raise ValueError(f"tensor {name!r}: {kind.name} {list(shape)}; {reason} needed")
        names.add(name)
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts += (struct.pack("<Q", len(raw)), raw, dims, struct.pack("<IQ", kind.number, offset))
        size = kind.nbytes(shape)
        ranges.append((offset, offset + size))
        offset += padded(size, alignment)
    header = b"".join(parts)
    header += bytes(-len(header) % alignment)
    start = len(header)
    return header, [(start + begin, start + end) for begin, end in ranges]
