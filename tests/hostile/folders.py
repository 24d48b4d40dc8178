"""Folders whose parts are missing, elsewhere, or would run code, and what each must get."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

from hostile.building import (
    Builder,
    config,
    file_bytes,
    plain,
    replaced,
    sharded,
    weights,
    write,
)

DEEP = b"[" * 10**5 + b"]" * 10**5
CODE = "--trust-remote-code"


def _without(*names: str) -> Builder:
    def build(folder: Path) -> None:
        plain(folder)
        for name in names:
            (folder / name).unlink()

    return build


def _index(**weight_map: Any) -> Builder:
    return lambda folder: sharded(folder, **weight_map)


def _index_of(value: Any) -> Builder:
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


def _link_out(name: str) -> Builder:
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


def _write_and_return(folder: Path, content: bytes) -> Path:
    write(folder, "model.gguf", content)
    return folder / "model.gguf"


def _rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


#: name → (builder, what the error must contain)
FOLDERS: dict[str, tuple[Builder, tuple[str, ...]]] = {
    # The folder itself.
    "no such folder": (lambda folder: folder / "gone", ("gone", "no such folder")),
    "a path with a NUL": (lambda folder: folder / "\0", ("folder", "cannot be listed")),
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
    "a pickle named safetensors": (replaced("model.safetensors", b"\x80\x02}q\0."), ("a pickle",)),
    # Line 22.
    "auto_map in config.json": (
        config(auto_map={"AutoModelForCausalLM": "modeling_x.XForCausalLM"}),
        ("config.json: auto_map", "modeling_x.py", CODE),
    ),
    "auto_map of another repository": (
        config(auto_map={"AutoConfig": "org/repo--configuration_x.X"}),
        ("auto_map", "org/repo--configuration_x.py", CODE),
    ),
    "auto_map in tokenizer_config.json": (
        replaced("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok_x.Slow", None]}}),
        ("tokenizer_config.json: auto_map", "tok_x.py", CODE),
    ),
    "auto_map of numbers": (config(auto_map={"AutoModel": 1}), ("auto_map", "class names")),
    "model_file": (
        config(model_file="model.py"),
        ("config.json: model_file", "model.py", CODE),
    ),
    "model_file outside": (config(model_file="../x.py"), ("outside the model folder",)),
    "model_file is a list": (config(model_file=["x.py"]), ("model_file", "a file name")),
}
