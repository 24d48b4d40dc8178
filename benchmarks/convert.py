"""How fast, and in how much memory, is a model quantized? mlxquant against mlx_lm.convert.

    python benchmarks/convert.py --sizes 1,2,4 --repeat 3 --out convert.json

Makes synthetic Llama-shaped bfloat16 checkpoints, quantizes each with both programs in turn (4
bits, groups of 64) and compares whole processes: wall time from start to exit, and peak resident
memory as the kernel accounts it. The floor is a plain copy that reads the input once and writes as
many bytes as the output has. Prints a table on stderr, writes JSON, and exits 1 where a limit is
exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reporting import begun, finished, note

from mlxquant.assets import BUNDLED_MODEL

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(sys.executable).parent
GIB = 1 << 30

#: name → (limit, what is measured); every figure must be at most its limit
LIMITS = {
    "wall_ratio": (1.0, "wall time / mlx_lm.convert's"),
    "memory_ratio": (0.35, "peak memory / mlx_lm.convert's"),
    "memory_growth": (1.2, "peak memory at the largest size / at the smallest"),
    "help_seconds": (0.25, "mlxquant --help, seconds"),
    "help_ratio": (0.1, "mlxquant --help / mlx_lm.convert --help"),
    "inspect_seconds": (0.5, "mlxquant inspect, seconds"),
    "different_tensors": (0, "tensors whose bytes differ from mlx_lm.convert's"),
}


class RunError(Exception):
    """A program under measurement failed; the message holds the end of what it said."""


def run(*command: str | Path, cwd: Path) -> dict[str, float]:
    """Run a program to its end.

    This process stays small on purpose (no NumPy): Linux counts the memory of the process that
    starts a program towards the program's peak.

    Returns: `wall` and `cpu` in seconds, `peak` resident memory in bytes (of the largest process).
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    os.sync()
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            end = said.read()[-2000:].decode(errors="replace")
            raise RunError(f"{command[0]} exited with {process.returncode}: {end}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * unit}


def median(runs: list[dict[str, float]]) -> dict[str, Any]:
    """The median of each figure, and all of them."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]} | {"runs": runs}


def weights(folder: Path) -> list[Path]:
    """A model's weight files."""
    return sorted(folder.glob("*.safetensors"))


def weight_bytes(folder: Path) -> int:
    """Bytes of a model's weight files."""
    return sum(path.stat().st_size for path in weights(folder))


def stored(folder: Path) -> dict[str, tuple[Path, str, list[int], int, int]]:
    """Tensor name → (file, dtype, shape, first byte, end) over a model's weight files."""
    found = {}
    for path in weights(folder):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                first, end = (8 + length + offset for offset in entry["data_offsets"])
                found[name] = (path, entry["dtype"], entry["shape"], first, end)
    return found


def different(ours: Path, theirs: Path) -> list[str]:
    """Names of tensors that only one of two models has, or whose type, shape or bytes differ."""
    left, right = stored(ours), stored(theirs)
    names = sorted(left.keys() ^ right.keys())
    for name in sorted(left.keys() & right.keys()):
        a, b = left[name], right[name]
        if a[1:3] != b[1:3] or not same_bytes((a[0], *a[3:]), (b[0], *b[3:])):
            names.append(name)
    return names


def same_bytes(left: tuple[Path, int, int], right: tuple[Path, int, int]) -> bool:
    """Whether two byte ranges (file, first, end) hold the same bytes."""
    if left[2] - left[1] != right[2] - right[1]:
        return False
    with left[0].open("rb") as a, right[0].open("rb") as b:
        a.seek(left[1])
        b.seek(right[1])
        remaining = left[2] - left[1]
        while remaining:
            count = min(remaining, 1 << 22)
            if a.read(count) != b.read(count):
                return False
            remaining -= count
    return True


COPY = """
import os, sys
source, target, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
buffer = bytearray(8 << 20)
for name in sorted(os.listdir(source)):
    if name.endswith(".safetensors"):
        with open(os.path.join(source, name), "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
with open(target, "wb", buffering=0) as file:
    while size:
        size -= file.write(memoryview(buffer)[:size])
    os.fsync(file.fileno())
"""


def commands(source: Path, ours: Path, theirs: Path, threads: int | None) -> list[list[str | Path]]:
    """The two command lines: mlxquant's and mlx_lm.convert's."""
    quantize: list[str | Path] = [PROGRAMS / "mlxquant", "quantize", source, "-o", ours]
    quantize += ["--bits", "4", "--group-size", "64", "--method", "rtn"]
    if threads is not None:
        quantize += ["--threads", str(threads)]
    convert: list[str | Path] = [PROGRAMS / "mlx_lm.convert", "--hf-path", source]
    convert += ["--mlx-path", theirs, "-q", "--q-bits", "4", "--q-group-size", "64"]
    return [quantize, convert]


def warm_up(scratch: Path) -> None:
    """Run both programs once on the bundled model: first runs compile bytecode."""
    ours, theirs = scratch / "warm-ours", scratch / "warm-theirs"
    for command in commands(BUNDLED_MODEL, ours, theirs, None):
        run(*command, cwd=scratch)


def measure_size(
    gigabytes: float, repeat: int, threads: int | None, scratch: Path
) -> dict[str, Any]:
    """Both programs in turn, `repeat` times, on a checkpoint of this size; then the floor."""
    source, ours, theirs = scratch / "source", scratch / "mlxquant", scratch / "mlx-lm"
    note(f"{gigabytes:g} GB: making the checkpoint")
    run(sys.executable, HERE / "synthetic.py", source, str(gigabytes), cwd=scratch)
    quantize, convert = commands(source, ours, theirs, threads)
    inspect: list[str | Path] = [PROGRAMS / "mlxquant", "inspect", source]

    def remade(output: Path, command: list[str | Path]) -> dict[str, float]:
        shutil.rmtree(output, ignore_errors=True)
        return run(*command, cwd=scratch)

    turns: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("mlxquant", lambda: remade(ours, quantize)),
        ("mlx_lm", lambda: remade(theirs, convert)),
    ]
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(repeat):
        # Who goes first changes, so that neither always finds the page cache as the other left it.
        for name, turn in turns if number % 2 == 0 else reversed(turns):
            found = turn()
            runs.setdefault(name, []).append(found)
            note(f"  {name:9}{found['wall']:7.2f} s {found['peak'] / GIB:6.3f} GiB")
    differing = different(ours, theirs)
    written = weight_bytes(ours)
    shutil.rmtree(theirs)

    for _ in range(repeat):
        runs.setdefault("inspect", []).append(run(*inspect, cwd=scratch))
        plain: list[str | Path] = [
            sys.executable,
            "-S",
            "-c",
            COPY,
            source,
            scratch / "copy",
            str(written),
        ]
        runs.setdefault("plain_copy", []).append(run(*plain, cwd=scratch))
        (scratch / "copy").unlink()
        runs.setdefault("cp", []).append(run("cp", "-r", source, scratch / "copied", cwd=scratch))
        shutil.rmtree(scratch / "copied")
    result: dict[str, Any] = {
        "gigabytes": gigabytes,
        "input_bytes": weight_bytes(source),
        "output_bytes": written,
        "different_tensors": differing,
    }
    result |= {name: median(measured) for name, measured in runs.items()}
    result["wall_ratio"] = result["mlxquant"]["wall"] / result["mlx_lm"]["wall"]
    result["memory_ratio"] = result["mlxquant"]["peak"] / result["mlx_lm"]["peak"]
    result["floor_ratio"] = result["mlxquant"]["wall"] / result["plain_copy"]["wall"]
    shutil.rmtree(source)
    shutil.rmtree(ours)
    return result


