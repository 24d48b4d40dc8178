"""Small models to break: a few kilobytes, written without the code under test."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tensors = dict[str, tuple[str, list[int], bytes]]

#: makes a model in an empty folder; returns what to open where that is not the folder itself
Builder = Callable[[Path], Path | None]

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}
LAYER = "model.layers.0.mlp.up_proj"
AFFINE = {"group_size": 32, "bits": 4, "mode": "affine"}
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U32": 4, "U8": 1, "F4": 0.5, "F8_E4M3FNUZ": 1}


def tensor(dtype: str, *shape: int) -> tuple[str, list[int], bytes]:
    """A tensor of zeros."""
    size = BYTES[dtype]
    for length in shape:
        size *= length
    return dtype, list(shape), bytes(int(size))


def file_bytes(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """A valid safetensors file, laid out here and not by the code under test."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    return raw(header, data)


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of this header (JSON text, or a value that becomes JSON) and these data bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def weights() -> Tensors:
    """The tensors of a model too small to be of use."""
    return {
        "model.embed_tokens.weight": tensor("BF16", 32, 64),
        f"{LAYER}.weight": tensor("BF16", 128, 64),
        "model.norm.weight": tensor("BF16", 64),
    }


def packed_weights(bits: int = 4, group_size: int = 32, scales: str = "BF16") -> Tensors:
    """`weights` with one layer packed."""
    tensors = weights()
    tensors[f"{LAYER}.weight"] = tensor("U32", 128, 64 * bits // 32)
    tensors[f"{LAYER}.scales"] = tensor(scales, 128, 64 // group_size)
    if scales != "U8":
        tensors[f"{LAYER}.biases"] = tensor(scales, 128, 64 // group_size)
    return tensors


def write(folder: Path, name: str, value: Any) -> None:
    """A file of the folder: bytes as they are, anything else as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    (folder / name).write_bytes(data)


def plain(folder: Path, **config: Any) -> None:
    """A model that opens, its config with these changes."""
    write(folder, "config.json", CONFIG | config)
    write(folder, "model.safetensors", file_bytes(weights(), {"format": "pt"}))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    write(folder, "tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": []}})


def packed(
    folder: Path, quantization: Any = AFFINE, tensors: Tensors | None = None, **config: Any
) -> None:
    """A model with one packed layer that opens unless told otherwise."""
    plain(folder, quantization=quantization, **config)
    write(folder, "model.safetensors", file_bytes(tensors or packed_weights()))


def sharded(folder: Path, **weight_map: Any) -> None:
    """A model in two shards; `weight_map` changes the index (keys with `_` for `.`)."""
    plain(folder)
    (folder / "model.safetensors").unlink()
    tensors = weights()
    last = {"model.norm.weight": tensors.pop("model.norm.weight")}
    first_name, last_name = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    write(folder, first_name, file_bytes(tensors))
    write(folder, last_name, file_bytes(last))
    names = dict.fromkeys(tensors, first_name) | dict.fromkeys(last, last_name)
    names |= {key.replace("_", "."): value for key, value in weight_map.items()}
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    write(folder, "model.safetensors.index.json", index)


def config(**changes: Any) -> Builder:
    """A model with these changes to its config."""
    return lambda folder: plain(folder, **changes)


def replaced(name: str, value: Any) -> Builder:
    """A model with this in place of one of its files."""

    def build(folder: Path) -> None:
        plain(folder)
        write(folder, name, value)

    return build
