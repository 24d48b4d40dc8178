"""`mlxquant eval`: what it prints and writes, what it refuses, and how it is resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import tiny_models

from mlxquant import quantize
from mlxquant.measure import results
from mlxquant.measure.reference import open_reference

TEXT = Path(__file__).parent.parent / "data" / "text" / "eval-excerpt.txt"
ON = ("--text", TEXT, "--length", "48", "--windows", "3", "--dtype", "float32")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with the bundled one's tokenizer, and what it is in 4 and in 2 bits."""
    folder = tmp_path_factory.mktemp("models")
    config = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128}
    tiny_models.make(folder / "whole", "llama", lively=True, **config)
    for bits in (4, 2):
        quantize(folder / "whole", folder / f"{bits}bit", bits=bits, group_size=32)
    return folder


def test_what_it_shows(run: Run, models: Path) -> None:
    done = run("eval", models / "4bit", models / "2bit", "--reference", models / "whole", *ON)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("text       eval-excerpt.txt, ")
    assert "sha256" in lines[0]
    assert "3 of 48 tokens, stride 48, as mlx-lm cuts them; 141 tokens scored" in lines[1]
    assert lines[2].startswith("reference  whole, perplexity ")
    assert lines[3].endswith("computed in float32")
    assert [line.split()[0] for line in lines[6:9]] == ["whole", "4bit", "2bit"]
    assert "affine4-g32" in lines[7]
    for word in ("mean", "median", "90th", "99th", "largest", "top-1", "top-5"):
        assert sum(word in line for line in lines[9:-1]) == 2, word


def test_json_and_a_file_of_results(run: Run, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    names = (models / "4bit", "--reference", models / "whole")
    done = run("eval", *names, *ON, "--json", "-o", out)
    assert done.status == 0
    printed = json.loads(done.out)
    assert printed == results.load(out)
    assert printed["kind"] == "eval"
    assert [r["model"]["name"] for r in printed["records"]] == ["whole", "4bit"]
    assert printed["conditions"]["notes"] == ["computed in float32"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert f"results: {out}" in done.err


def test_an_interrupted_run_is_finished(run: Run, models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models / "whole", broken)
    weights: Any = mx.load(str(broken / "model.safetensors"))
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    mx.save_safetensors(str(broken / "model.safetensors"), weights, {"format": "pt"})
    out = tmp_path / "out.json"
    command = ("eval", models / "4bit", broken, "--reference", models / "whole", *ON, "-o", out)
    failed = run(*command)
    assert failed.status == 2
    assert "in window 1 of 3, first in the output of model.layers.0.mlp.up_proj" in failed.err
    partial = tmp_path / "out.json.partial"
    kept = json.loads(partial.read_text())["document"]["records"]
    assert [record["model"]["name"] for record in kept] == ["whole", "4bit"]
    assert (tmp_path / "out.json.reference").exists()

    refused = run(*command)
    assert refused.status == 2
    assert "--resume finishes it, --force starts over" in refused.err
    other = run("eval", models / "4bit", *ON, "-o", out, "--resume")
    assert other.status == 2
    assert "is an interrupted run of another request" in other.err

    shutil.copy(models / "whole" / "model.safetensors", broken)
    done = run(*command, "--resume")
    assert done.status == 0
    records = results.load(out)["records"]
    assert [record["model"]["name"] for record in records] == ["whole", "4bit", "broken"]
    assert records[1] == kept[1]  # the time it took included: it was not measured again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "out.json"]


def test_starting_over(run: Run, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    (tmp_path / "out.json.partial").write_text("{}")
    assert run("eval", models / "4bit", *ON, "-o", out, "--resume").status == 2
    assert run("eval", models / "4bit", *ON, "-o", out, "--force").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert run("eval", models / "2bit", *ON, "-o", out).status == 0  # results may be replaced
    assert results.load(out)["records"][0]["model"]["name"] == "2bit"


def test_a_reference_for_another_machine(run: Run, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "whole.ref"
    made = run("eval", "--reference", models / "whole", "--reference-cache", file, *ON)
    assert made.status == 0
    assert open_reference(file).origin["model"] == "whole"
    direct = run("eval", models / "2bit", "--reference", models / "whole", *ON, "--json")
    there = run("eval", models / "2bit", "--reference", file, "--dtype", "float32", "--json")
    assert there.status == 0
    one, other = (json.loads(done.out)["records"][-1] for done in (direct, there))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    refused = run("eval", models / "2bit", "--reference", file, "--length", "64")
    assert refused.status == 2
    assert "--length: " in refused.err
    file.write_bytes(file.read_bytes()[:-9])
    cut = run("eval", models / "2bit", "--reference", file)
    assert (cut.status, "make the file again" in cut.err) == (2, True)


@pytest.mark.slow
def test_ctrl_c(models: Path, tmp_path: Path) -> None:
    """A run that is stopped while it measures says how it goes on, and does."""
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "mlxquant", "eval", models / "4bit", models / "2bit"]
    command += ["--reference", models / "whole", "--dtype", "float32", "-o", out]
    command += ["--length", "64", "--windows", "20"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "out.json.partial"
    deadline = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "--resume goes on where this was" in said
    assert partial.exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert len(results.load(out)["records"]) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--layers"], "--layers needs --reference"),
        (["--layers", "--tasks", "x.jsonl"], "one at a time"),
        (["--layers", "--reference", "bundled", "-o", "x.json"], "--json prints"),
        (["a", "b", "--layers", "--reference", "bundled"], "one MODEL at a time"),
        (["--tasks", "x.jsonl", "--reference", "bundled"], "leave --reference out"),
        (["--limit", "3"], "--limit is for --tasks"),
        (["--num-fewshot", "3"], "--num-fewshot is for --tasks"),
        (["--reference-cache", "x.ref"], "give a REF"),
        (["--resume"], "go with -o"),
        (["--like", "llama.cpp", "--stride", "3"], "side by side"),
        (["--length", "1"], "window length 1"),
        (["--stride", "0"], "stride 0"),
        (["--stride", "513"], "stride 513"),
        (["--windows", "0"], "number of windows 0"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["nowhere"], "nowhere"),
        (["--reference", "nowhere"], "nowhere"),
        (["-o", "none/out.json"], "there is no folder none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    models: Path,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = options[:1] in (["a"], ["nowhere"])
    done = run("eval", *([] if named else [models / "4bit"]), *options)
    assert done.status == 2
    assert words in done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert not any(tmp_path.iterdir())


def test_an_output_that_is_something_else(run: Run, models: Path, tmp_path: Path) -> None:
    precious = tmp_path / "model.gguf"
    precious.write_bytes(b"GGUF and more")
    done = run("eval", models / "4bit", *ON, "-o", precious)
    assert (done.status, "is no file of results" in done.err) == (2, True)
    assert precious.read_bytes() == b"GGUF and more"
    assert run("eval", models / "4bit", *ON, "-o", tmp_path).status == 2
