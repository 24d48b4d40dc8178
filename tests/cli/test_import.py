"""`mlxquant import` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlxquant.cli import import_gguf as command_file
from support import run_cli
from wire_models import make

from mlxquant.quantize import request

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    types = {"*attn*": "Q4_0", "blk.1.ffn_down*": "Q6_K", "*": "Q4_K"}
    return make(tmp_path_factory.mktemp("import") / "tiny-Q4.gguf", types=types, vocabulary=True)


def test_exact_is_the_default(file: Path, tmp_path: Path) -> None:
    done = run_cli("import", file, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "written to tiny-Q4-mlx" in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line}
    ups, downs = (f"model.layers.{n}.weight" for n in ("[0-1].mlp.up_proj", "0.mlp.down_proj"))
    assert rows[ups] == ["512×256", "Q4_K", "Q4_K", "kept,", "exact"]
    assert rows[downs] == ["256×512", "Q4_K", "Q4_K", "kept,", "exact"]
    assert rows[downs.replace("0", "1")] == ["256×512", "Q6_K", "Q6_K", "kept,", "exact"]
    query = rows["model.layers.[0-1].self_attn.q_proj.weight"]
    assert query == ["256×256", "Q4_0", "affine4-g32", "repacked,", "exact"]
    assert rows["model.norm.weight"][:2] == ["256", "F32"]
    assert done.stdout.endswith("\n20 of 20 tensors are exact\n")
    config = json.loads((tmp_path / "tiny-Q4-mlx" / "config.json").read_text())
    assert config["mlxquant"]["version"] == 1
    assert config["mlxquant"]["blocks"]["model.layers.1.mlp.down_proj"] == "Q6_K"
    assert not list(tmp_path.glob("*.partial"))


def test_json(run: Run, file: Path, tmp_path: Path) -> None:
    options = ("-o", tmp_path / "out", "--requantize", "mxfp4", "--json")
    status, out, err = run("import", file, *options)
    assert status == 0, err
    result = json.loads(out)
    tensors = {entry["name"]: entry for entry in result["tensors"]}
    up = tensors["model.layers.0.mlp.up_proj.weight"]
    assert (up["source"], up["format"], up["how"], up["exact"]) == (
        "Q4_K",
        "mxfp4",
        "requantized",
        False,
    )
    errors = [entry["relative_error"] for entry in tensors.values()]
    assert result["largest_relative_error"] == max(errors) and 0.01 < max(errors) < 0.5
    assert result["exact_tensors"] == errors.count(0)
    assert set(result["files"]) == {path.name for path in (tmp_path / "out").iterdir()}


def test_dequantized_says_how_far_off(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("import", file, "--dequantize", "--dtype", "bfloat16")
    assert status == 0, err
    assert "written to tiny-Q4-dequantized" in out
    assert out.splitlines()[-1].startswith("5 of 20 tensors are exact; largest error 0.00")
    line = next(line for line in out.splitlines() if "embed_tokens" in line)
    assert "Q4_K" in line and "bf16" in line and "cast, error 0.00" in line


def test_dry_run_writes_nothing(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run("import", file, "--dry-run")
    assert status == 0 and not list(tmp_path.iterdir())
    assert "repacked, exact" in out and "20 of 20 tensors are exact" in out
    assert "written to" not in out
    status, out, _ = run("import", file, "--dry-run", "--requantize", "4")
    assert status == 0 and not list(tmp_path.iterdir())
    assert "requantized" in out and "error" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exact", "--dequantize"], "--exact keeps the codes"),
        (["--exact", "--requantize", "4"], "--exact keeps the codes"),
        (["--dequantize", "--requantize", "4"], "choose one"),
        (["--requantize", "Q4_K"], "format 'Q4_K'"),
        (["--dtype", "bfloat16"], "an exact import keeps every type"),
        (["--dtype", "int8"], "'int8' is not one of"),
        (["--threads", "0"], "0 is not in the range"),
        (["--resume", "--force", "--what"], "No such option"),
        (["-o", "no/such/place"], "does not exist"),
    ],
)
def test_wrong_command_lines_exit_with_2(
    run: Run,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("import", file, *arguments)
    assert status == 2 and out == ""
    assert message in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_what_is_no_gguf(run: Run, tmp_path: Path, bundled: Path) -> None:
    status, out, err = run("import", bundled, "-o", tmp_path / "out")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert str(bundled) in err and "this is a directory" in err
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists(run: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("import", file, "-o", out)[0] == 0
    status, _, err = run("import", file, "-o", out)
    assert status == 2 and "--force" in err
    before = (out / "model.safetensors").read_bytes()
    assert run("import", file, "-o", out, "--force", "--threads", "1")[0] == 0
    assert (out / "model.safetensors").read_bytes() == before
    assert run("inspect", out, "--verify")[0] == 0


def test_help_lists_what_a_request_takes() -> None:
    assert tuple(request.DTYPES) == command_file.DTYPES
