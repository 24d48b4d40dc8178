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
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.formats import repack
from mlxquant.formats.floats import to_float32
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.load.from_hf import open_folder
from mlxquant.models.families import FAMILIES

README = REPOSITORY / "README.md"
CLI_PAGE = REPOSITORY / "docs" / "cli.md"
GGUF_PAGE = REPOSITORY / "docs" / "gguf.md"
KERNELS_PAGE = REPOSITORY / "docs" / "kernels.md"


def cli_page() -> str:
    """Every command's `--help`, as a page."""
    parts = ["# The command line\n", "Made from `--help`; `tests/test_docs.py` compares the two.\n"]
    commands = [(), *((name,) for name in COMMANDS)]
    commands.insert(commands.index(("bench",)) + 1, ("bench", "compare"))
    for arguments in commands:
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


def into_table() -> str:
    """What becomes of each ggml type in an MLX folder."""
    lines = ["| GGUF | in the folder | bits per weight | stock mlx-lm |", "|---|---|---|---|"]
    for name in formats.names():
        block = formats.get(name)
        if not isinstance(block, GgmlFormat):
            continue
        if block.block_size == 1:
            if name in ("F32", "F16", "BF16"):
                lines.append(f"| {name} | {name}, exact | {block.bpw:.4g} | yes |")
            continue
        target = repack.mlx_format_of(name)
        if target is None:
            lines.append(f"| {name} | its blocks, exact | {block.bpw:.4g} | no |")
        else:
            lines.append(f"| {name} | {target.name}, exact | {target.bpw:.4g} | yes |")
    return "\n".join(lines)


def out_table() -> str:
    """What each MLX format becomes in a GGUF file, tried on rows of the bundled model."""
    tensor = open_folder(BUNDLED_MODEL).stored["model.layers.3.mlp.up_proj.weight"]
    rows = to_float32(tensor.read(0, tensor.size), tensor.dtype).reshape(tensor.shape)
    lines = ["| MLX | GGUF | bits per weight | |", "|---|---|---|---|"]
    for name in formats.mlx_names():
        fmt = formats.get_mlx(name)
        parts = fmt.encode(rows)
        biases = parts[2] if len(parts) > 2 else None
        held = repack.held_by_ggml(fmt, parts[1], biases, lambda parts=parts: parts[0])
        kind = formats.get(held.types[0] if held else "Q8_0")
        result = "exact"
        if not held:
            w = fmt.decode(parts)
            error = np.linalg.norm(w - kind.decode(kind.encode(w))) / np.linalg.norm(w)
            result = f"error {error:.1g}"
        lines.append(f"| {name} | {kind.name} | {fmt.bpw:.4g} → {kind.bpw:.4g} | {result} |")
    return "\n".join(lines)


def exact_table() -> str:
    """The two tables of docs/gguf.md in short, for README."""
    lines = ["| from | to | formats | |", "|---|---|---|---|"]
    for source, to, table in (
        ("GGUF", "MLX folder", into_table()),
        ("MLX folder", "GGUF", out_table()),
    ):
        groups: dict[str, list[str]] = {}
        for line in table.splitlines()[2:]:
            name, target, _, last = (cell.strip() for cell in line.strip("|").split("|"))
            if to == "GGUF":
                name = re.sub(r"affine(\d)-g\d+", r"affine \1 bits", name)
                result = "exact" if last == "exact" else f"as {target}, {last}"
            else:
                kept = "its blocks" in target or name == target.removesuffix(", exact")
                what = "kept as it is" if kept else "repacked into MLX's own"
                result = f"exact, {what}{'' if last == 'yes' else '; mlxquant runs it'}"
            names = groups.setdefault(result, [])
            if name not in names:
                names.append(name)
        lines += [f"| {source} | {to} | {', '.join(n)} | {r} |" for r, n in groups.items()]
        source, to = "", ""
    return "\n".join(lines).replace(" bits, affine ", " ")


def test_readme_shows_what_is_exact() -> None:
    page = README.read_text(encoding="utf-8")
    found = re.search(r"(?<=\n)\| from \| to \|.*?(?=\n\n)", page, re.DOTALL)
    assert found is not None
    made = exact_table()
    if os.environ.get("MLXQUANT_REGENERATE"):
        page = page[: found.start()] + made + page[found.end() :]
        README.write_text(page, encoding="utf-8")
    assert f"\n{made}\n\n" in page


