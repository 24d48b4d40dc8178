"""Folders for apps: the same bytes, where a GPU can have them; and what is said of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from save.faulty import Fault, Runner, tree
from support import run_cli

from mlxquant import (
    FileFormatError,
    ModelError,
    RequestError,
    export_swift,
    open_checkpoint,
    quantize,
    quantize_gguf,
)
from mlxquant.files.gguf import read_gguf
from mlxquant.files.safetensors import read_header
from mlxquant.inspection.facts import verify
from mlxquant.save.swift_layout import PAGE, alignment, in_place, lay_out_swift
from mlxquant.save.swift_names import KEYWORDS, check_type_name, identifiers, text


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in 4 bits, its embedding kept in 8."""
    folder = tmp_path_factory.mktemp("source") / "books"
    quantize(output=folder, bits=4, embed_bits=8)
    return folder


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "app"
    export_swift(source, folder)
    return folder


def arrays(folder: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Type, shape and hash of every array of a folder."""
    found = {}
    for file in folder.glob("*.safetensors"):
        data = file.read_bytes()
        for name, entry in read_header(file).entries.items():
            content = hashlib.sha256(data[entry.start : entry.stop]).hexdigest()
            found[name] = (entry.dtype, entry.shape, content)
    return found


def test_every_array_is_the_source_s(source: Path, exported: Path) -> None:
    assert arrays(exported) == arrays(source) and len(arrays(source)) == 188
    kept = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for name in kept:
        assert (exported / name).read_bytes() == (source / name).read_bytes()
    before, after = (read_header(folder / "model.safetensors") for folder in (source, exported))
    assert after.metadata == before.metadata == {"format": "mlx"}
    assert verify(open_checkpoint(exported)) == []


def test_alignment() -> None:
    assert [alignment(n) for n in (1, 2, 12, 40, 8192, 16384, 49152, 98304)] == [
        *(1, 2, 4, 8, 8192, PAGE, PAGE, PAGE)
    ]
    assert alignment(0) == PAGE


def test_arrays_begin_where_they_can_be_mapped(exported: Path) -> None:
    """At a multiple of the largest power of two in their size; whole pages at a page."""
    header = read_header(exported / "model.safetensors")
    assert header.data_start % PAGE == 0
    whole = 0
    for entry in header.entries.values():
        assert entry.start % alignment(entry.stop - entry.start) == 0
        whole += (entry.stop - entry.start) % PAGE == 0
    manifest = json.loads((exported / "mlxquant.json").read_bytes())
    assert manifest["swift"]["arrays_in_place"] == whole > 50
    assert manifest["swift"]["bytes_in_place"] > 0.9 * manifest["swift"]["bytes"]


def test_several_files(source: Path) -> None:
    """Each begins with its own whole pages."""
    checkpoint = open_checkpoint(source)
    layout = lay_out_swift(checkpoint, shard_bytes=1 << 20)
    assert [shard.name for shard in layout.shards][0] == "model-00001-of-00005.safetensors"
    assert len(layout.shards) == 5
    for number, shard in enumerate(layout.shards):
        inside = [output for output in layout.outputs if output.shard == number]
        assert inside[0].start == len(shard.header) and inside[0].start % PAGE == 0
        assert inside[-1].stop == shard.size
        assert sum(output.stop - output.start for output in inside) <= 1 << 20 or len(inside) == 1
        for output in inside:
            assert output.start % alignment(output.stop - output.start) == 0
    whole = sum(t.nbytes for t in checkpoint.stored.values() if t.nbytes % PAGE == 0)
    assert sum(output.stop - output.start for output in in_place(layout.outputs)) == whole


def test_manifest(source: Path, exported: Path) -> None:
    manifest = json.loads((exported / "mlxquant.json").read_bytes())
    assert manifest["request"] == {"export": "swift", "contexts": [512]}
    (memory,) = manifest["memory"]
    assert memory["context"] == 512 and memory["weights"] == open_checkpoint(source).nbytes
    # 8 layers, keys and values, 512 tokens of 2 heads of 64 numbers (2 heads · 64 = 128) in 16 bits
    assert memory["cache"] == 8 * 2 * 512 * 128 * 2
    assert memory["total"] == sum(memory[key] for key in ("weights", "cache", "working"))
    made_by = json.loads((source / "mlxquant.json").read_bytes())
    assert manifest["made_by"]["request"] == made_by["request"]
    assert "ModelInfo.swift" not in manifest["files"]
    for name, said in manifest["files"].items():
        data = (exported / name).read_bytes()
        assert said == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    info = (exported / "ModelInfo.swift").read_text()
    assert hashlib.sha256((exported / "mlxquant.json").read_bytes()).hexdigest() in info


def test_layers_that_are_null_are_false_for_swift(source: Path, tmp_path: Path) -> None:
    """mlx-lm takes one for the other; mlx-swift-lm's decoder knows only `false`."""
    given = shutil.copytree(source, tmp_path / "given")
    config = json.loads((given / "config.json").read_bytes())
    for key in ("quantization", "quantization_config"):
        config[key]["no.such.layer"] = None
    (given / "config.json").write_text(json.dumps(config))
    export_swift(given, tmp_path / "out")
    for key in ("quantization", "quantization_config"):
        config[key]["no.such.layer"] = False
    assert json.loads((tmp_path / "out" / "config.json").read_bytes()) == config
    manifest = json.loads((tmp_path / "out" / "mlxquant.json").read_bytes())
    original = hashlib.sha256((given / "config.json").read_bytes()).hexdigest()
    assert manifest["source"]["sha256"]["config.json"] == original
    written = hashlib.sha256((tmp_path / "out" / "config.json").read_bytes()).hexdigest()
    assert manifest["files"]["config.json"]["sha256"] == written


def test_the_same_again(source: Path, exported: Path, tmp_path: Path) -> None:
    export_swift(source, tmp_path / "again", threads=3)
    assert tree(tmp_path / "again") == tree(exported)
    export_swift(exported, tmp_path / "twice")
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (
        exported / "model.safetensors"
    ).read_bytes()


def test_ggml_blocks_come_along(tmp_path: Path) -> None:
    assert run_cli("quantize", "--type", "Q4_K_M", "-o", "m.gguf", cwd=tmp_path).returncode == 0
    assert run_cli("import", "m.gguf", "-o", "blocks", cwd=tmp_path).returncode == 0
    export_swift(tmp_path / "blocks", tmp_path / "app", contexts=[100, 300, 100])
    assert arrays(tmp_path / "app") == arrays(tmp_path / "blocks")
    manifest = json.loads((tmp_path / "app/mlxquant.json").read_bytes())
    assert [each["context"] for each in manifest["memory"]] == [100, 300]
    formats = {entry["format"] for entry in manifest["plan"]}
    assert {"Q4_K", "Q6_K"} <= formats
    assert verify(open_checkpoint(tmp_path / "app")) == []


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(
        tmp_path_factory.mktemp("small") / "model", "llama", num_hidden_layers=1, dtype="float32"
    )


def test_whole_or_not_at_all(runner: Runner, small: Path, tmp_path: Path) -> None:
    """Killed at any change of the disk: what is there is complete, and resuming ends the same."""
    work = {"work": "export_swift"}
    (tmp_path / "whole").mkdir()
    whole = runner(small, tmp_path / "whole/app", **work)
    assert (whole.status, whole.error) == (0, "")
    expected = tree(tmp_path / "whole")
    assert expected is not None and any("ModelInfo.swift" in name for name in expected)
    died = 0
    last = len(whole.calls)
    for call in sorted({*range(2, last, 7), last - 1}):
        folder = tmp_path / str(call)
        folder.mkdir()
        died += runner(small, folder / "app", Fault(call, "kill"), **work).status == -9
        there = {n: h for n, h in (tree(folder) or {}).items() if "partial" not in n}
        assert there in ({}, expected), whole.calls[call - 1]
        if not there:
            outcome = runner(small, folder / "app", resume=True, threads=3, **work)
            assert (outcome.status, outcome.error) == (0, ""), whole.calls[call - 1]
        left = {n: h for n, h in (tree(folder) or {}).items() if "partial" not in n}
        assert left == expected
    assert died > 4


def test_refusals(source: Path, exported: Path, tmp_path: Path) -> None:
    for name in ("modelInfo", "Model Info", "Any", "Self", "Größe", "", "A" * 101):
        with pytest.raises(RequestError, match="begins with a capital"):
            export_swift(source, tmp_path / "app", type_name=name)
    for context in (0, -1, 1 << 30):
        with pytest.raises(RequestError, match=f"--context {context}: from 1 to"):
            export_swift(source, tmp_path / "app", contexts=[context])
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileFormatError, match="m.gguf: header @0: truncated header"):
        export_swift(tmp_path / "m.gguf", tmp_path / "app")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as a GGUF file of several types."""
    folder = tmp_path_factory.mktemp("gguf")
    quantize_gguf(output=folder / "books-Q4_K_M.gguf", request="Q4_K_M")
    return folder / "books-Q4_K_M.gguf"


def test_a_gguf_file_stays_what_it_is(gguf: Path, tmp_path: Path) -> None:
    result = export_swift(gguf, tmp_path / "app", contexts=[64, 512])
    names = ["ModelInfo.swift", "books-Q4_K_M.gguf", "mlxquant.json"]
    assert sorted(path.name for path in (tmp_path / "app").iterdir()) == names
    assert (tmp_path / "app" / gguf.name).read_bytes() == gguf.read_bytes()
    manifest = json.loads((tmp_path / "app/mlxquant.json").read_bytes())
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert manifest["source"] == {
        "name": "books-Q4_K_M",
        "revision": None,
        "sha256": {gguf.name: digest},
    }
    assert manifest["files"] == {gguf.name: {"bytes": gguf.stat().st_size, "sha256": digest}}
    header = read_gguf(gguf)
    assert {entry["name"]: entry["format"] for entry in manifest["plan"]} == {
        entry.name: entry.type_name if entry.type_name != "F32" else "f32"
        for entry in header.entries.values()
    }
    found = [e for e in header.entries.values() if e.start % PAGE == 0 == (e.stop - e.start) % PAGE]
    assert manifest["swift"]["arrays_in_place"] == len(found)
    assert manifest["swift"]["bytes"] == sum(e.stop - e.start for e in header.entries.values())
    assert any("mlxquant import" in note for note in result.notes)
    info = (tmp_path / "app/ModelInfo.swift").read_text()
    for part in (
        *('name: String = "books-Q4_K_M"', 'modelType: String = "llama"', "hasChatTemplate: Bool"),
        *("MLXQuantRuntime.", '"Q4_K", ', "contextLength: Int? = 512", "endTokens: [Int] = ["),
    ):
        assert part in info, part


def test_memory_of_the_runtime(gguf: Path) -> None:
    """What the Swift sources allocate: a cache that doubles, and room for 256 tokens together."""
    small, large = export_swift(gguf, dry_run=True, contexts=[256, 4000]).memory.values()
    layers, width, hidden, mlp, vocabulary = 8, 128, 256, 768, 4096
    shape = open_checkpoint(gguf).config
    assert (shape["num_hidden_layers"], shape["hidden_size"]) == (layers, hidden)
    assert (shape["intermediate_size"], shape["vocab_size"]) == (mlp, vocabulary)
    assert small.cache == layers * 2 * 256 * width * 4
    assert large.cache == layers * 2 * 4096 * width * 4
    room = (256 * (3 * hidden + 2 * hidden + 2 * mlp) + 3 * vocabulary) * 4
    assert (small.working, large.working) == (room, room + 2 * 4096 * width * 4)


def test_parts_and_folders_of_gguf_files(gguf: Path, tmp_path: Path) -> None:
    """All parts come along; a folder of one model is that model, and is opened and verified."""
    (tmp_path / "p").mkdir()
    quantize_gguf(None, tmp_path / "p/m.gguf", request="Q8_0", split_bytes=3 << 20)
    parts = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert len(parts) > 1
    export_swift(tmp_path / "p" / parts[1], tmp_path / "one")
    export_swift(tmp_path / "p", tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    for name in parts:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "p" / name).read_bytes()
    export_swift(tmp_path / "one", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "one")
    assert open_checkpoint(tmp_path / "one").config == open_checkpoint(gguf).config
    shown = run_cli("inspect", "one", "--verify", cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "mlxquant" in shown.stdout and "Q8_0" in shown.stdout
    spoilt = tmp_path / "one" / parts[0]
    data = bytearray(spoilt.read_bytes())
    data[-1] ^= 1
    spoilt.write_bytes(bytes(data))
    found = run_cli("inspect", "one", "--verify", cwd=tmp_path)
    assert found.returncode == 1 and "SHA-256" in found.stdout
    (tmp_path / "p/other.gguf").write_bytes(gguf.read_bytes())
    with pytest.raises(ModelError, match="2 GGUF models"):
        export_swift(tmp_path / "p", tmp_path / "three")


def test_command(source: Path, tmp_path: Path) -> None:
    base = ("export", source, "--to", "swift")
    planned = run_cli(*base, "--dry-run", "--context", "256", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "mapped in place" in planned.stdout and not list(tmp_path.iterdir())
    done = run_cli(*base, "--type-name", "Books", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == "books-swift"
    assert "public enum Books {" in (tmp_path / "books-swift/ModelInfo.swift").read_text()
    again = run_cli(*base, cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    assert run_cli(*base, "--force", cwd=tmp_path).returncode == 0
    for option in (["--outtype", "f16"], ["--split-max-size", "1M"], ["--approximate-tokenizer"]):
        refused = run_cli(*base, "-o", "x", *option, cwd=tmp_path)
        assert refused.returncode == 2 and f"{option[0]} is of GGUF files" in refused.stderr
    for option in (["--context", "9"], ["--type-name", "X"]):
        refused = run_cli("export", source, "-o", "x.gguf", *option, cwd=tmp_path)
        assert refused.returncode == 2 and f"{option[0]} is of --to swift" in refused.stderr


def test_names() -> None:
    assert text('a"b\\c\nd\te\0fé\U0001f600\\(x)') == (
        r'"a\"b\\c\nd\u{9}e\u{0}f\u{E9}\u{1F600}\\(x)"'
    )
    assert text("\ud800") == r'"\u{FFFD}"'
    shouted = ["<|START_OF_TURN|>", "[INST]", "[/INST]", "<unk>", "ﷺ", "🙂", "<|r_1|>", "<|r_11|>"]
    assert identifiers(shouted) == [
        *("startOfTurn", "inst", "inst2", "unk", "token", "token2", "r1", "r11")
    ]
    assert identifiers(["r1", "r1", "r11", "self", "init", "init"]) == [
        *("r1", "r1_2", "r11", "selfToken", "initToken", "initToken2")
    ]
    for found in identifiers(KEYWORDS):
        assert found.startswith("`") or found not in KEYWORDS
        assert found.strip("`") not in ("init", "self")
    assert check_type_name("Model_2") == "Model_2"
