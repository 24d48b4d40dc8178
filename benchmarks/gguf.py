"""How fast, and in how much memory, are GGUF files read and written? Against a plain copy.

    python benchmarks/gguf.py --size 2 --repeat 3 --out gguf.json

Exports a synthetic Llama-shaped bfloat16 checkpoint, imports what was exported, exports a 4-bit MLX
folder, and imports a Q8_0 file (repacked) and a Q4_K file (kept), each of that size: whole
processes, wall time and peak resident memory. The floor, in turn with each, is a plain copy that
reads the input once and writes as many bytes as the output has, synced.

Then every file type's encoder is run on the bundled model, every matrix in one type (`--pure`), in
turn with llama.cpp's own quantizer and with as many threads. Prints a table on stderr, writes JSON,
and exits 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import COPY, HERE, PROGRAMS, RunError, median, run, scratch_folder
from reporting import begun, finished, note

from mlxquant.files.gguf import GgufEntry, read_gguf
from mlxquant.files.gguf_values import Value
from mlxquant.files.gguf_writer import build_gguf

#: wall time / a plain copy's, at most
COPY_LIMIT = 1.5
#: peak memory over the interpreter's, bytes
MEMORY_LIMIT = 300e6

#: encodes the bundled model with both programs in turn; a process of its own, so that this one
#: stays small
ENCODE = """
import contextlib, ctypes, json, os, sys, tempfile, time
from pathlib import Path
import llama_cpp
from mlxquant import export, quantize_gguf
from mlxquant.quantize.llama_types import FILE_TYPES, TypeRequest as Request
threads, repeat = int(sys.argv[1]), int(sys.argv[2])
silent = os.open(os.devnull, os.O_WRONLY)
os.dup2(silent, 2)
llama_cpp.llama_backend_init()
with tempfile.TemporaryDirectory() as scratch:
    source, ours, theirs = (Path(scratch) / f"{n}.gguf" for n in ("in", "ours", "theirs"))
    weights = export(None, source, outtype="f16").layout.parameters
    def llama(kind):
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype, options.nthread, options.pure = kind.number, threads, True
        return llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), options)
    for kind in FILE_TYPES.values():
        if kind.is_float:
            continue
        times = {"mlxquant": [], "llama": []}
        for number in range(repeat):
            began = time.perf_counter()
            request = Request(kind.name, pure=True)
            quantize_gguf(source, ours, request, threads=threads, force=True)
            times["mlxquant"].append(time.perf_counter() - began)
            began = time.perf_counter()
            failed = llama(kind)
            if not failed:
                times["llama"].append(time.perf_counter() - began)
        print(json.dumps({"type": kind.name, "weights": weights, **times}), flush=True)
"""


def size_of(path: Path) -> int:
    """Bytes of a file, or of a folder's weight files."""
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)


def beside_a_copy(
    command: list[str | Path], source: Path, output: Path, repeat: int, scratch: Path
) -> dict[str, Any]:
    """A command that makes `output` of `source`, in turn with a plain copy of as many bytes."""
    floor = scratch / "floor"
    floor.mkdir(exist_ok=True)
    for old in floor.iterdir():
        old.unlink()
    for file in [source] if source.is_file() else source.glob("*.safetensors"):
        (floor / f"{file.name}.safetensors").symlink_to(file)
    runs: dict[str, list[dict[str, float]]] = {"mlxquant": [], "plain_copy": []}
    for _ in range(repeat):
        shutil.rmtree(output, ignore_errors=True)
        output.unlink(missing_ok=True)
        runs["mlxquant"].append(run(*command, cwd=scratch))
        copy = [sys.executable, "-S", "-c", COPY, floor, scratch / "copy", str(size_of(output))]
        runs["plain_copy"].append(run(*copy, cwd=scratch))
        (scratch / "copy").unlink()
    found: dict[str, Any] = {name: median(measured) for name, measured in runs.items()}
    found |= {"input_bytes": size_of(source), "output_bytes": size_of(output)}
    found["copy_ratio"] = found["mlxquant"]["wall"] / found["plain_copy"]["wall"]
    return found


def conversions(gigabytes: float, repeat: int, scratch: Path) -> dict[str, Any]:
    """Every export and import, of a model of that size."""
    program = PROGRAMS / "mlxquant"
    steps: list[tuple[str, list[str | Path], str, str]] = [
        ("export, bfloat16", [program, "export"], "source", "bf16.gguf"),
        ("import, bfloat16", [program, "import"], "bf16.gguf", "bf16"),
        ("export, 4-bit MLX", [program, "export"], "mlx4", "mlx4.gguf"),
        ("import, Q8_0 (repacked)", [program, "import"], "q8_0.gguf", "q8_0"),
        ("import, Q4_K (kept)", [program, "import"], "q4_k.gguf", "q4_k"),
    ]
    found: dict[str, Any] = {}
    for name, command, given, made in steps:
        prepared = scratch / given
        if not prepared.exists():
            note(f"{gigabytes:g} GB: making {given}")
            make(prepared, gigabytes, scratch)
        line = [*command, prepared, "-o", scratch / made]
        found[name] = beside_a_copy(line, prepared, scratch / made, repeat, scratch)
        remove(prepared)
        if made != "bf16.gguf":
            remove(scratch / made)
        ours = found[name]["mlxquant"]
        note(f"  {name:24}{ours['wall']:6.2f} s {found[name]['copy_ratio']:5.2f} x a plain copy")
    return found


