"""The tables of docs/kernels.md: what benchmarks/kernels.py counted.

A block is what stands between `<!-- kernels:NAME -->` and `<!-- /kernels:NAME -->`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kernels_speed import WEIGHTS

__all__ = ["PAGE", "blocks", "replaced", "write_docs"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
Record = dict[str, Any]

#: of the table of speeds
_SHOWN = ("M1", "M1 Max", "M2", "M2 Max", "M3", "M3 Max", "M4", "M4 Max", "M5", "M5 Max")


def write_docs(document: Record) -> None:
    """Rewrite the blocks of the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(page, blocks(document)), encoding="utf-8")


def blocks(document: Record) -> dict[str, str]:
    """Name → the block's text."""
    records = document["kernels"]
    return {
        "kernels": _kernels(records),
        "formats": _formats([r for r in records if r["kernel"] == "matvec"]),
        "speeds": _speeds(document["speeds"]),
    }


def replaced(page: str, parts: dict[str, str]) -> str:
    """A page with its blocks written anew.

    Raises:
        KeyError: the page has a block of another name.
    """

    def block(found: re.Match[str]) -> str:
        return f"<!-- kernels:{found[1]} -->\n{parts[found[1]]}\n<!-- /kernels:{found[1]} -->"

    pattern = r"<!-- kernels:(\S+) -->\n.*?<!-- /kernels:\1 -->"
    return re.sub(pattern, block, page, flags=re.DOTALL)


def _kernels(records: Sequence[Record]) -> str:
    """Over all formats, the worst of each kernel."""
    rows = []
    for kernel in dict.fromkeys(r["kernel"] for r in records):
        found = [r for r in records if r["kernel"] == kernel]
        # simdgroups that share rows, or take neighbouring blocks, share lines
        shared = kernel == "dequantize" or kernel.endswith("split")
        field = "together" if shared else "whole"
        worst = min(found, key=lambda r: float(r[field]))
        did = [sum(r["operations"].values()) for r in found if r["operations"]]
        rows.append(
            (
                f"`{kernel}`",
                "" if kernel == "dequantize" else str(found[0]["rows"]),
                f"{max(r['read'] for r in found):.2f}",
                f"{worst[field]:.2f}" + (f" ({worst['format']})" if worst[field] < 0.995 else ""),
                f"{min(did):.1f} – {max(did):.1f}" if did else "",
            )
        )
    heads = ("kernel", "rows of x", "read / stored", "in whole lines", "operations per weight")
    return _table(heads, rows)


def _formats(records: Sequence[Record]) -> str:
    rows = [
        (
            r["format"],
            f"{r['bpw']:.4g}",
            f"{r['loaded']:.2f}",
            _loads(r["loads"]),
            f"{r['whole']:.2f}",
            *(f"{r['operations'][kind]:.1f}" for kind in ("float", "integer", "slow")),
        )
        for r in records
    ]
    heads = ("format", "bits", "loaded / stored", "widths of loads", "in whole lines")
    return _table((*heads, "float", "integer", "slow"), rows)


def _loads(loads: dict[str, int]) -> str:
    """Bytes a load, the most frequent first."""
    return ", ".join(sorted(loads, key=lambda width: -loads[width]))


def _speeds(speeds: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = []
    for name, by_chip in speeds.items():
        cells = []
        for chip in _SHOWN:
            speed = by_chip[f"Apple {chip}"]
            tokens, limit = speed["tokens"], speed["limit"]
            cells.append(
                f"{tokens:.0f}" if tokens > 0.995 * limit else f"{tokens:.0f} of {limit:.0f}"
            )
        rows.append((name, *cells))
    return _table(("format", *_SHOWN), rows) + (
        f"\n\nTokens a second of a model with {WEIGHTS // 10**9} · 10⁹ weights, all of them in the "
        "format; `of` names what bandwidth alone allows, where arithmetic is slower."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ("---", *("---:",) * (len(heads) - 1))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows))
