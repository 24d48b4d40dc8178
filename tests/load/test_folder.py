"""Model folders that open: what is found in them, and what is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hostile.building import (
    AFFINE,
    CONFIG,
    LAYER,
    file_bytes,
    packed,
    packed_weights,
    plain,
    raw,
    sharded,
    tensor,
    weights,
    write,
)

from mlxquant import formats
from mlxquant.errors import FileFormatError, ModelError
from mlxquant.load.checkpoint import QuantizedTensor, StoredTensor
from mlxquant.load.from_hf import open_folder


def test_the_bundled_model(bundled: Path) -> None:
    found = open_folder(bundled, source="typed", revision="abc")
    with safetensors.safe_open(bundled / "model.safetensors", "np") as theirs:
        assert found.stored.keys() == set(theirs.keys())
        for name, tensor_ in found.stored.items():
            piece = theirs.get_slice(name)
            assert (tensor_.dtype, list(tensor_.shape)) == (piece.get_dtype(), piece.get_shape())
    starts = [each.start for each in found.stored.values()]
    assert starts == sorted(starts)
    assert found.tensors == found.stored
    assert found.config == json.loads((bundled / "config.json").read_text())
    assert found.quantization is None
    assert (found.source, found.revision, found.notes) == ("typed", "abc", ())
    assert found.shards == (bundled / "model.safetensors",)
    assert [path.name for path in found.extra_files] == [
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_reads_the_bytes_that_the_file_holds(tmp_path: Path) -> None:
    plain(tmp_path)
    content = bytes(range(256)) * 16
    tensors = weights() | {"model.embed_tokens.weight": ("BF16", [32, 64], content)}
    write(tmp_path, "model.safetensors", file_bytes(tensors))
    found = open_folder(tmp_path).stored["model.embed_tokens.weight"]
    assert found.read(0, 2048).tobytes() == content
    assert found.read(5, 9).tobytes() == content[10:18]


# --- which files ----------------------------------------------------------------------------------


def test_shards_by_the_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    write(tmp_path, "model-00003-of-00003.safetensors", b"a stray is not even opened")
    write(tmp_path, "adapters.safetensors", b"nor is this")
    write(tmp_path, "pytorch_model.bin", b"nor this")
    found = open_folder(tmp_path)
    assert [path.name for path in found.shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert list(found.stored) == list(weights())
    assert found.stored["model.norm.weight"].file == found.shards[1]
    assert found.notes == (
        "adapters.safetensors is ignored: not in model.safetensors.index.json",
        "model-00003-of-00003.safetensors is ignored: not in model.safetensors.index.json",
        "pytorch_model.bin is ignored: pickles can run code and are never opened",
    )


def test_shards_without_an_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    found = open_folder(tmp_path)
    assert [path.name for path in found.shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert list(found.stored) == list(weights())


def test_a_name_cannot_break_a_line_of_the_notes(tmp_path: Path) -> None:
    plain(tmp_path)
    write(tmp_path, "x\x1b[2J\n.safetensors", b"")
    (note,) = open_folder(tmp_path).notes
    assert note.isprintable()


def test_a_single_file_goes_before_shards_that_no_index_names(tmp_path: Path) -> None:
    plain(tmp_path)
    write(tmp_path, "model-00001-of-00002.safetensors", b"a stray")
    found = open_folder(tmp_path)
    assert found.shards == (tmp_path / "model.safetensors",)
    assert found.notes == (
        "model-00001-of-00002.safetensors is ignored: model.safetensors holds the model",
    )


def test_a_tensor_that_the_index_leaves_out_is_read_and_said(tmp_path: Path) -> None:
    sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    del value["weight_map"]["model.embed_tokens.weight"]
    index.write_text(json.dumps(value))
    found = open_folder(tmp_path)
    assert list(found.stored) == list(weights())
    assert "leaves out 1 tensor" in found.notes[0]
    assert "model.embed_tokens.weight" in found.notes[0]


def test_shards_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    sharded(tmp_path, model_norm_weight="below/x.safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").rename(tmp_path / "below" / "x.safetensors")
    found = open_folder(tmp_path)
    assert found.stored["model.norm.weight"].file == tmp_path / "below" / "x.safetensors"


def hub_cache(root: Path, shared: bool) -> Path:
    """The hub's cache of one model, its contents in the model's own blobs or in shared ones."""
    snapshot = root / "models--org--name" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    plain(snapshot)
    (snapshot / "chat_templates").mkdir()
    write(snapshot / "chat_templates", "tool.jinja", b"{{ messages }}")
    blobs = root / "models--org--name" / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        name = f"{number:064x}"
        up = "../" * len(path.relative_to(snapshot).parts)
        path.rename(blobs / name)
        path.symlink_to(f"{up}../blobs/{name}")
        if shared and path.suffix == ".safetensors":
            store = root / "blobs" / name[:2]
            store.mkdir(parents=True)
            (blobs / name).rename(store / name)
            (blobs / name).symlink_to(f"../../blobs/{name[:2]}/{name}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_a_snapshot_of_the_hubs_cache_is_made_of_links(shared: bool, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", shared)
    assert (snapshot / "model.safetensors").is_symlink()
    (tmp_path / "alias").symlink_to(snapshot)
    for path in (snapshot, tmp_path / "alias", snapshot / ".." / "0123abcd"):
        found = open_folder(path)
        assert list(found.stored) == list(weights())
        assert Path("chat_templates/tool.jinja") in found.extra_files


def test_the_hubs_own_downloader_makes_what_opens(tmp_path: Path) -> None:
    """The cache layout is huggingface_hub's, not what this file believes of it."""
    from huggingface_hub.file_download import _create_symlink

    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "0123abcd"
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    plain(snapshot)
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        _create_symlink(str(blobs / path.name), str(path), new_blob=False)
        assert path.is_symlink()
    assert list(open_folder(snapshot).stored) == list(weights())


