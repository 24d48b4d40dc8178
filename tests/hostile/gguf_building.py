"""Small GGUF files to break, written without the code under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

NUMBERS = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "B"),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}

#: (type, value); an array's type is in brackets
Pair = tuple[str, Any]
Metadata = dict[str, Pair]
#: name, dims in the file's order, type, offset, bytes
Tensor = tuple[str, Sequence[int], int, int, bytes]

MODEL: Metadata = {
    "general.architecture": ("str", "llama"),
    "llama.block_count": ("u32", 1),
    "llama.context_length": ("u32", 128),
    "llama.embedding_length": ("u32", 32),
    "llama.feed_forward_length": ("u32", 64),
    "llama.attention.head_count": ("u32", 2),
    "llama.attention.layer_norm_rms_epsilon": ("f32", 1e-5),
}
TOKENS = ["<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "ab", "c"]
VOCABULARY: Metadata = {
    "tokenizer.ggml.model": ("str", "llama"),
    "tokenizer.ggml.tokens": ("[str]", TOKENS),
    "tokenizer.ggml.scores": ("[f32]", [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0]),
    "tokenizer.ggml.token_type": ("[i32]", [2, 3, 3, 6, 1, 1, 1, 1]),
    "tokenizer.ggml.bos_token_id": ("u32", 1),
    "tokenizer.ggml.eos_token_id": ("u32", 2),
}
#: two tensors: 8 × 32 in F32, and 32 × 32 in Q4_0
TENSORS: list[Tensor] = [
    ("token_embd.weight", (32, 8), 0, 0, bytes(1024)),
    ("blk.0.attn_q.weight", (32, 32), 2, 1024, bytes(576)),
]


def text(value: str | bytes) -> bytes:
    """A length and UTF-8."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, content: Any) -> bytes:
    """The number of a type and a value; `raw` content is behind the number already."""
    if kind == "raw":
        return bytes(content)
    if kind == "str":
        return struct.pack("<I", 8) + text(content)
    if kind.startswith("["):
        item = kind[1:-1]
        head = struct.pack("<IIQ", 9, 8 if item == "str" else NUMBERS[item][0], len(content))
        if item == "str":
            return head + b"".join(map(text, content))
        return head + struct.pack(f"<{len(content)}{NUMBERS[item][1]}", *content)
    number, code = NUMBERS[kind]
    return struct.pack(f"<I{code}", number, content)


def tensor(name: str | bytes, dims: Sequence[int], type: int, offset: int) -> bytes:
    """A tensor's description."""
    layout = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + layout + struct.pack("<IQ", type, offset)


def gguf(
    metadata: Metadata | None = None,
    tensors: Sequence[Tensor] | None = None,
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    keys: int | None = None,
    count: int | None = None,
    alignment: int = 32,
    cut: int | None = None,
) -> bytes:
    """A file; what is not given is a small model's.

    Args:
        keys, count: the numbers of keys and tensors that it claims.
        alignment: how it is laid out, whatever its metadata say.
        cut: its length, where it is cut short.
    """
    metadata = MODEL | VOCABULARY if metadata is None else metadata
    tensors = TENSORS if tensors is None else tensors
    parts = [magic, struct.pack("<I", version)]
    parts.append(struct.pack("<Q", len(tensors) if count is None else count))
    parts.append(struct.pack("<Q", len(metadata) if keys is None else keys))
    for key, (kind, content) in metadata.items():
        parts += (text(key), value(kind, content))
    parts += (tensor(*each[:4]) for each in tensors)
    data = b"".join(parts)
    data += bytes(-len(data) % alignment)
    start = len(data)
    for *_, offset, content in sorted(tensors, key=lambda each: each[3]):
        if content:
            data = data.ljust(start + offset, b"\0")[: start + offset] + content
            data += bytes(-(len(data) - start) % alignment)
    return data if cut is None else data[:cut]
