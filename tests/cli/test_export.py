"""`mlxquant export` and `quantize --type`: what users see, and what they get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import run_cli

from mlxquant.files.gguf import read_gguf
from mlxquant.quantize.imatrix import Entry, write_imatrix


def test_export_of_the_bundled_model(tmp_path: Path) -> None:
    done = run_cli("export", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "74 of 74 tensors are exact" in done.stdout
    assert "written to books-7m.gguf" in done.stdout and done.stderr == ""
    assert read_gguf(tmp_path / "books-7m.gguf").get("general.name") == "books-7m"
    again = run_cli("export", cwd=tmp_path)
    assert again.returncode == 2 and "exists already; --force replaces it" in again.stderr


def test_what_is_lost_is_said_on_stderr(tmp_path: Path) -> None:
    assert run_cli("quantize", "-o", "m", "--bits", "8", cwd=tmp_path).returncode == 0
    done = run_cli("export", "m", "-o", "m.gguf", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not exact: blk.[0-7].attn_q.weight: affine8-g64 → Q8_0, error 0.0" in done.stderr
    report = json.loads(done.stdout)
    lost = [entry for entry in report["plan"] if not entry["exact"]]
    assert {entry["type"] for entry in lost} == {"Q8_0"}
    assert all(0 < entry["error"] < 0.01 and entry["reason"] for entry in lost)
    assert report["output"] == ["m.gguf"]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = run_cli("quantize", "--type", "Q4_K_M", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blk.[0,3,6-7].attn_v.weight" in done.stdout and "Q6_K" in done.stdout
    done = run_cli("export", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and "exact" in done.stdout
    assert not list(tmp_path.iterdir())


def test_quantize_to_a_type(tmp_path: Path) -> None:
    done = run_cli("quantize", "-o", "b.gguf", "--type", "q4_k_m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header = read_gguf(tmp_path / "b.gguf")
    assert header.get("general.file_type") == 15
    assert header.get("general.quantization_version") == 2
    named = run_cli("quantize", "--type", "Q8_0", cwd=tmp_path)
    assert "written to books-7m-Q8_0.gguf" in named.stdout


OPTIONS = [
    ["--leave-output-tensor"],
    ["--output-tensor-type", "Q8_0"],
    ["--token-embedding-type", "Q5_K"],
    ["--tensor-type", "attn_v=Q5_1"],
    ["--tensor-type", "ffn_down=q8_0", "--tensor-type", "blk.1=Q3_K"],
    ["--pure"],
    ["--override-kv", "llama.context_length=int:64"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_llama_quantize_s_options(tmp_path: Path, options: list[str]) -> None:
    done = run_cli("quantize", "--type", "Q4_K_M", "-o", "o.gguf", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header = read_gguf(tmp_path / "o.gguf")
    types = {name: entry.type_name for name, entry in header.entries.items()}
    if options[0] == "--override-kv":
        assert header.get("llama.context_length") == 64
    elif options[0] == "--pure":
        assert set(types.values()) == {"Q4_K", "F32"}
    elif options[0] == "--tensor-type" and len(options) == 2:
        assert {kind for name, kind in types.items() if "attn_v" in name} == {"Q5_1"}
    elif options[0] == "--tensor-type":
        assert types["blk.1.ffn_down.weight"] == "Q8_0" and types["blk.1.attn_k.weight"] == "Q3_K"
    elif options[0] == "--token-embedding-type":
        assert types["token_embd.weight"] == "Q5_K"
    else:  # the embedding is the output
        assert types["token_embd.weight"] in ("Q8_0", "BF16", "Q6_K")


def test_splits(tmp_path: Path) -> None:
    done = run_cli("export", "-o", "s.gguf", "--split-max-size", "5M", cwd=tmp_path)
    assert done.returncode == 0 and "s-00003-of-00004.gguf" in done.stdout, done.stdout
    kept = ("quantize", "s-00002-of-00004.gguf", "--type", "Q8_0", "--keep-split", "-o", "q.gguf")
    assert run_cli(*kept, cwd=tmp_path).returncode == 0
    assert (tmp_path / "q-00004-of-00004.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quantize", "-o", "x.gguf"], "say which type, e.g. --type Q4_K_M"),
        (["quantize", "--pure"], "--pure is for GGUF files: say which with --type"),
        (["quantize", "--tensor-type", "a=Q8_0"], "--tensor-type is for GGUF files"),
        (["quantize", "--type", "Q4_K_M", "--bits", "3"], "--bits is for MLX folders"),
        (["quantize", "--type", "Q9_Z"], "choose one of"),
        (["quantize", "--type", "Q4_0", "--tensor-type", "a=Q9"], "choose one of"),
        (["quantize", "--type", "Q4_0", "--override-kv", "a"], "a"),
        (["quantize", "--type", "Q4_0", "--split-max-size", "4"], "a number and M or G"),
        (["export", "--split-max-size", "0G"], "a number and M or G"),
        (["export", "--outtype", "q4_k"], "'q4_k' is not one of"),
        (["export", "-o", "nowhere/x.gguf"], "does not exist; create it first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run_cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_importance_on_the_command_line(tmp_path: Path) -> None:
    entries = {f"blk.{n}.attn_v.weight": Entry.of(np.arange(1.0, 257.0), 9) for n in range(8)}
    write_imatrix(tmp_path / "i.dat", entries, ["some.txt"], 2)
    words = ["quantize", "--type", "IQ3_XXS", "--imatrix", "i.dat"]
    done = run_cli(*words, "-o", "b.gguf", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["request"]["imatrix"]["file"] == "i.dat"
    assert report["request"]["imatrix"]["entries"] == 8 and report["request"]["importance"]
    assert any("without importance data the loss is large" in note for note in report["notes"])
    header = read_gguf(tmp_path / "b.gguf")
    assert header.get("quantize.imatrix.dataset") == "some.txt"
    assert header.get("quantize.imatrix.chunks_count") == 2
    planned = run_cli(*words, "--include-weights", "blk.1.", "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0 and "blk.0.attn_v.weight" in planned.stdout
    for more, said in (
        (["--include-weights", "a", "--exclude-weights", "b"], "not both"),
        (["--bits", "4"], "--bits is for MLX folders"),
    ):
        done = run_cli(*words, *more, "-o", "c.gguf", cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr
    for more, said in (
        (["--imatrix", "i.dat"], "--imatrix is for GGUF files"),
        (["--type", "Q4_0", "--exclude-weights", "a"], "--exclude-weights is about importance"),
        (["--type", "Q4_0", "--imatrix", "missing.dat"], "missing.dat: file: cannot be opened"),
    ):
        done = run_cli("quantize", *more, "-o", "c.gguf", cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "c.gguf").exists()
