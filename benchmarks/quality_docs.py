"""docs/quality.md and README.md: the tables and the plot that benchmarks/quality.py measured.

A block is what stands between `<!-- quality:NAME -->` and `<!-- /quality:NAME -->`; everything else
in the pages is written by hand. The plot says in its description which records it shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from quality_plot import plot
from quality_record import IN_LLAMA_CPP

from mlxquant.measure.report_tables import quality_table
from mlxquant.measure.tables import Cell, Column, Table, estimate, number
from mlxquant.quantize.llama_types import FILE_TYPES

__all__ = ["blocks", "digest_of", "picture", "replaced", "write_docs"]

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
PLOT = ROOT / "docs" / "quality.svg"
PAGES = (ROOT / "docs" / "quality.md", ROOT / "README.md")

#: whose bytes are the rows of the short table: name → the model
BUDGETS = {f"{bits} bits": f"mlx-lm/affine{bits}-g64/rtn" for bits in (2, 3, 4, 5, 6)}

#: mlx-lm's methods that calibrate
LEARNED = ("gptq", "awq", "dwq")

#: what each of mlxquant's methods does in the bytes of 3 bits in groups of 64: name → the model
STEPS = {
    "rounding": "mlxquant/affine3-g64/rtn",
    "search": "mlxquant/affine3-g64/search",
    "search, errors weighed by a text": "mlxquant/affine3-g64/search+imatrix",
    "gptq": "mlxquant/affine3-g64/gptq",
    "gptq, scales folded (--awq)": "mlxquant/affine3-g64/gptq+awq",
    "gptq, values rotated (--rotate heads)": "mlxquant/affine3-g64/gptq+rotate",
    "gptq, all rotated, head untied (--rotate full)": "mlxquant/affine3-g64/gptq+rotate-full",
    "gptq, scales trained (--distill)": "mlxquant/affine3-g64/gptq+distill",
    "gptq, formats chosen (--target-size)": "mlxquant/chosen-mlx-lm-affine3-g64/gptq",
    "gptq, formats chosen, scales trained": "mlxquant/chosen-mlx-lm-affine3-g64/gptq+distill",
}


def in_mlx(records: Iterable[Record]) -> list[Record]:
    """The records of models that mlx-lm's model ran, and of the float model."""
    return [
        record
        for record in records
        if record["reference"] is None or record["reference"]["name"] != IN_LLAMA_CPP
    ]


def blocks(records: Sequence[Record]) -> dict[str, str]:
    """What stands in the pages' blocks, by name."""
    ours = in_mlx(records)
    return {
        "all": quality_table(ours, ("kl", "top1", "perplexity")),
        "short": _short(ours),
        "steps": _steps(ours),
        "llama.cpp": _in_llama_cpp(records),
        "plot": plot(ours).caption,
    }


def picture(records: Sequence[Record]) -> str:
    """The plot as SVG."""
    svg = plot(in_mlx(records)).svg().decode()
    head, end, rest = svg.partition(' version="1.1">\n')
    assert end, "matplotlib writes SVG in another way"
    return f"{head}{end}<desc>records {digest_of(records)}</desc>\n{rest}"


