"""How fast, and how well, are weights encoded? The compiled encoders against llama.cpp's own.

    python benchmarks/encode.py --repeat 5 --out encode.json

Encodes every matrix of the bundled model in turn by mlxquant's kernels and by ggml_quantize_chunk,
which is what llama-quantize calls, from the library that llama-cpp-python brings: one thread each,
processor time, without importance and with one for each input column (drawn log-normal, the same
for both). The squared error of what decodes, weighted by importance, is compared too; of single
matrices, the worst is shown. Beside it, the search for affine scales against plain `mx.quantize`.
Prints tables on stderr, writes JSON, and exits 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from encode_error import error, matrices, ratio
from mlxquant.kernels.encode import encode, reason
from mlxquant.kernels.source import ENCODERS, SEARCHED_BITS
from reporting import begun, finished, note

from mlxquant import formats
from mlxquant.formats import get_mlx
from mlxquant.formats.floats import f32_to_bf16
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.quantize.rows import encode_rows

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from interop import ggml  # noqa: E402

#: types that are held to the limits; others are for information
JUDGED = ("Q4_K", "Q6_K", "Q8_0", "Q4_0", "Q2_K", "Q3_K", "IQ4_XS")
#: name → (limit, what is measured); every figure must be at most its limit
LIMITS = {
    "time": (1.0, "processor time / llama.cpp's, one thread"),
    "error": (1.0, "squared error / llama.cpp's, all matrices"),
    "search": (2.0, "processor time of the affine search / mx.quantize's, one thread"),
}
HOW = {"plain": "without importance", "importance": "with importance"}


def in_turn(programs: dict[str, Callable[[], Any]], repeat: int) -> dict[str, float]:
    """The median of each one's processor seconds; who goes first changes."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(repeat):
        for name in list(programs) if number % 2 == 0 else reversed(programs):
            began = time.process_time()
            programs[name]()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def compare(fmt: GgmlFormat, repeat: int) -> dict[str, Any]:
    """Both encoders on every matrix, with and without importance."""
    random = np.random.default_rng(0)
    tensors = [(name, rows) for name, rows in matrices(1 << 20) if rows.shape[1] % 256 == 0]
    drawn = [np.exp(random.standard_normal(r.shape[1])).astype(np.float32) for _, r in tensors]
    weights = sum(rows.size for _, rows in tensors)
    result: dict[str, Any] = {"bits_per_weight": fmt.bpw, "judged": fmt.name in JUDGED}
    for how in HOW:
        given = drawn if how == "importance" else [None] * len(drawn)
        pairs = [(rows, each) for (_, rows), each in zip(tensors, given, strict=True)]

        def ours(pairs: list[Any] = pairs) -> list[np.ndarray]:
            return [encode(rows, fmt, each, threads=1) for rows, each in pairs]

        def theirs(pairs: list[Any] = pairs) -> list[np.ndarray]:
            return [ggml.quantize_chunk(fmt.ggml_type, rows, each) for rows, each in pairs]

        errors: dict[str, list[float]] = {"ours": [], "theirs": []}
        for program, encode_all in (("ours", ours), ("theirs", theirs)):
            for (rows, each), wire in zip(pairs, encode_all(), strict=True):
                weight = 1.0 if each is None else each.astype(np.float64)
                errors[program].append(error(rows, fmt.decode((wire,)), weight))
        seconds = in_turn({"ours": ours, "theirs": theirs}, repeat)
        result[how] = {
            "nanoseconds": {program: 1e9 * s / weights for program, s in seconds.items()},
            "time": seconds["ours"] / seconds["theirs"],
            "error": ratio(sum(errors["ours"]), sum(errors["theirs"])),
            "worst_error": max(map(ratio, errors["ours"], errors["theirs"])),
        }
    return result


