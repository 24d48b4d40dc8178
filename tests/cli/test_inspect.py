"""`mlxquant inspect` as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import run_cli

from mlxquant import quantize
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.safetensors import build_header
from mlxquant.inspection.facts import open_path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in 4 bits."""
    folder = tmp_path_factory.mktemp("models") / "small"
    quantize(output=folder, bits=4)
    return folder


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def edit(file: Path, **values: Any) -> None:
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps(content))


def spoil(folder: Path) -> str:
    """Make a scale NaN; the name of its array."""
    name = "model.layers.3.mlp.up_proj.scales"
    tensor = open_path(folder).stored[name]
    assert tensor.dtype == "BF16"
    with tensor.file.open("r+b") as file:
        file.seek(tensor.start + 2 * (4 * 5 + 3))
        file.write(b"\xc0\x7f")
    return name


def on_a_terminal(columns: int, *args: str) -> tuple[int, str]:
    """Exit status and the text on a terminal of that width, without colours."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlxquant", *args],
        stdin=subprocess.DEVNULL,
        stdout=there,
        stderr=there,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    )
    os.close(there)
    output = b""
    while True:
        try:
            part = os.read(here, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        output += part
    os.close(here)
    return process.wait(), _ESCAPES.sub("", output.decode()).replace("\r", "")


def test_without_an_argument_the_bundled_model_is_shown() -> None:
    run = run_cli("inspect")
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert lines[0] == "model            books-7m (bundled)"
    for line in (
        "architecture     llama (LlamaForCausalLM)",
        "shape            8 layers, 256 wide, 768 in the MLP",
        "attention        4 heads, 2 KV of 64",
        "embedding        4,096 rows, head tied to it",
        "context          512 tokens",
        "parameters       7.34 M (7,344,384)",
        "size             14.7 MB in 1 file",
        "bits per weight  16.000",
        "end of sequence  config.json: 4091 4094",
        "role       format  tensors    weights     size     bpw",
        "mlp        bf16         24  4,718,592  9.44 MB  16.000",
    ):
        assert line in lines


def test_a_quantized_model(small: Path) -> None:
    run = run_cli("inspect", small)
    assert run.returncode == 0
    lines = run.stdout.splitlines()
    assert "quantization     affine, 4 bits in groups of 64" in lines
    assert "bits per weight  4.507" in lines
    assert "mlp        affine4-g64       24  4,718,592  2.65 MB   4.500" in lines
    assert any(re.fullmatch(r"made by +mlxquant .*; \d files, sizes match", x) for x in lines)


def test_tensors_are_listed_in_file_order_and_whole(small: Path) -> None:
    run = run_cli("inspect", small, "--tensors")
    lines = run.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("tensor "))
    rows = [line.split() for line in lines[start + 1 :]]
    assert len(rows) == 74
    assert ["model.layers.7.mlp.up_proj.weight", "mlp.up", "768x256", "affine4-g64"] in [
        row[:4] for row in rows
    ]


def test_json_is_the_facts(small: Path) -> None:
    run = run_cli("inspect", small, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    document = json.loads(run.stdout)
    assert document["parameters"] == 7344384
    assert document["architecture"]["model_type"] == "llama"
    assert document["quantization"] == {
        "bits": 4,
        "group_size": 64,
        "mode": "affine",
        "overrides": {},
    }
    assert document["manifest"]["same_sizes"] is True
    assert document["problems"] == []
    assert "tensors" not in document
    assert "verified" not in document
    document = json.loads(run_cli("inspect", small, "--json", "--tensors", "--verify").stdout)
    assert len(document["tensors"]) == 74
    assert document["verified"] == {"bytes": document["bytes"], "problems": []}


def test_verify_of_a_sound_model(small: Path) -> None:
    run = run_cli("inspect", small, "--verify")
    assert (run.returncode, run.stderr) == (0, "")
    last = run.stdout.splitlines()[-1]
    assert last == "verified: 4.14 MB of weights in 1 file, no problem found"


def test_verify_finds_and_exits_with_1(small: Path, tmp_path: Path) -> None:
    folder = copy(small, tmp_path / "model")
    name = spoil(folder)
    assert run_cli("inspect", folder).returncode == 0
    run = run_cli("inspect", folder, "--verify")
    assert run.returncode == 1
    assert "Found in the bytes" in run.stdout
    assert re.search(r"  model.safetensors: its SHA-256 is [0-9a-f]{64}, the manifest", run.stdout)
    assert f"  model.safetensors: tensor '{name}': 1 NaN at [5, 3]\n" in run.stdout
    assert run.stdout.splitlines()[-1].endswith("2 problems found")
    run = run_cli("inspect", folder, "--verify", "--json")
    assert run.returncode == 1
    kinds = {problem["kind"] for problem in json.loads(run.stdout)["verified"]["problems"]}
    assert kinds == {"hash", "nan"}


def test_a_problem_of_another_file_counts_with_verify(tmp_path: Path) -> None:
    folder = copy(BUNDLED_MODEL, tmp_path / "model")
    edit(folder / "config.json", vocab_size=4000)
    run = run_cli("inspect", folder)
    assert run.returncode == 0
    assert "vocab_size 4000, but model.embed_tokens.weight has 4096 rows" in run.stdout
    run = run_cli("inspect", folder, "--verify")
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1].endswith("1 problem found")
    assert run.stdout.count("vocab_size 4000") == 1


def test_a_file_alone(small: Path) -> None:
    run = run_cli("inspect", small / "model.safetensors")
    assert run.returncode == 0
    assert "parameters       not known" in run.stdout
    assert "without a config.json" in run.stdout


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.gguf", b"GGUF\3\0\0\0", "truncated header: 8 bytes"),
        ("model.gguf", b"", "this is an empty file"),
        ("model.gguf", b"<html>", "this is an HTML page"),
        ("model.bin", b"GGUF" + bytes(20), "unsupported version 0"),
        ("model.safetensors", b"<!doctype html>", "this is an HTML page"),
        ("model.safetensors", b"\1", "truncated"),
        ("pytorch_model.bin", b"\x80\x02}", "this is a pickle"),
    ],
)
def test_files_that_are_something_else(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    run = run_cli("inspect", tmp_path / name)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"error: {tmp_path / name}: ")
    assert reason in run.stderr
    assert run.stderr.count("\n") == 1


def test_what_is_no_model(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", "/dev/null"):
        run = run_cli("inspect", path)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith("error: ")
        assert run.stderr.count("\n") == 1


def test_code_in_the_folder_needs_trust(tmp_path: Path) -> None:
    folder = copy(BUNDLED_MODEL, tmp_path / "model")
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    (folder / "modeling.py").write_text("raise SystemExit('it ran')")
    run = run_cli("inspect", folder)
    assert run.returncode == 2
    assert "--trust-remote-code" in run.stderr
    assert run_cli("inspect", folder, "--trust-remote-code", "--verify").returncode == 0


HOSTILE = "\x1b[31m\x1b]0;title\x07\x08\u202e\nnext\x9b2J"


def hostile(folder: Path) -> Path:
    """A model whose every text reaches for the terminal."""
    copy(BUNDLED_MODEL, folder)
    edit(
        folder / "config.json",
        architectures=[HOSTILE],
        rope_scaling={"rope_type": HOSTILE, HOSTILE: 1},
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class=HOSTILE,
        bos_token=HOSTILE,
        eos_token=HOSTILE,
        chat_template=[{"name": HOSTILE, "template": "x"}],
    )
    edit(folder / "special_tokens_map.json", eos_token=HOSTILE + "!")
    (folder / "mlxquant.json").write_text(
        json.dumps(
            {
                "versions": {"mlxquant": HOSTILE},
                "source": {"name": HOSTILE},
                "request": {HOSTILE: HOSTILE},
                "files": {HOSTILE: {"bytes": 1}},
            }
        )
    )
    return folder


def test_no_text_of_a_file_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    folder = hostile(tmp_path / "model")
    for options in ([], ["--json"], ["--verify", "--tensors"]):
        run = run_cli("inspect", folder, *options)
        for line in (run.stdout + run.stderr).split("\n"):
            assert line.isprintable(), line
        assert "title" in run.stdout
    status, text = on_a_terminal(100, "inspect", str(folder))
    assert status == 0
    assert "\\x1b]0;title\\x07" in text.replace("\n", "")
    assert not {"\x07", "\x08", "\x9b", "\u202e"} & set(text)


def test_brackets_are_no_markup(tmp_path: Path) -> None:
    folder = copy(BUNDLED_MODEL, tmp_path / "model")
    edit(folder / "tokenizer_config.json", tokenizer_class="[red]A[/red]")
    assert "[red]A[/red]" in on_a_terminal(100, "inspect", str(folder))[1]


@pytest.mark.parametrize("columns", [30, 80, 90, 100, 200])
def test_no_name_is_cut_at_any_width(small: Path, columns: int) -> None:
    status, text = on_a_terminal(columns, "inspect", str(small), "--tensors")
    assert status == 0
    lines = text.split("\n")
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("tensor "))
    width = lines[start].index("role")
    names = json.loads(run_cli("inspect", small, "--json", "--tensors").stdout)["tensors"]
    # The first column of a folded row goes on in the next line.
    shown = "".join(line[:width].strip(" ─") for line in lines[start + 1 :])
    assert shown == "".join(row["name"] for row in names)


def test_the_bar_of_verify_is_gone_at_the_end(small: Path) -> None:
    status, text = on_a_terminal(80, "inspect", str(small), "--verify")
    assert status == 0
    assert "verifying" in text
    assert text.endswith("\n\nverified: 4.14 MB of weights in 1 file, no problem found\n")


def test_characters_that_stdout_cannot_hold_are_escaped(tmp_path: Path) -> None:
    name = "größe.重み.weight"
    header, ranges = build_header([(name, "F32", (1,))], {})
    file = tmp_path / "model.safetensors"
    file.write_bytes(header + bytes(ranges[0][1] - ranges[0][0]))
    run = run_cli("inspect", file, "--tensors", env={"PYTHONIOENCODING": "ascii"})
    assert run.returncode == 0
    assert r"gr\xf6\xdfe.\u91cd\u307f.weight" in run.stdout
    assert name in run_cli("inspect", file, "--tensors", env={"PYTHONUTF8": "1"}).stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    run = subprocess.run(
        [f"{sys.executable} -m mlxquant inspect --tensors | head -1"],
        shell=True,
        capture_output=True,
        text=True,
    )
    assert (run.stdout, run.stderr) == ("model            books-7m (bundled)\n", "")


def test_help_names_every_option() -> None:
    run = run_cli("inspect", "--help")
    assert run.returncode == 0
    for option in ("--tensors", "--verify", "--json", "--trust-remote-code", "[PATH]"):
        assert option in run.stdout
