"""config.json as mlxquant writes it, for Swift to decode as mlx-swift-lm decodes it.

    python tests/swift_package/configs.py --regenerate

writes swift-bridge/Tests/Golden/configs.json; test_mlx_package.py fails where that file is not what
is made here. A list of cases:

    name              what was asked of which model
    config            config.json, word for word
    tokenizer_class   what tokenizer_config.json says in the source; null where there is none
    tokenizer_config  tokenizer_config.json as written; null where there is none
    layers            every layer with a weight matrix: [group size, bits, mode], or null where it
                      is none of MLX's formats
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny_models

from mlxquant import formats, import_gguf, open_checkpoint, quantize, quantize_gguf
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.formats import MlxFormat
from mlxquant.load.checkpoint import QuantizedTensor

TARGET = Path(__file__).resolve().parents[2] / "swift-bridge/Tests/Golden/configs.json"

#: what is asked of the bundled model
BUNDLED: dict[str, dict[str, Any]] = {
    "affine, 4 bits": {"bits": 4},
    "affine, 8 bits, float16": {"bits": 8, "group_size": 32, "dtype": "float16"},
    "mxfp4": {"mode": "mxfp4"},
    "mxfp8": {"mode": "mxfp8"},
    "nvfp4": {"mode": "nvfp4"},
    "mixed recipe": {"recipe": "mixed_3_6"},
    "embedding in 8 bits, some kept": {
        "bits": 3,
        "embed_bits": 8,
        "tensors": (("*.0.mlp.*", "mxfp4"), ("*.v_proj", "keep"), ("*.7.*.up_proj", "nvfp4")),
    },
}
#: tokenizer classes of random models, by which mlx-swift-lm chooses its own
CLASSES = {"qwen2": "Qwen2Tokenizer", "gemma3": "GemmaTokenizer", "phi3": "LlamaTokenizer"}
#: what becomes of random models in 4 bits: routers, a nested configuration, rows that fit no group
RANDOM = ("qwen3_moe", "gemma3", "phi3", "mixtral", "gpt_oss", "qwen2")


def content() -> str:
    """The whole file."""
    with tempfile.TemporaryDirectory(prefix="mlxquant-configs-") as folder:
        return json.dumps(list(cases(Path(folder))), indent=1) + "\n"


def cases(folder: Path) -> Iterator[dict[str, Any]]:
    """Every case, written to folders in `folder`."""
    for number, (name, request) in enumerate(BUNDLED.items()):
        target = folder / f"bundled-{number}"
        # rounded: which codes weights have is not said in config.json
        quantize(output=target, method="rtn", **request)
        yield _case(name, target, BUNDLED_MODEL)
    for model in RANDOM:
        source = tiny_models.make(folder / model, model)
        if model in CLASSES:
            said = source / "tokenizer_config.json"
            content = {**json.loads(said.read_bytes()), "tokenizer_class": CLASSES[model]}
            said.write_text(json.dumps(content, indent=2), encoding="utf-8")
        quantize(source, folder / f"{model}-4bit", bits=4, group_size=32, method="rtn")
        yield _case(f"{model}, 4 bits", folder / f"{model}-4bit", source)
    for kind in ("Q4_K_M", "Q4_0"):
        quantize_gguf(output=folder / f"{kind}.gguf", request=kind)
        import_gguf(folder / f"{kind}.gguf", folder / kind)
        yield _case(f"import of {kind}", folder / kind, BUNDLED_MODEL)


def _case(name: str, folder: Path, source: Path) -> dict[str, Any]:
    before, after = (_text(path / "tokenizer_config.json") for path in (source, folder))
    layers: dict[str, Any] = {}
    for tensor in open_checkpoint(folder).tensors.values():
        if not tensor.name.endswith(".weight") or len(tensor.shape) < 2:
            continue
        layers[tensor.name.removesuffix(".weight")] = None
        if isinstance(tensor, QuantizedTensor):
            found = formats.get(tensor.format)
            if isinstance(found, MlxFormat):
                said = found.mlx_config()
                entry = [said["group_size"], said["bits"], said["mode"]]
                layers[tensor.name.removesuffix(".weight")] = entry
    return {
        "name": name,
        "config": _text(folder / "config.json"),
        "tokenizer_class": None if before is None else json.loads(before).get("tokenizer_class"),
        "tokenizer_config": after,
        "layers": layers,
    }


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit(__doc__)
    TARGET.write_text(content(), encoding="utf-8")