def measure_help(repeat: int, scratch: Path) -> dict[str, Any]:
    """`--help` of both programs, in turn, after one run of each that is not counted."""
    runs: dict[str, list[dict[str, float]]] = {"mlxquant": [], "mlx_lm": []}
    for number in range(repeat + 1):
        for name, program in (("mlxquant", "mlxquant"), ("mlx_lm", "mlx_lm.convert")):
            found = run(PROGRAMS / program, "--help", cwd=scratch)
            if number:
                runs[name].append(found)
    return {name: median(measured) for name, measured in runs.items()}


def judge(sizes: list[dict[str, Any]], start: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that has a limit: on the size nearest 2 GB, or over all sizes."""
    main = min(sizes, key=lambda size: abs(size["gigabytes"] - 2))
    values: dict[str, float] = {
        "wall_ratio": main["wall_ratio"],
        "memory_ratio": main["memory_ratio"],
        "help_seconds": start["mlxquant"]["wall"],
        "help_ratio": start["mlxquant"]["wall"] / start["mlx_lm"]["wall"],
        "inspect_seconds": main["inspect"]["wall"],
        "different_tensors": sum(len(size["different_tensors"]) for size in sizes),
    }
    if len(sizes) > 1:
        smallest, *_, largest = sorted(sizes, key=lambda size: float(size["gigabytes"]))
        values["memory_growth"] = largest["mlxquant"]["peak"] / smallest["mlxquant"]["peak"]
    return [
        {"name": name, "what": what, "value": values[name], "limit": limit}
        | {"passed": values[name] <= limit}
        for name, (limit, what) in LIMITS.items()
        if name in values
    ]


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in a few lines."""
    yield "   GB  mlxquant           mlx_lm.convert     wall   memory  / plain copy  inspect"
    for size in report["sizes"]:
        ours, theirs = size["mlxquant"], size["mlx_lm"]
        yield (
            f"{size['gigabytes']:5g}"
            f" {ours['wall']:6.2f} s {ours['peak'] / GIB:5.3f} GiB"
            f" {theirs['wall']:6.2f} s {theirs['peak'] / GIB:5.3f} GiB"
            f" {size['wall_ratio']:6.2f} x {size['memory_ratio']:6.2f} x"
            f" {size['floor_ratio']:10.2f} x {size['inspect']['wall']:6.2f} s"
        )
    for check in report["checks"]:
        verdict = "ok  " if check["passed"] else "OVER"
        yield f"{verdict} {check['value']:7.3f} (limit {check['limit']:g})  {check['what']}"


@contextmanager
def scratch_folder(parent: Path | None, largest: float) -> Iterator[Path]:
    """A folder that is gone afterwards; needs room for the input, a copy of it and two outputs."""
    with tempfile.TemporaryDirectory(prefix="mlxquant-benchmark-", dir=parent) as name:
        needed, free = int(2.7e9 * largest), shutil.disk_usage(name).free
        if free < needed:
            raise RunError(f"{name} has {free} bytes free and {needed} are needed; use --scratch")
        yield Path(name)


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", default="1,2,4", help="sizes in 10^9 bytes (default 1,2,4)")
    parser.add_argument("--repeat", type=int, default=3, help="turns of each program (default 3)")
    parser.add_argument("--threads", type=int, help="mlxquant's threads (default: its own)")
    parser.add_argument("--scratch", type=Path, help="where to put checkpoints while measuring")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    gigabytes = sorted(float(size) for size in options.sizes.split(","))
    packages = ("mlxquant", "mlx", "mlx-lm", "numpy", "transformers")
    report = begun("How fast, and in how much memory, is a model quantized to 4 bits?", *packages)
    report |= {
        "repeat": options.repeat,
        "threads": options.threads,
    }
    try:
        with scratch_folder(options.scratch, gigabytes[-1]) as scratch:
            warm_up(scratch)
            report["help"] = measure_help(max(5, options.repeat), scratch)
            report["sizes"] = [
                measure_size(size, options.repeat, options.threads, scratch) for size in gigabytes
            ]
    except RunError as problem:
        note(f"error: {problem}")
        return 1
    report["checks"] = judge(report["sizes"], report["help"])
    return finished(report, options.out, table(report))


if __name__ == "__main__":
    sys.exit(main())
