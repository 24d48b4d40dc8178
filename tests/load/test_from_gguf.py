"""A GGUF model is a Checkpoint like any other: the same weights, the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_lm
import numpy as np
import pytest
import tiny_models
from support import run_cli

from mlxquant import FileFormatError, formats, open_checkpoint, quantize
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.gguf_values import Value
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.formats.floats import to_float32
from mlxquant.models.families import family_of_config, typed
from mlxquant.models.mlx_lm import resolve_model
from mlxquant.tokenizers import as_values, to_gguf


def export(folder: Path, file: Path, type_name: str) -> Path:
    """A folder's model as a GGUF file, matrices in one type and the rest in F32."""
    source = resolve_model(open_checkpoint(folder))
    family = family_of_config(source.config)
    nodes = family.to_gguf(source.parameters, source.config)
    metadata: dict[str, Value] = {**typed(family.metadata(source.config))}
    metadata.update(as_values(to_gguf(folder, rows=source.config["vocab_size"])))
    arrays: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, node in nodes.items():
        values = to_float32(node.flat(0, node.size), node.dtype).reshape(node.shape)
        target = type_name if values.ndim > 1 else "F32"
        (wire,) = formats.get(target).encode(values.reshape(-1, values.shape[-1]))
        arrays[name] = (target, values.shape, wire.tobytes())
    entries = [(name, target, shape) for name, (target, shape, _) in arrays.items()]
    header, ranges = build_gguf(metadata, entries)
    with file.open("wb") as out:
        out.write(header)
        for (_, _, data), (start, _) in zip(arrays.values(), ranges, strict=True):
            out.seek(start)
            out.write(data)
        out.truncate(max(stop for _, stop in ranges))
    return file


def floats(model: Any) -> dict[str, np.ndarray]:
    """Every parameter of a resolved model as float32."""
    return {
        name: to_float32(node.flat(0, node.size), node.dtype).reshape(node.shape)
        for name, node in model.parameters.items()
    }


@pytest.fixture(scope="module")
def bundled_f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(BUNDLED_MODEL, tmp_path_factory.mktemp("gguf") / "books.gguf", "F32")


def test_the_weights_are_those_of_the_folder(bundled_f32: Path) -> None:
    before = floats(resolve_model(open_checkpoint()))
    after = floats(resolve_model(open_checkpoint(bundled_f32)))
    assert list(before) == list(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_quantizing_either_gives_the_same_tensors(bundled_f32: Path, tmp_path: Path) -> None:
    quantize(None, tmp_path / "folder", bits=4)
    quantize(bundled_f32, tmp_path / "gguf", bits=4)
    first, second = (tmp_path / name / "model.safetensors" for name in ("folder", "gguf"))
    assert first.read_bytes() == second.read_bytes()


def test_stock_mlx_lm_says_the_same(bundled_f32: Path, tmp_path: Path) -> None:
    quantize(None, tmp_path / "folder", bits=8)
    quantize(bundled_f32, tmp_path / "gguf", bits=8)
    replies = []
    for name in ("folder", "gguf"):
        model, tokenizer = mlx_lm.load(str(tmp_path / name))
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "The rain beat upon the windows."}],
            add_generation_prompt=True,
        )
        replies.append((prompt, mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=24)))
    assert replies[0] == replies[1] and replies[0][1]


@pytest.mark.parametrize("type_name", ["F16", "BF16", "Q8_0", "Q4_K", "Q6_K", "Q4_0"])
def test_blocks_are_decoded_as_their_format_says(tmp_path: Path, type_name: str) -> None:
    """Row permutations and stacks on the way do not touch the values."""
    source = tiny_models.make(
        tmp_path / "source",
        "llama",
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,
        vocab_size=4096,
    )
    file = export(source, tmp_path / "model.gguf", type_name)
    before = floats(resolve_model(open_checkpoint(source)))
    after = floats(resolve_model(open_checkpoint(file)))
    block = formats.get(type_name)
    for name, values in before.items():
        expected = values
        if values.ndim > 1:
            expected = block.decode(block.encode(values.reshape(-1, values.shape[-1])))
        np.testing.assert_array_equal(after[name], expected.reshape(values.shape), err_msg=name)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("qwen2", {}),
        ("gemma2", {"query_pre_attn_scalar": 32, "tie_word_embeddings": True}),
        ("mixtral", {}),
    ],
)
def test_families(tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    source = tiny_models.make(tmp_path / "source", family, vocab_size=4096, **config)
    file = export(source, tmp_path / "model.gguf", "F32")
    before = floats(resolve_model(open_checkpoint(source)))
    after = floats(resolve_model(open_checkpoint(file)))
    for name in before:
        np.testing.assert_allclose(before[name], after[name], atol=1e-6, err_msg=name)


def test_from_the_command_line(bundled_f32: Path, tmp_path: Path) -> None:
    done = run_cli("quantize", bundled_f32, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "written to books-4bit" in done.stdout and "GGUF tensors: " in done.stdout
    manifest = json.loads((tmp_path / "books-4bit" / "mlxquant.json").read_text())
    assert list(manifest["source"]["sha256"]) == ["books.gguf"]
    spoken = run_cli("generate", "books-4bit", "--prompt", "Hello", "-m", "4", cwd=tmp_path)
    assert spoken.returncode == 0, spoken.stderr


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_one_is_run_as_it_is(bundled_f32: Path, command: str) -> None:
    done = run_cli(command, bundled_f32, "-m", "4", "--temp", "0", input="Hello\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_cut_file_is_refused(bundled_f32: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(bundled_f32.read_bytes()[:-1000])
    with pytest.raises(FileFormatError):
        open_checkpoint(cut)
