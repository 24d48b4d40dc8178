"""How fast is the metadata of a GGUF vocabulary read? mlxquant against gguf's GGUFReader.

    python benchmarks/gguf_metadata.py --tokens 151936 --repeat 5 --out gguf_metadata.json

Makes a vocabulary with as many merge rules as tokens, or takes a file (--file), and reads it with
both in turn: `open` costs what opening costs, `values` decodes every value to Python's own as well.
Prints the ratios, writes JSON, and exits 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlxquant.files.gguf import Value, build_gguf, read_gguf

HERE = Path(__file__).resolve().parent

#: name → the most that it may be, of GGUFReader's time
LIMITS = {"open": 0.03, "values": 0.03}


def vocabulary(file: Path, tokens: int) -> None:
    """A file of that many tokens, types and merge rules, as long as those of real models."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzĠéü"

    def word() -> str:
        return "".join(rng.choices(letters, k=rng.randint(1, 12)))

    metadata = {
        "general.architecture": Value.of("str", "llama"),
        "tokenizer.ggml.model": Value.of("str", "gpt2"),
        "tokenizer.ggml.tokens": Value.array("str", [word() for _ in range(tokens)]),
        "tokenizer.ggml.token_type": Value.array("i32", [1] * tokens),
        "tokenizer.ggml.merges": Value.array("str", [f"{word()} {word()}" for _ in range(tokens)]),
    }
    file.write_bytes(build_gguf(metadata, [])[0])


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(file: Path, repeat: int) -> dict[str, Any]:
    """Seconds of each program, in turn."""
    # The script beside this one has the package's name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]
    from gguf import GGUFReader

    def values() -> list[Any]:
        return [value.value for value in read_gguf(file).metadata.values()]

    programs: dict[str, Callable[[], Any]] = {
        "open": lambda: read_gguf(file),
        "values": values,
        "GGUFReader": lambda: GGUFReader(file),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeat):
        for name, work in programs.items():
            times[name].append(timed(work))
    medians = {name: statistics.median(found) for name, found in times.items()}
    theirs = medians["GGUFReader"]
    return {
        "seconds": medians,
        "all_seconds": times,
        "ratios": {name: medians[name] / theirs for name in LIMITS},
    }


def commit() -> str:
    """The commit that is measured, or nothing outside of a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Read GGUF metadata with mlxquant and with gguf.")
    parser.add_argument("--file", type=Path, help="a GGUF file; one is made where none is given")
    parser.add_argument("--tokens", type=int, default=151_936)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where to write JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or Path(folder) / "vocabulary.gguf"
        if options.file is None:
            vocabulary(file, options.tokens)
        size = file.stat().st_size
        found = measure(file, options.repeat)
    report = {
        "file_bytes": size,
        "tokens": options.tokens if options.file is None else None,
        **found,
        "limits": LIMITS,
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("mlxquant", "gguf")},
        "commit": commit(),
    }
    for name, seconds in found["seconds"].items():
        ratio = f", {found['ratios'][name]:.4f} of GGUFReader's" if name in LIMITS else ""
        print(f"{name:12} {seconds:8.3f} s{ratio}", file=sys.stderr)
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    else:
        print(json.dumps(report, indent=2))
    return int(any(found["ratios"][name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
