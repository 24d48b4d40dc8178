"""Gathering, merging and the tables of a report."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from results_made import (
    bench_document,
    bench_record,
    changed,
    estimate,
    eval_document,
    eval_record,
    timing,
)

from mlxquant import FileFormatError, InputError, OutputError, RequestError
from mlxquant.measure import results
from mlxquant.measure.gather import gather
from mlxquant.measure.groups import front
from mlxquant.measure.report import compare, quality, quality_table, report, speed
from mlxquant.measure.tables import Cell, Column, Table, markdown_text, number

EARLY, LATE = "2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00"

#: names that would do harm if they were not escaped
HOSTILE = (
    "<script>alert(1)</script>",
    "a|b\n| --- |\x1b[31m",
    "=HYPERLINK(0)",
    r"$\frac{1}{0}$ _x_ *y* `z` [l](m) -->",
    "\u202ename & <b>",
    "x" * 500,
)


def put(folder: Path, name: str, document: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    results.save(path, document)
    return path


def one_bench(folder: Path) -> dict[str, Any]:
    (found,) = gather(folder).benches
    return found.record


@pytest.mark.parametrize("turned", [False, True])
def test_of_equal_benches_the_newest_counts(tmp_path: Path, turned: bool) -> None:
    times = (LATE, EARLY) if turned else (EARLY, LATE)
    for place, made in enumerate(times):
        record = bench_record(peak_memory=100 + (made == LATE))
        put(tmp_path, f"{place}/a.json", bench_document(record, made=made))
    assert one_bench(tmp_path)["peak_memory"] == 101
    assert gather(tmp_path).replaced == 1


@pytest.mark.parametrize(
    "late",
    [
        {"records.0.throttled": True},
        {"conditions.low_power_mode": True},
        {"conditions.thermal": "serious"},
        {"conditions.thermal": "critical"},
    ],
)
def test_a_run_on_a_machine_in_trouble_yields_to_an_older_one(
    tmp_path: Path, late: dict[str, Any]
) -> None:
    put(tmp_path, "a.json", bench_document(bench_record(peak_memory=1), made=EARLY))
    put(tmp_path, "b.json", bench_document(bench_record(peak_memory=2), made=LATE, **late))
    assert one_bench(tmp_path)["peak_memory"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"machine.chip": "Apple M2"},
        {"machine.kind": "cpu"},
        {"machine.gpu_cores": 19},
        {"records.0.prompt": 513},
        {"records.0.context": 1},
        {"records.0.batch": 2},
        {"records.0.generated": 1},
        {"records.0.model.base": "books-8m"},
        {"records.0.model.format": "Q4_K_M"},
        {"records.0.model.tool": None},
        {"records.0.model.method": "gptq"},
        {"records.0.model.bits_per_weight": 4.6},
    ],
    ids=str,
)
def test_benches_of_another_model_setting_or_chip_stay(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    put(tmp_path, "a.json", bench_document())
    put(tmp_path, "b.json", bench_document(**other))
    assert len(gather(tmp_path).benches) == 2


def test_the_folder_s_name_makes_no_other_model(tmp_path: Path) -> None:
    put(tmp_path, "a.json", bench_document())
    put(tmp_path, "b.json", bench_document(**{"records.0.model.name": "elsewhere"}))
    assert len(gather(tmp_path).benches) == 1


def test_evals_merge_over_machines_and_contradictions_are_said(tmp_path: Path) -> None:
    put(tmp_path, "a.json", eval_document(made=EARLY))
    close = {"machine.chip": "Apple M4", "records.0.perplexity": estimate(30.35)}
    near = eval_record()["perplexity"]["value"] * 1.004
    put(tmp_path, "b.json", eval_document(made=LATE, **close))
    result = gather(tmp_path)
    assert [one.file for one in result.evals] == ["b.json"]
    assert len(result.notes) == 1
    assert "one of them is wrong" in result.notes[0]
    assert "Apple M4" in result.notes[0]
    put(tmp_path, "b.json", eval_document(made=LATE, **{"records.0.perplexity.value": near}))
    assert gather(tmp_path).notes == ()


@pytest.mark.parametrize(
    "other",
    [
        {"records.0.text.sha256": "ee" * 32},
        {"records.0.windows.style": "llama.cpp"},
        {"records.0.windows.length": 256},
        {"records.0.windows.stride": 256},
        {"records.0.windows.scored": 9},
        {"records.0.model.tokenizer": "ee" * 32},
        {"records.0.reference.name": "other"},
    ],
    ids=str,
)
def test_evals_of_other_circumstances_stay(tmp_path: Path, other: dict[str, Any]) -> None:
    put(tmp_path, "a.json", eval_document())
    put(tmp_path, "b.json", eval_document(**other))
    assert len(gather(tmp_path).evals) == 2


def test_an_eval_without_a_reference_yields_to_an_older_one_with(tmp_path: Path) -> None:
    bare = eval_record(reference=None, kl=None, top1=None, top5=None)
    put(tmp_path, "a.json", eval_document(made=EARLY))
    put(tmp_path, "b.json", eval_document(bare, made=LATE))
    assert [one.file for one in gather(tmp_path).evals] == ["a.json"]


def test_wrong_files_are_named_and_spoil_nothing(tmp_path: Path) -> None:
    put(tmp_path, "deep/er/good.JSON", eval_document())
    put(tmp_path, "alone.json", bench_document())
    wrong = {
        "config.json": '{"model_type": "llama"}',
        "cut.json": (tmp_path / "alone.json").read_text()[:-20],
        "newer.json": json.dumps(eval_document() | {"version": 7}),
        "not.json": "\x89PNG\r\n\x1a\n",
        "nan.json": json.dumps(eval_document(**{"records.0.seconds": float("nan")})),
    }
    for name, content in wrong.items():
        (tmp_path / name).write_text(content, encoding="latin-1")
    (tmp_path / "text.txt").write_text("nothing")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "broken.json").symlink_to("nowhere")
    (tmp_path / "round").symlink_to(tmp_path)
    found = gather(tmp_path)
    assert list(found.files) == ["alone.json", "deep/er/good.JSON"]
    reasons = {one.file: one.reason for one in found.skipped}
    assert set(reasons) == {*wrong, "pipe.json", "broken.json"}
    assert "not a file of results" in reasons["config.json"]
    assert "7; this mlxquant reads up to 1: update mlxquant" in reasons["newer.json"]
    assert "NaN is not JSON" in reasons["nan.json"]
    assert "PNG image" in reasons["not.json"]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file or folder"):
        gather(tmp_path / "none")
    with pytest.raises(InputError, match="no results in it; make some with mlxquant eval"):
        gather(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match="of 1 JSON files none is: a.json: format: not a file"):
        gather(tmp_path)
    put(tmp_path, "a.json", eval_document() | {"records": []})
    with pytest.raises(InputError, match="no results in it"):
        gather(tmp_path)


def test_one_file_is_enough(tmp_path: Path) -> None:
    path = put(tmp_path, "a.json", eval_document())
    assert [one.file for one in gather(path).evals] == ["a.json"]


def test_the_front_is_what_no_other_beats() -> None:
    for sizes in itertools.product(range(3), repeat=4):
        for losses in itertools.permutations(range(4)):
            points = list(zip(map(float, sizes), map(float, losses), strict=True))
            best = {
                place
                for place, (size, loss) in enumerate(points)
                if not any(s <= size and x <= loss and (s, x) != (size, loss) for s, x in points)
            }
            found = front(points)
            assert set(found) == best
            assert [points[place] for place in found] == sorted(points[place] for place in found)
    assert front([(1.0, 2.0), (1.0, 2.0)]) == [0]
    assert front([]) == []


def titles(table: Table) -> list[str]:
    return [column.title for column in table.columns]


def column(table: Table, title: str) -> list[str]:
    place = titles(table).index(title)
    return [row[place].shown for row in table.rows]


def test_the_quality_table() -> None:
    worse = eval_record(5.0, **{"kl.mean": estimate(3.0, 0.1), "perplexity": estimate(90.0)})
    plain = eval_record(16.0, **{"model.tool": None, "model.method": None, "model.format": "bf16"})
    table = quality([eval_record(8.5), worse, eval_record(4.5), plain])
    assert titles(table) == [
        "format",
        "tool",
        "method",
        "bits per weight",
        "size",
        "perplexity",
        "increase",
        "KL mean (nats)",
        "KL p99 (nats)",
        "top-1",
        "front",
    ]
    assert column(table, "bits per weight") == ["4.50", "5.00", "8.50", "16.00"]
    assert column(table, "front") == ["●", "", "●", "●"]
    assert column(table, "size")[0] == "4.13 MB"
    assert column(table, "perplexity")[:2] == ["33.20 ± 0.20", "90.0"]
    assert column(table, "increase")[:2] == ["+10.7 %", "+200 %"]
    assert column(table, "KL mean (nats)")[:2] == ["0.107 ± 0.011", "3.00 ± 0.10"]
    assert column(table, "top-1")[0] == "89.33 ± 0.30 %"
    assert "20,951 tokens in windows of 512 as mlx-lm cuts them" in table.note
    assert "reference books-7m, perplexity 30.00 ± 0.20" in table.note


def test_texts_have_columns_of_their_own() -> None:
    other = {"text.name": "other.txt", "text.sha256": "ee" * 32}
    records = [eval_record(4.5), eval_record(8.5), eval_record(8.5, **other)]
    table = quality(records, ["kl"])
    assert titles(table)[-4:] == [
        "KL mean (nats), eval.txt",
        "front, eval.txt",
        "KL mean (nats), other.txt",
        "front, other.txt",
    ]
    assert column(table, "KL mean (nats), other.txt")[0] == ""
    assert column(table, "front, other.txt") == ["", "●"]
    same = quality([eval_record(), eval_record(**{"windows.style": "llama.cpp"})], ["kl"])
    assert "KL mean (nats), eval.txt llama.cpp 512/512 vs books-7m" in titles(same)
    with pytest.raises(RequestError, match="one of perplexity, increase, kl, p99, top1 expected"):
        quality(records, ["speed"])


def test_the_quality_table_as_markdown() -> None:
    lines = quality_table([eval_record(4.5), eval_record(8.5)]).splitlines()
    assert lines[0].startswith("| format | tool | method | bits per weight | size | perplexity |")
    assert lines[1].startswith("| --- | --- | --- | ---: | ---: | ---: |")
    assert lines[2].startswith("| affine4-g64 | mlxquant | rtn | 4.50 | 4.13 MB | 33.20 ± 0.20 |")
    assert lines[4] == ""
    assert lines[5].endswith("●: no other is both smaller and better.")
    assert len(lines) == 6


def test_a_table_leaves_out_what_says_nothing() -> None:
    columns = [Column("a"), Column("b"), Column("c")]
    rows = [(Cell("1"), Cell("x"), Cell("")), (Cell("2"), Cell("x"), Cell(""))]
    assert titles(Table.of("t", columns, rows, same=("b",))) == ["a"]
    assert titles(Table.of("t", columns, rows)) == ["a", "b"]


def test_the_speed_table(tmp_path: Path) -> None:
    slow = bench_record(8.5, throttled=True, limit=None, share=None, notes=["fan off"])
    long = bench_record(4.5, context=4096, energy=0.25, decode=timing(1234.5, 0))
    path = put(
        tmp_path,
        "a.json",
        bench_document(slow, long, bench_record(), **{"conditions.power": "battery"}),
    )
    table = speed(gather(path).benches)
    assert column(table, "chip") == ["Apple M2 Pro, 16-core GPU"] * 3
    assert column(table, "bits per weight") == ["4.50", "4.50", "8.50"]
    assert column(table, "context") == ["0", "4,096", "0"]
    assert column(table, "decode (tokens/s)")[1] == "1,234"
    assert column(table, "decode (tokens/s)")[0] == "33,908 (33,230–34,587)"
    assert column(table, "limit (tokens/s)")[2] == ""
    assert column(table, "share") == ["70 %", "70 %", ""]
    assert column(table, "energy (J/token)") == ["", "0.250", ""]
    assert column(table, "remarks")[2] == "throttled; on battery; fan off"
    assert "batch" not in titles(table)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (1.0, "1.00"),
        (41.23, "41.2"),
        (12345.6, "12,346"),
        (-0.5, "-0.500"),
        (1e-9, "1.00e-09"),
        (3e12, "3.00e+12"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_of_a_hostile_name(name: str) -> None:
    table = quality([eval_record(**{"model.format": name, "model.tool": name})])
    head, rule, row = table.markdown().splitlines()
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, row)]
    assert len(set(bars)) == 1
    assert not re.search(r"(?<!\\)[<>`*\[\]$]", row)
    assert row.isprintable()


def test_names_stay_readable_in_markdown() -> None:
    assert markdown_text("Q4_K_M affine4-g64 a.b") == "Q4_K_M affine4-g64 a.b"
    assert markdown_text("_x_ |") == r"\_x\_ \|"


def make(folder: Path) -> Path:
    """Results of two machines, with hostile names among them."""
    evals = [eval_record(bits) for bits in (2.5, 4.5, 8.5)]
    hostile = [eval_record(3 + i / 9, **{"model.format": name}) for i, name in enumerate(HOSTILE)]
    put(folder, "evals.json", eval_document(*evals, *hostile))
    benches = [bench_record(bits, context=c) for bits in (4.5, 8.5) for c in (0, 1024)]
    put(folder, "m2/bench.json", bench_document(*benches))
    put(folder, "other/bench.json", bench_document(*benches, **{"machine.chip": HOSTILE[0]}))
    (folder / "wrong <b>.json").write_text("{}")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_the_files_of_a_report(tmp_path: Path) -> None:
    source = make(tmp_path / "results")
    made = report(source, tmp_path / "out", plots=False)
    assert {path.name for path in made.folder.iterdir()} == set(made.files)
    assert set(made.files) == {"report.html", "report.md", "eval.csv", "bench.csv"}
    assert made.page == tmp_path / "out" / "report.html"
    text = (made.folder / "report.md").read_text()
    for words in ("## books-7m: quality at size", "## Machines", "## Files that were not used"):
        assert words in text
    rows = list(csv.DictReader(io.StringIO((made.folder / "eval.csv").read_text())))
    assert len(rows) == 9
    assert rows[0].keys() >= {"file", "machine.chip", "model.format", "kl.mean.low", "top1.high"}
    by_bits = {row["model.bits_per_weight"]: row for row in rows}
    expected = eval_record(8.5)["kl"]["mean"]["low"]
    assert float(by_bits["8.5"]["kl.mean.low"]) == expected
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    runs = next(csv.DictReader(io.StringIO((made.folder / "bench.csv").read_text())))
    assert len(runs["decode.runs"].split("; ")) == 3


def test_an_output_that_is_there(tmp_path: Path) -> None:
    source = make(tmp_path / "results")
    out = tmp_path / "out"
    out.mkdir()
    report(source, out, plots=False)
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="exists; choose another folder, or --force"):
        report(source, out, plots=False)
    report(source, out, plots=False, force=True)
    assert (out / "mine.txt").read_text() == "keep"
    with pytest.raises(OutputError, match="does not exist; create it first"):
        report(source, tmp_path / "none" / "out", plots=False)
    with pytest.raises(OutputError, match="is a file; choose another folder"):
        report(source, out / "mine.txt", plots=False, force=True)
    with pytest.raises(InputError):
        report(tmp_path / "nothing", tmp_path / "new", plots=False)
    assert not (tmp_path / "new").exists()


def test_the_same_results_make_the_same_bytes(tmp_path: Path) -> None:
    first = report(make(tmp_path / "a"), tmp_path / "out-a")
    assert {"quality.svg", "quality.png", "speed.svg", "memory.png"} <= set(first.files)
    for path in (tmp_path / "a").rglob("*.json"):
        os.utime(path, (0, 0))
    second = report(tmp_path / "a", tmp_path / "out-b")
    assert digests(first.folder) == digests(second.folder)


def test_figures_of_models_with_like_names_have_files_of_their_own(tmp_path: Path) -> None:
    bases = ["a/b", "a b", "../..", "c"]
    records = [bench_record(**{"model.base": base}) for base in bases]
    put(tmp_path / "in", "a.json", bench_document(*records))
    made = report(tmp_path / "in", tmp_path / "out")
    images = {name for name in made.files if name.endswith(".svg")}
    assert images == {"speed-a-b.svg", "speed-a-b-2.svg", "speed-model.svg", "speed-c.svg"}


def ratios(found: Any) -> dict[str, str]:
    return {row[2].shown: row[5].shown for row in found.table.rows}


def test_comparing_benches(tmp_path: Path) -> None:
    first = bench_record(ttft=timing(0.1, 0.02), prefill=timing(1000.0, 0.02))
    second = changed(
        first,
        {"ttft": timing(0.101, 0.02), "prefill": timing(1500.0), "decode": timing(1000.0)},
    )
    a = put(tmp_path, "a.json", bench_document(first))
    b = put(tmp_path, "b.json", bench_document(second, **{"software.mlx": "0.40"}))
    found = compare([a, b])
    assert titles(found.table) == [
        "format",
        "setting",
        "measure",
        "a.json",
        "b.json",
        "b.json / a.json",
    ]
    assert ratios(found) == {
        "first token (s)": "1.01 × (0.970–1.05), within the spread",
        "prefill (tokens/s)": "1.50 × (1.44–1.56), better",
        "decode (tokens/s)": "0.0295 × (0.0283–0.0307), worse",
        "peak memory": "the same",
    }
    assert found.notes == ("mlx: b.json 0.40, a.json 0.32.4",)


def test_comparing_three_files_and_rows_that_only_one_has(tmp_path: Path) -> None:
    a = put(tmp_path, "x/same.json", bench_document(bench_record(), bench_record(8.5)))
    b = put(tmp_path, "y/same.json", bench_document(bench_record(4.5, throttled=True)))
    c = put(tmp_path, "z/same.json", bench_document(bench_record(8.5)))
    found = compare([a, b, c])
    assert titles(found.table)[3:] == [
        "x/same.json",
        "y/same.json",
        "y/same.json / x/same.json",
        "z/same.json",
        "z/same.json / x/same.json",
    ]
    rows = [[cell.shown for cell in row[4:]] for row in found.table.rows]
    assert [row[0] == "" for row in rows] == [False] * 4 + [True] * 4
    assert [row[2] == "" for row in rows] == [True] * 4 + [False] * 4
    assert found.notes == ("y/same.json: the machine throttled during 1 of its measurements",)


def test_comparing_evals(tmp_path: Path) -> None:
    a = put(tmp_path, "a.json", eval_document())
    better = {"records.0.kl.mean": estimate(0.05, 0.01), "records.0.top1": estimate(0.99)}
    b = put(tmp_path, "b.json", eval_document(**better))
    found = ratios(compare([a, b]))
    assert found["perplexity"] == "the same"
    assert found["KL mean (nats)"].endswith(", better")
    assert found["top-1 (share)"].endswith(", better")
    exact = {"records.0.kl.mean": estimate(0.0)}
    c = put(tmp_path, "c.json", eval_document(**exact))
    assert ratios(compare([a, c]))["KL mean (nats)"] == "no ratio to nothing"


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a = put(tmp_path, "a.json", bench_document())
    e = put(tmp_path, "e.json", eval_document())
    other = put(tmp_path, "o.json", bench_document(bench_record(8.5)))
    with pytest.raises(RequestError, match="two results files or more"):
        compare([a])
    with pytest.raises(RequestError, match="holds eval results and .* bench results"):
        compare([a, e])
    with pytest.raises(FileFormatError):
        compare([a, tmp_path / "none.json"])
    assert compare([a, other]).notes[-1].startswith("No model and setting is in two files")


def test_the_very_same_file_twice(tmp_path: Path) -> None:
    a = put(tmp_path, "a.json", bench_document())
    assert set(ratios(compare([a, a])).values()) == {"the same"}
