"""Is the Swift package fast enough? Decoding against NumPy and C, and opening a folder of 2 GB.

    python benchmarks/swift.py --out benchmarks/results/swift.json

Decodes the same blocks of every format, in one thread, to float32 and to float16, with the Swift
package, with NumPy (mlxquant/formats) and with clang -O3 of the same kernels (mlxquant.kernels;
MLX's own formats and plain numbers have none). Swift and C are compiled twice: for any processor of
this kind, as SwiftPM does it by default, and for this machine's (`native`), as mlxquant compiles
its kernels. The best of many runs counts, one program after the other.

Then makes a checkpoint of that many gigabytes, drops its weight files from the page cache, opens
the folder in Swift, and counts the pages of weights that opening has read. Prints tables on stderr,
writes JSON, and exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from convert import HERE, RunError, run, scratch_folder
from mlxquant.kernels.host.compiler import find
from mlxquant.kernels.host.entries import program
from mlxquant.kernels.source import FORMATS as KERNELS
from reporting import begun, finished, note

from mlxquant import formats
from mlxquant.files.gguf_scales import SCALES
from mlxquant.formats import STORAGE, Format, MlxFormat
from mlxquant.formats.plain import Plain

#: name → (limit, what is measured, whether more is better)
GOALS = {
    "open": (0.05, "seconds to open the folder, median", False),
    "read": (0.01, "of the weights' bytes read by opening", False),
    "numpy": (10.0, "times NumPy's rate, the slowest format of blocks or groups", True),
    "numpy native": (10.0, "the same, Swift compiled for this processor as NumPy is", True),
    "c": (0.7, "of C's rate, the slowest format; both compiled for any processor", True),
    "c native": (0.7, "of C's rate, the slowest format; both compiled for this one", True),
}

WEIGHTS = 1 << 18  # decoded at once: 1 MB of float32, which a core's cache holds
SECONDS = 0.15  # of each measurement
FLAVOURS = {"": (), "native": ("-Xcc", "-march=native")}

#: kind of a scale → bits of a number around one
_ONES = {"F16": 0x3C00, "BF16": 0x3F80, "F32": 0x3F800000, "E8M0": 0x7F, "E4M3": 0x38}


@dataclass(frozen=True)
class Sample:
    """Blocks to decode: any codes, under scales of one.

    Attributes:
        name: the format's, with `/` and the type of the arithmetic for MLX's.
        wire: one array a part, uint8 [blocks, part.block_bytes].
    """

    name: str
    fmt: Format
    dtype: str
    wire: tuple[np.ndarray, ...]


def samples() -> Iterator[Sample]:
    """One of each format; MLX's affine formats in groups of 64, with scales of BF16."""
    random = np.random.default_rng(0)
    for name in formats.names():
        fmt = formats.get(name)
        if name.startswith("affine") and not name.endswith("-g64"):
            continue
        blocks = WEIGHTS // fmt.block_size
        wire = []
        for part in fmt.parts:
            array = random.integers(0, 256, (blocks, part.block_bytes), np.uint8)
            for offset, kind in scales_of(fmt, part.suffix, part.dtype):
                write_one(array, offset, kind)
            wire.append(array)
        mlx = isinstance(fmt, MlxFormat)
        yield Sample(f"{name}/BF16" if mlx else name, fmt, "BF16", tuple(wire))


def scales_of(fmt: Format, suffix: str, dtype: str) -> tuple[tuple[int, str], ...]:
    """Offset in a block and kind of each scale in a part; of plain floats, the number itself."""
    if not isinstance(fmt, MlxFormat):
        kinds = SCALES.get(fmt.name, ())
        return () if any(kind == "F64" for _, kind in kinds) else kinds
    if suffix == "weight":
        return ()
    return ((0, {"mxfp4": "E8M0", "mxfp8": "E8M0", "nvfp4": "E4M3"}.get(fmt.mode, dtype)),)


def write_one(blocks: np.ndarray, offset: int, kind: str) -> None:
    """Put a scale of one into every block."""
    if kind == "IQ1_M":  # four bits of it in the upper half of every second byte
        for place in range(4):
            at = blocks[:, offset + 2 * place + 1]
            at[:] = at & 15 | (_ONES["F16"] >> 4 * place & 15) << 4
        return
    size = {"F16": 2, "BF16": 2, "F32": 4}.get(kind, 1)
    blocks[:, offset : offset + size] = np.frombuffer(_ONES[kind].to_bytes(size, "little"), "u1")


