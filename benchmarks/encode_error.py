"""How well, and how fast, are weights encoded? mlxquant.formats against ggml_quantize_chunk.

    python benchmarks/encode_error.py --types Q4_K,Q6_K --out encode_error.json

Encodes every matrix of the bundled model in every GGUF type that both have, by both,
and compares the squared error of what decodes: plain, and with an importance for each input
column (drawn log-normal, the same for both). Without importance the error weighted by the squared
weight is shown too, which is what llama.cpp's own search goes by in places; no limit is set for it.
The worst tensor decides. Prints a table on stderr, writes JSON, and exits 1 where a limit is
exceeded. Speeds are by processor time, so a second thread would not help.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from reporting import commit, machine, note

from mlxquant import formats
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.formats.floats import to_float32
from mlxquant.formats.ggml_format import GgmlFormat
from mlxquant.load.checkpoint import StoredTensor
from mlxquant.load.from_hf import open_folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from interop import ggml  # noqa: E402

#: every figure must be at most this, for the worst tensor
LIMIT = 1.0


def matrices(most: int) -> Iterator[tuple[str, np.ndarray]]:
    """The bundled model's matrices by name, float32, of each the first rows: at most `most`."""
    for name, tensor in open_folder(BUNDLED_MODEL).tensors.items():
        if isinstance(tensor, StoredTensor) and len(tensor.shape) == 2:
            rows, columns = min(most, tensor.shape[0]), tensor.shape[1]
            stored = tensor.read(0, rows * columns)
            yield name, to_float32(stored, tensor.dtype).reshape(rows, columns)


def types(asked: str | None) -> list[GgmlFormat]:
    """The types to compare: all that mlxquant has, or those asked for."""
    found = {f.name: f for f in map(formats.get, formats.names()) if isinstance(f, GgmlFormat)}
    if asked is None:
        return list(found.values())
    unknown = [name for name in asked.split(",") if name not in found]
    if unknown:
        raise SystemExit(f"no type {', '.join(unknown)}; there are {', '.join(found)}")
    return [found[name] for name in asked.split(",")]


def error(rows: np.ndarray, decoded: np.ndarray, weight: np.ndarray | float) -> float:
    """The weighted squared error."""
    deviation = decoded.astype(np.float64) - rows
    return float((deviation * deviation * weight).sum())


def ratio(ours: float, theirs: float) -> float:
    """ours / theirs; 1 where both are 0."""
    if theirs == 0:
        return 1.0 if ours == 0 else math.inf
    return ours / theirs


def compare(fmt: GgmlFormat, most: int) -> dict[str, Any] | None:
    """Both encoders on every matrix, with and without importance; None where ggml has none."""
    random = np.random.default_rng(0)
    seconds = {"mlxquant": 0.0, "ggml": 0.0}
    tensors: dict[str, dict[str, float]] = {}
    sums: dict[str, list[float]] = {}
    encoded = 0

    def timed(program: str, encode: Callable[..., Any], *args: Any) -> np.ndarray:
        began = time.process_time()
        wire = encode(*args)
        seconds[program] += time.process_time() - began
        return fmt.decode(wire if isinstance(wire, tuple) else (wire,))

    for name, rows in matrices(most):
        if rows.shape[1] % fmt.block_size:
            continue
        drawn = np.exp(random.standard_normal(rows.shape[1])).astype(np.float32)
        figures = tensors.setdefault(name, {})
        for label, importance in (("plain", None), ("importance", drawn)):
            if importance is None and fmt.ggml_type in ggml.NEED_IMPORTANCE:
                continue
            ours = timed("mlxquant", fmt.encode, rows, importance)
            theirs = timed("ggml", ggml.quantize_chunk, fmt.ggml_type, rows, importance)
            encoded += rows.size
            measures = {label: 1.0 if importance is None else importance.astype(np.float64)}
            if importance is None:
                measures["squared_weight"] = np.square(rows.astype(np.float64))
            for measure, weight in measures.items():
                pair = error(rows, ours, weight), error(rows, theirs, weight)
                figures[measure] = ratio(*pair)
                total = sums.setdefault(measure, [0.0, 0.0])
                total[0], total[1] = total[0] + pair[0], total[1] + pair[1]
    if not tensors:
        return None
    result: dict[str, Any] = {"type": fmt.name, "bits_per_weight": fmt.bpw, "tensors": tensors}
    for measure, pair in sums.items():
        worst = max(figures[measure] for figures in tensors.values())
        result[measure] = {"total": ratio(*pair), "worst": worst}
    for program, spent in seconds.items():
        result[f"{program}_weights_per_second"] = encoded / spent
    result["speed_ratio"] = seconds["ggml"] / seconds["mlxquant"]
    return result


def has_encoder(fmt: GgmlFormat) -> bool:
    """Whether ggml_quantize_chunk takes the type; it aborts the process for others."""
    return fmt.name not in ("F64", "I8", "I16", "I32", "I64", "Q8_K")


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """The figures in a few lines."""
    yield (
        "            squared error / ggml's: total (worst tensor)              M weights/s\n"
        "type      without importance  with importance     by squared weight   ours    ggml"
    )
    for result in results:
        columns = []
        for measure in ("plain", "importance", "squared_weight"):
            pair = result.get(measure)
            shown = f"{pair['total']:.4f} ({pair['worst']:.4f})" if pair else "-"
            columns.append(f"{shown:18}")
        speeds = [result[f"{program}_weights_per_second"] / 1e6 for program in ("mlxquant", "ggml")]
        verdict = "" if result["passed"] else "  OVER"
        yield (
            f"{result['type']:9} {'  '.join(columns)} {speeds[0]:7.2f} {speeds[1]:7.2f}{verdict}"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", help="comma-separated; all of them if not given")
    parser.add_argument("--rows", type=int, default=1 << 20, help="of each matrix, at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not ggml.available():
        raise SystemExit("llama-cpp-python is not installed; `pip install llama-cpp-python`")
    report: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "numpy": np.__version__,
        "limit": LIMIT,
    }
    results = []
    for fmt in filter(has_encoder, types(args.types)):
        note(f"{fmt.name} …")
        found = compare(fmt, args.rows)
        if found is not None:
            judged = [found[m]["worst"] for m in ("plain", "importance") if m in found]
            results.append(found | {"passed": max(judged) <= LIMIT})
    report["types"] = results
    for line in table(results):
        note(line)
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(result["passed"] for result in results) else 1)


if __name__ == "__main__":
    main()
