"""What was measured while mlxquant was made: sound, marked as a CPU's, shown by its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import REPOSITORY

from mlxquant.measure import results
from mlxquant.measure.report import report

RESULTS = REPOSITORY / "benchmarks" / "results"
FILES = sorted((RESULTS / "measured").glob("*.json"))


def test_there_is_something() -> None:
    kinds = {results.load(file)["kind"] for file in FILES}
    assert kinds == {"eval", "bench"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_a_cpus(file: Path) -> None:
    machine = results.load(file)["machine"]
    assert (machine["kind"], machine["chip_id"]) == ("cpu", None)


def test_the_report_is_of_these_files(tmp_path: Path) -> None:
    report(RESULTS / "measured", tmp_path / "report", plots=False)
    made = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    shown = (RESULTS / "report" / "report.md").read_text(encoding="utf-8")
    tables = [line for line in made.splitlines() if line.startswith("|")]
    assert tables == [line for line in shown.splitlines() if line.startswith("|")]
    for name in ("quality", "speed", "memory"):
        assert f"({name}.svg)" in shown
        assert (RESULTS / "report" / f"{name}.svg").is_file()
    for name in ("eval.csv", "bench.csv"):
        there = (RESULTS / "report" / name).read_text(encoding="utf-8")
        assert (tmp_path / "report" / name).read_text(encoding="utf-8") == there


def test_eval_keeps_its_limits() -> None:
    found = json.loads((RESULTS / "eval.json").read_text(encoding="utf-8"))
    assert {check["name"] for check in found["checks"]} == {"wall_ratio", "peak_bytes"}
    assert all(check["value"] <= check["limit"] for check in found["checks"])
    assert found["wall_ratio"] <= 1.3
    assert found["peak_bytes"] < 1e9
    assert found["forward"]["windows"] == 149  # of 512 tokens: all of the text