def families_table() -> str:
    """Every family, by what its config.json says and by GGUF's architecture."""
    lines = ["| GGUF architecture | model types |", "|---|---|"]
    lines += [f"| {f.architecture} | {', '.join(f.model_types)} |" for f in FAMILIES]
    return "\n".join(lines)


def perplexity_table() -> str:
    """What benchmarks/gguf_perplexity.py measured last."""
    path = REPOSITORY / "benchmarks" / "results" / "gguf_perplexity.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| file | mlxquant | llama.cpp | difference | difference to llama.cpp in F32 |",
        "|---|---|---|---|---|",
    ]
    for each in result["types"]:
        lines.append(
            f"| {each['type']} | {each['mlxquant']:.3f} | {each['llama']:.3f} "
            f"| {each['difference']:+.3%} | {each['difference_decoded']:+.5%} |"
        )
    return "\n".join(lines)


def speed_tables() -> tuple[str, str]:
    """What benchmarks/gguf.py measured last: conversions, encoders."""
    path = REPOSITORY / "benchmarks" / "results" / "gguf.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    base = result["interpreter"]["peak"]
    conversions = ["| conversion | time | / a plain copy's | memory |", "|---|---|---|---|"]
    for name, found in result["conversions"].items():
        ours = found["mlxquant"]
        conversions.append(
            f"| {name} | {ours['wall']:.1f} s | {found['copy_ratio']:.2f} × "
            f"| {(ours['peak'] - base) / 1e6:.0f} MB |"
        )
    encoders = ["| encoder | mlxquant | llama.cpp |", "|---|---|---|"]
    for found in result["encoders"]:
        speeds = [f"{n / 1e6:.1f}" if (n := found[k]) else "–" for k in ("mlxquant", "llama")]
        encoders.append(f"| {found['type']} | {' | '.join(speeds)} |")
    return "\n".join(conversions), "\n".join(encoders)


@pytest.mark.parametrize(
    ("head", "table"),
    [
        ("| file |", perplexity_table),
        ("| conversion |", lambda: speed_tables()[0]),
        ("| encoder |", lambda: speed_tables()[1]),
        ("| type |", types_table),
        ("| GGUF architecture |", families_table),
        ("| GGUF | in the folder |", into_table),
        ("| MLX | GGUF |", out_table),
    ],
)
def test_the_gguf_page_is_the_code(head: str, table: Callable[[], str]) -> None:
    page = GGUF_PAGE.read_text(encoding="utf-8")
    found = re.search(rf"(?<=\n){re.escape(head)}.*?(?=\n\n)", page, re.DOTALL)
    assert found is not None
    made = table()
    if os.environ.get("MLXQUANT_REGENERATE"):
        page = page[: found.start()] + made + page[found.end() :]
        GGUF_PAGE.write_text(page, encoding="utf-8")
    assert f"\n{made}\n\n" in page


def encode_tables() -> tuple[str, str]:
    """What benchmarks/encode.py measured last: ggml's formats, the affine search."""
    path = REPOSITORY / "benchmarks" / "results" / "encode.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    types = [
        "| type | time | / llama.cpp's | error | with importance | / llama.cpp's | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in result["types"].items():
        figures = (
            f"{each['nanoseconds']['ours']:.2f} | {each['time']:.2f} × | {each['error']:.3f} ×"
            for each in (found["plain"], found["importance"])
        )
        types.append(f"| {name} | {' | '.join(figures)} |")
    bits = ["| bits | search | mx.quantize | ratio |", "|---|---|---|---|"]
    for name, found in result["search"].items():
        ns = found["nanoseconds"]
        bits.append(f"| {name} | {ns['ours']:.1f} | {ns['theirs']:.1f} | {found['time']:.2f} × |")
    return "\n".join(types), "\n".join(bits)


@pytest.mark.parametrize(("head", "number"), [("| type | time |", 0), ("| bits | search |", 1)])
def test_the_kernels_page_shows_what_was_measured(head: str, number: int) -> None:
    page = KERNELS_PAGE.read_text(encoding="utf-8")
    found = re.search(rf"(?<=\n){re.escape(head)}.*?(?=\n\n)", page, re.DOTALL)
    assert found is not None
    made = encode_tables()[number]
    if os.environ.get("MLXQUANT_REGENERATE"):
        page = page[: found.start()] + made + page[found.end() :]
        KERNELS_PAGE.write_text(page, encoding="utf-8")
    assert f"\n{made}\n\n" in page


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
