"""What does gptq cost? `mlxquant quantize --method gptq` against mlx-lm's command, whole processes.

    python benchmarks/gptq.py --gigabytes 0.3 --windows 32 --out gptq.json

A synthetic Llama-shaped model in float32 (products of bfloat16 take MLX many times as long on a
CPU), to 4 bits in groups of 64 every tensor, with as many windows of 512 tokens of the same text,
in turn: wall time, processor time, and peak resident memory. mlx-lm's command runs as it is. Prints
a table on stderr, writes JSON, and exits 1 where a limit is exceeded.

Two parts have a say: the text that goes through the model, which mlx-lm does once and mlxquant
several times, with what is quantized already; and the weights. On a small model with much text, the
first decides (`--bundled`), on larger ones the second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import HERE, PROGRAMS, RunError, median, run, scratch_folder
from quality_makers import Workshop
from reporting import begun, finished, note

from mlxquant.assets import CALIBRATION_TEXT

#: time / mlx-lm's, at most
LIMIT = 0.5


def measure(gigabytes: float | None, windows: int, repeat: int, scratch: Path) -> dict[str, Any]:
    """Both programs in turn; each one's medians. Without a size, the bundled model."""
    shop = Workshop(scratch)
    home = shop.home
    if gigabytes is None:
        model = shop.float32
    else:
        source, model = scratch / "source", scratch / "model"
        note(f"{gigabytes:g} GB: making the checkpoint")
        run(sys.executable, HERE / "synthetic.py", source, str(gigabytes), cwd=scratch)
        shop.in_float32(source, model)
    os.environ["HOME"], os.environ["HF_HUB_OFFLINE"] = str(home), "1"
    ours, theirs = scratch / "ours", scratch / "theirs"
    options = ("--bits", "4", "--group-size", "64")
    text = ("--calibrate", CALIBRATION_TEXT, "--calibrate-windows", str(windows))
    same = ("--fallback-bits", "4", "--num-samples", str(windows))
    one, other = PROGRAMS / "mlxquant", PROGRAMS / "mlx_lm.gptq"
    commands: dict[str, list[str | Path]] = {
        "mlxquant": [one, "quantize", model, "-o", ours, *options, *text],
        "mlx-lm": [other, "--model", model, "--mlx-path", theirs, *options, *same],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(repeat):
        # who goes first changes, so that neither always finds the page cache as the other left it
        for name in list(commands) if number % 2 == 0 else reversed(commands):
            for folder in (ours, theirs):
                shutil.rmtree(folder, ignore_errors=True)
            runs[name].append(run(*commands[name], cwd=scratch))
            found = runs[name][-1]
            note(f"  {name:9}{found['wall']:7.1f} s {found['cpu']:7.1f} s of processor")
    return {name: median(measured) for name, measured in runs.items()}


def table(checks: list[dict[str, Any]]) -> Iterator[str]:
    """The checks, a line each."""
    for check in checks:
        verdict = "ok  " if check["passed"] else "OVER"
        yield f"{verdict} {check['value']:7.3f} (limit {LIMIT:g})  {check['name']} / mlx-lm's"


def main() -> int:
    """Measure, report, and exit with 1 where the limit is exceeded or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--gigabytes", type=float, default=0.3, help="of the checkpoint in bfloat16 (default 0.3)"
    )
    parser.add_argument("--bundled", action="store_true", help="the bundled model instead of one")
    parser.add_argument("--windows", type=int, default=32, help="of the text (default 32)")
    parser.add_argument("--repeat", type=int, default=1, help="turns of each program (default 1)")
    parser.add_argument("--scratch", type=Path, help="where to put models while measuring")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun("What does gptq cost?", "mlx", "mlx-lm", "numpy")
    report |= {
        "gigabytes": None if options.bundled else options.gigabytes,
        "windows": options.windows,
        "repeat": options.repeat,
    }
    try:
        with scratch_folder(options.scratch, 2 * options.gigabytes) as scratch:
            size = report["gigabytes"]
            found = measure(size, options.windows, options.repeat, scratch)
            report["programs"] = found
    except RunError as problem:
        note(f"error: {problem}")
        return 1
    report["checks"] = [
        {
            "name": name,
            "value": found["mlxquant"][name] / found["mlx-lm"][name],
            "limit": LIMIT,
            "passed": found["mlxquant"][name] <= LIMIT * found["mlx-lm"][name],
        }
        for name in ("wall", "cpu")
    ]
    return finished(report, options.out, table(report["checks"]))


if __name__ == "__main__":
    sys.exit(main())
