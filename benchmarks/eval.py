"""How much longer does `mlxquant eval` take than the forward passes that it cannot do without?

    python benchmarks/eval.py --repeat 3 --out benchmarks/results/eval.json
    python benchmarks/eval.py --windows 16 --repeat 5        # a part of the text

The bundled model in 4 bits against itself as it is, on the bundled text, windows of 512. Measured
in turn, as processes of their own:

    forward   both models over the windows, 8 at a time, loaded as eval loads them, logits computed
              and thrown away; the time is that of these passes alone, without imports and loading
    eval      `mlxquant eval 4bit --reference bundled`, the whole process from start to exit

On Linux MLX multiplies by the BLAS that its package brings, which is slow; with another one
preloaded (LD_PRELOAD) the passes are many times as fast, and what eval adds to them weighs more.
The JSON says which it was.

Prints a table on stderr, writes JSON, and exits 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import PROGRAMS, median, run
from reporting import begun, finished, note

from mlxquant.assets import BUNDLED_MODEL

#: name → (limit, what is measured); every figure must be at most its limit
LIMITS = {
    "wall_ratio": (1.3, "wall time of eval / of the two forward passes alone"),
    "peak_bytes": (1e9, "peak resident memory of eval, bytes"),
}

FORWARD = """
import json, os, sys, time
import mlx.core as mx
from mlxquant import open_checkpoint
from mlxquant.measure.session import load_to_measure, usual_dtype
from mlxquant.measure.text import Cutting, read_text
text, most, target = read_text(), int(sys.argv[1]) or None, sys.argv[2]
wall = cpu = 0.0
for path in sys.argv[3:]:
    model, tokenizer = load_to_measure(open_checkpoint(path), usual_dtype())
    windows = Cutting(most=most).windows(tokenizer, text)
    began, busy = time.perf_counter(), sum(os.times()[:2])
    for begin in range(0, windows.count, 8):
        mx.eval(model(mx.array(windows.inputs[begin : begin + 8])))
    wall += time.perf_counter() - began
    cpu += sum(os.times()[:2]) - busy
with open(target, "w") as file:
    json.dump({"wall": wall, "cpu": cpu, "windows": windows.count}, file)
"""


def forward(scratch: Path, small: Path, windows: int) -> dict[str, float]:
    """The two forward passes alone."""
    target = scratch / "forward.json"
    found = run(
        sys.executable, "-c", FORWARD, str(windows), target, BUNDLED_MODEL, small, cwd=scratch
    )
    passes: dict[str, float] = json.loads(target.read_text())
    return {**passes, "process": found["wall"], "peak": found["peak"]}


def evaluate(scratch: Path, small: Path, windows: int) -> dict[str, float]:
    """The whole evaluation."""
    command: list[str | Path] = [PROGRAMS / "mlxquant", "eval", small, "--reference", BUNDLED_MODEL]
    return run(*command, *(["--windows", str(windows)] if windows else []), cwd=scratch)


def table(checks: list[dict[str, Any]]) -> Iterator[str]:
    """The checks, a line each."""
    for check in checks:
        verdict = "ok  " if check["passed"] else "OVER"
        yield f"{verdict} {check['value']:.4g} (limit {check['limit']:g})  {check['what']}"


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--windows", type=int, default=0, help="so many at most (default: all)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun(
        "How much longer does eval take than the two forward passes alone?",
        "mlx",
        "mlx-lm",
        "numpy",
    )
    report |= {
        "preloaded": [Path(name).name for name in os.environ.get("LD_PRELOAD", "").split()],
        "repeat": options.repeat,
    }
    runs: dict[str, list[dict[str, float]]] = {"forward": [], "eval": []}
    with tempfile.TemporaryDirectory(prefix="mlxquant-benchmark-") as name:
        scratch = Path(name)
        small = scratch / "books-7m-4bit"
        run(PROGRAMS / "mlxquant", "quantize", "-o", small, "--bits", "4", cwd=scratch)
        turns = [("forward", forward), ("eval", evaluate)]
        for number in range(options.repeat):
            # who goes first changes, so that a machine that heats up or cools down harms neither
            for what, measure in turns if number % 2 == 0 else reversed(turns):
                found = measure(scratch, small, options.windows)
                runs[what].append(found)
                note(f"  {what:8}{found['wall']:8.1f} s {found['cpu']:8.1f} s of CPU")
    report |= {what: median(measured) for what, measured in runs.items()}
    pairs = list(zip(runs["eval"], runs["forward"], strict=True))
    for kind in ("wall", "cpu"):
        report[f"{kind}_ratio"] = statistics.median(a[kind] / b[kind] for a, b in pairs)
    report["peak_bytes"] = report["eval"]["peak"]
    report["checks"] = [
        {"name": key, "what": what, "value": report[key], "limit": limit}
        | {"passed": report[key] <= limit}
        for key, (limit, what) in LIMITS.items()
    ]
    return finished(report, options.out, table(report["checks"]))


if __name__ == "__main__":
    sys.exit(main())