def digest_of(records: Sequence[Record]) -> str:
    """What tells these records from others."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()


def replaced(page: str, parts: dict[str, str]) -> str:
    """A page with its blocks written anew.

    Raises:
        ValueError: the page has a block of another name.
    """

    def block(found: re.Match[str]) -> str:
        name = found[1]
        if name not in parts:
            raise ValueError(f"a block quality:{name}, which nobody makes")
        return f"<!-- quality:{name} -->\n{parts[name]}\n<!-- /quality:{name} -->"

    return re.sub(r"<!-- quality:(\S+) -->\n.*?<!-- /quality:\1 -->", block, page, flags=re.DOTALL)


def write_docs(records: Sequence[Record]) -> None:
    """Rewrite the blocks of the pages, and the plot."""
    parts = blocks(records)
    for page in PAGES:
        page.write_text(replaced(page.read_text(encoding="utf-8"), parts), encoding="utf-8")
    PLOT.write_text(picture(records), encoding="utf-8")


def _on_first_text(records: Sequence[Record]) -> list[Record]:
    """Compared records on the text that the bundled model is measured on."""
    return [record for record in records if record["kl"] and record["text"]["name"] == "eval.txt"]


def _short(records: Sequence[Record]) -> str:
    """What each tool makes of so many bytes at best."""
    found = _on_first_text(records)
    by_name = {record["model"]["name"]: record for record in found}
    groups = {
        "mlx_lm.convert": [r for r in found if r["model"]["tool"] == "mlx-lm" and not _learned(r)],
        "mlx-lm's gptq, awq, dwq": [r for r in found if _learned(r)],
        "llama.cpp, importance": [
            r
            for r in found
            if r["model"]["tool"] == "llama.cpp" and r["model"]["method"] == "imatrix"
        ],
        "mlxquant, MLX formats": [r for r in found if _ours(r) and not _is_gguf(r)],
        "mlxquant, GGUF": [r for r in found if _ours(r) and _is_gguf(r)],
    }
    columns = [Column("the bytes of", right=False), Column("bits per weight")]
    columns += [Column(name, right=False) for name in groups]
    rows = []
    for name, key in BUDGETS.items():
        if key not in by_name:
            continue
        model = by_name[key]["model"]
        row = [Cell(f"mlx_lm.convert, {name}"), Cell(f"{model['bits_per_weight']:.2f}")]
        row += [_best(members, model["bytes"]) for members in groups.values()]
        rows.append(row)
    return Table.of("", columns, rows).markdown()


def _steps(records: Sequence[Record]) -> str:
    """Every method of ours at one size, and what it leaves of rounding's divergence."""
    found = {
        (record["model"]["name"], record["text"]["name"]): record
        for record in records
        if record["kl"]
    }
    texts = sorted({text for _, text in found}, reverse=True)
    columns = [Column("method", right=False), Column("bits per weight")]
    columns += [Column(f"{what}, {text}") for text in texts for what in ("KL", "of rounding's")]
    rows = []
    for name, key in STEPS.items():
        there = [found.get((key, text)) for text in texts]
        plain = [found.get((STEPS["rounding"], text)) for text in texts]
        cells = []
        for one, base in zip(there, plain, strict=True):
            if one is None or base is None:
                break
            mine, other = (each["kl"]["mean"]["value"] for each in (one, base))
            cells += [Cell(number(mine)), Cell(f"{mine / other:.2f} ×")]
        else:
            bits = there[0]["model"]["bits_per_weight"] if there and there[0] else 0
            rows.append([Cell(name), Cell(f"{bits:.2f}"), *cells])
    return Table.of("", columns, rows).markdown()


def _ours(record: Record) -> bool:
    return bool(record["model"]["tool"] == "mlxquant")


def _is_gguf(record: Record) -> bool:
    return record["model"]["format"] in FILE_TYPES


def _learned(record: Record) -> bool:
    return record["model"]["tool"] == "mlx-lm" and record["model"]["method"] in LEARNED


def _best(members: list[Record], size: int) -> Cell:
    """The least divergence among models that are no larger."""
    fitting = [record for record in members if record["model"]["bytes"] <= size]
    if not fitting:
        return Cell("")
    best = min(fitting, key=lambda record: float(record["kl"]["mean"]["value"]))
    model = best["model"]
    method = "" if model["method"] in ("imatrix", "plain") else f" {model['method']}"
    return Cell(f"{number(best['kl']['mean']['value'])} ({model['format']}{method})")


def _in_llama_cpp(records: Sequence[Record]) -> str:
    """The same types by two programs, run by llama.cpp."""
    found: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in records:
        if record["reference"] and record["reference"]["name"] == IN_LLAMA_CPP:
            model = record["model"]
            key = (model["format"], model["tool"], model["method"])
            found.setdefault(key, {})[record["text"]["name"]] = record
    texts = sorted({text for there in found.values() for text in there}, reverse=True)
    columns = [Column(name, right=False) for name in ("type", "made by", "method")]
    columns += [Column("bytes"), *(Column(f"KL mean (nats), {text}") for text in texts)]
    rows = []
    for (kind, tool, method), there in sorted(found.items()):
        size = next(iter(there.values()))["model"]["bytes"]
        row = [Cell(kind), Cell(tool), Cell(method), Cell(f"{size:,}")]
        rows.append(
            [*row, *(estimate(there[t]["kl"]["mean"] if t in there else None) for t in texts)]
        )
    return Table.of("", columns, rows).markdown()
