"""`mlxquant report` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results_made import bench_document, bench_record, eval_document, eval_record
from support import run_cli

from mlxquant.measure import results


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with results of two kinds and a file that is none."""
    folder = tmp_path / "results"
    folder.mkdir()
    results.save(folder / "e.json", eval_document(eval_record(4.5), eval_record(8.5)))
    results.save(folder / "b.json", bench_document(bench_record(), bench_record(context=1024)))
    (folder / "config.json").write_text("{}")
    return folder


def test_a_report(source: Path, tmp_path: Path) -> None:
    done = run_cli("report", source.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == "2 measurements of quality and 2 of speed from 2 files\nreport/report.html\n"
    )
    assert done.stderr == (
        'skipped: config.json: format: not a file of results: "mlxquant-results" expected, '
        "found nothing\n"
    )
    names = {path.name for path in (tmp_path / "report").iterdir()}
    images = {
        f"{name}.{kind}" for name in ("quality", "speed", "memory") for kind in ("svg", "png")
    }
    assert names == {"report.html", "report.md", "eval.csv", "bench.csv", *images}


def test_as_json(source: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    done = run("report", source, "-o", tmp_path / "out", "--no-plots", "--json")
    assert done.status == 0, done.err
    made = json.loads(done.out)
    assert made["files"] == ["report.html", "report.md", "eval.csv", "bench.csv"]
    assert made["read"] == ["b.json", "e.json"]
    assert (made["evals"], made["benches"], made["replaced"]) == (2, 2, 0)
    assert [one["file"] for one in made["skipped"]] == ["config.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "none: there is no such file or folder"),
        (["empty"], "empty: no results in it; make some with mlxquant eval -o"),
        (["results", "-o", "results"], "results: exists; choose another folder, or --force"),
        (["results", "-o", "a/b"], "does not exist; create it first"),
        (["results/config.json"], "of 1 JSON files none is: config.json: format: not a file of"),
    ],
)
def test_what_is_refused(
    source: Path,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(source.parent)
    (source.parent / "empty").mkdir()
    done = run("report", *arguments)
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert {path.name for path in source.parent.iterdir()} == {"results", "empty"}


def test_without_matplotlib_it_says_what_to_install(source: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    reason = "raise ModuleNotFoundError(\"No module named 'matplotlib'\", name='matplotlib')\n"
    (absent / "matplotlib.py").write_text(reason)
    run = {"cwd": tmp_path, "env": {"PYTHONPATH": str(absent)}}
    done = run_cli("report", source, "-o", "out", **run)  # type: ignore[arg-type]
    assert done.returncode == 2
    assert "plots need matplotlib" in done.stderr
    assert "pip install 'mlxquant[plots]'" in done.stderr
    assert not (tmp_path / "out").exists()
    assert run_cli("report", source, "-o", "out", "--no-plots", **run).returncode == 0  # type: ignore[arg-type]


def imported(*args: str, cwd: Path) -> set[str]:
    """The top-level modules that `mlxquant ARGS…` imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlxquant", *args],
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=cwd,
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


HEAVY = {"mlx", "mlx_lm", "transformers", "tokenizers", "torch", "huggingface_hub"}


def test_what_is_imported(source: Path, tmp_path: Path) -> None:
    light = HEAVY | {"numpy", "matplotlib"}
    assert imported("report", "--help", cwd=tmp_path) & light == set()
    assert imported("report", str(source), "--no-plots", cwd=tmp_path) & light == set()
    drawn = imported("report", str(source), "-o", "out", cwd=tmp_path)
    assert drawn & light == {"numpy", "matplotlib"}
