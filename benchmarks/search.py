"""What does the search for scales cost? mlxquant quantize --method search against --method rtn.

    python benchmarks/search.py --gigabytes 2 --repeat 3 --out search.json

Makes a synthetic Llama-shaped bfloat16 checkpoint (2 GB are 10^9 parameters), quantizes it to 4
bits in groups of 64 with both methods in turn, and compares whole commands: wall time from start to
exit, processor time, and peak resident memory. Beforehand, in one thread: processor time a weight
for each format. Prints a table on stderr, writes JSON, and exits 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import GIB, HERE, PROGRAMS, RunError, median, run, scratch_folder
from reporting import begun, finished, note

#: name → (limit, what is measured); every figure must be at most its limit
LIMITS = {
    "wall": (8.0, "wall time / rounding's, whole command"),
    "cpu": (8.0, "processor time / rounding's, whole command; says more on a machine in use"),
}

METHODS = ("rtn", "search")

FORMATS = (
    *(f"affine{bits}-g64" for bits in (1, 2, 3, 4, 5, 6, 8)),
    "affine4-g32",
    "affine4-g128",
    "mxfp4",
    "mxfp8",
    "nvfp4",
)

#: encodes a matrix of normal weights by both methods: prints processor seconds
ENCODE = """
import sys, time
import numpy as np
from mlxquant.formats import get_mlx
from mlxquant.formats.floats import f32_to_bf16
from mlxquant.quantize.rows import encode_rows
random = np.random.default_rng(0)
rows = f32_to_bf16(random.standard_normal((1024, 2048), dtype=np.float32) * np.float32(0.02))
fmt = get_mlx(sys.argv[1])
for method in ("rtn", "search"):
    encode_rows(fmt, rows[:64], "BF16", method=method)
    began = time.process_time()
    for begin in range(0, 1024, 256):
        encode_rows(fmt, rows[begin : begin + 256], "BF16", method=method)
    print((time.process_time() - began) / rows.size)
"""


def quantize(source: Path, output: Path, method: str, threads: int | None) -> dict[str, float]:
    """One whole command."""
    shutil.rmtree(output, ignore_errors=True)
    command: list[str | Path] = [PROGRAMS / "mlxquant", "quantize", source, "-o", output]
    command += ["--bits", "4", "--group-size", "64", "--method", method]
    if threads is not None:
        command += ["--threads", str(threads)]
    return run(*command, cwd=output.parent)


def measure(gigabytes: float, repeat: int, threads: int | None, scratch: Path) -> dict[str, Any]:
    """Both methods in turn, `repeat` times, on one checkpoint."""
    source = scratch / "source"
    note(f"{gigabytes:g} GB: making the checkpoint")
    run(sys.executable, HERE / "synthetic.py", source, str(gigabytes), cwd=scratch)
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(repeat):
        # Who goes first changes, so that neither always finds the page cache as the other left it.
        for method in METHODS if number % 2 == 0 else reversed(METHODS):
            found = quantize(source, scratch / "out", method, threads)
            runs.setdefault(method, []).append(found)
            note(f"  {method:7}{found['wall']:7.2f} s {found['cpu']:7.2f} s of processor")
    return {method: median(measured) for method, measured in runs.items()}


def speeds(scratch: Path) -> dict[str, dict[str, float]]:
    """Processor nanoseconds a weight, by format and method."""
    found = {}
    for name in FORMATS:
        said = subprocess.run(
            [sys.executable, "-c", ENCODE, name], capture_output=True, text=True, check=True
        )
        seconds = [float(line) for line in said.stdout.split()]
        found[name] = {m: 1e9 * s for m, s in zip(METHODS, seconds, strict=True)}
    return found


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in a few lines."""
    yield "method      wall    processor   peak memory"
    for method in METHODS:
        row = report["commands"][method]
        yield f"{method:7}{row['wall']:8.2f} s{row['cpu']:9.2f} s{row['peak'] / GIB:10.3f} GiB"
    yield "format         rtn  search   ns of processor a weight"
    for name, row in report["formats"].items():
        yield f"{name:13}{row['rtn']:5.1f}{row['search']:8.1f}"
    for check in report["checks"]:
        verdict = "ok  " if check["passed"] else "OVER"
        yield f"{verdict} {check['value']:7.3f} (limit {check['limit']:g})  {check['what']}"


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2, help="of the checkpoint (default 2)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each method (default 3)")
    parser.add_argument("--threads", type=int, help="mlxquant's threads (default: its own)")
    parser.add_argument("--scratch", type=Path, help="where to put checkpoints while measuring")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun("What does the search for scales cost?", "mlx", "numpy")
    report |= {
        "gigabytes": options.gigabytes,
        "threads": options.threads,
    }
    try:
        with scratch_folder(options.scratch, options.gigabytes) as scratch:
            report["formats"] = speeds(scratch)
            report["commands"] = measure(
                options.gigabytes, options.repeat, options.threads, scratch
            )
    except RunError as problem:
        note(f"error: {problem}")
        return 1
    found, plain = (report["commands"][method] for method in ("search", "rtn"))
    report["checks"] = [
        {"name": name, "what": what, "value": found[name] / plain[name], "limit": limit}
        | {"passed": found[name] <= limit * plain[name]}
        for name, (limit, what) in LIMITS.items()
    ]
    return finished(report, options.out, table(report))


if __name__ == "__main__":
    sys.exit(main())
