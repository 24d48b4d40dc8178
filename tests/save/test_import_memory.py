"""A GGUF file larger than the memory that there is becomes a folder all the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from save.test_memory import LAUNCHER, LIMIT, MIB, RESIDENT

from mlxquant import open_checkpoint
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.load.lazy import Node
from mlxquant.models.families import family_of_config, typed


@pytest.mark.slow
def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    """Wire bytes, repacked blocks and floats of 500 MB, and matrices of 50 MB among them."""
    file = tmp_path / "model.gguf"
    config = {**tiny_models.CONFIGS["llama"], "model_type": "llama", "hidden_size": 4096}
    config |= {"intermediate_size": 16384, "num_attention_heads": 32, "num_hidden_layers": 2}
    config |= {"head_dim": 128, "num_key_value_heads": 32}
    family = family_of_config(config)
    types = {"attn": "F16", "ffn_up": "Q4_0", "ffn_gate": "Q8_0"}
    tensors = []
    for name, node in family.to_gguf(llama_nodes(config), config).items():
        found = next((kind for part, kind in types.items() if part in name), "Q6_K")
        tensors.append((name, "F32" if len(node.shape) == 1 else found, node.shape))
    metadata = typed({**family.metadata(config), "tokenizer.ggml.model": "no_vocab"})
    header, ranges = build_gguf(metadata, tensors)
    with file.open("wb") as out:  # the rest is zeros, which take no room on disk
        out.write(header)
        out.truncate(-(-ranges[-1][1] // 32) * 32)
    assert file.stat().st_size > 450e6
    try:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, str(LIMIT), sys.executable]
            + ["-m", "mlxquant", "import", str(file), "-o", str(tmp_path / "out")],
            capture_output=True,
            text=True,
            check=True,
        )
        status, peak = map(int, done.stdout.split())
        assert status == 0, done.stderr
        resident = peak * (1 if sys.platform == "darwin" else 1024)
        assert resident < RESIDENT, f"{resident / MIB:.0f} MiB resident"
        assert open_checkpoint(tmp_path / "out").nbytes > 450e6
    finally:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def llama_nodes(config: dict[str, Any]) -> dict[str, Node]:
    """The names and shapes of a Llama's tensors, without values."""
    wide, inner, layers = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], wide),
        "model.norm.weight": (wide,),
    }
    for n in range(layers):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.self_attn.{x}_proj.weight": (wide, wide) for x in "qkvo"}
        shapes |= {f"{layer}.mlp.{x}_proj.weight": (inner, wide) for x in ("up", "gate")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (wide, inner)
        for norm in ("input", "post_attention"):
            shapes[f"{layer}.{norm}_layernorm.weight"] = (wide,)
    return {name: Node(shape, "F32", lambda region: None, "Test") for name, shape in shapes.items()}
