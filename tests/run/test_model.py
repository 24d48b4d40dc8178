"""A loaded model works in stock mlx-lm; what cannot be loaded is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support

from mlxquant.errors import MlxquantError, ModelError
from mlxquant.load.from_hf import open_folder
from mlxquant.run.model import context_length, load

Variant = Callable[..., Path]


def test_the_pair_is_what_stock_mlx_lm_takes(pair: tuple[Any, Any], bundled: Path) -> None:
    import mlx_lm

    prompt = "It was a dark and"
    text = mlx_lm.generate(*pair, prompt=prompt, max_tokens=12)
    assert text == mlx_lm.generate(*mlx_lm.load(str(bundled)), prompt=prompt, max_tokens=12)
    streamed = mlx_lm.stream_generate(*pair, prompt=prompt, max_tokens=12)
    assert "".join(response.text for response in streamed) == text
    assert text


def test_lazy_leaves_the_weights_on_disk(bundled: Path) -> None:
    import gc

    import mlx.core as mx

    gc.collect()  # what other tests left behind must not go away in the middle of this one
    before = mx.get_active_memory()
    model, _ = load(bundled, lazy=True)
    assert mx.get_active_memory() - before < 1 << 20
    mx.eval(model.parameters())
    assert mx.get_active_memory() - before > 14 << 20


def shards(folder: Path, parts: int) -> None:
    """Split the folder's weights over files with an index."""
    import mlx.core as mx

    weights = mx.load(str(folder / "model.safetensors"))
    names = list(weights)
    index = {}
    for number in range(parts):
        file = f"model-{number + 1:05}-of-{parts:05}.safetensors"
        part = {name: weights[name] for name in names[number::parts]}
        mx.save_safetensors(str(folder / file), part, {"format": "mlx"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("lazy", [False, True])
def test_stray_shards_are_not_loaded(variant: Variant, pair: tuple[Any, Any], lazy: bool) -> None:
    """Stock mlx-lm would load every model*.safetensors, the index notwithstanding."""
    import mlx.core as mx

    folder = variant()
    shards(folder, 2)
    wrong = {"model.norm.weight": mx.zeros((256,)), "model.foreign.weight": mx.zeros((3, 3))}
    mx.save_safetensors(str(folder / "model-stray.safetensors"), wrong)
    model, _ = load(folder, lazy=lazy)
    ours, original = model.model.norm.weight, pair[0].model.norm.weight
    assert mx.array_equal(ours, original)
    assert mx.array_equal(
        model.model.layers[3].mlp.up_proj.weight, pair[0].model.layers[3].mlp.up_proj.weight
    )


def test_a_link_of_the_cache_is_followed(bundled: Path, tmp_path: Path) -> None:
    """Hub caches hold links to blobs; a stray shard beside them must not break that."""
    cache = tmp_path / "models--org--name"
    blobs, folder = cache / "blobs", cache / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    shutil.copytree(bundled, blobs)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(Path("../../blobs") / file.name)
    index = {"weight_map": dict.fromkeys(open_folder(bundled).stored, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-old.safetensors").write_bytes(b"junk")
    model, _ = load(folder)
    assert len(model.layers) == 8


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": (
        {"config_json": lambda c: c.update(model_type="nosuch")},
        r"mlx-lm [\d.]+ does not know the architecture 'nosuch'; a newer one may: pip install -U",
    ),
    "a module that is no architecture": (
        {"config_json": lambda c: c.update(model_type="cache")},
        "mlx-lm cannot build this model: .*no attribute 'Model'",
    ),
    "more layers than weights": (
        {"config_json": lambda c: c.update(num_hidden_layers=9)},
        r"do not fit together: 9 parameters are missing \(model\.layers\.8\.\S*, \S*, \S*, …\)",
    ),
    "fewer layers than weights": (
        {"config_json": lambda c: c.update(num_hidden_layers=7)},
        r"do not fit together: 9 are too many \(model\.layers\.7\.",
    ),
    "far more layers than weights": (
        {"config_json": lambda c: c.update(num_hidden_layers=4000)},
        "num_hidden_layers: 4000, but the weights are 74 tensors",
    ),
    "another width": (
        {"config_json": lambda c: c.update(intermediate_size=700)},
        "cannot build this model: Expected shape",
    ),
    "unknown positions": (
        {"config_json": lambda c: c.update(rope_scaling={"type": "zz"})},
        "cannot build this model: Unsupported RoPE type zz",
    ),
    "a vocabulary that is none": (
        {"tokenizer_json": lambda c: c["model"].update(vocab=3)},
        "its tokenizer cannot be loaded: invalid type",
    ),
    "a merge of unknown tokens": (
        {"tokenizer_json": lambda c: c["model"].update(merges=[["zz", "qq"]])},
        "its tokenizer cannot be loaded: Token `qq` out of vocabulary",
    ),
    "a pattern that is none": (
        {
            "tokenizer_json": lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(
                pattern={"Regex": "("}
            )
        },
        "its tokenizer cannot be loaded: Oniguruma",
    ),
    "no tokenizer": (
        {"tokenizer_json": None, "tokenizer_config_json": None, "special_tokens_map_json": None},
        "there is no tokenizer.json",
    ),
    "a tool parser out of nowhere": (
        {"tokenizer_config_json": lambda c: c.update(tool_parser_type="os")},
        "its tokenizer cannot be loaded: No module named 'mlx_lm.tool_parsers.os'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_one_line(variant: Variant, case: str) -> None:
    edits, expected = REFUSED[case]
    folder = variant(**edits)
    with pytest.raises(ModelError, match=expected) as problem:
        load(folder)
    assert str(problem.value).startswith(str(folder))
    assert "\n" not in str(problem.value)


def test_code_in_the_folder_is_not_run(variant: Variant, tmp_path: Path) -> None:
    folder = variant(config_json=lambda c: c.update(model_file="evil.py"))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(MlxquantError, match="trust.remote.code"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_broken_mlx_lm_is_one_line(tmp_path: Path) -> None:
    """As it is found where the package is damaged, or the limit of open files is too low."""
    (tmp_path / "mlx_lm").mkdir()
    for line in ("raise ValueError('not allowed to raise maximum limit')", "import nosuch"):
        (tmp_path / "mlx_lm" / "__init__.py").write_text(line)
        done = support.run_cli(
            "generate", "-p", "x", env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: mlx-lm cannot be imported: ")
        assert len(done.stderr.splitlines()) == 1


CONTEXTS: list[tuple[dict[str, Any], int | None]] = [
    ({"max_position_embeddings": 512}, 512),
    ({}, None),
    ({"max_position_embeddings": "512"}, None),
    ({"text_config": {"max_position_embeddings": 99}}, 99),
    (
        {
            "max_position_embeddings": 32768,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768},
        },
        131072,
    ),
    (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
        },
        131072,
    ),
]


@pytest.mark.parametrize(("config", "length"), CONTEXTS)
def test_context_length(config: dict[str, Any], length: int | None) -> None:
    assert context_length(config) == length
