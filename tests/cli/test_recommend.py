"""`mlxquant recommend`, through its entry point."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from fake_hub import FakeHub
from mlxquant.cli.recommend import GOALS, MACHINES

from mlxquant.measure import judging, machine_classes
from mlxquant.measure.results import SIZE_LIMIT

MACHINE = ("--memory", "16GB", "--chip", "M2")


def test_the_written_out_choices_are_the_librarys() -> None:
    assert GOALS == judging.GOALS
    assert tuple(machine_classes.CLASSES) == MACHINES


def test_the_bundled_model(run: Callable[..., object]) -> None:
    ran = run("recommend", *MACHINE)
    assert ran.status == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].split() == ["model", "books-7m,", "7,344,384", "weights"]
    assert lines[1] == "machine  Apple M2, 16 GB: 10.67 GiB for the model, 100 GB/s"
    picked = [line for line in lines if line.startswith(">")]
    assert len(picked) == 1
    name = picked[0].split()[1]
    assert lines[-1] == f"  {shlex.join(shlex.split(lines[-1]))}"
    assert f"-o books-7m-{name} " in lines[-1]
    assert "note:" not in ran.out
    assert any(line.startswith(f"{name} is the smallest that can hardly be told") for line in lines)


def commands(out: str) -> list[list[str]]:
    """Every command of a --json answer that makes a format, as arguments."""
    formats = json.loads(out)["formats"]
    return [shlex.split(each["command"])[1:] for each in formats if each["format"] != "as it is"]


@pytest.mark.parametrize("gguf", [(), ("--gguf",)], ids=["mlx", "gguf"])
def test_every_command_runs_and_makes_what_was_foreseen(
    gguf: tuple[str, ...], run: Callable[..., object], tmp_path: Path
) -> None:
    source = tiny_models.make(tmp_path / "my model", "qwen3", hidden_size=256, vocab_size=4096)
    for model in ((), (str(source),)):
        answer = run("recommend", *model, *MACHINE, *gguf, "--json").out
        formats = {each["format"]: each for each in json.loads(answer)["formats"]}
        found = commands(answer)
        assert len(found) == len(formats) - 1 > 9
        for command in found:
            ran = run(*command, "--dry-run", "--json")
            assert ran.status == 0, (command, ran.err)
            name = command[command.index("-o") + 1].removesuffix(".gguf")
            name = name.removeprefix("books-7m-").removeprefix("my model-")
            made = json.loads(ran.out)
            foreseen = formats[name]["weights"]
            assert made.get("output_bytes", made.get("bytes")) == foreseen, (command, made.keys())


def test_what_was_measured_is_looked_up(
    run: Callable[..., object], bundled: Path, tmp_path: Path
) -> None:
    results = json.loads((machine_results()).read_text())
    (record,) = [r for r in results["records"] if r["model"]["format"] == "affine4-g64"]
    record["windows"]["scored"] += 1_000_000
    record["kl"]["mean"] = {"value": 0.125, "low": 0.1, "high": 0.15}
    results["records"] = [record]
    (tmp_path / "mine.json").write_text(json.dumps(results))
    answer = json.loads(run("recommend", *MACHINE, "--json", "--results", tmp_path).out)
    found = {each["format"]: each["kl"] for each in answer["formats"]}
    assert found["affine4-g64"]["source"] == "measured"
    assert found["affine4-g64"]["kl"] == 0.125
    assert found["affine4-g64"]["told"].endswith("(mine.json)")
    assert found["affine4-g32"]["source"] == "measured"
    assert found["affine4-g32"]["told"].endswith("(books-7m.json)")


def machine_results() -> Path:
    """The results that ship."""
    from mlxquant.assets import RESULTS

    (file,) = RESULTS.glob("*.json")
    assert file.stat().st_size < SIZE_LIMIT
    return file


def test_nothing_fits(run: Callable[..., object], tmp_path: Path) -> None:
    folder = tiny_models.make(tmp_path / "m", "llama", vocab_size=200_000)
    ran = run("recommend", folder, "--memory", "64MB", "--chip", "M2", "--context", "200000")
    assert ran.status == 0
    assert "no format fits" in ran.out
    assert "what would help:" in ran.out
    assert "mlxquant quantize" not in ran.out
    answer = json.loads(
        run("recommend", folder, "--memory", "64MB", "--context", "200000", "--json").out
    )
    assert answer["pick"] is answer["command"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("no-such/model", "--machine", "phone"), "HF_HUB_OFFLINE is set"),
        (("nowhere",), "no such folder here"),
        (("--memory", "lots"), "memory 'lots': a size from 64MB to 16TB"),
        (("--chip", "M0"), "no chip 'M0'"),
        (("--machine", "toaster"), "phone"),
        (("--kv-bits", "7"), "kv bits 7"),
        (("--results", "/nowhere"), "does not exist"),
        (("--revision", "main"), "bundled model is not on the hub"),
    ],
)
def test_bad_input(args: tuple[str, ...], said: str, run: Callable[..., object]) -> None:
    ran = run("recommend", *args)
    assert ran.status in (1, 2)
    assert said in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not ran.out


def test_a_model_on_the_hub_costs_its_headers(
    run_cli: Callable[..., object], tmp_path: Path
) -> None:
    folder = tiny_models.make(tmp_path / "m", "qwen3", shards=3, vocab_size=20_000)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    with FakeHub() as hub:
        commit = hub.add_folder("org/tiny", folder)
        home = tmp_path / "home"
        args = ("recommend", "org/tiny", *MACHINE, "--json")
        ran = run_cli(*args, env=hub.environment(home))
        assert ran.returncode == 0, ran.stderr
        weights = hub.asked("blob", "GET")
        assert weights
        assert all(request.range is not None for request in weights)
        assert sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) < size / 4
        hub.fail["model-00002-of-00003.safetensors"] = 500
        broken = run_cli(*args, env=hub.environment(tmp_path / "other"))
        assert broken.returncode == 1
        assert "HTTP 500" in broken.stderr
    document = json.loads(ran.stdout)
    here = json.loads(run_cli("recommend", str(folder), *MACHINE, "--json").stdout)
    assert document["formats"][0]["weights"] == here["formats"][0]["weights"]
    assert document["parameters"] == here["parameters"]
    assert document["command"].startswith("mlxquant quantize org/tiny -o tiny-affine6-g64 ")
    assert commit
    gone = run_cli(*args, env=hub.environment(home))
    assert gone.returncode == 1
    assert "error: org/tiny: " in gone.stderr
