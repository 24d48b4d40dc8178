"""Folders with ggml's blocks: what opens, what is refused, and what is seen of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.building import (
    CONFIG,
    LAYER,
    Tensors,
    file_bytes,
    packed,
    plain,
    tensor,
    weights,
    write,
)
from wire_models import STORED, make, random_blocks, spoil

from mlxquant import FileFormatError, ModelError, formats, import_gguf, open_checkpoint, quantize
from mlxquant.files.gguf_types import tensor_type
from mlxquant.inspection.facts import inspect, open_path, verify
from mlxquant.load.blocks import decoder
from mlxquant.load.checkpoint import QuantizedTensor
from mlxquant.load.from_hf import open_folder
from mlxquant.load.kept_blocks import KEY, read_blocks

ROWS = 128


def blocks_of(type_name: str = "Q4_0", rows: int = ROWS) -> tuple[str, list[int], bytes]:
    """The layer's 128 rows of 64 weights as a tensor to write."""
    kind = tensor_type(type_name)
    wire = random_blocks(type_name, rows * 64 // kind.block_size).reshape(rows, -1)
    return "U8", list(wire.shape), wire.tobytes()


def folder(path: Path, entry: Any, tensors: Tensors | None = None, **config: Any) -> Path:
    """A model whose one layer is blocks, unless told otherwise."""
    plain(path, **{KEY: entry}, **config)
    changed = {f"{LAYER}.weight": blocks_of(), **(tensors or {})}
    write(path, "model.safetensors", file_bytes(weights() | changed))
    return path


def entry(**blocks: str) -> dict[str, Any]:
    return {"version": 1, "blocks": blocks or {LAYER: "Q4_0"}}


@pytest.mark.parametrize("type_name", ["Q4_0", "Q5_1", "MXFP4", "NVFP4"])
def test_what_opens(tmp_path: Path, type_name: str) -> None:
    stored = blocks_of(type_name)
    folder(tmp_path, entry(**{LAYER: type_name}), {f"{LAYER}.weight": stored})
    found = open_folder(tmp_path)
    name = f"{LAYER}.weight"
    held = found.tensors[name]
    assert isinstance(held, QuantizedTensor)
    assert (held.shape, held.format, held.nbytes) == ((ROWS, 64), type_name, len(stored[2]))
    assert list(found.tensors) == list(found.stored)
    assert found.stored[name].dtype == "U8"
    (kept,) = found.blocks().values()
    assert (kept.dtype, kept.shape) == (type_name, tuple(stored[1]))
    assert kept.rows(0, ROWS).tobytes() == stored[2]
    wire = np.frombuffer(stored[2], np.uint8).reshape(stored[1])
    floats = found.nodes()[name]
    assert floats.dtype == "F32"
    expected = formats.get(type_name).decode((wire,))
    assert np.array_equal(floats.rows(3, 7), expected[3:7])
    assert found.nodes()["model.norm.weight"].dtype == "BF16"
    assert f"1 {type_name}" in found.notes[-1] and "mlx-lm does not" in found.notes[-1]


def test_experts_are_one_tensor(tmp_path: Path) -> None:
    stored = ("U8", [4, 32, 36], blocks_of()[2])
    folder(tmp_path, entry(), {f"{LAYER}.weight": stored})
    found = open_folder(tmp_path)
    assert found.tensors[f"{LAYER}.weight"].shape == (4, 32, 64)


def test_a_folder_without_the_entry_has_no_blocks(tmp_path: Path) -> None:
    plain(tmp_path)
    found = open_folder(tmp_path)
    assert found.blocks() == {} and found.notes == ()
    assert [node.dtype for node in found.nodes().values()] == ["BF16"] * 3


def test_every_type_that_has_a_decoder_is_known(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for name in STORED:
        assert decoder(name).name == name
        assert read_blocks(path, {KEY: entry(a=name)}) == {"a": name}
    with pytest.raises(ModelError) as caught:
        read_blocks(path, {KEY: entry(a="F16")})
    assert set(str(caught.value).rsplit(" choose one of ")[1].split(", ")) == set(STORED)


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a number": ({"entry": 4}, ("mlxquant: 4: an object expected",)),
    "no version": ({"entry": {"blocks": {}}}, ("mlxquant.version: missing, 1 expected",)),
    "a later version": (
        {"entry": {"version": 2, "blocks": {}}},
        ("mlxquant.version: 2, 1 expected", "pip install -U mlxquant"),
    ),
    "a version in words": (
        {"entry": {"version": "1", "blocks": {}}},
        ('version: "1", 1 expected',),
    ),
    "a version that is true": ({"entry": {"version": True, "blocks": {}}}, ("true, 1 expected",)),
    "an unknown key": (
        {"entry": entry() | {"codec": "zip"}},
        ("unknown 'codec'", '"zip"', "version and blocks"),
    ),
    "no blocks": ({"entry": {"version": 1}}, ("mlxquant.blocks: null: an object",)),
    "blocks in a list": ({"entry": {"version": 1, "blocks": [LAYER]}}, ("an object of layers",)),
    "an unknown type": (
        {"entry": entry(**{LAYER: "Q4_X"})},
        (f"mlxquant.blocks['{LAYER}']", '"Q4_X" is no block type', "Q4_K"),
    ),
    "a type in small letters": ({"entry": entry(**{LAYER: "q4_k"})}, ('"q4_k" is no block type',)),
    "a type for activations": ({"entry": entry(**{LAYER: "Q8_1"})}, ('"Q8_1" is no block type',)),
    "a type that is a number": (
        {"entry": {"version": 1, "blocks": {LAYER: 2}}},
        ("2 is no block type",),
    ),
    "a layer that is not there": (
        {"entry": entry(**{LAYER: "Q4_0", "model.layers.9.mlp.up_proj": "Q4_K"})},
        ("model.layers.9.mlp.up_proj", "conflict: Q4_K, but the weights hold no such layer"),
    ),
    "a layer that quantization has": (
        {
            "entry": entry(),
            "quantization": {"group_size": 32, "bits": 4, LAYER: {"group_size": 32, "bits": 4}},
        },
        (LAYER, "conflict: Q4_0, but quantization says", '"bits": 4'),
    ),
    "a layer with scales": (
        {"entry": entry(), "tensors": {f"{LAYER}.scales": tensor("F16", 128, 2)}},
        (LAYER, "conflict: Q4_0, but model.safetensors holds scales beside it"),
    ),
    "floats": (
        {"entry": entry(), "tensors": {f"{LAYER}.weight": tensor("F16", 128, 64)}},
        (LAYER, "conflict: Q4_0, but model.safetensors holds F16 [128, 64], not U8"),
    ),
    "rows that are no whole blocks": (
        {"entry": entry(), "tensors": {f"{LAYER}.weight": tensor("U8", 128, 35)}},
        (f"tensor '{LAYER}.weight'", "U8 [128, 35]", "blocks of 18 bytes", "Q4_0"),
    ),
    "one axis": (
        {"entry": entry(), "tensors": {f"{LAYER}.weight": tensor("U8", 36)}},
        ("U8 [36]; rows of whole blocks",),
    ),
    "an embedding of another width": (
        {
            "entry": entry(**{"model.embed_tokens": "Q4_0"}),
            "tensors": {"model.embed_tokens.weight": tensor("U8", 32, 54)},
        },
        ("model.embed_tokens", "conflict: Q4_0, so rows of 96, but hidden_size is 64"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    arguments, says = REFUSED[name]
    folder(tmp_path, **arguments)
    with pytest.raises((ModelError, FileFormatError)) as caught:
        open_folder(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and message.isprintable()
    for words in says:
        assert words in message


def test_bytes_that_nothing_explains_are_refused_when_the_model_is_made(tmp_path: Path) -> None:
    """An exact folder whose config.json lost the entry."""
    import_gguf(make(tmp_path / "model.gguf"), tmp_path / "folder")
    path = tmp_path / "folder" / "config.json"
    config = json.loads(path.read_text())
    del config[KEY]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="has shape"):
        quantize(tmp_path / "folder", tmp_path / "out")


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with blocks, repacked weights, floats and a bad scale."""
    place = tmp_path_factory.mktemp("exact")
    file = make(
        place / "model.gguf",
        types={"*attn*": "Q4_0", "*ffn_down*": "Q6_K", "*": "Q4_K"},
        edit={"blk.1.ffn_up.weight": lambda wire: spoil(wire, "Q4_K", 300, "nan")},
    )
    import_gguf(file, place / "folder", allow_nonfinite=True)
    return place / "folder"


def test_inspect_counts_them(exact: Path) -> None:
    facts = inspect(open_path(exact))
    rows = {row.name: row for row in facts.tensors}
    up = rows["model.layers.0.mlp.up_proj.weight"]
    assert (up.format, up.shape, up.weights, up.bpw) == ("Q4_K", (512, 256), 512 * 256, 4.5)
    down = rows["model.layers.0.mlp.down_proj.weight"]
    assert (down.format, down.bpw) == ("Q6_K", 6.5625)
    assert rows["model.layers.0.self_attn.q_proj.weight"].format == "affine4-g32"
    assert facts.parameters == sum(row.weights for row in facts.tensors)
    assert {row.format for row in facts.formats} == {"Q4_K", "Q6_K", "affine4-g32", "bf16"}


def test_verify_finds_the_bad_scale(exact: Path) -> None:
    """Row 300's first block, and nothing else: codes are no floats."""
    found = [problem for problem in verify(open_path(exact)) if not problem.note]
    (bad,) = found
    assert (bad.kind, bad.tensor) == ("nan", "model.layers.1.mlp.up_proj.weight")
    assert bad.indices == ((300, 0),)
    assert "NaN in the scales of 1 block of 256 weights, at [300, 0]" in bad.message


def test_blocks_across_the_chunks_of_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlxquant.inspection import verification

    wire = random_blocks("Q6_K", 2000)
    spoil(wire, "Q6_K", 1999, "inf")
    stored = ("U8", [2000, 210], wire.tobytes())
    plain(tmp_path, **{KEY: entry(**{LAYER: "Q6_K"})})
    write(tmp_path, "model.safetensors", file_bytes(weights() | {f"{LAYER}.weight": stored}))
    monkeypatch.setattr(verification, "_CHUNK", 1 << 12)
    (bad,) = [problem for problem in verify(open_path(tmp_path)) if not problem.note]
    assert (bad.kind, bad.indices) == ("inf", ((1999, 0),))


def test_quantizing_one_decodes_it(tmp_path: Path) -> None:
    """As from the file itself."""
    file = make(tmp_path / "model.gguf", types={"*attn*": "Q3_K", "*": "IQ4_XS"})
    import_gguf(file, tmp_path / "folder")
    quantize(file, tmp_path / "a", bits=4)
    quantize(tmp_path / "folder", tmp_path / "b", bits=4)
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert ours == theirs
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert KEY not in config
    quantize(tmp_path / "folder", tmp_path / "c", dequantize=True)
    held = {tensor.format for tensor in open_checkpoint(tmp_path / "c").tensors.values()}
    assert held == {"bf16"}


def test_mlx_s_own_folders_are_as_before(tmp_path: Path) -> None:
    packed(tmp_path)
    found = open_folder(tmp_path)
    assert found.tensors[f"{LAYER}.weight"].format == "affine4-g32"
    assert found.blocks() == {} and KEY not in CONFIG
