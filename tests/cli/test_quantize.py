"""`mlxquant quantize` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from mlxquant.cli import quantize as command_file
from support import run_cli

from mlxquant.quantize import request


def test_no_argument_quantizes_the_bundled_model(tmp_path: Path) -> None:
    done = run_cli("quantize", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    assert "written to books-7m-4bit" in done.stdout
    assert "14.7 MB  4.14 MB" in done.stdout and "16.000    4.507" in done.stdout
    names = {file.name for file in (tmp_path / "books-7m-4bit").iterdir()}
    assert {"config.json", "mlxquant.json", "model.safetensors", "tokenizer.json"} <= names
    assert not list(tmp_path.glob("*.partial"))


def test_json_describes_every_tensor_and_file(tmp_path: Path) -> None:
    done = run_cli("quantize", "-o", tmp_path / "out", "--bits", "3", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["bits_per_weight"] == pytest.approx(3.507, abs=1e-3)
    assert {entry["format"] for entry in result["plan"]} == {"affine3-g64", "bf16"}
    manifest = json.loads((tmp_path / "out" / "mlxquant.json").read_text())
    assert manifest["plan"] == result["plan"]
    listed = {name: entry for name, entry in result["files"].items() if name != "mlxquant.json"}
    assert manifest["files"] == listed
    assert set(result["files"]) == {file.name for file in (tmp_path / "out").iterdir()}


def test_manifest_holds_true_hashes(tmp_path: Path) -> None:
    import hashlib

    source = tiny_models.make(tmp_path / "source", "mixtral", shards=2)
    assert run_cli("quantize", source, "-o", tmp_path / "out").returncode == 0
    manifest = json.loads((tmp_path / "out" / "mlxquant.json").read_text())
    for name, entry in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for name, digest in manifest["source"]["sha256"].items():
        assert digest == hashlib.sha256((source / name).read_bytes()).hexdigest()
    assert set(manifest["source"]["sha256"]) >= {
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert manifest["source"]["name"] == "source" and str(tmp_path) not in json.dumps(manifest)


def test_dry_run_writes_nothing_and_shows_the_policy(tmp_path: Path) -> None:
    done = run_cli(
        "quantize",
        "--dry-run",
        "--recipe",
        "mixed_3_6",
        "--tensor",
        "model.layers.0.*=8",
        cwd=tmp_path,
    )
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    lines = done.stdout.splitlines()
    row = next(line for line in lines if "layers.0.self_attn.q_proj" in line)
    assert row.split() == [
        "model.layers.0.self_attn.q_proj.weight",
        "256×256",
        "bf16",
        "affine8-g64",
        "model.layers.0.*",
    ]
    assert any("model.layers.[1-7].mlp.up_proj.weight" in line for line in lines)


def test_what_is_not_as_asked_is_listed(tmp_path: Path) -> None:
    source = tiny_models.make(tmp_path / "source", "qwen3", hidden_size=96)
    done = run_cli("quantize", source, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "not as asked:" in done.stdout
    assert "rows of 96 are no multiple of affine4-g64's 64" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "7"], "bits 7: mode affine takes 1, 2, 3, 4, 5, 6, 8"),
        (["--bits", "four"], "'four' is not a valid integer"),
        (["--tensor", "lm_head"], "is not GLOB=FORMAT"),
        (["--tensor", "nothing.*=8"], "matches no module"),
        (["--tensor", "*=q4_k"], "format 'q4_k'"),
        (["--mode", "int4"], "'int4' is not one of"),
        (["--threads", "0"], "0 is not in the range"),
        (["--recipe", "mixed_3_6", "--mode", "mxfp4"], "needs mode affine"),
        (["--dequantize"], "no weight of this model is quantized"),
        (["no/such/folder"], "no/such/folder"),
        (["--model", "a", "b"], "MODEL is given twice"),
        (["--what"], "No such option"),
    ],
)
def test_wrong_command_lines_exit_with_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run_cli("quantize", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and not list(tmp_path.iterdir())


def test_quantizing_twice_needs_a_word(tmp_path: Path) -> None:
    assert run_cli("quantize", "-o", tmp_path / "a").returncode == 0
    again = run_cli("quantize", tmp_path / "a", "-o", tmp_path / "b", "--bits", "3")
    assert again.returncode == 2 and "--requantize" in again.stderr
    done = run_cli("quantize", tmp_path / "a", "-o", tmp_path / "b", "--bits", "3", "--requantize")
    assert done.returncode == 0 and "3.507" in done.stdout


def test_a_plan_file_decides_and_stock_mlx_lm_opens_the_result(tmp_path: Path) -> None:
    """Formats of every mode in one folder."""
    import mlx.core as mx
    import mlx_lm

    modes = ("affine2-g128", "mxfp4", "nvfp4", "mxfp8", "keep", "affine5-g32")
    lines = ["schema: 1", "default: 4", "tensors:", "  model.embed_tokens: affine6-g128"]
    places = (
        "mlp.up_proj",
        "mlp.gate_proj",
        "mlp.down_proj",
        *(f"self_attn.{n}_proj" for n in "qvo"),
    )
    wanted = {"model.embed_tokens.weight": "affine6-g128"}
    for place, mode in zip(places, modes, strict=True):
        lines.append(f"  model.layers.3.{place}: {mode}")
        wanted[f"model.layers.3.{place}.weight"] = "bf16" if mode == "keep" else mode
    (tmp_path / "mine.yaml").write_text("\n".join(lines) + "\n")
    done = run_cli("quantize", "--plan", "mine.yaml", "--tensor", "*.0.*=8", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {entry["name"]: entry["format"] for entry in json.loads(done.stdout)["plan"]}
    assert wanted.items() <= found.items()
    assert found["model.layers.0.mlp.up_proj.weight"] == "affine8-g64"
    assert found["model.layers.1.mlp.up_proj.weight"] == "affine4-g64"
    out = tmp_path / "books-7m-mine"
    request = json.loads((out / "mlxquant.json").read_text())["request"]
    assert len(request["plan"]) == 64 and str(tmp_path) not in json.dumps(request)
    model, _ = mlx_lm.load(str(out))
    logits = model(mx.array([[1, 2, 3]]))
    assert logits.shape == (1, 3, 4096) and bool(mx.isfinite(logits).all())


def test_a_plan_that_does_not_fit_is_refused_with_its_line(tmp_path: Path) -> None:
    plan = tmp_path / "mine.yaml"
    plan.write_text("schema: 1\ntensors:\n  model.layers.9.mlp.up_proj: 4\n")
    for text, message in (
        (
            plan.read_text(),
            "mine.yaml: line 3: the model has no module 'model.layers.9.mlp.up_proj'",
        ),
        (
            "schema: 1\ntensors:\n  lm_head: q4\n",
            "mine.yaml: line 3: tensor 'lm_head': format 'q4'",
        ),
    ):
        plan.write_text(text)
        done = run_cli("quantize", "--plan", "mine.yaml", "-o", "out", cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    done = run_cli("quantize", "--plan", "mine.yaml", "--bits", "3", cwd=tmp_path)
    assert done.returncode == 2 and "--plan chooses every format" in done.stderr


def test_mlx_lm_s_option_names(tmp_path: Path) -> None:
    source = tiny_models.make(tmp_path / "source", "llama")
    ours = run_cli("quantize", source, "-o", tmp_path / "a", "--bits", "6", "--group-size", "32")
    theirs = run_cli(
        *("quantize", "--hf-path", source, "--mlx-path", tmp_path / "b", "-q"),
        *("--q-bits", "6", "--q-group-size", "32", "--q-mode", "affine"),
    )
    assert ours.returncode == theirs.returncode == 0
    first, second = (tmp_path / name / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_help_lists_what_a_request_takes() -> None:
    assert set(request.formats.MODE_DEFAULTS) == set(command_file.MODES)
    assert tuple(request.RECIPES) == command_file.RECIPES
    assert tuple(request.DTYPES) == command_file.DTYPES
    assert request.METHODS == command_file.METHODS
    assert request.QUALITIES == command_file.QUALITIES
