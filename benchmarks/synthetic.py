"""Make a Llama-shaped bfloat16 checkpoint of a given size: python synthetic.py FOLDER GIGABYTES

Weights are normal with standard deviation 0.02, drawn from a fixed seed; the tokenizer's files are
the bundled model's. The model loads and converts like a real one, and says nothing. It is written
in several shards with an index, as on the hub. Shapes do not depend on the size: more gigabytes are
more layers.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlxquant.assets import BUNDLED_MODEL

HIDDEN, INTERMEDIATE, VOCABULARY, KV_HEADS, HEAD_SIZE = 2048, 5632, 32000, 4, 64
SHARDS = 4
#: rows are drawn in pieces of this many weights
PIECE = 1 << 22


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every tensor, in the order of the layers."""
    kv = KV_HEADS * HEAD_SIZE
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", (HIDDEN,)
        yield f"{name}.self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield f"{name}.self_attn.k_proj.weight", (kv, HIDDEN)
        yield f"{name}.self_attn.v_proj.weight", (kv, HIDDEN)
        yield f"{name}.self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield f"{name}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{name}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{name}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{name}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def size_in_bytes(layers: int) -> int:
    """Bytes of all weights."""
    return sum(2 * math.prod(shape) for _, shape in tensors(layers))


def layers_for(gigabytes: float) -> int:
    """The smallest number of layers whose weights take at least this many 10^9 bytes."""
    layers = 1
    while size_in_bytes(layers) < gigabytes * 1e9:
        layers += 1
    return layers


def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> Iterator[bytes]:
    """The bytes of one tensor: bfloat16, rounded to nearest even; norms are all ones."""
    left = math.prod(shape)
    if len(shape) == 1:
        yield np.full(left, 0x3F80, dtype="<u2").tobytes()
        return
    while left:
        count = min(left, PIECE)
        values = generator.standard_normal(count, dtype=np.float32)
        values *= np.float32(0.02)
        bits = values.view(np.uint32)
        bits += 0x7FFF + ((bits >> 16) & 1)
        yield (bits >> 16).astype("<u2").tobytes()
        left -= count


def write_shard(path: Path, content: list[tuple[str, tuple[int, ...]]], seed: int) -> None:
    """One safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in content:
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in content:
            for piece in draw(generator, shape):
                file.write(piece)


def make(folder: Path, gigabytes: float) -> None:
    """Write the whole model folder."""
    layers = layers_for(gigabytes)
    folder.mkdir(parents=True)
    for file in BUNDLED_MODEL.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    config = json.loads((BUNDLED_MODEL / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HIDDEN // HEAD_SIZE,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))

    whole = list(tensors(layers))
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[] for _ in range(SHARDS)]
    written, total = 0, size_in_bytes(layers)
    for name, shape in whole:
        shards[min(SHARDS - 1, written * SHARDS // total)].append((name, shape))
        written += 2 * math.prod(shape)
    weight_map: dict[str, str] = {}
    for number, content in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        write_shard(folder / file_name, content, seed=number)
        weight_map |= dict.fromkeys((name for name, _ in content), file_name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    make(Path(sys.argv[1]), float(sys.argv[2]))