def make(model: Path, gigabytes: float, scratch: Path) -> None:
    """Make a model that is converted."""
    program, source = PROGRAMS / "mlxquant", scratch / "float"
    size, options = {
        "source": (gigabytes, None),
        "mlx4": (gigabytes * 16 / 4.5, ["--bits", "4", "--method", "rtn"]),
        "q8_0.gguf": (gigabytes * 16 / 8.5, ["--type", "Q8_0"]),
        # its encoder searches: of few layers, each of which then stands there several times
        "q4_k.gguf": (0.3, ["--type", "Q4_K_S", "--pure"]),
    }[model.name]
    if options is None:
        run(sys.executable, HERE / "synthetic.py", model, str(size), cwd=scratch)
        return
    run(sys.executable, HERE / "synthetic.py", source, str(size), cwd=scratch)
    quantized = model.with_name(f"small-{model.name}") if size < gigabytes else model
    run(program, "quantize", source, "-o", quantized, *options, cwd=scratch)
    remove(source)
    if quantized != model:
        lengthen(quantized, model, int(gigabytes * 1e9))
        remove(quantized)


def lengthen(file: Path, longer: Path, size: int) -> None:
    """Write a GGUF file with its layers again and again, until it has that size."""
    header = read_gguf(file)
    parts: dict[str, list[GgufEntry]] = {}
    for entry in header.entries.values():
        layer = entry.name.split(".")[1] if entry.name.startswith("blk.") else ""
        parts.setdefault(layer, []).append(entry)
    outside = parts.pop("")
    one = sum(entry.stop - entry.start for entry in parts["0"])
    count = max(len(parts), -(-(size - sum(entry.stop - entry.start for entry in outside)) // one))
    tensors = [(entry.name, entry) for entry in outside] + [
        (entry.name.replace(f"blk.{number % len(parts)}.", f"blk.{number}."), entry)
        for number in range(count)
        for entry in parts[str(number % len(parts))]
    ]
    metadata = {**header.metadata, "llama.block_count": Value.of("u32", count)}
    head, ranges = build_gguf(metadata, [(name, e.type_name, e.shape) for name, e in tensors])
    with file.open("rb") as source, longer.open("wb") as target:
        target.write(head)
        for (_, entry), (start, _) in zip(tensors, ranges, strict=True):
            source.seek(entry.start)
            target.seek(start)
            target.write(source.read(entry.stop - entry.start))
        target.truncate(-(-target.tell() // 32) * 32)


def remove(made: Path) -> None:
    """Delete a file or a folder."""
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink(missing_ok=True)


def encoders(threads: int, repeat: int, scratch: Path) -> list[dict[str, Any]]:
    """Weights a second of every file type's encoder; llama.cpp's null where it refuses."""
    command = [sys.executable, "-c", ENCODE, str(threads), str(repeat)]
    found = []
    with subprocess.Popen(command, cwd=scratch, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            measured = json.loads(line)
            speeds = {
                name: measured["weights"] / sorted(times)[len(times) // 2] if times else None
                for name, times in ((n, measured[n]) for n in ("mlxquant", "llama"))
            }
            found.append({"type": measured["type"], **speeds})
            note(f"  {measured['type']:10}{' '.join(map(show_speed, speeds.values()))}")
    if process.returncode:
        raise RunError(f"the encoders' process exited with {process.returncode}")
    return found


def show_speed(weights: float | None) -> str:
    """Millions of weights a second."""
    return f"{weights / 1e6:8.2f}" if weights else "       -"


def judge(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every figure that has a limit."""
    base = report["interpreter"]["peak"]
    for name, found in report["conversions"].items():
        figures = {
            "wall time / a plain copy's": (found["copy_ratio"], COPY_LIMIT),
            "peak memory over the interpreter's": (found["mlxquant"]["peak"] - base, MEMORY_LIMIT),
        }
        for what, (value, limit) in figures.items():
            yield {
                "name": name,
                "what": what,
                "value": value,
                "limit": limit,
                "passed": value <= limit,
            }


def table(checks: list[dict[str, Any]]) -> Iterator[str]:
    """The checks, a line each."""
    for check in checks:
        verdict = "ok  " if check["passed"] else "OVER"
        figure = f"{check['value']:12.6g} (limit {check['limit']:g})"
        yield f"{verdict} {figure}  {check['name']}: {check['what']}"


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--size", type=float, default=2, help="10^9 bytes (default 2)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each program (default 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoders")
    parser.add_argument("--scratch", type=Path, help="where to put models while measuring")
    parser.add_argument("--only", choices=("conversions", "encoders"), help="one half of it")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    packages = ("mlxquant", "mlx", "numpy", "llama-cpp-python")
    report = begun("How fast, and in how much memory, are GGUF files read and written?", *packages)
    report |= {
        "gigabytes": options.size,
        "repeat": options.repeat,
        "threads": options.threads,
        "conversions": {},
        "encoders": [],
    }
    try:
        with scratch_folder(options.scratch, 3 * options.size) as scratch:
            report["interpreter"] = run(sys.executable, "-c", "pass", cwd=scratch)
            if options.only != "encoders":
                report["conversions"] = conversions(options.size, options.repeat, scratch)
            if options.only != "conversions":
                report["encoders"] = encoders(options.threads, options.repeat, scratch)
    except RunError as problem:
        note(f"error: {problem}")
        return 1
    report["checks"] = list(judge(report))
    return finished(report, options.out, table(report["checks"]))


if __name__ == "__main__":
    sys.exit(main())
