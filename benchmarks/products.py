"""How fast are packed weights multiplied by one row of x, and by eight, on this processor?

    python benchmarks/products.py --out products.json

For every format of GGUF files one thread multiplies random blocks by float32 rows of 4096 numbers,
with the decoder that the format has (kernels/host/wide_formats.h, wide_codebooks.h) and, in turn,
with the one that any format's own source makes (wide.h). The weights are more than caches hold. The
figures are medians of processor time, which counts no other program's; bytes are those of blocks.
Prints a table on stderr, writes JSON, and exits 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from convert import RunError
from mlxquant.kernels import host
from mlxquant.kernels.answers import exact_blocks
from mlxquant.kernels.host import product
from mlxquant.kernels.source import FORMATS
from reporting import begun, finished, note

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat

#: numbers of a row
WIDTH = 4096
#: rows of x
ROWS = (1, 8)
#: of one row each format reaches one of them: bytes of blocks a second, weights a second
BYTES, WEIGHTS = 1.5e9, 5e9
#: whose decoders
KINDS = ("own", "any")


def prepared(fmt: GgmlFormat, kind: str) -> product.Product:
    """A format's product with its own decoder, or with the one that any format has."""
    text = product.program(fmt.name)
    own = f"struct Wide<struct {fmt.name}>"
    if own not in text:
        raise RunError(f"{fmt.name} has no decoder of its own")
    text = text if kind == "own" else text.replace(own, "struct Wide<struct None>")
    host.forget()
    with mock.patch.object(product, "program", lambda _: text):
        made = product.product(fmt)
    if made is None:
        raise RunError(f"{fmt.name}: {product.reason(fmt)}")
    return made


def measure(fmt: GgmlFormat, megabytes: float, repeat: int) -> dict[str, Any]:
    """Seconds of processor time, by kind and rows of x, and what they were for."""
    few = exact_blocks(fmt, 64, WIDTH)
    height = max(1, round(megabytes * 1e6 / few.nbytes))
    wire = np.tile(few, (height, 1))
    kinds = {kind: prepared(fmt, kind) for kind in KINDS}
    spent: dict[str, dict[int, list[float]]] = {k: {m: [] for m in ROWS} for k in KINDS}
    random = np.random.default_rng(0)
    for m in ROWS:
        x = random.standard_normal((m, WIDTH), np.float32)
        results = [made.matmul(x, wire, "F32", 1) for made in kinds.values()]
        if not np.array_equal(*results):
            raise RunError(f"{fmt.name}: the decoders differ")
        for number in range(repeat):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                before = time.thread_time()
                kinds[kind].matmul(x, wire, "F32", 1)
                spent[kind][m].append(time.thread_time() - before)
    seconds = {
        kind: {str(m): statistics.median(found) for m, found in by_rows.items()}
        for kind, by_rows in spent.items()
    }
    return {"bytes": wire.nbytes, "weights": wire.shape[0] * WIDTH, "seconds": seconds}


def rates(found: dict[str, Any], kind: str, rows: int) -> tuple[float, float]:
    """Bytes of blocks and weights a second."""
    seconds = float(found["seconds"][kind][str(rows)])
    return found["bytes"] / seconds, found["weights"] / seconds


def judge(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """How far each format is above the nearer of its limits."""
    checks = []
    for name, found in measured.items():
        by_bytes, by_weights = rates(found, "own", 1)
        value = max(by_bytes / BYTES, by_weights / WEIGHTS)
        what = f"{name}: of {BYTES / 1e9:g} GB/s or {WEIGHTS / 1e9:g} G weights/s, the better share"
        checks.append({"what": what, "value": value, "limit": 1.0, "passed": value >= 1.0})
    return checks


def markdown(report: dict[str, Any]) -> list[str]:
    """The table of docs/kernels.md."""
    lines = ["| format | GB/s | G weights/s | / any format's decoder | eight rows, G weights/s |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, found in report["measured"].items():
        by_bytes, by_weights = (rate / 1e9 for rate in rates(found, "own", 1))
        before = by_bytes / (rates(found, "any", 1)[0] / 1e9)
        eight = rates(found, "own", 8)[1] / 1e9
        lines.append(
            f"| {name} | {by_bytes:.1f} | {by_weights:.1f} | {before:.1f} × | {eight:.1f} |"
        )
    return lines


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in a few lines."""
    yield from markdown(report)
    for check in report["checks"]:
        if not check["passed"]:
            yield f"UNDER {check['value']:7.3f} (limit {check['limit']:g})  {check['what']}"


def main() -> int:
    """Measure, report, and exit with 1 where a limit is missed or a product cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--formats", nargs="*", default=FORMATS, help="default: every one")
    parser.add_argument("--megabytes", type=float, default=48, help="of blocks (default 48)")
    parser.add_argument("--repeat", type=int, default=9, help="runs of each (default 9)")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun(
        "How fast are packed weights multiplied by few rows of x on this processor?", "numpy"
    )
    report |= {
        "width": WIDTH,
        "measured": {},
    }
    try:
        for name in options.formats:
            fmt = formats.get(name)
            if not isinstance(fmt, GgmlFormat):
                raise RunError(f"{name} is no format of GGUF files")
            report["measured"][name] = measure(fmt, options.megabytes, options.repeat)
            note(f"  {name:8}{rates(report['measured'][name], 'own', 1)[0] / 1e9:6.2f} GB/s")
    except RunError as problem:
        note(f"error: {problem}")
        return 1
    report["machine"]["load_after"] = os.getloadavg()[0]
    report["checks"] = judge(report["measured"])
    return finished(report, options.out, table(report))


if __name__ == "__main__":
    sys.exit(main())
