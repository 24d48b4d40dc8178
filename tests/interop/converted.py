"""What llama.cpp's own converter writes for the models of `family_models.CASES`, as data.

    python tests/interop/converted.py LLAMA_CPP [PYTHON]

LLAMA_CPP is a folder of its sources (they come with llama-cpp-python's source distribution), and
PYTHON one with torch and transformers, which the converter needs. `tests/data/converted.json` is
the result, and is what the tests read: metadata and shapes of the tensors of every case. Their
bytes are not kept; here they are held against those of our own export.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from interop.family_models import CASES, export, make_case
from safetensors.numpy import load_file, save_file

from mlxquant.files.gguf import read_gguf

DATA = Path(__file__).parents[1] / "data" / "converted.json"

#: of the first the converter in hand loses the norms of the heads, of the second the pattern
LEFT_OUT = ("stablelm-parallel", "gemma3-every-second")

#: runs in a process of its own: the converter brings another package `gguf` along
CONVERT = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from pathlib import Path
import gguf, torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
folder, file = Path(sys.argv[2]), Path(sys.argv[3])
with torch.inference_mode():
    found = ModelBase.load_hparams(folder, False)
    kind = get_model_class(get_model_architecture(found, ModelType.TEXT))
    kind.set_vocab = lambda self: self.gguf_writer.add_tokenizer_model("no_vocab")
    kind(folder, gguf.LlamaFileType.ALL_F32, file).write()
"""

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}
#: what a folder says that comes from Hugging Face, and mlx-lm does not ask for
_SAID = {"deepseek_v3": {"scoring_func": "sigmoid", "routed_scaling_factor": 2.5}}


def as_hugging_face(folder: Path) -> None:
    """The folder as Hugging Face has it: its architecture named, gpt-oss's experts fused."""
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [_ARCHITECTURES[config["model_type"]]]
    config = {**_SAID.get(config["model_type"], {}), **config}
    (folder / "config.json").write_text(json.dumps(config))
    if config["model_type"] != "gpt_oss":
        return
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".experts.gate_proj" in name]:
        last = name.rpartition(".")[2]
        pair = [tensors.pop(name.replace("gate_proj", part)) for part in ("gate_proj", "up_proj")]
        fused = np.stack(pair, axis=2).reshape(pair[0].shape[0], -1, *pair[0].shape[2:])
        into = name.replace("gate_proj", "gate_up_proj").removesuffix(f".{last}")
        tensors[into + ("_bias" if last == "bias" else "")] = _turned(fused)
    for name in [name for name in tensors if ".experts.down_proj." in name]:
        last = name.rpartition(".")[2]
        into = name.removesuffix(f".{last}") + ("_bias" if last == "bias" else "")
        tensors[into] = _turned(tensors.pop(name))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _turned(x: Any) -> Any:
    return np.ascontiguousarray(x.swapaxes(1, 2)) if x.ndim == 3 else x


def _tensors(file: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    raw = file.read_bytes()
    return {e.name: (e.shape, raw[e.start : e.stop]) for e in read_gguf(file).entries.values()}


def compare(ours: Path, theirs: Path) -> None:
    """Hold two files' tensors against each other: the same bytes, but for computed factors."""
    one, other = _tensors(ours), _tensors(theirs)
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    for name, (shape, content) in other.items():
        assert np.squeeze(np.empty(shape)).shape == np.squeeze(np.empty(one[name][0])).shape, name
        values = (np.frombuffer(each, "<f4") for each in (one[name][1], content))
        if name == "rope_freqs.weight":
            np.testing.assert_allclose(*values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(*values, err_msg=name)


def main(sources: Path, python: str = sys.executable) -> None:
    """Write the data."""
    found: dict[str, Any] = {}
    for name in sorted(CASES.keys() - LEFT_OUT):
        with tempfile.TemporaryDirectory() as scratch:
            folder, theirs = Path(scratch) / "model", Path(scratch) / "theirs.gguf"
            made = make_case(folder, name)
            ours = export(made, Path(scratch) / "ours.gguf")
            as_hugging_face(folder)
            command = [python, "-c", CONVERT, sources, folder, theirs]
            subprocess.run(command, check=True, capture_output=True)
            compare(ours, theirs)
            header = read_gguf(theirs)
        metadata = {k: v for k, v in header.metadata.items() if not k.startswith("tokenizer.")}
        found[name] = {
            "metadata": {
                key: [value.kind, value.value]
                for key, value in metadata.items()
                if key == "general.architecture" or not key.startswith("general.")
            },
            "tensors": {entry.name: list(entry.shape) for entry in header.entries.values()},
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found))
    DATA.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
