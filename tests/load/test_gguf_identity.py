"""What a GGUF file says of itself goes through a folder and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxquant import export, import_gguf
from mlxquant.errors import FileFormatError
from mlxquant.files.gguf import Value, read_gguf
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.load.gguf_identity import IDENTITY, identity_text, read_identity

_SAID = {
    "general.name": Value.of("str", "Tom, Dick & “Harry”"),
    "general.tags": Value.array("str", ["text-generation", "en"]),
    "general.base_model.count": Value.of("u32", 1),
    "general.license": Value.of("str", "cc0-1.0"),
    "general.file_type": Value.of("u32", 15),
}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in Q4_K_M's types, with a name and tags."""
    from mlxquant import quantize_gguf

    folder = tmp_path_factory.mktemp("identity")
    quantize_gguf(None, folder / "plain.gguf", "Q4_K_M")
    header = read_gguf(folder / "plain.gguf")
    raw = (folder / "plain.gguf").read_bytes()
    metadata = {**header.metadata, **_SAID}
    entries = list(header.entries.values())
    written, ranges = build_gguf(metadata, [(e.name, e.type_name, e.shape) for e in entries])
    content = bytearray(-(-ranges[-1][1] // 32) * 32)
    content[: len(written)] = written
    for entry, (start, stop) in zip(entries, ranges, strict=True):
        content[start:stop] = raw[entry.start : entry.stop]
    file = folder / "named.gguf"
    file.write_bytes(content)
    return file


def test_every_key_comes_back(named: Path, tmp_path: Path) -> None:
    import_gguf(named, tmp_path / "folder")
    export(tmp_path / "folder", tmp_path / "back.gguf")
    before, after = (read_gguf(file).metadata for file in (named, tmp_path / "back.gguf"))
    assert before == after  # values and types, in any order
    assert {key: after[key] for key in _SAID} == _SAID


def test_a_file_that_is_copied_keeps_its_type(named: Path, tmp_path: Path) -> None:
    export(named, tmp_path / "copy.gguf")
    assert read_gguf(tmp_path / "copy.gguf").get("general.file_type") == 15
    export(named, tmp_path / "floats.gguf", outtype="f16")
    assert read_gguf(tmp_path / "floats.gguf").get("general.file_type") == 1


def test_what_json_has_no_word_for_is_left_out(tmp_path: Path) -> None:
    odd = {
        **_SAID,
        "general.odd": Value.of("f32", float("nan")),
        "general.bytes": Value.array("str", [b"\xff"]),
        "general.long": Value.of("str", "x" * (1 << 19)),
        "general.alignment": Value.of("u32", 64),
        "llama.block_count": Value.of("u32", 8),
    }
    (tmp_path / IDENTITY).write_text(identity_text(odd), encoding="utf-8")
    assert read_identity(tmp_path) == _SAID


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"llama.block_count": ["u32", 1]},
        {"general.alignment": ["u32", 64]},
        {"general.name": "x"},
        {"general.name": ["str"]},
        {"general.name": ["str", 5]},
        {"general.name": ["arr", []]},
        {"general.name": ["u32", -1]},
        {"general.name": [None, 1]},
        {"general.name": ["[str]", "x" * 2 + "\ud800"]},
        {"general.name": ["[odd]", [1]]},
        {"general.name": ["[u32]", 1]},
        {"general.name": {}},
    ],
    ids=repr,
)
def test_a_file_that_lies(tmp_path: Path, content: object) -> None:
    (tmp_path / IDENTITY).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FileFormatError, match=IDENTITY):
        read_identity(tmp_path)
