"""Golden vectors: what mlxquant decodes, for the Swift package to decode bit for bit.

    python tests/swift_package/golden.py --regenerate

writes swift-bridge/Tests/Golden/formats.bin; test_generated.py fails where that file is not what
is made here. Numbers are little-endian, and a text is its length in a byte, then UTF-8:

    magic       8 bytes, "MQGOLD1\\0"
    vectors     u32 count, then of each: name text, rows u32, columns u32, parts u8, of each part
                u32 bytes and these; rows · columns float32
    digests     u32 count, then of each: name text, seed u64, blocks u32, SHA-256 of the floats,
                SHA-256 of the same as float16

A vector is small and tells where two decoders differ. A digest covers many blocks of any bytes:
part p is the output of SplitMix64 from seed + p. NaN is 0x7FC00000 and 0x7E00 in both, whatever NaN
it was; but in F32, F16 and BF16, whose floats are the file's own.

A name is a format's; behind `/` stands the type of scales and arithmetic, for MLX's formats.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlxquant import formats
from mlxquant.files.gguf_scales import SCALES
from mlxquant.formats import STORAGE, Format, MlxFormat, Part
from mlxquant.formats.floats import FLOATS

TARGET = Path(__file__).resolve().parents[2] / "swift-bridge/Tests/Golden/formats.bin"

#: whose floats are the file's own, NaN included
_EXACT = ("F32", "F16", "BF16")

#: kind of a scale → bytes of it, and its bits where it is zero of both signs, the smallest number
#: and infinite (or the largest where there is no infinity)
_EDGES: dict[str, tuple[int, tuple[int, ...]]] = {
    "F16": (2, (0, 0x8000, 0x0001, 0x7C00)),
    "BF16": (2, (0, 0x8000, 0x0001, 0x7F80)),
    "F32": (4, (0, 0x80000000, 1, 0x7F800000)),
    "F64": (8, (0, 1 << 63, 1, 0x7FF << 52)),
    "E8M0": (1, (0, 1, 2, 0xFF)),
    "E4M3": (1, (0, 0x80, 0x01, 0x7E)),
}


def every_format() -> Iterator[tuple[str, Format]]:
    """Every format under its name here."""
    for name in formats.names():
        found = formats.get(name)
        if isinstance(found, MlxFormat):
            for dtype in FLOATS:
                yield f"{name}/{dtype}", formats.get(name, dtype)
        else:
            yield name, found


def splitmix(seed: int, count: int) -> np.ndarray:
    """`count` bytes of SplitMix64 (Steele, Lea and Flood, 2014), uint8 [count]."""
    steps = np.arange(1, -(-count // 8) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + steps * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z.astype("<u8").view(np.uint8)[:count]


def decoded(fmt: Format, wire: list[np.ndarray], rows: int) -> np.ndarray:
    """float32 [rows, k] of the parts' bytes, uint8 each."""
    parts = tuple(
        np.ascontiguousarray(array).view(STORAGE[part.dtype]).reshape(rows, -1)
        for array, part in zip(wire, fmt.parts, strict=True)
    )
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(fmt.decode(parts), dtype="<f4")
    if fmt.name not in _EXACT:
        values[np.isnan(values)] = np.nan
    return values


def halves(values: np.ndarray) -> np.ndarray:
    """The same as float16, every NaN the same one."""
    with np.errstate(all="ignore"):
        rounded = values.astype("<f2")
    rounded[np.isnan(values)] = np.nan
    return rounded


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _vector(name: str, fmt: Format, seed: int) -> bytes:
    """Rows of all bits clear, of all set, of any bytes, and of any codes under scales at the edges
    of their type."""
    blocks = max(1, 64 // fmt.block_size)
    wire = []
    for index, part in enumerate(fmt.parts):
        size = blocks * part.block_bytes
        any_bytes = splitmix(seed + index, size)
        rows = [np.zeros(size, np.uint8), np.full(size, 255, np.uint8), any_bytes]
        for edge in range(4):
            row = any_bytes.reshape(blocks, -1).copy()
            for offset, kind in _scales(fmt, part):
                _write_scale(row, offset, kind, edge)
            rows.append(row.reshape(-1))
        wire.append(np.concatenate(rows))
    values = decoded(fmt, wire, 7)
    head = _text(name) + struct.pack("<IIB", *values.shape, len(wire))
    body = b"".join(struct.pack("<I", part.size) + part.tobytes() for part in wire)
    return head + body + values.tobytes()


def _scales(fmt: Format, part: Part) -> tuple[tuple[int, str], ...]:
    """Offset in a block of this part and kind of each scale there."""
    if not isinstance(fmt, MlxFormat):
        return SCALES.get(fmt.name, ())
    if part.suffix == "weight":
        return ()
    kinds = {"mxfp4": "E8M0", "mxfp8": "E8M0", "nvfp4": "E4M3"}
    return ((0, kinds.get(fmt.mode, part.dtype)),)


def _write_scale(blocks: np.ndarray, offset: int, kind: str, edge: int) -> None:
    """Put a scale at the edge of its type into blocks, uint8 [b, block_bytes]."""
    if kind == "IQ1_M":  # four bits in the upper half of every second byte
        bits = _EDGES["F16"][1][edge]
        for place in range(4):
            at = blocks[:, offset + 2 * place + 1]
            at[:] = at & 15 | (bits >> 4 * place & 15) << 4
        return
    size, values = _EDGES[kind]
    blocks[:, offset : offset + size] = np.frombuffer(values[edge].to_bytes(size, "little"), "u1")


def _digest(name: str, fmt: Format, seed: int) -> bytes:
    blocks = 65_536 if fmt.block_size == 1 else 512
    wire = [
        splitmix(seed + index, blocks * part.block_bytes) for index, part in enumerate(fmt.parts)
    ]
    if name in ("F16", "BF16"):  # every code there is
        seed, wire = 0, [np.arange(65_536, dtype="<u2").view(np.uint8)]
    values = decoded(fmt, wire, 1)
    hashes = (hashlib.sha256(array.tobytes()).digest() for array in (values, halves(values)))
    return _text(name) + struct.pack("<QI", seed, blocks) + b"".join(hashes)


def content() -> bytes:
    """The whole file."""
    named = [(name, fmt, 16 * place) for place, (name, fmt) in enumerate(every_format(), 1)]
    parts = [b"MQGOLD1\0"]
    for make in (_vector, _digest):
        parts.append(struct.pack("<I", len(named)))
        parts += [make(name, fmt, seed) for name, fmt, seed in named]
    return b"".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit(__doc__)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(content())