def test_links_inside_the_folder_are_fine(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.real")
    (tmp_path / "model.safetensors").symlink_to("weights.real")
    assert list(open_folder(tmp_path).stored) == list(weights())


def test_what_accompanies_the_weights(tmp_path: Path) -> None:
    plain(tmp_path)
    taken = [
        "LICENSE",
        "LICENSE.md",
        "NOTICE.txt",
        "added_tokens.json",
        "chat_template.jinja",
        "merges.txt",
        "preprocessor_config.json",
        "qwen.tiktoken",
        "tokenizer.model",
        "vocab.json",
    ]
    code = ["modeling_x.py", "tokenizer_x.py"]
    left = [
        ".gitattributes",
        "README.md",
        "optimizer.pt",
        "pytorch_model.bin",
        "tokenizer.bin",
        "tokenizer.pkl",
        "tokenizer.safetensors",
        "training_args.bin",
        "vocab.npz",
    ]
    for name in taken + code + left:
        write(tmp_path, name, {})
    (tmp_path / "additional_chat_templates").mkdir()
    write(tmp_path / "additional_chat_templates", "rag.jinja", b"")
    write(tmp_path / "additional_chat_templates", "rag.bin", b"")
    (tmp_path / "tokenizer").mkdir()
    os.mkfifo(tmp_path / "tokenizer.pipe")
    own = ["additional_chat_templates/rag.jinja", "tokenizer.json", "tokenizer_config.json"]
    found = open_folder(tmp_path)
    assert list(map(str, found.extra_files)) == sorted(taken + own)
    found = open_folder(tmp_path, trust_remote_code=True)
    assert list(map(str, found.extra_files)) == sorted(taken + own + code)


def test_code_is_accepted_when_trusted(tmp_path: Path) -> None:
    plain(tmp_path, auto_map={"AutoModel": "modeling_x.X"}, model_file="model.py")
    write(tmp_path, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.X", None]}})
    write(tmp_path, "model.py", b"raise SystemExit('this must not run')")
    found = open_folder(tmp_path, trust_remote_code=True)
    assert found.trust_remote_code
    assert Path("model.py") in found.extra_files


@pytest.mark.parametrize("nothing", [None, {}])
def test_an_empty_auto_map_is_no_code(nothing: Any, tmp_path: Path) -> None:
    plain(tmp_path, auto_map=nothing, model_file=None)
    assert not open_folder(tmp_path).trust_remote_code


def test_trust_does_not_reach_outside(tmp_path: Path) -> None:
    plain(tmp_path, model_file="../model.py")
    with pytest.raises(ModelError, match="outside the model folder"):
        open_folder(tmp_path, trust_remote_code=True)


# --- settings -------------------------------------------------------------------------------------


def test_settings_that_real_models_have(tmp_path: Path) -> None:
    """Lists and nulls where architectures use them; tagged floats stay as they are."""
    config = CONFIG | {
        "num_key_value_heads": [2, None, 1],
        "num_attention_heads": [2, 2],
        "intermediate_size": [128, 256],
        "head_dim": None,
        "moe_intermediate_size": None,
        "text_config": None,
        "rope_scaling": {"factor": {"__float__": "Infinity"}},
    }
    plain(tmp_path)
    write(tmp_path, "config.json", config)
    assert open_folder(tmp_path).config == config


def test_a_quick_opening_leaves_tokenizer_json_to_its_readers(tmp_path: Path) -> None:
    plain(tmp_path)
    write(tmp_path, "tokenizer.json", b'{"a": tru}')
    assert list(open_folder(tmp_path, quick=True).stored) == list(weights())
    with pytest.raises(FileFormatError, match=r"tokenizer\.json"):
        open_folder(tmp_path)
    write(tmp_path, "tokenizer.json", b'{"a": ')
    with pytest.raises(FileFormatError, match=r"tokenizer\.json"):
        open_folder(tmp_path, quick=True)


def test_a_large_model_costs_its_header(tmp_path: Path) -> None:
    """64 GB of weights that no disk holds: opening them touches none."""
    plain(tmp_path)
    size = 1 << 36
    header = {"lm_head.weight": {"dtype": "BF16", "shape": [1 << 22, 1 << 13]}}
    header["lm_head.weight"]["data_offsets"] = [0, size]
    write(tmp_path, "model.safetensors", raw(header))
    os.truncate(tmp_path / "model.safetensors", len(raw(header)) + size)
    assert open_folder(tmp_path).nbytes == size


SPY = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from mlxquant.load.from_hf import open_folder
notes = open_folder(sys.argv[1]).notes
assert any("pytorch_model.bin is ignored" in note for note in notes), notes
assert any(name.endswith("config.json") for name in opened), opened
print(*(name for name in opened if name.endswith(".bin")))
print(*sorted({"mlx", "mlx_lm", "transformers", "torch", "numpy", "pickle"} & sys.modules.keys()))
"""


def test_opens_no_pickle_and_imports_nothing_heavy(tmp_path: Path) -> None:
    plain(tmp_path)
    write(tmp_path, "pytorch_model.bin", b"cos\nsystem\n(S'touch ran'\ntR.")
    done = subprocess.run(
        [sys.executable, "-c", SPY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    opened, imported = done.stdout.splitlines()
    assert opened == ""
    assert imported in ("", "pickle")  # the standard library imports pickle for its own needs
    assert not (tmp_path / "ran").exists()


# --- packed weights -------------------------------------------------------------------------------

MODES = [
    *(
        ({"bits": bits, "group_size": group_size}, f"affine{bits}-g{group_size}")
        for bits in (1, 2, 3, 4, 5, 6, 8)
        for group_size in (32, 64, 128)
    ),
    ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "mxfp4"),
    ({"bits": 8, "group_size": 32, "mode": "mxfp8"}, "mxfp8"),
    ({"bits": 4, "group_size": 16, "mode": "nvfp4"}, "nvfp4"),
]


@pytest.mark.parametrize(("quantization", "name"), MODES, ids=[name for _, name in MODES])
def test_weights_as_mlx_packs_them(quantization: dict[str, Any], name: str, tmp_path: Path) -> None:
    import mlx.core as mx

    weight = mx.random.normal((3, 6, 256)).astype(mx.bfloat16)
    parts = mx.quantize(weight, **quantization)
    arrays = dict(zip(("weight", "scales", "biases"), parts, strict=False))
    plain(tmp_path, quantization=quantization)
    mx.save_safetensors(
        str(tmp_path / "model.safetensors"),
        {f"{LAYER}.{part}": array for part, array in arrays.items()}
        | {"norm.weight": weight[0, 0]},
    )
    found = open_folder(tmp_path)
    assert found.quantization == quantization
    assert set(found.tensors) == {f"{LAYER}.weight", "norm.weight"}
    layer = found.tensors[f"{LAYER}.weight"]
    assert isinstance(layer, QuantizedTensor)
    assert (layer.shape, layer.format) == ((3, 6, 256), name)
    assert [part.name for part in layer.parts] == [f"{LAYER}.{part}" for part in arrays]
    assert [part.suffix for part in formats.get(name).parts] == list(arrays)
    assert formats.from_mlx(**{"mode": "affine"} | quantization).name == name
    assert layer.nbytes == sum(array.nbytes for array in arrays.values())
    assert isinstance(found.tensors["norm.weight"], StoredTensor)
    assert found.notes == ()


def test_every_format_is_found() -> None:
    """The modes above are all that there are, and the defaults are those of the formats."""
    from mlxquant.load import packed as reader

    assert {name for _, name in MODES} == set(formats.mlx_names())
    assert reader._DEFAULTS == formats.MODE_DEFAULTS


def test_each_layer_as_its_entry_says(tmp_path: Path) -> None:
    tensors = packed_weights() | {
        "a.weight": tensor("U32", 4, 48),  # 256 weights of 6 bits
        "a.scales": tensor("F16", 4, 4),
        "a.biases": tensor("F16", 4, 4),
        "b.weight": tensor("U32", 4, 32),  # 256 of 4
        "b.scales": tensor("U8", 4, 16),
        "c.weight": tensor("U32", 4, 16),  # 128 of 4, defaults
        "c.scales": tensor("F32", 4, 2),
        "c.biases": tensor("F32", 4, 2),
        "d.weight": tensor("U32", 4, 64),  # 256 of 8, no entry
        "d.scales": tensor("U8", 4, 8),
    }
    entries = {
        "a": {"bits": 6, "group_size": 64},
        "b": {"mode": "nvfp4"},
        "c": {"group_size": None, "bits": None},
        LAYER: True,
        "model.embed_tokens": False,
        "model.norm": None,
        "gone": False,
    }
    packed(tmp_path, AFFINE | entries, tensors)
    found = open_folder(tmp_path)
    assert {name: (each.format, each.shape) for name, each in found.tensors.items()} == {
        "model.embed_tokens.weight": ("bf16", (32, 64)),
        f"{LAYER}.weight": ("affine4-g32", (128, 64)),
        "model.norm.weight": ("bf16", (64,)),
        "a.weight": ("affine6-g64", (4, 256)),
        "b.weight": ("nvfp4", (4, 256)),
        "c.weight": ("affine4-g64", (4, 128)),
        "d.weight": ("mxfp8", (4, 256)),
    }
    assert found.notes == (
        "config.json: quantization['gone'] is false for a layer that is not there",
    )


def test_file_order_is_that_of_the_weight(tmp_path: Path) -> None:
    """MLX's writer does not keep a layer's arrays together."""
    tensors = packed_weights()
    tensors = {name: tensors[name] for name in sorted(tensors)}
    packed(tmp_path, AFFINE, tensors)
    found = open_folder(tmp_path)
    assert list(found.stored) == list(tensors)
    assert list(found.tensors) == [name for name in tensors if name.endswith(".weight")]


def test_quantization_config_repeats_or_replaces_quantization(tmp_path: Path) -> None:
    packed(tmp_path, AFFINE, quantization_config=AFFINE)
    assert open_folder(tmp_path).notes == ()
    packed(tmp_path, None, quantization_config=AFFINE)
    found = open_folder(tmp_path)
    assert found.quantization == AFFINE
    assert found.tensors[f"{LAYER}.weight"].format == "affine4-g32"
    assert "quantization_config is used" in found.notes[0]


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "awq", "gptq", "bitsandbytes", "bitnet"])
def test_other_tools_quantization_is_left_alone(method: str, tmp_path: Path) -> None:
    other = {"quant_method": method, "bits": 4, "group_size": 128}
    packed(tmp_path, None, quantization_config=other)
    found = open_folder(tmp_path)
    assert found.quantization is None
    assert found.config["quantization_config"] == other
    assert found.tensors == found.stored
    packed(tmp_path, AFFINE, quantization_config=other)
    assert open_folder(tmp_path).tensors[f"{LAYER}.weight"].format == "affine4-g32"


def test_a_declared_quantization_that_packed_nothing_is_said(tmp_path: Path) -> None:
    packed(tmp_path, AFFINE, weights())
    found = open_folder(tmp_path)
    assert found.quantization == AFFINE
    assert found.notes == ("config.json: quantization is given, but no weight is packed",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_", [{"quant_predicate": "mixed_3_6"}, {"q_mode": "nvfp4"}, {"q_bits": 5}]
)
def test_formats_are_those_that_mlx_lm_loads(
    request_: dict[str, Any], bundled: Path, tmp_path: Path
) -> None:
    """On mlx-lm's own output, every layer has the format that mlx-lm builds for it."""
    import mlx.nn as nn
    from mlx_lm.convert import convert
    from mlx_lm.utils import load_model

    convert(str(bundled), str(tmp_path / "out"), quantize=True, **request_)
    found = open_folder(tmp_path / "out")
    model, _ = load_model(tmp_path / "out", lazy=True)
    packed_layers = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            affine = f"affine{module.bits}-g{module.group_size}"
            packed_layers[f"{name}.weight"] = affine if module.mode == "affine" else module.mode
    assert packed_layers
    assert {
        name: each.format
        for name, each in found.tensors.items()
        if isinstance(each, QuantizedTensor)
    } == packed_layers
