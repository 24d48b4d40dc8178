"""What a model is called in results, by headers alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlxquant import open_checkpoint, quantize
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_values import Value
from mlxquant.files.gguf_writer import build_gguf
from mlxquant.inspection.facts import open_path
from mlxquant.measure import results
from mlxquant.measure.describe import describe
from mlxquant.measure.fingerprint import fingerprint
from mlxquant.pipeline import import_gguf
from mlxquant.pipeline_gguf import export, quantize_gguf

WEIGHTS = 7_344_384


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in several forms."""
    folder = tmp_path_factory.mktemp("made")
    quantize(output=folder / "small", bits=4)
    export(output=folder / "books-7m-BF16.gguf")
    quantize_gguf(None, folder / "books-7m-Q4_0.gguf", "Q4_0")
    import_gguf(folder / "books-7m-Q4_0.gguf", folder / "kept")
    return folder


def described(path: Path | None) -> dict[str, Any]:
    """The model of a record, held against the schema of results."""
    found = describe(open_checkpoint(path))
    assert found["bits_per_weight"] == 8 * found["bytes"] / found["parameters"]
    results._MODEL.check(found)
    return found


def named(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found[key] for key in ("name", "base", "format", "tool", "method"))


def test_the_bundled_model() -> None:
    found = described(None)
    assert named(found) == ("books-7m", None, "bf16", None, None)
    assert (found["parameters"], found["bytes"]) == (WEIGHTS, 2 * WEIGHTS)


def test_a_folder_with_a_manifest(made: Path) -> None:
    found = described(made / "small")
    assert named(found) == ("small", "books-7m", "affine4-g64", "mlxquant", "search")
    assert found["parameters"] == WEIGHTS
    assert 4.5 < found["bits_per_weight"] < 4.6


def test_mixed_formats(tmp_path: Path) -> None:
    quantize(output=tmp_path / "recipe", recipe="mixed_3_6")
    assert described(tmp_path / "recipe")["format"] == "mixed_3_6"
    (tmp_path / "recipe" / "mlxquant.json").unlink()
    assert described(tmp_path / "recipe")["format"] == "affine3-g64+affine6-g64"


def test_a_folder_of_mlx_lm(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "by-mlx-lm"
    shutil.copytree(made / "small", folder)
    (folder / "mlxquant.json").unlink()
    (folder / "README.md").unlink(missing_ok=True)
    assert named(described(folder)) == ("by-mlx-lm", None, "affine4-g64", "mlx-lm", None)
    for card in ("base_model: org/books-7m\n", "base_model:\n- org/books-7m\n"):
        (folder / "README.md").write_text(f"---\nlanguage: en\n{card}tags:\n- mlx\n---\n\ntext\n")
        assert described(folder)["base"] == "books-7m"
    (folder / "README.md").write_text("base_model: org/other\n")
    assert described(folder)["base"] is None


def test_a_card_says_what_a_float_model_was_trained_from(bundled: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled, tmp_path / "tuned")
    (tmp_path / "tuned" / "README.md").write_text("---\nbase_model: org/pretrained\n---\n")
    assert described(tmp_path / "tuned")["base"] is None


def test_gguf(made: Path) -> None:
    found = described(made / "books-7m-Q4_0.gguf")
    assert named(found) == ("books-7m-Q4_0", "books-7m", "Q4_0", "llama.cpp", None)
    assert found["parameters"] == WEIGHTS
    floats = described(made / "books-7m-BF16.gguf")
    assert named(floats) == ("books-7m-BF16", "books-7m", "BF16", None, None)
    headers_only = open_path(made / "books-7m-Q4_0.gguf")
    assert describe(headers_only) == found


@pytest.mark.parametrize(
    ("file", "base"),
    [
        ("Books-7M.q4_0.gguf", "Books-7M"),
        ("books-7m-UD-Q4_K_XL.gguf", "named inside"),
        ("F16.gguf", "named inside"),
        ("named inside.gguf", None),
    ],
)
def test_the_base_of_a_gguf(made: Path, tmp_path: Path, file: str, base: str | None) -> None:
    rename(made / "books-7m-Q4_0.gguf", tmp_path / file, "general.name", "named inside")
    assert described(tmp_path / file)["base"] == base


def test_who_quantized_a_gguf(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "books.gguf"
    rename(made / "books-7m-Q4_0.gguf", file, "general.quantized_by", "somebody")
    assert described(file)["tool"] == "somebody"


def rename(source: Path, target: Path, key: str, value: str) -> None:
    """A copy of a GGUF file with a text of its metadata set."""
    header = read_gguf(source)
    entries = header.entries.values()
    metadata = {**header.metadata, key: Value.of("str", value)}
    head, ranges = build_gguf(metadata, [(e.name, e.type_name, e.shape) for e in entries])
    data = source.read_bytes()
    file = bytearray(head.ljust(ranges[-1][1], b"\0"))
    for entry, (start, stop) in zip(entries, ranges, strict=True):
        file[start:stop] = data[entry.start : entry.stop]
    target.write_bytes(file)


def test_a_folder_that_keeps_a_gguf_s_codes(made: Path) -> None:
    found = described(made / "kept")
    assert named(found)[:4] == ("kept", "books-7m", "affine4-g32+Q6_K", "llama.cpp")


def test_one_vocabulary_wherever_it_is_written(made: Path) -> None:
    from mlxquant.run.model import load_checkpoint

    found = {path.name: described(path)["tokenizer"] for path in made.iterdir()}
    assert len(found) == 4
    assert set(found.values()) == {described(None)["tokenizer"]}
    _, tokenizer = load_checkpoint(open_checkpoint(), lazy=True)
    pieces = {i: piece for piece, i in tokenizer.get_vocab().items()}
    assert fingerprint(pieces) == described(None)["tokenizer"]


def test_what_makes_another_vocabulary() -> None:
    pieces = {0: "a", 1: "▁b", 7: "c"}
    assert fingerprint(pieces) != fingerprint({**pieces, 7: "d"})
    assert fingerprint(pieces) != fingerprint({0: "a", 1: "▁b", 6: "c"})
    assert fingerprint(pieces) == fingerprint({**pieces, 1: " b"})
    assert fingerprint(pieces) == fingerprint({**pieces, 8: "[PAD8]"})
    assert fingerprint(pieces) != fingerprint({**pieces, 8: "[PAD9]"})


def test_tokens_that_only_the_config_declares(bundled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    before = described(folder)["tokenizer"]
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["added_tokens_decoder"] = {"4096": {"content": "<|more|>"}}
    path.write_text(json.dumps(config))
    assert described(folder)["tokenizer"] != before


def test_no_tokenizer(bundled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundled, folder)
    (folder / "tokenizer.json").unlink()
    assert described(folder)["tokenizer"] is None
