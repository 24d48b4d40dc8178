"""What do the kernels read, and how much do they reckon? Counted, not timed: no GPU is needed.

    python benchmarks/kernels.py                       # every kernel of every format, 15 minutes
    python benchmarks/kernels.py --only 'matvec/Q4_K'  # these, anew
    python benchmarks/kernels.py --docs                # the tables of docs/kernels.md

Each kernel runs on a few rows of weights of a large matrix, on this processor, every access watched
(mlxquant/kernels/host/counts.py) and every operation counted (arithmetic.py): bytes of weights read
over bytes stored, the share of them that comes in whole cache lines, operations per weight. From
these and published rates of Apple's chips follows the speed that a chip allows: kernels_speed.py.
Prints a table on stderr, writes JSON, and exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from kernels_docs import write_docs
from kernels_speed import CHIPS, speeds
from mlxquant.kernels import launch
from mlxquant.kernels.host.check import CheckedKernel
from mlxquant.kernels.host.compiler import find
from mlxquant.kernels.host.counts import LINE, LINES, counted
from mlxquant.kernels.source import FORMATS, call, header
from reporting import commit, note

from mlxquant import formats
from mlxquant.formats.base import STORAGE
from mlxquant.formats.ggml_format import GgmlFormat

RESULTS = Path(__file__).resolve().parent / "results" / "kernels.json"

#: kernel → what of its counts is held against a goal: a threadgroup's lines where simdgroups share
#: rows, or take blocks that lie side by side
HELD = {
    "dequantize": ("read", "together"),
    "matvec": ("read", "whole"),
    "matvec_split": ("read", "together"),
    "matvec_rows": ("read", "whole"),
    "matmul": ("read", "whole"),
    "gather_matvec": ("read", "whole"),
    "gather_matmul": ("read", "whole"),
}
#: at most this is read of each byte, and at least this share comes in whole lines
READ, WHOLE = 1.0, 0.9

#: rows of weights of the whole matrix, and of one that leaves a GPU idle
_MANY, _FEW = 14336, 1024
_DTYPE = "F16"
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A kernel of one format on a few rows.

    Attributes:
        run: how it is started.
        inputs: for it.
        weights: how many these are.
    """

    run: launch.Launch
    inputs: list[Any]
    weights: int


def _wire(fmt: GgmlFormat, *shape: int, k: int) -> Any:
    """Any bytes: which are read does not depend on what they are."""
    row = k // fmt.block_size * fmt.block_bytes
    return np.random.default_rng(1).integers(0, 256, (*shape, row), np.uint8)


def _x(rows: int, k: int) -> Any:
    return np.ones((rows, k), STORAGE[_DTYPE])


