"""`mlxquant bench`: its table, its file, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxquant.assets import BUNDLED_MODEL
from mlxquant.measure import bandwidth, results

FAST = ("--prompt-lengths", "4", "--generate", "3", "--repeat", "2", "--warmup", "0")


@pytest.fixture(autouse=True, scope="module")
def small_memory() -> Iterator[None]:
    """Bandwidth in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "SIZE", 8 << 20)
        yield
    bandwidth.measure_bandwidth.cache_clear()


def test_a_table_and_a_file(run: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = run("bench", *FAST, "--batch-sizes", "1,2", "-o", file)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["model", "books-7m,", "bf16,", "14.7", "MB"]
    header = next(line for line in lines if line.startswith("prompt"))
    assert " ".join(header.split()) == (
        "prompt context batch first token prefill decode quartiles limit share memory"
    )
    rows = [line.split() for line in lines if line.lstrip().startswith("4 ")]
    assert [row[:3] for row in rows] == [["4", "0", "1"], ["4", "0", "2"]]
    assert f"results: {file}\n" == done.err
    document = results.load(file)
    assert [record["batch"] for record in document["records"]] == [1, 2]
    assert document["kind"] == "bench"


def test_json_alone(run: Callable[..., Any]) -> None:
    """With MODEL before its options."""
    done = run("bench", BUNDLED_MODEL, *FAST, "--json")
    assert done.status == 0
    document = json.loads(done.out)
    results.validate(document)
    assert document["records"][0]["generated"] == 3
    assert done.err == ""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--generate", "1"], "error: --generate 1: at least 2 is possible\n"),
        (["--batch-sizes", "0"], "error: --batch-sizes 0: at least 1 is possible\n"),
        (["--prompt-lengths", "12,x"], "'x' is no number of tokens, like 512 or 4k"),
        (["--prompt-lengths", ""], "'' is no number of tokens"),
        (["--prompt-lengths", "9999999999"], "is no number of tokens"),
        (["no/such/folder"], "error: "),
        (["one", "two"], "one MODEL at a time; unexpected 'two'"),
        (["-o", "no/such/folder/x.json"], "there is no folder no/such/folder: make it first"),
        (["-o", "."], "error: .: is a folder; name a file in it\n"),
        (["compare"], "Missing argument 'A.json B.json…'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(run: Callable[..., Any], args: list[str], said: str) -> None:
    done = run("bench", *args)
    assert done.status == 2
    assert done.out == ""
    assert said in done.err


def test_thousands_of_tokens() -> None:
    from mlxquant.cli.bench import command

    context = command.make_context("bench", ["--prompt-lengths", "128, 4k", "--context-lengths=1K"])
    assert context.params["prompts"] == (128, 4096)
    assert context.params["contexts"] == (1024,)
    assert context.params["model"] is None


def test_compare_is_no_model() -> None:
    """A model in a folder of that name is `./compare`."""
    from mlxquant.cli.bench import command

    assert "model" not in command.make_context("bench", ["compare", "a.json"]).params
    assert command.make_context("bench", ["./compare"]).params["model"] == "./compare"


def test_files_side_by_side(run: Callable[..., Any], tmp_path: Path) -> None:
    slow, fast = tmp_path / "slow.json", tmp_path / "fast.json"
    assert run("bench", *FAST, "-o", slow).status == 0
    document = results.load(slow)
    decode = document["records"][0]["decode"]
    for name in ("median", "low", "high"):
        decode[name] *= 2
    decode["runs"] = [2 * rate for rate in decode["runs"]]
    results.save(fast, document)
    done = run("bench", "compare", slow, fast)
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if "decode (tokens/s)" in line)
    assert "2.00 ×" in line
    found = json.loads(run("bench", "compare", "--json", slow, fast).out)
    assert {row["fast.json / slow.json"] for row in found["rows"]} >= {"the same"}
    assert run("bench", "compare", slow).status == 2


@pytest.mark.parametrize("args", [["--help"], ["compare", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from mlxquant.cli import app; "
        f"app.main(['bench', *{args}], standalone_mode=False); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlx", "mlx_lm", "numpy", "transformers"} & set(done.stdout.split())
