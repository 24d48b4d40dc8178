"""The documents say what the program says. MLXQUANT_REGENERATE=1 writes docs/cli.md anew."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlxquant.cli import COMMANDS
from support import REPOSITORY, run_cli

from mlxquant import RequestError, formats
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.models.families import FAMILIES

README = REPOSITORY / "README.md"
CLI_PAGE = REPOSITORY / "docs" / "cli.md"
GGUF_PAGE = REPOSITORY / "docs" / "gguf.md"


def cli_page() -> str:
    """Every command's `--help`, as a page."""
    parts = ["# The command line\n", "Made from `--help`; `tests/test_docs.py` compares the two.\n"]
    for arguments in [(), *((name,) for name in COMMANDS)]:
        done = run_cli(*arguments, "--help")
        assert done.returncode == 0, done.stderr
        title = " ".join(("mlxquant", *arguments))
        text = "\n".join(f"    {line}".rstrip() for line in done.stdout.rstrip().splitlines())
        parts.append(f"## {title}\n\n{text}\n")
    parts.append(
        "## Exit status and streams\n\n"
        "| status | meaning |\n|---|---|\n"
        "| 0 | done |\n| 1 | the work failed |\n"
        "| 2 | the input or the command line was wrong |\n| 130 | interrupted |\n\n"
        "Results go to standard output, progress and notes to standard error; there is no\n"
        "progress bar where standard error is no terminal. `HF_HOME`, `HF_TOKEN` and\n"
        "`HF_HUB_OFFLINE` are honoured.\n"
    )
    return "\n".join(parts)


def test_the_command_line_page_is_the_help() -> None:
    page = cli_page()
    if os.environ.get("MLXQUANT_REGENERATE"):
        CLI_PAGE.write_text(page, encoding="utf-8")
    assert CLI_PAGE.read_text(encoding="utf-8") == page


def types_table() -> str:
    """Every ggml type that there is a format for."""
    lines = ["| type | weights a block | bits per weight | encoded |", "|---|---|---|---|"]
    for name in formats.names():
        block = formats.get(name)
        if not isinstance(block, GgmlFormat):
            continue
        rows = np.linspace(-1, 1, block.block_size, dtype=np.float32).reshape(1, -1)
        try:
            block.encode(rows, np.ones(block.block_size, dtype=np.float32))
            encoded = "yes"
        except RequestError:
            encoded = "no"
        lines.append(f"| {name} | {block.block_size} | {block.bpw:.4g} | {encoded} |")
    return "\n".join(lines)


def families_table() -> str:
    """Every family, by what its config.json says and by GGUF's architecture."""
    lines = ["| GGUF architecture | model types |", "|---|---|"]
    lines += [f"| {f.architecture} | {', '.join(f.model_types)} |" for f in FAMILIES]
    return "\n".join(lines)


@pytest.mark.parametrize(("title", "table"), [("Types", types_table), ("Families", families_table)])
def test_the_gguf_page_is_the_code(title: str, table: Callable[[], str]) -> None:
    page = GGUF_PAGE.read_text(encoding="utf-8")
    pattern = rf"(?<=## {title}\n)(@\w+|\|.*?)(?=\n\n)"
    found = re.search(pattern, page, re.DOTALL)
    assert found is not None
    if os.environ.get("MLXQUANT_REGENERATE"):
        page = page[: found.start()] + table() + page[found.end() :]
        GGUF_PAGE.write_text(page, encoding="utf-8")
    assert f"## {title}\n{table()}\n\n" in page


def convert_table() -> str:
    """What benchmarks/convert.py measured last, as README shows it."""
    path = REPOSITORY / "benchmarks" / "results" / "convert.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| bfloat16 model | time | / mlx_lm.convert | peak memory | / mlx_lm.convert |",
        "|---|---|---|---|---|",
    ]
    for size in result["sizes"]:
        ours, theirs = size["mlxquant"], size["mlx_lm"]
        lines.append(
            f"| {size['gigabytes']:g} GB | {ours['wall']:.1f} s | "
            f"{ours['wall'] / theirs['wall']:.2f} × | {ours['peak'] / 1e6:.0f} MB | "
            f"{ours['peak'] / theirs['peak']:.2f} × |"
        )
    machine, versions = result["machine"], result["versions"]
    lines += [
        "",
        f"Whole processes in turn, 4 bits in groups of 64, medians of {result['repeat']}: "
        "`benchmarks/convert.py`,",
        f"{machine['cpu']}, {machine['cores']} cores, no GPU, mlx {versions['mlx']}, "
        f"mlx-lm {versions['mlx-lm']}.",
    ]
    return "\n".join(lines)


def test_readme_shows_what_was_measured() -> None:
    page = README.read_text(encoding="utf-8")
    found = re.search(r"(?<=\n)(@convert|\| bfloat16 model .*?mlx-lm \S+\.)(?=\n)", page, re.DOTALL)
    assert found is not None
    if os.environ.get("MLXQUANT_REGENERATE"):
        page = page[: found.start()] + convert_table() + page[found.end() :]
        README.write_text(page, encoding="utf-8")
    assert f"\n{convert_table()}\n" in page


def test_readme_shows_inspect_s_real_output(tmp_path: Path) -> None:
    readme = README.read_text(encoding="utf-8")
    assert run_cli("quantize", cwd=tmp_path).returncode == 0
    shown = run_cli("inspect", "books-7m-4bit", cwd=tmp_path).stdout.rstrip()
    block = "\n".join(f"    {line}".rstrip() for line in shown.splitlines())
    assert block in readme


def test_readme_s_picture_shows_the_demo_s_real_numbers() -> None:
    picture = (REPOSITORY / "docs" / "demo.svg").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", " ", picture).replace("&#160;", " ")
    for words in ("3.55 times smaller", "affine4-g64", "14.7 MB", "4.14 MB"):
        assert words in text
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "page",
    [README, REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/*.md")],
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
