"""Is the Swift runtime faster than mlxquant's Python on a processor? Tokens a second, side by side.

    python benchmarks/swift_generate.py --out benchmarks/results/swift-generate.json

Quantizes the bundled model to five formats and has `mlxquant-swift generate` and `mlxquant
generate` go on from the same prompt, greedily, on the same cores: in turn, some times each. The
best rate of each counts, beside it the processor's time that a token took in Swift, which other
programs on the machine hardly change. Python computes in the model's own bfloat16 and Swift in
float32, so the texts may part; both generate the same number of tokens. Prints a table on stderr,
writes JSON, and exits 1 where Swift is not faster.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import HERE, RunError, scratch_folder
from reporting import begun, finished, note

PROMPT = "The old house stood on the hill."

#: name → what makes it of the bundled model, and whether that is a GGUF file
FORMATS = {
    "affine4-g64": (("--bits", "4", "--method", "rtn"), False),
    "mxfp4": (("--mode", "mxfp4", "--method", "rtn"), False),
    "Q4_K_M": (("--type", "Q4_K_M"), True),
    "Q8_0": (("--type", "Q8_0"), True),
    "Q2_K": (("--type", "Q2_K"), True),
}


def call(*command: str | Path) -> str:
    """A command's output.

    Raises:
        RunError: it failed.
    """
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{command[0]}: {done.stderr.strip()[-400:]}")
    return done.stdout


def in_swift(program: Path, model: Path, tokens: int) -> dict[str, float]:
    """Rate of the tokens after the first, and seconds of processors that each of all took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = ("--raw", "-p", PROMPT, "--temp", "0", "-m", str(tokens), "--json", "--quiet")
    said = json.loads(call(program, "generate", model, *options))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if len(said["tokens"]) != tokens:
        raise RunError(f"{model}: {len(said['tokens'])} tokens, not {tokens}; ask for fewer")
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "tokens_per_second": said["tokens_per_second"],
        "first_token_seconds": said["first_token_seconds"],
        "cpu_seconds_per_token": busy / tokens,
    }


def in_python(model: Path, tokens: int) -> dict[str, float]:
    """The same of `mlxquant generate`, but for the processors' time."""
    options = ("--raw", "--prompt", PROMPT, "--temp", "0", "-m", str(tokens), "--json", "--quiet")
    said = json.loads(call(sys.executable, "-m", "mlxquant", "generate", str(model), *options))
    return {
        "tokens_per_second": said["generated_tokens_per_second"],
        "first_token_seconds": said["first_token_seconds"],
    }


def measure(program: Path, scratch: Path, tokens: int, repeat: int) -> dict[str, Any]:
    """Every format: the best of some runs in each language, and their ratio."""
    found: dict[str, Any] = {}
    for name, (options, is_file) in FORMATS.items():
        model = scratch / (f"{name}.gguf" if is_file else name)
        call(sys.executable, "-m", "mlxquant", "quantize", "-o", str(model), *options)
        runs = []
        for _ in range(repeat):
            runs.append((in_swift(program, model, tokens), in_python(model, tokens)))
        rows = {
            language: {key: [run[side][key] for run in runs] for key in runs[0][side]}
            for side, language in enumerate(("swift", "python"))
        }
        best = {language: max(row["tokens_per_second"]) for language, row in rows.items()}
        found[name] = rows | {"ratio": best["swift"] / best["python"]}
        note(f"{name}: {best['swift']:.0f} tokens/s in Swift, {best['python']:.1f} in Python")
    return found


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in lines."""
    yield f"{'tokens a second':16}{'Swift':>10}{'Python':>10}{'ratio':>10}{'CPU ms a token':>18}"
    for name, row in report["formats"].items():
        swift, python = (max(row[who]["tokens_per_second"]) for who in ("swift", "python"))
        busy = min(row["swift"]["cpu_seconds_per_token"]) * 1000
        yield f"{name:16}{swift:10.1f}{python:10.1f}{row['ratio']:10.1f}{busy:18.2f}"


def main() -> int:
    """Measure, report, and exit with 1 where Swift is not faster or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=128, help="to generate in each run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each")
    parser.add_argument("--scratch", type=Path, help="where to put files while measuring")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun(
        "Is the Swift runtime faster than mlxquant's Python on a processor?", "mlx", "mlx-lm"
    )
    report |= {
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "tokens": options.tokens,
    }
    try:
        call("swift", "build", "-c", "release", "--product", "mlxquant-swift")
        program = HERE.parent / ".build/release/mlxquant-swift"
        with scratch_folder(options.scratch, 0.1) as scratch:
            report["formats"] = measure(program, scratch, options.tokens, options.repeat)
    except (RunError, FileNotFoundError) as problem:
        note(f"error: {problem}")
        return 1
    finished(report, options.out, table(report))
    return 0 if all(row["ratio"] > 1 for row in report["formats"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