def search(bits: int, repeat: int) -> dict[str, Any]:
    """The search for affine scales, groups of 64, and mx.quantize, on every matrix in bfloat16."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    target = get_mlx(f"affine{bits}-g64")
    tensors = [f32_to_bf16(rows) for _, rows in matrices(1 << 20)]
    arrays = [mx.array(rows).view(mx.bfloat16) for rows in tensors]
    mx.eval(arrays)

    def ours() -> None:
        for rows in tensors:
            encode_rows(target, rows, "BF16", method="search")

    def theirs() -> None:
        for array in arrays:
            mx.eval(mx.quantize(array, group_size=64, bits=bits))

    ours(), theirs()
    seconds = in_turn({"ours": ours, "theirs": theirs}, repeat)
    weights = sum(rows.size for rows in tensors)
    return {
        "nanoseconds": {program: 1e9 * s / weights for program, s in seconds.items()},
        "time": seconds["ours"] / seconds["theirs"],
    }


def checks_of(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every figure that has a limit."""
    for name, found in report["types"].items():
        for how, said in HOW.items() if found["judged"] else ():
            for figure in ("time", "error"):
                yield checked(figure, found[how][figure], f"{name} {said}")
    for bits, found in report["search"].items():
        yield checked("search", found["time"], f"{bits} bits")


def checked(name: str, value: float, of: str) -> dict[str, Any]:
    """One figure against its limit."""
    limit, what = LIMITS[name]
    found = {"name": f"{name}, {of}", "what": what, "value": value, "limit": limit}
    return found | {"passed": value <= limit}


def table(report: dict[str, Any]) -> Iterator[str]:
    """The figures in a few lines."""
    yield "          without importance                      with importance"
    yield "type      ns a weight    time   error (worst)     ns a weight    time   error (worst)"
    for name, found in report["types"].items():
        columns = []
        for how in HOW:
            one = found[how]
            ns = f"{one['nanoseconds']['ours']:.2f} / {one['nanoseconds']['theirs']:.2f}"
            errors = f"{one['error']:.4f} ({one['worst_error']:.4f})"
            columns.append(f"{ns:14}{one['time']:6.3f} {errors:17}")
        yield f"{name:9} {'   '.join(columns)}{'' if found['judged'] else ' for information'}"
    yield "affine search, ns a weight / mx.quantize's"
    for bits, found in report["search"].items():
        ns = found["nanoseconds"]
        yield f"{bits} bits    {ns['ours']:.2f} / {ns['theirs']:.2f}  {found['time']:6.3f}"
    for check in report["checks"]:
        if not check["passed"]:
            yield f"OVER {check['value']:.4f} (limit {check['limit']:g})  {check['name']}"


def main() -> int:
    """Measure, report, and exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--types", help="comma-separated; all that have a kernel if not given")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each program (default 5)")
    parser.add_argument("--out", type=Path, help="JSON file to write (default: stdout)")
    options = parser.parse_args()
    if not ggml.available():
        raise SystemExit("llama-cpp-python is not installed; `pip install llama-cpp-python`")
    named = options.types.split(",") if options.types else list(ENCODERS)
    found = [fmt for fmt in map(formats.get, named) if isinstance(fmt, GgmlFormat)]
    for fmt in found:
        if said := reason(fmt):
            raise SystemExit(f"{fmt.name}: {said}")
    report = begun(
        "How fast, and how well, are weights encoded?", "mlx", "numpy", "llama-cpp-python"
    )
    report |= {
        "repeat": options.repeat,
        "types": {},
    }
    for fmt in sorted(found, key=lambda fmt: (fmt.name not in JUDGED, fmt.name)):
        note(f"{fmt.name} …")
        report["types"][fmt.name] = compare(fmt, options.repeat)
    report["search"] = {str(bits): search(bits, options.repeat) for bits in SEARCHED_BITS}
    report["checks"] = list(checks_of(report))
    return finished(report, options.out, table(report))


if __name__ == "__main__":
    sys.exit(main())
