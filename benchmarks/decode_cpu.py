"""How fast does a model write on the processor? mlxquant, mlx-lm and llama.cpp, 4 bits each.

    python benchmarks/decode_cpu.py --out decode_cpu.json

Two models: the bundled one, and a synthetic Llama-shaped one of 10^9 parameters (--gigabytes 2 of
bfloat16). Each as a GGUF file of Q4_K, which mlxquant and llama.cpp read, and as MLX's 4-bit affine
format in groups of 64, which mlx-lm reads. Every program is a process of its own (decode_run.py),
allowed as many processors as threads; they take turns. MLX runs in the model's bfloat16 and, since
its own kernels are faster so on a processor, in float32 too.

Compared are medians of all tokens of all turns: wall time, and processor time, which says more on a
machine in use. Prints a table on stderr, writes JSON, and exits 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import HERE, PROGRAMS, RunError, run, scratch_folder
from reporting import begun, finished, note

#: as decode_run.py names them → what they read
RUNS = {
    "mlxquant": "gguf",
    "mlxquant:float32": "gguf",
    "mlx_lm": "mlx",
    "mlx_lm:float32": "mlx",
    "llama.cpp": "gguf",
}
#: of mlx-lm's time for a token, its faster element type
LIMIT = 1.0
TOKENS = 64


def make(models: Path, gigabytes: float) -> dict[str, dict[str, Path]]:
    """Both models in both formats; what is there already is used."""
    models.mkdir(parents=True, exist_ok=True)
    made = {}
    for name in ("bundled", "synthetic"):
        files = {"gguf": models / f"{name}.gguf", "mlx": models / f"{name}-mlx"}
        made[name] = files
        if all(path.exists() for path in files.values()):
            continue
        source: list[str | Path] = []
        if name == "synthetic":
            source = [models / "source"]
            if not source[0].exists():  # type: ignore[union-attr]
                note(f"{gigabytes:g} GB: making the checkpoint")
                run(sys.executable, HERE / "synthetic.py", *source, str(gigabytes), cwd=models)
        for kind, asked in (("gguf", ("--type", "Q4_K", "--pure")), ("mlx", ("--bits", "4"))):
            if not files[kind].exists():
                note(f"{name}: {files[kind].name}")
                command = [PROGRAMS / "mlxquant", "quantize", *source, "-o", files[kind], *asked]
                run(*command, cwd=models)
        shutil.rmtree(models / "source", ignore_errors=True)
    return made


def write(program: str, model: Path, threads: int, seconds: float) -> dict[str, Any]:
    """One process that writes tokens."""
    # OpenBLAS's threads would wait for one another where there are more of them than processors
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    arguments = [program, str(model), str(threads), str(seconds), str(TOKENS)]
    command = [sys.executable, str(HERE / "decode_run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RunError(f"{program} exited with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(
    files: dict[str, Path], threads: int, repeat: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Every program, `repeat` times in turn: medians over all tokens, and all figures."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    for number in range(repeat):
        # Who goes first changes, so that none always finds the machine as another left it.
        for name in RUNS if number % 2 == 0 else reversed(RUNS):
            found = write(name, files[RUNS[name]], threads, seconds)
            turns[name].append(found)
            middle = statistics.median(found["seconds"])
            note(f"  {threads} threads  {name:18}{1 / middle:9.2f} tokens/s")
    results = {}
    for name, found in turns.items():
        result = {key: found[0][key] for key in ("dtype", "blas") if key in found[0]}
        for key in ("seconds", "processor_seconds"):
            result[key] = statistics.median(value for turn in found for value in turn[key])
        result["tokens_per_second"] = 1 / result["seconds"]
        result["turns"] = [
            {key: statistics.median(turn[key]) for key in ("seconds", "processor_seconds")}
            | {"tokens": len(turn["seconds"])}
            for turn in found
        ]
        results[name] = result
    return results


def faster(results: dict[str, dict[str, Any]], program: str, key: str) -> float:
    """A program's time for a token, in the element type that takes less."""
    return min(float(results[name][key]) for name in (program, f"{program}:float32"))


def judge(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our time for a token over mlx-lm's."""
    checks = []
    for each in found:
        results = each["programs"]
        value = faster(results, "mlxquant", "seconds") / faster(results, "mlx_lm", "seconds")
        what = f"time for a token / mlx-lm's, {each['model']}, {each['threads']} threads"
        checks.append({"what": what, "value": value, "limit": LIMIT, "passed": value <= LIMIT})
    return checks


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in a few lines."""
    yield "model      threads  program            tokens/s   processor ms a token"
    for each in report["measured"]:
        for name, result in each["programs"].items():
            yield (
                f"{each['model']:11}{each['threads']:7}  {name:18}"
                f"{result['tokens_per_second']:9.2f}{1e3 * result['processor_seconds']:12.2f}"
            )
    for check in report["checks"]:
        verdict = "ok  " if check["passed"] else "OVER"
        yield f"{verdict} {check['value']:7.3f} (limit {check['limit']:g})  {check['what']}"


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2, help="of bfloat16 (default 2)")
    parser.add_argument("--threads", default="1,2", help="processors allowed (default 1,2)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each program (default 3)")
    parser.add_argument("--seconds", type=float, default=8, help="a turn at most (default 8)")
    parser.add_argument("--scratch", type=Path, help="where to put models while measuring")
    parser.add_argument("--models", type=Path, help="folder to make the models in and to keep")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun(
        "How fast does a model write on the processor?",
        "mlx",
        "mlx-lm",
        "numpy",
        "llama-cpp-python",
    )
    report |= {
        "gigabytes": options.gigabytes,
        "measured": [],
    }
    try:
        with scratch_folder(options.scratch, options.gigabytes) as scratch:
            models = make(options.models or scratch / "models", options.gigabytes)
            for name, files in models.items():
                sizes = {"gguf_bytes": files["gguf"].stat().st_size}
                for threads in map(int, options.threads.split(",")):
                    note(name)
                    programs = measure(files, threads, options.repeat, options.seconds)
                    each = {"model": name, "threads": threads, **sizes, "programs": programs}
                    report["measured"].append(each)
    except RunError as problem:
        note(f"error: {problem}")
        return 1
    report["machine"]["load_after"] = os.getloadavg()[0]
    report["checks"] = judge(report["measured"])
    return finished(report, options.out, table(report))


if __name__ == "__main__":
    sys.exit(main())
