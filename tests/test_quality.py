"""benchmarks/quality.py: its variants can be asked for, its figures are those of the documents."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlxquant.cli.quantize import command
from results_made import estimate, eval_record
from support import REPOSITORY

# behind the package gguf: a script there has its name
sys.path.append(str(REPOSITORY / "benchmarks"))
import quality_docs  # noqa: E402
import quality_goals  # noqa: E402
from quality_record import IN_LLAMA_CPP  # noqa: E402
from quality_variants import VARIANTS, Variant, filled, sizes_asked  # noqa: E402

from mlxquant.measure import results  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "quality.json"


def record(
    name: str, nbytes: int, kl: float, text: str = "eval.txt", **changes: Any
) -> dict[str, Any]:
    """A record of a variant of that name."""
    tool, form, method = name.split("/")
    of = {"name": name, "tool": tool, "format": form, "method": method, "bytes": nbytes}
    made = eval_record(8 * nbytes / 1e6, **{f"model.{key}": value for key, value in of.items()})
    made["text"]["name"] = text
    made["kl"]["mean"] = estimate(kl, kl / 20)
    return made


def in_llama_cpp(one: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(one)
    made["reference"]["name"] = IN_LLAMA_CPP
    return made


def test_the_documents_show_what_was_measured() -> None:
    records = results.load(RESULTS)["records"]
    parts = quality_docs.blocks(records)
    for page in quality_docs.PAGES:
        text = page.read_text(encoding="utf-8")
        assert "<!-- quality:short -->" in text
        assert text == quality_docs.replaced(text, parts), f"{page.name}: quality.py --docs"
    svg = quality_docs.PLOT.read_text(encoding="utf-8")
    assert f"<desc>records {quality_docs.digest_of(records)}</desc>" in svg
    assert len(svg) < 300_000


def test_every_variant_was_measured_on_the_same_windows() -> None:
    records = results.load(RESULTS)["records"]
    named = {record["model"]["name"] for record in records if record["reference"]}
    assert named == {variant.key for variant in VARIANTS}
    assert {r["text"]["name"] for r in records} == {"eval.txt", "eval-other.txt"}
    assert len({(r["text"]["sha256"], r["windows"]["scored"]) for r in records}) == 2


def test_rounding_is_mlx_lm_s() -> None:
    """The same bytes, so the same figures to the last digit."""
    by_name = {}
    for one in results.load(RESULTS)["records"]:
        by_name[one["model"]["name"], one["text"]["name"]] = one["model"]["bytes"], one["kl"]
    both = [(n, n.replace("mlxquant", "mlx-lm"), t) for n, t in by_name if n.endswith("/rtn")]
    pairs = [(ours, theirs, text) for ours, theirs, text in both if (theirs, text) in by_name]
    assert {ours for ours, theirs, _ in pairs if ours != theirs} == {
        f"mlxquant/affine{bits}-g64/rtn" for bits in (2, 3, 4)
    }
    for ours, theirs, text in pairs:
        assert by_name[ours, text] == by_name[theirs, text]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.maker == "mlxquant"], ids=str)
def test_variants_can_be_asked_for(variant: Variant) -> None:
    sizes = dict.fromkeys(sizes_asked(variant), 4_137_472)
    arguments = [text.replace("{imatrix}", "i.gguf") for text in filled(variant, sizes)]
    command.make_context("quantize", ["model", "-o", "out", *arguments])


def test_sizes_of_others_can_be_asked_for() -> None:
    asked = ("--target-size", "{bytes:mlx-lm/affine4-g64/rtn}", "--bits", "4")
    variant = Variant("mlxquant", "mixed", "best", "mlxquant", asked)
    assert sizes_asked(variant) == {"mlx-lm/affine4-g64/rtn"}
    found = filled(variant, {"mlx-lm/affine4-g64/rtn": 123})
    assert found == ["--target-size", "123", "--bits", "4"]
    with pytest.raises(KeyError):
        filled(variant, {})


def test_a_page_with_a_block_that_nobody_makes() -> None:
    page = "a\n<!-- quality:x -->\nold\n<!-- /quality:x -->\nb"
    assert quality_docs.replaced(page, {"x": "new"}) == page.replace("old", "new")
    with pytest.raises(ValueError, match="quality:x"):
        quality_docs.replaced(page, {})


def goal(found: list[quality_goals.Comparison], name: str, peer: str) -> quality_goals.Comparison:
    (one,) = (one for one in found if (one.goal, one.peer) == (name, peer))
    return one


def test_goals_compare_what_is_no_larger() -> None:
    peer = "mlx-lm/affine4-g64/rtn"
    records = [
        record(peer, 1000, 0.020),
        record("mlxquant/affine4-g64/rtn", 1000, 0.020),
        record("mlxquant/affine4-g64/search", 1000, 0.015),
        record("mlxquant/mixed-a/gptq", 1000, 0.005),
        record("mlxquant/mixed-b/gptq", 1001, 0.001),
        record("mlxquant/Q4_0/imatrix", 1000, 0.002),
        record("llama.cpp/Q4_K_M/imatrix", 1000, 0.004),
        record("mlx-lm/affine4-g64/awq", 999, 0.0049),
    ]
    found = quality_goals.comparisons(records)
    convert = goal(found, "convert", peer)
    assert (convert.ours, convert.ratio, convert.passed) == ("mlxquant/mixed-a/gptq", 0.25, True)
    search = goal(found, "search", "mlxquant/affine4-g64/rtn")
    assert search.ratio == pytest.approx(0.75)
    assert search.passed
    theirs = goal(found, "llama.cpp", "llama.cpp/Q4_K_M/imatrix")
    assert (theirs.ours, theirs.ratio) == ("mlxquant/Q4_0/imatrix", 0.5)
    awq = goal(found, "calibrated", "mlx-lm/affine4-g64/awq")
    assert (awq.ours, awq.ratio, awq.passed) == (None, None, False)


def test_equal_is_not_below_and_missing_is_not_kept() -> None:
    records = [
        record("llama.cpp/Q4_K_M/imatrix", 1000, 0.004),
        record("mlxquant/mixed-a/gptq", 1000, 0.004),
    ]
    found = quality_goals.comparisons(records)
    theirs = goal(found, "llama.cpp", "llama.cpp/Q4_K_M/imatrix")
    assert theirs.ratio == 1
    assert not theirs.passed
    assert not any(one.passed for one in found)
    assert quality_goals.lines(found)[-1] == f"0 of {len(found)} limits are kept"


def test_one_of_ours_stands_for_all_texts() -> None:
    """The best on the first text is what the second is compared with, better or not."""
    peer = "llama.cpp/Q4_K_M/imatrix"
    records = [
        record(peer, 1000, 0.004),
        record(peer, 1000, 0.004, "eval-other.txt"),
        record("mlxquant/mixed-a/gptq", 1000, 0.002),
        record("mlxquant/mixed-a/gptq", 1000, 0.005, "eval-other.txt"),
        record("mlxquant/mixed-b/gptq", 1000, 0.003),
        record("mlxquant/mixed-b/gptq", 1000, 0.001, "eval-other.txt"),
    ]
    found = [o for o in quality_goals.comparisons(records) if o.peer == peer]
    found = [one for one in found if one.goal == "llama.cpp"]
    assert [(o.text, o.ours, o.ratio) for o in found] == [
        ("eval.txt", "mlxquant/mixed-a/gptq", 0.5),
        ("eval-other.txt", "mlxquant/mixed-a/gptq", 1.25),
    ]


def test_the_same_type_is_compared_where_llama_cpp_runs_it() -> None:
    theirs = record("llama.cpp/Q2_K/imatrix", 1000, 0.10)
    ours = record("mlxquant/Q2_K/imatrix", 1000, 0.02)
    slower = record("mlxquant/Q2_K/imatrix", 1000, 0.09)
    records = [theirs, in_llama_cpp(theirs), ours, in_llama_cpp(slower)]
    one = goal(quality_goals.comparisons(records), "same type", "llama.cpp/Q2_K/imatrix")
    assert one.ratio == pytest.approx(0.9)


@pytest.mark.slow
def test_a_run_is_continued_and_equal_weights_are_measured_once(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    script = [sys.executable, REPOSITORY / "benchmarks" / "quality.py", "--cache", tmp_path / "c"]
    script += ["--windows", "1", "--out", out]
    names = ["mlxquant/affine4-g64/rtn", "mlx-lm/affine4-g64/rtn", "llama.cpp/Q2_K/imatrix"]
    only = [word for name in names for word in ("--only", name)]
    done = subprocess.run([*script, *only], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines() if "KL" in line] == names
    document = json.loads(out.read_text())
    results.validate(document)
    found = {}
    for one in document["records"]:
        if one["kl"]:
            key = one["model"]["name"], one["text"]["name"], one["reference"]["name"]
            found[key] = one
    assert len(found) == 8
    for text in ("eval.txt", "eval-other.txt"):
        ours, theirs = (found[name, text, "books-7m"]["kl"] for name in names[:2])
        assert ours == theirs
        in_mlx = found[names[2], text, "books-7m"]["kl"]["mean"]["value"]
        there = found[names[2], text, IN_LLAMA_CPP]["kl"]["mean"]["value"]
        assert 0.9 < there / in_mlx < 1.2
