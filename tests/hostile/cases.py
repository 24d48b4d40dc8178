"""Hostile and broken models: each builds a model under a folder and says what it must get.

    for name, case in cases.ALL.items():
        path = case.build(tmp_path)        # what to open
        case.says                          # what the one-line error must contain

The same cases go through the library and through the command line. Every model here is a few
kilobytes; where a file claims to be huge, it is sparse or lies.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.building import (
    AFFINE,
    LAYER,
    Tensors,
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
from hostile.headers import HEADERS

__all__ = ["ALL", "FOLDERS", "Case"]


@dataclass(frozen=True)
class Case:
    """A model to open, and what the error must contain."""

    builder: Callable[[Path], Path | None]
    says: tuple[str, ...]

    def build(self, tmp: Path) -> Path:
        """Make the model under `tmp`; returns the path to open."""
        folder = tmp / "model"
        folder.mkdir()
        return self.builder(folder) or folder


def _with_file(content: Callable[[], bytes]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        plain(folder)
        write(folder, "model.safetensors", content())

    return build


# --- folders: lines 18 to 22 ----------------------------------------------------------------------


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: plain(folder, **changes)


def _quantization(quantization: Any, **config: Any) -> Callable[[Path], None]:
    return lambda folder: packed(folder, quantization, **config)


def _file(name: str, value: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        plain(folder)
        (folder / name).unlink(missing_ok=True)
        write(folder, name, value)

    return build


def _without(*names: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        plain(folder)
        for name in names:
            (folder / name).unlink()

    return build


def _index(**weight_map: Any) -> Callable[[Path], None]:
    return lambda folder: sharded(folder, **weight_map)


def _index_of(value: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        sharded(folder)
        write(folder, "model.safetensors.index.json", value)

    return build


def _shard_gone(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _shard_gone_without_index(folder: Path) -> None:
    _shard_gone(folder)
    (folder / "model.safetensors.index.json").unlink()


def _doubled(folder: Path) -> None:
    sharded(folder)
    write(folder, "model-00002-of-00002.safetensors", file_bytes(weights()))


def _outside(folder: Path) -> Path:
    """A real model file beside the model folder."""
    (folder.parent / "elsewhere").mkdir()
    write(folder.parent / "elsewhere", "secret.safetensors", file_bytes(weights()))
    return folder.parent / "elsewhere" / "secret.safetensors"


def _dotdot(folder: Path) -> None:
    _outside(folder)
    sharded(folder, model_norm_weight="../elsewhere/secret.safetensors")


def _absolute(folder: Path) -> None:
    sharded(folder, model_norm_weight=str(_outside(folder)))


def _link_out(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        target = _outside(folder)
        plain(folder)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return build


def _link_up(folder: Path) -> None:
    """A link inside of a sub-folder of the model."""
    _outside(folder)
    sharded(folder, model_norm_weight="sub/secret.safetensors")
    (folder / "sub").symlink_to(folder.parent / "elsewhere")


def _no_cache(folder: Path) -> Path:
    """A folder that looks like the hub's cache, with a link that leaves it all the same."""
    snapshot = folder / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    plain(snapshot)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(_outside(folder))
    return snapshot


def _link_nowhere(folder: Path) -> None:
    plain(folder)
    (folder / "merges.txt").symlink_to("gone.txt")


