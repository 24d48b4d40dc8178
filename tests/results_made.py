"""Results documents as a measurement makes them, with any of their values changed."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["bench_document", "bench_record", "eval_document", "eval_record", "estimate", "timing"]


def estimate(value: float, spread: float | None = None) -> dict[str, Any]:
    """A figure; with `spread` an interval of so much to both sides."""
    if spread is None:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": value - spread, "high": value + spread}


def timing(median: float, spread: float = 0.02) -> dict[str, Any]:
    """Three runs whose quartiles are `spread` of the median to both sides."""
    low, high = median * (1 - spread), median * (1 + spread)
    return {
        "median": median,
        "low": low,
        "high": high,
        "runs": [median, median * (1 - 2 * spread), median * (1 + 2 * spread)],
    }


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy with the values at dotted paths replaced."""
    made = copy.deepcopy(document)
    for path, value in changes.items():
        place: Any = made
        *outer, last = path.split(".")
        for name in outer:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[last] = value
    return made


def model(bits: float = 4.5, **changes: Any) -> dict[str, Any]:
    """A model of 7.3 million weights."""
    made = {
        "name": f"books-7m-{bits:g}",
        "base": "books-7m",
        "format": f"affine{bits:.0f}-g64",
        "tool": "mlxquant",
        "method": "rtn",
        "parameters": 7_340_032,
        "bytes": int(7_340_032 * bits / 8),
        "bits_per_weight": bits,
        "tokenizer": "ab" * 32,
    }
    return changed(made, changes)


def eval_record(bits: float = 4.5, **changes: Any) -> dict[str, Any]:
    """How a model of so many bits per weight did, the better the more it has."""
    kl = 4.0 * 2 ** (-1.9 * bits) * 10
    made = {
        "model": model(bits),
        "text": {"name": "eval.txt", "sha256": "cd" * 32, "tokens": 21_000},
        "windows": {
            "style": "mlx-lm",
            "length": 512,
            "stride": 512,
            "count": 41,
            "scored": 20_951,
        },
        "perplexity": estimate(30 * (1 + kl), 0.2),
        "reference": {"name": "books-7m", "perplexity": estimate(30, 0.2)},
        "kl": {
            "mean": estimate(kl, kl / 10),
            "median": estimate(kl / 2, kl / 20),
            "p90": estimate(kl * 2, kl / 5),
            "p99": estimate(kl * 6, kl),
            "max": kl * 40,
        },
        "top1": estimate(1 - min(0.5, kl), min(0.003, kl)),
        "top5": estimate(1 - min(0.4, kl / 2), min(0.002, kl / 2)),
        "seconds": 12.5,
    }
    return changed(made, changes)


def bench_record(bits: float = 4.5, **changes: Any) -> dict[str, Any]:
    """How fast a model of so many bits per weight was."""
    size = int(7_340_032 * bits / 8)
    limit = 2.0e11 / size
    made = {
        "model": model(bits),
        "prompt": 512,
        "context": 0,
        "batch": 1,
        "generated": 64,
        "ttft": timing(0.12),
        "prefill": timing(4200.0),
        "decode": timing(0.7 * limit),
        "peak_memory": size + 30_000_000,
        "energy": None,
        "bytes_per_token": size,
        "limit": limit,
        "share": 0.7,
        "throttled": False,
        "notes": [],
    }
    return changed(made, changes)


def _document(kind: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": "mlxquant-results",
        "version": 1,
        "kind": kind,
        "made": "2026-11-24T02:30:00+00:00",
        "machine": {
            "chip": "Apple M2 Pro",
            "chip_id": "m2-pro",
            "kind": "gpu",
            "cpu_cores": 10,
            "gpu_cores": 16,
            "memory_bytes": 17_179_869_184,
            "system": "macOS 15.1",
            "bandwidth": {"bytes_per_s": 2.0e11, "source": "Apple"},
        },
        "conditions": {
            "power": "mains",
            "low_power_mode": False,
            "thermal": "nominal",
            "load": 0.3,
            "notes": [],
        },
        "software": {
            "mlxquant": "0.1.0",
            "mlx": "0.32.4",
            "mlx-lm": "0.32.2",
            "python": "3.11.7",
            "commit": None,
        },
        "records": records,
    }


def eval_document(*records: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A document of these records, or of one."""
    return changed(_document("eval", list(records) or [eval_record()]), changes)


def bench_document(*records: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A document of these records, or of one."""
    return changed(_document("bench", list(records) or [bench_record()]), changes)