def best(work: Callable[[], object]) -> float:
    """Weights a second of a call that decodes WEIGHTS, the best of many."""
    shortest, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        begin = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - begin)
    return WEIGHTS / shortest


def numpy_rate(sample: Sample) -> float:
    """NumPy's, to float32."""
    wire = tuple(
        array.reshape(-1).view(STORAGE[part.dtype]).reshape(64, -1)
        for array, part in zip(sample.wire, sample.fmt.parts, strict=True)
    )
    with np.errstate(all="ignore"):
        return best(lambda: sample.fmt.decode(wire))


class Kernel:
    """A format's kernels, compiled by clang."""

    def __init__(self, sample: Sample, folder: Path, native: bool) -> None:
        compiler = find()
        flags = [f for f in compiler.flags if native or f not in ("-march=native", "-mcpu=native")]
        library = folder / f"{sample.name}{'-native' * native}.so"
        command = [compiler.path, *flags, "-o", str(library), "-"]
        subprocess.run(command, input=program(sample.name).encode(), check=True)
        self._library = ctypes.CDLL(str(library))
        self._wire = np.ascontiguousarray(sample.wire[0])

    def rate(self, dtype: str) -> float:
        """Of one thread, to F32 or F16."""
        run_it = getattr(self._library, f"dequantize_{dtype}")
        run_it.restype = None
        blocks, size = len(self._wire), self._wire.size
        out = np.empty(WEIGHTS, STORAGE[dtype])
        arguments = (
            ctypes.c_void_p(self._wire.ctypes.data),
            (ctypes.c_int * 2)(1, size),
            None,
            ctypes.c_void_p(out.ctypes.data),
            ctypes.c_uint(blocks),
            ctypes.c_ulong(0),
            ctypes.c_ulong(blocks),
        )
        return best(lambda: run_it(*arguments))


def build(flavour: str, scratch: Path) -> Path:
    """The package's benchmark, optimized."""
    swift = shutil.which("swift", path=f"{os.environ.get('PATH', '')}:/opt/swift/usr/bin")
    if swift is None:
        raise RunError("there is no swift; install a toolchain of 6.0 or newer")
    place = scratch / f"build{flavour}"
    command = [swift, "build", "-c", "release", "-j", "2", "--product", "formats-benchmark"]
    package = HERE.parent / "swift-bridge/Benchmarks"
    run(*command, "--scratch-path", place, *FLAVOURS[flavour], cwd=package)
    return place / "release" / "formats-benchmark"


def said(*command: str | Path) -> list[list[str]]:
    """The words of each line that a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def decode(scratch: Path, programs: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Weights a second, by format, then by program and type."""
    made = list(samples())
    folder = scratch / "wire"
    folder.mkdir()
    lines = []
    for place, sample in enumerate(made):
        for number, array in enumerate(sample.wire):
            (folder / f"{place}.{number}").write_bytes(array.tobytes())
        lines.append(f"{place} {sample.fmt.name} {sample.dtype} {len(sample.wire[0])}")
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    found: dict[str, dict[str, float]] = {}
    for flavour, path in programs.items():
        rows = said(path, "decode", folder, str(SECONDS))
        for sample, row in zip(made, rows, strict=True):
            assert row[0] == sample.fmt.name, row
            rates = dict(zip(("F32", "F16"), map(float, row[2:]), strict=True))
            for dtype, rate in rates.items():
                found.setdefault(sample.name, {})[f"swift {dtype} {flavour}".strip()] = rate
    for sample in made:
        found[sample.name]["numpy F32"] = numpy_rate(sample)
        for flavour in programs if sample.name in KERNELS else ():
            kernel = Kernel(sample, folder, flavour == "native")
            for dtype in ("F32", "F16"):
                found[sample.name][f"c {dtype} {flavour}".strip()] = kernel.rate(dtype)
    return found