def _link_loop(folder: Path) -> None:
    plain(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


def _fifo(folder: Path) -> None:
    plain(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def _pickles(folder: Path) -> None:
    plain(folder)
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch ran'\ntR.")


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        plain(folder)
        (folder / name).write_bytes(b" ")
        os.truncate(folder / name, size)

    return build


def _packed_with(tensors: Tensors, quantization: Any = AFFINE) -> Callable[[Path], None]:
    return lambda folder: packed(folder, quantization, packed_weights() | tensors)


def _packed_without(name: str) -> Callable[[Path], None]:
    tensors = packed_weights()
    del tensors[name]
    return lambda folder: packed(folder, AFFINE, tensors)


def _lookalike(folder: Path) -> None:
    """4 bits in groups of 64, said to be 8 bits in groups of 32."""
    tensors = weights()
    tensors["model.embed_tokens.weight"] = tensor("U32", 32, 8)
    tensors["model.embed_tokens.scales"] = tensor("F16", 32, 1)
    tensors["model.embed_tokens.biases"] = tensor("F16", 32, 1)
    packed(folder, {"group_size": 32, "bits": 8}, tensors)


DEEP = b"[" * 10**5 + b"]" * 10**5
CODE = "--trust-remote-code"

#: name → (builder, what the error must contain)
_FOLDERS: dict[str, tuple[Callable[[Path], Path | None], tuple[str, ...]]] = {
    # The folder itself.
    "no such folder": (lambda folder: folder / "gone", ("gone", "no such folder")),
    "a file": (
        lambda folder: _write_and_return(folder, b"GGUF"),
        ("a GGUF file", "give the folder"),
    ),
    "an empty folder": (lambda folder: None, ("config.json", "missing")),
    "only GGUF": (lambda f: write(f, "m.gguf", b"GGUF"), ("config.json", "missing", "m.gguf")),
    "no weights": (_without("model.safetensors"), ("weights", "model.safetensors", "found none")),
    "weights of another name": (
        lambda folder: plain(folder) or _rename(folder, "model.safetensors", "x.safetensors"),
        ("found only x.safetensors",),
    ),
    # Line 18.
    "index names a missing shard": (
        _shard_gone,
        ("00002-of-00002", "missing", "model.norm.weight"),
    ),
    "a shard is missing and so is the index": (
        _shard_gone_without_index,
        ("model-00002-of-00002.safetensors", "missing"),
    ),
    "index with ../": (_dotdot, ("index.json", "../elsewhere", "outside the model folder")),
    "index with an absolute path": (_absolute, ("index.json", "outside the model folder")),
    "index with a backslash": (
        _index(model_norm_weight="..\\x.safetensors"),
        ("outside the model folder",),
    ),
    "index with a NUL": (_index(model_norm_weight="\0.safetensors"), ("outside the model folder",)),
    "index with an endless name": (
        _index(model_norm_weight="x" * 5000 + ".safetensors"),
        ("weight_map", "missing"),
    ),
    "index through a linked folder": (_link_up, ("index.json", "outside the model folder")),
    "index with a number": (_index(model_norm_weight=7), ("weight_map['model.norm.weight']", "7")),
    "index with a pickle": (_index(model_norm_weight="x.bin"), ("x.bin", "pickle", "never opened")),
    "index with config.json": (_index(model_norm_weight="config.json"), ("no .safetensors file",)),
    "index with a tensor that is nowhere": (
        _index(lm_head_weight="model-00001-of-00002.safetensors"),
        ("weight_map['lm.head.weight']", "conflict", "in no shard"),
    ),
    "index with a tensor in the wrong shard": (
        _index(model_norm_weight="model-00001-of-00002.safetensors"),
        ("weight_map['model.norm.weight']",),
    ),
    "index without weight_map": (_index_of({"metadata": {}}), ("weight_map", "expected")),
    "index that is a list": (_index_of([]), ("index.json", "a list")),
    "index 10^5 deep": (_index_of(b'{"weight_map":' + DEEP + b"}"), ("index.json", "deeper than")),
    "a tensor in two shards": (
        _doubled,
        ("00002-of-00002", "also in model-00001", "duplicate name"),
    ),
    "weights linked outside": (_link_out("model.safetensors"), ("outside the model folder",)),
    "tokenizer linked outside": (_link_out("tokenizer.json"), ("outside the model folder",)),
    "template linked outside": (_link_out("chat_template.jinja"), ("outside the model folder",)),
    "config linked outside": (_link_out("config.json"), ("outside the model folder",)),
    "a cache with a link outside": (_no_cache, ("tokenizer.json", "outside the model folder")),
    "a link that leads nowhere": (_link_nowhere, ("merges.txt", "gone.txt", "missing")),
    "a link to itself": (_link_loop, ("model.safetensors", "cannot be opened")),
    "a pipe": (_fifo, ("model.safetensors", "not a regular file")),
    # Line 19.
    "only pickles": (_pickles, ("pytorch_model.bin", "never opened")),
    "a pickle named safetensors": (_file("model.safetensors", b"\x80\x02}q\0."), ("a pickle",)),
    # Settings that are no settings.
    "config is a list": (_file("config.json", []), ("config.json", "an object", "a list")),
    "config is cut short": (_file("config.json", b'{"model_type": '), ("config.json", "@15")),
    "config is empty": (_file("config.json", b""), ("config.json", "an empty file")),
    "config is HTML": (_file("config.json", b"<html>"), ("config.json", "an HTML page")),
    "config is UTF-16": (_file("config.json", b"\xff\xfe{\0}\0"), ("config.json", "not UTF-8")),
    "config with a byte-order mark": (
        _file("config.json", b"\xef\xbb\xbf{}"),
        ("byte-order mark",),
    ),
    "config with NaN": (_file("config.json", b'{"rope_theta": NaN}'), ("NaN is not JSON",)),
    "config with a key twice": (
        _file("config.json", b'{"model_type": "llama", "model_type": "gpt2"}'),
        ("'model_type'", "twice"),
    ),
    "config 10^5 deep": (_file("config.json", b'{"a":' + DEEP + b"}"), ("deeper than 64",)),
    "config open 10^5 deep": (_file("config.json", b'{"a":' + b"[" * 10**5), ("deeper than 64",)),
    "config with 5000 digits": (_file("config.json", b'{"a":%s}' % (b"9" * 5000)), ("digits",)),
    "config of 1 GB": (_sparse("config.json", 1 << 30), ("config.json", "1073741824", "at most")),
    "model_type missing": (_file("config.json", {}), ("model_type", "null")),
    "model_type with a path": (_config(model_type="../x"), ("model_type", "../x")),
    "text_config is text": (_config(text_config="x"), ("text_config", "an object expected")),
    "tokenizer.json is a list": (_file("tokenizer.json", []), ("tokenizer.json", "a list")),
    "tokenizer.json is cut short": (_file("tokenizer.json", b'{"a": {}'), ("tokenizer.json",)),
    "tokenizer.json 10^5 deep": (
        _file("tokenizer.json", b'{"a":' + DEEP + b"}"),
        ("tokenizer.json", "deeper than 64"),
    ),
    "tokenizer_config.json is a number": (_file("tokenizer_config.json", 1), ("a number",)),
    "generation_config.json is broken": (
        _file("generation_config.json", b"{"),
        ("generation_config.json", "@1", "invalid JSON"),
    ),
    "special_tokens_map.json is null": (
        _file("special_tokens_map.json", None),
        ("special_tokens_map.json", "null"),
    ),
    # Implausible numbers.
    **{
        f"{key} {json.dumps(value)}": (
            _config(**{key: value}),
            ("config.json", key, "implausible model", json.dumps(value)),
        )
        for key, value in (
            ("num_hidden_layers", 0),
            ("num_hidden_layers", 10**9),
            ("num_hidden_layers", "8"),
            ("num_hidden_layers", True),
            ("hidden_size", 0),
            ("hidden_size", -64),
            ("hidden_size", 64.0),
            ("hidden_size", None),
            ("num_attention_heads", 0),
            ("num_attention_heads", "2"),
            ("num_key_value_heads", 0),
            ("intermediate_size", 10**10),
            ("vocab_size", 0),
            ("vocab_size", 2**62),
        )
    },
    "hidden_size 0 inside text_config": (
        _config(text_config={"hidden_size": 0}),
        ("text_config.hidden_size", "implausible model"),
    ),
    # Line 20.
    "bits that the columns contradict": (
        _quantization(AFFINE | {"bits": 8}),
        (LAYER, "conflict", "8 bits in groups of 32", "4 bits in groups of 32"),
    ),
    "a group size that the columns contradict": (
        _quantization(AFFINE | {"group_size": 128}),
        (LAYER, "conflict", "4 bits in groups of 128", "4 bits in groups of 32"),
    ),
    "an override that the columns contradict": (
        _quantization(AFFINE | {LAYER: AFFINE | {"bits": 6}}),
        (LAYER, "conflict", "6 bits in groups of 32", "4 bits in groups of 32"),
    ),
    "a mode that the scales contradict": (
        _quantization({"group_size": 32, "bits": 4, "mode": "mxfp4"}),
        (LAYER, "conflict", "mxfp4", "affine"),
    ),
    "bits and group size that only the width contradicts": (
        _lookalike,
        ("embed_tokens", "conflict", "8 bits in groups of 32", "4 bits in groups of 64", "64"),
    ),
    "columns of no format": (
        _packed_with({f"{LAYER}.weight": tensor("U32", 128, 9)}),
        (LAYER, "conflict", "9 packed columns", "nothing that MLX has"),
    ),
    "scales of another height": (
        _packed_with({f"{LAYER}.scales": tensor("BF16", 127, 2)}),
        (f"{LAYER}.weight", "[128, 8]", "[127, 2]"),
    ),
    "scales of another dtype": (
        _packed_with({f"{LAYER}.scales": tensor("F32", 128, 2)}),
        (f"{LAYER}.weight", "F32", "BF16"),
    ),
    "biases of another shape": (
        _packed_with({f"{LAYER}.biases": tensor("BF16", 128, 1)}),
        (f"{LAYER}.weight", "[128, 2]", "[128, 1]"),
    ),
    "biases missing": (
        _packed_without(f"{LAYER}.biases"),
        (f"{LAYER}.weight", "biases missing", "affine"),
    ),
    "biases beside U8 scales": (
        _packed_with({f"{LAYER}.scales": tensor("U8", 128, 2)}),
        (f"{LAYER}.weight", "biases beside U8 scales"),
    ),
    "packed weights of floats": (
        _packed_with({f"{LAYER}.weight": tensor("F32", 128, 8)}),
        (f"{LAYER}.weight", "F32 with scales"),
    ),
    "packed weights without quantization": (
        lambda folder: packed(folder, None),
        ("config.json: quantization", "missing", LAYER),
    ),
    "an override for a layer that is not there": (
        _quantization(AFFINE | {"model.layers.9.mlp.up_proj": AFFINE}),
        ("model.layers.9.mlp.up_proj", "conflict", '"bits": 4', "no such layer"),
    ),
    "an override for a layer that is not packed": (
        _quantization(AFFINE | {"model.embed_tokens": True}),
        ("model.embed_tokens", "conflict", "true", "BF16 [32, 64], not packed"),
    ),
    "a packed layer said not to be": (
        _quantization(AFFINE | {LAYER: False}),
        (LAYER, "conflict", "false", "packed"),
    ),
    "quantization and quantization_config differ": (
        _quantization(AFFINE, quantization_config=AFFINE | {"bits": 8}),
        ("quantization['bits']", "conflict: 4", "quantization_config says 8"),
    ),
    "quantization and quantization_config differ in a layer": (
        _quantization(AFFINE, quantization_config=AFFINE | {LAYER: False}),
        (LAYER, "conflict", "nothing", "false"),
    ),
    # Line 21.
    **{
        f"{key} {json.dumps(value)}": (
            _quantization(AFFINE | {key: value}),
            ("config.json: quantization", "bad quantization", key, json.dumps(value)),
        )
        for key, values in (
            ("bits", (0, 7, -4, "4", True, 4.0, None, 2**70, [4])),
            ("group_size", (0, 65, 16, "64", True, None)),
            ("mode", ("int4", None, 4, ["affine"])),
        )
        for value in values
    },
    "bits 7 in a layer": (
        _quantization(AFFINE | {LAYER: {"bits": 7}}),
        (f"quantization['{LAYER}']", "bad quantization", "bits 7"),
    ),
    "an unknown setting in a layer": (
        _quantization(AFFINE | {LAYER: {"nbits": 4}}),
        (f"quantization['{LAYER}']", "bad quantization", "'nbits'"),
    ),
    "a layer that is a number": (
        _quantization(AFFINE | {LAYER: 4}),
        (f"quantization['{LAYER}']", "bad quantization: 4"),
    ),
    "nvfp4 in groups of 32": (
        _quantization({"group_size": 32, "bits": 4, "mode": "nvfp4"}),
        ("bad quantization", "group_size 32", "nvfp4 has 16"),
    ),
    "mxfp8 of 4 bits": (
        _quantization({"group_size": 32, "bits": 4, "mode": "mxfp8"}),
        ("bad quantization", "bits 4", "mxfp8 has 8"),
    ),
    "quantization without bits": (_quantization({"group_size": 32}), ("bits is missing",)),
    "quantization is a number": (_quantization(4), ("bad quantization: 4",)),
    # Line 22.
    "auto_map in config.json": (
        _config(auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"}),
        ("config.json: auto_map", "modeling_x.py", CODE),
    ),
    "auto_map of another repository": (
        _config(auto_map={"AutoConfig": "org/repo--configuration_x.X"}),
        ("auto_map", "org/repo--configuration_x.py", CODE),
    ),
    "auto_map in tokenizer_config.json": (
        _file("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok_x.Slow", None]}}),
        ("tokenizer_config.json: auto_map", "tok_x.py", CODE),
    ),
    "auto_map of numbers": (_config(auto_map={"AutoModel": 1}), ("auto_map", "class names")),
    "model_file": (
        _config(model_file="model.py"),
        ("config.json: model_file", "model.py", CODE),
    ),
    "model_file outside": (_config(model_file="../x.py"), ("outside the model folder",)),
    "model_file is a list": (_config(model_file=["x.py"]), ("model_file", "a file name")),
    # Types that MLX does not have.
    "a dtype that MLX lacks": (
        lambda folder: packed(folder, None, weights() | {"x.weight": tensor("F8_E4M3FNUZ", 4)}),
        ("tensor 'x.weight'", "F8_E4M3FNUZ is not supported"),
    ),
    "half-byte floats": (
        lambda folder: packed(folder, None, weights() | {"x.weight": tensor("F4", 4)}),
        ("tensor 'x.weight'", "F4 is not supported"),
    ),
    "no tensors": (_file("model.safetensors", raw({})), ("holds no tensors",)),
}


def _write_and_return(folder: Path, content: bytes) -> Path:
    write(folder, "model.gguf", content)
    return folder / "model.gguf"


def _rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


FOLDERS = {name: Case(builder, says) for name, (builder, says) in _FOLDERS.items()}

#: every case as a model to open: a broken header is the header of a model's only weight file
ALL = FOLDERS | {
    f"header: {name}": Case(_with_file(content), says) for name, (content, says) in HEADERS.items()
}