def _some(run: launch.Launch, rows: int, of: int) -> launch.Launch:
    """The launch for a matrix of so many rows, on the first of them alone."""
    grid = (run.grid[0] * rows // of, *run.grid[1:])
    return dataclasses.replace(run, grid=grid, shape=(run.shape[0], rows))


def _matvec(fmt: GgmlFormat, m: int, n: int) -> Case:
    k, rows = 4096, 16
    wire, x = _wire(fmt, rows, k=k), _x(m, k)
    run = launch.matvec(fmt, x.shape, (n, wire.shape[1]), _DTYPE)
    return Case(_some(run, rows, n), [x, wire], rows * k)


def _matmul(fmt: GgmlFormat) -> Case:
    k, rows = 4096, 64
    wire, x = _wire(fmt, rows, k=k), _x(64, k)
    run = launch.matmul(fmt, x.shape, (_MANY, wire.shape[1]), _DTYPE)
    return Case(_some(run, rows, _MANY), [x, wire], rows * k)


def _gather(fmt: GgmlFormat, pairs: int, k: int, rows: int) -> Case:
    """Two experts, each with half of the rows of x."""
    wire, x = _wire(fmt, 2, rows, k=k), _x(pairs, k)
    ids = np.repeat(np.arange(2, dtype=np.uint32), pairs // 2)
    start = launch.gather_matvec if pairs == 2 else launch.gather_matmul
    run = start(fmt, x.shape, (2, _MANY, wire.shape[2]), _DTYPE)
    padded = np.pad(ids, (0, max(0, launch.DEVICE - pairs)))
    return Case(_some(run, rows, _MANY), [x, padded, wire], 2 * rows * k)


def _dequantize(fmt: GgmlFormat) -> Case:
    wire = _wire(fmt, 16, k=4096)
    return Case(launch.dequantize(fmt, wire.shape, _DTYPE), [wire], 16 * 4096)


CASES: dict[str, Callable[[GgmlFormat], Case]] = {
    "dequantize": _dequantize,
    "matvec": lambda fmt: _matvec(fmt, 1, _MANY),
    "matvec_split": lambda fmt: _matvec(fmt, 1, _FEW),
    "matvec_rows": lambda fmt: _matvec(fmt, 8, _MANY),
    "matmul": _matmul,
    "gather_matvec": lambda fmt: _gather(fmt, 2, 4096, 16),
    "gather_matmul": lambda fmt: _gather(fmt, 32, 4096, 64),
}


def count(kernel: str, name: str) -> Record:
    """The record of one kernel of one format."""
    fmt = formats.get(name)
    assert isinstance(fmt, GgmlFormat)
    case = CASES[kernel](fmt)
    of = case.run.kernel
    checked = CheckedKernel(of.name, list(of.inputs), ["out"], call(name, of), header(name, of))
    asked = (case.run.grid, case.run.threadgroup, [case.run.shape], [STORAGE[_DTYPE]])
    counts = counted(checked.watched("wire", case.inputs, *asked))
    did = None
    if not kernel.startswith("gather"):
        # those of experts reckon as matvec and matmul do
        came = dataclasses.asdict(checked.operations(case.inputs, *asked))
        did = {kind: times / case.weights for kind, times in came.items()}
    return {
        "kernel": kernel,
        "format": name,
        "bpw": fmt.bpw,
        "name": of.name,
        "rows": case.run.shape[0],
        "weights": case.weights,
        **dataclasses.asdict(counts),
        "operations": did,
    }


def lines(records: list[Record]) -> Iterator[str]:
    """The counts, a line each."""
    yield "kernel         format    read  loaded  lines  group  float    int   slow"
    for r in records:
        did = r["operations"] or dict.fromkeys(("float", "integer", "slow"), float("nan"))
        yield (
            f"{r['kernel']:14} {r['format']:8} {r['read']:5.2f}  {r['loaded']:6.2f}  "
            f"{r['whole']:5.3f}  {r['together']:5.3f}  {did['float']:5.2f}  {did['integer']:5.2f}  "
            f"{did['slow']:5.2f}  {r['name']}"
        )


def goals(records: list[Record]) -> list[Record]:
    """Of each kernel that has goals, the worst format."""
    checks = []
    for kernel, fields in HELD.items():
        found = [r for r in records if r["kernel"] == kernel]
        for field in fields if found else ():
            reads = field == "read"
            worst = (max if reads else min)(found, key=lambda r: float(r[field]))
            value, limit = worst[field], READ if reads else WHOLE
            passed = value <= limit if reads else value >= limit
            checks.append(
                {"kernel": kernel, "what": field, "worst": worst["format"]}
                | {"value": value, "limit": limit, "passed": passed}
            )
    return checks


def report(records: list[Record]) -> Record:
    """The results file."""
    matvec = {r["format"]: r for r in records if r["kernel"] == "matvec"}
    return {
        "question": "What do the kernels read, and how much do they reckon?",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "clang": find().version.splitlines()[0],
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("mlxquant", "numpy")},
        "cache": {"line_bytes": LINE, "lines": LINES},
        "dtype": _DTYPE,
        "kernels": records,
        "chips": [dataclasses.asdict(chip) for chip in CHIPS],
        "speeds": {name: speeds(record) for name, record in matvec.items()},
        "checks": goals(records),
    }


def main() -> int:
    """Count, report, and exit with 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--only", action="append", help="kernel/format, a pattern: the others stay as they are"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    parser.add_argument("--docs", action="store_true", help="count nothing; write docs/kernels.md")
    options = parser.parse_args()
    before = json.loads(options.out.read_text())["kernels"] if options.out.exists() else []
    if options.docs:
        write_docs(json.loads(options.out.read_text()))
        return 0
    known = {(r["kernel"], r["format"]): r for r in before}
    for kernel in CASES:
        for name in FORMATS:
            patterns = options.only or ["*"]
            if not any(fnmatchcase(f"{kernel}/{name}", pattern) for pattern in patterns):
                continue
            known[kernel, name] = count(kernel, name)
            note(list(lines([known[kernel, name]]))[1])
    records = [known[k, f] for k in CASES for f in FORMATS if (k, f) in known]
    found = report(records)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for line in lines(records):
        note(line)
    for check in found["checks"]:
        note(
            f"{check['kernel']}, {check['what']}: {check['value']:.3f} ({check['worst']}); "
            f"goal {check['limit']}"
        )
    return 0 if all(check["passed"] for check in found["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