def opening(program: Path, gigabytes: float, scratch: Path) -> dict[str, Any]:
    """Seconds to open a folder of weights, and how many bytes of them that read."""
    folder = scratch / "model"
    run(sys.executable, HERE / "synthetic.py", folder, str(gigabytes), cwd=scratch)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = sum(resident(file) for file in files)
    first = said(program, "open", folder)[0]
    after = sum(resident(file) for file in files)
    times = [float(first[0]), *(float(said(program, "open", folder)[0][0]) for _ in range(20))]
    return {
        "gigabytes": gigabytes,
        "bytes": sum(file.stat().st_size for file in files),
        "weights": int(first[1]),
        "seconds_cold": times[0],
        "seconds": statistics.median(times[1:]),
        "all_seconds": times,
        "bytes_cached_before": before,
        "bytes_cached_after": after,
    }


def resident(file: Path) -> int:
    """Bytes of a file that are in the page cache (mincore, Linux)."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        states = (ctypes.c_ubyte * pages)()
        array = np.frombuffer(mapped, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        address, length = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(len(mapped))
        if libc.mincore(address, length, states) != 0:
            raise RunError(f"{file}: mincore failed: {os.strerror(ctypes.get_errno())}")
        del array
        return int((np.frombuffer(states, np.uint8) & 1).sum()) * mmap.PAGESIZE


def checks(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal, and whether it is met."""
    rates = report["decode"]
    blocks = [name for name in rates if not isinstance(formats.get(name.split("/")[0]), Plain)]
    kernels = [name for name in rates if "c F32" in rates[name]]

    def slowest(names: list[str], ours: str, theirs: str) -> tuple[float, str]:
        return min((rates[name][ours] / rates[name][theirs], name) for name in names)

    values: dict[str, tuple[float, str]] = {
        "numpy": slowest(blocks, "swift F32", "numpy F32"),
        "c": slowest(kernels, "swift F32", "c F32"),
    }
    if "swift F32 native" in rates[kernels[0]]:
        values["c native"] = slowest(kernels, "swift F32 native", "c F32 native")
        values["numpy native"] = slowest(blocks, "swift F32 native", "numpy F32")
    if report["open"] is not None:
        opened = report["open"]
        read = (opened["bytes_cached_after"] - opened["bytes_cached_before"]) / opened["bytes"]
        values |= {"open": (opened["seconds"], ""), "read": (read, "")}
    found = []
    for name, (limit, what, more) in GOALS.items():
        if name in values:
            value, where = values[name]
            passed = value >= limit if more else value <= limit
            found.append({"name": name, "what": what, "value": value, "limit": limit})
            found[-1] |= {"where": where, "passed": passed}
    return found


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in lines."""
    columns = sorted({key for row in report["decode"].values() for key in row}, reverse=True)
    yield f"10^9 weights a second{'':7}" + "".join(f"{column:>18}" for column in columns)
    for name, row in report["decode"].items():
        cells = (f"{row[c] / 1e9:18.3f}" if c in row else f"{'':18}" for c in columns)
        yield f"{name:28}" + "".join(cells)
    for check in report["checks"]:
        verdict = "ok  " if check["passed"] else "MISS"
        where = f" ({check['where']})" if check["where"] else ""
        yield f"{verdict} {check['value']:9.4f} (goal {check['limit']:g})  {check['what']}{where}"


def main() -> int:
    """Measure, report, and exit with 1 where a goal is missed or a program fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2, help="of the folder; 0 for none")
    parser.add_argument("--no-native", action="store_true", help="compile for any processor only")
    parser.add_argument("--scratch", type=Path, help="where to put files while measuring")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    report = begun("Is the Swift package fast enough?", "numpy")
    report |= {"weights": WEIGHTS}
    report["versions"]["clang"] = find().version.splitlines()[0]
    flavours = [name for name in FLAVOURS if name == "" or not options.no_native]
    try:
        with scratch_folder(options.scratch, options.gigabytes + 1) as scratch:
            programs = {flavour: build(flavour, scratch) for flavour in flavours}
            report["decode"] = decode(scratch, programs)
            report["open"] = None
            if options.gigabytes > 0:
                report["open"] = opening(programs[""], options.gigabytes, scratch)
    except (RunError, subprocess.CalledProcessError) as problem:
        note(f"error: {problem}")
        return 1
    report["checks"] = checks(report)
    return finished(report, options.out, table(report))


if __name__ == "__main__":
    sys.exit(main())
