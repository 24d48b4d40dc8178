"""Results of measurements as files: one JSON document a run, the same whatever made it.

The document is declared here as a schema; docs/results.md shows it as tables. Whoever writes a
document starts from `header`, adds records and calls `save`; whoever reads one calls `load` and can
rely on every field.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, OutputError, WriteError
from ..files.atomic import sync_folder, write_file
from ..files.json_file import CONFIG_LIMIT, read_json_object
from .schema import (
    Choice,
    Field,
    Integer,
    Items,
    Kind,
    Nullable,
    Number,
    Object,
    Text,
    Truth,
    Wrong,
    found,
)

__all__ = [
    "FORMAT",
    "OBJECTS",
    "SIZE_LIMIT",
    "VERSION",
    "header",
    "load",
    "save",
    "validate",
]

#: what every results document calls itself
FORMAT = "mlxquant-results"

#: of the schema; any change of a field is a new version
VERSION = 1

#: the largest file that is read, in bytes: more than ten thousand records
SIZE_LIMIT = CONFIG_LIMIT

_NAME = Text()
_SHA256 = Text("[0-9a-f]{64}", "a SHA-256 in hexadecimal")
_RATE = Number(above=True)
_SHARE = Number(most=1)


def _in_order(*names: str) -> Any:
    """A check that the values of these fields do not descend; nulls are left out."""

    def check(value: dict[str, Any]) -> None:
        known = [(name, value[name]) for name in names if value[name] is not None]
        for (lower, below), (upper, above) in zip(known, known[1:], strict=False):
            if below > above:
                raise Wrong(f"at least {lower} ({below!r}) expected, found {above!r}", upper)

    return check


def _utc(value: dict[str, Any]) -> None:
    """Refuse a time that is none, or not in UTC."""
    try:
        offset = datetime.fromisoformat(value["made"]).utcoffset()
    except ValueError:
        offset = None
    if offset != timedelta(0):
        example = "2026-11-24T02:30:00+00:00"
        raise Wrong(f"a time in UTC like {example} expected, found {found(value['made'])}", "made")


def _estimate(name: str, number: Number) -> Object:
    """A figure and its interval."""
    fields = {
        "value": Field(number, "the figure"),
        "low": Field(Nullable(number), "lower end of its 95 % interval; null where there is none"),
        "high": Field(Nullable(number), "upper end"),
    }
    return Object(name, fields, _in_order("low", "high"))


#: a perplexity, whose logarithm is what can be large
_PERPLEXITY = _estimate("an estimate", Number(above=True, most=1e300))
_NATS = _estimate("an estimate", Number())
_AGREEMENT = _estimate("an estimate", _SHARE)

_TIMING = Object(
    "a timing",
    {
        "median": Field(_RATE, "of the runs"),
        "low": Field(_RATE, "first quartile of the runs"),
        "high": Field(_RATE, "third quartile"),
        "runs": Field(Items(_RATE, least=1), "every run, in the order in which they were made"),
    },
    _in_order("low", "median", "high"),
)

_MODEL = Object(
    "a model",
    {
        "name": Field(_NAME, "what people call it"),
        "base": Field(Nullable(_NAME), "what it was made of; results are grouped by it"),
        "format": Field(_NAME, "`affine4-g64`, `Q4_K_M`, `bf16`, …"),
        "tool": Field(Nullable(_NAME), "what quantized it: `mlxquant`, `mlx-lm`, `llama.cpp`, …"),
        "method": Field(Nullable(_NAME), "how: `rtn`, `gptq`, `awq`, …"),
        "parameters": Field(Integer(1), "number of weights"),
        "bytes": Field(Integer(1), "of the weights on disk, scales included"),
        "bits_per_weight": Field(Number(above=True, most=1000), "8 · bytes / parameters"),
        "tokenizer": Field(
            Nullable(Text("[0-9a-f]{8,64}", "a fingerprint in hexadecimal")),
            "fingerprint of the vocabulary (SHA-256); perplexities compare only within one",
        ),
    },
)

_EVAL = Object(
    "an eval record",
    {
        "model": Field(_MODEL, "what was measured"),
        "text": Field(
            Object(
                "a text",
                {
                    "name": Field(_NAME, "its file's name"),
                    "sha256": Field(_SHA256, "of its bytes"),
                    "tokens": Field(Integer(1), "the whole text, in this tokenizer"),
                },
            ),
            "what it was measured on",
        ),
        "windows": Field(
            Object(
                "windows",
                {
                    "style": Field(Choice("mlx-lm", "llama.cpp"), "whose way of cutting"),
                    "length": Field(Integer(1), "tokens of a window"),
                    "stride": Field(Integer(1), "tokens from one beginning to the next"),
                    "count": Field(Integer(1), "number of windows"),
                    "scored": Field(Integer(1), "tokens that count, in all windows together"),
                },
            ),
            "how the text was cut",
        ),
        "perplexity": Field(_PERPLEXITY, "exp of the mean loss of a token"),
        "reference": Field(
            Nullable(
                Object(
                    "a reference",
                    {
                        "name": Field(_NAME, "the model that it is compared with"),
                        "perplexity": Field(_PERPLEXITY, "of that model, on the same windows"),
                    },
                )
            ),
            "null where there was none; then `kl`, `top1` and `top5` are null too",
        ),
        "kl": Field(
            Nullable(
                Object(
                    "divergences",
                    {
                        "mean": Field(_NATS, "over all scored tokens"),
                        "median": Field(_NATS, ""),
                        "p90": Field(_NATS, "90th percentile"),
                        "p99": Field(_NATS, "99th percentile"),
                        "max": Field(Number(), "a plain number"),
                    },
                )
            ),
            "KL divergence from the reference, nats a token",
        ),
        "top1": Field(Nullable(_AGREEMENT), "share of tokens where both expect the same one most"),
        "top5": Field(
            Nullable(_AGREEMENT),
            "of the reference's five likeliest tokens, the share among the model's five",
        ),
        "seconds": Field(Number(), "wall time"),
    },
)

_BENCH = Object(
    "a bench record",
    {
        "model": Field(_MODEL, "what was measured"),
        "prompt": Field(Integer(), "tokens of the prompt"),
        "context": Field(Integer(), "tokens that were in the cache before it"),
        "batch": Field(Integer(1), "sequences at a time"),
        "generated": Field(Integer(), "tokens generated, of one sequence"),
        "ttft": Field(_TIMING, "time to first token, seconds"),
        "prefill": Field(_TIMING, "tokens a second, of the whole batch"),
        "decode": Field(_TIMING, "tokens a second, of the whole batch"),
        "peak_memory": Field(Integer(), "bytes"),
        "energy": Field(Nullable(_RATE), "joules a generated token"),
        "bytes_per_token": Field(
            Integer(1), "bytes that one decode step reads: weights and KV cache"
        ),
        "limit": Field(Nullable(_RATE), "decode tokens a second that the bandwidth allows"),
        "share": Field(Nullable(_RATE), "decode.median / limit"),
        "throttled": Field(Truth(), "the machine slowed down during the runs"),
        "notes": Field(Items(_NAME), "what a reader should know"),
    },
)

_MACHINE = Object(
    "a machine",
    {
        "chip": Field(_NAME, "`Apple M2 Pro`, `AMD EPYC …`"),
        "chip_id": Field(Nullable(_NAME), "key in `measure/chips.json`: `m2-pro`"),
        "kind": Field(Choice("gpu", "cpu"), "the device that did the work"),
        "cpu_cores": Field(Integer(1), ""),
        "gpu_cores": Field(Nullable(Integer(1)), ""),
        "memory_bytes": Field(Integer(1), ""),
        "system": Field(_NAME, "`macOS 15.1`, `Linux …`"),
        "bandwidth": Field(
            Nullable(
                Object(
                    "a bandwidth",
                    {
                        "bytes_per_s": Field(_RATE, "of the memory"),
                        "source": Field(Choice("Apple", "measured"), "who says so"),
                    },
                )
            ),
            "",
        ),
    },
)

_CONDITIONS = Object(
    "conditions",
    {
        "power": Field(Nullable(Choice("battery", "mains")), ""),
        "low_power_mode": Field(Nullable(Truth()), ""),
        "thermal": Field(
            Nullable(Choice("nominal", "fair", "serious", "critical")), "macOS's thermal pressure"
        ),
        "load": Field(Nullable(Number()), "of everything else: runnable processes a core"),
        "notes": Field(Items(_NAME), "what a reader should know"),
    },
)

_SOFTWARE = Object(
    "software",
    {
        "mlxquant": Field(_NAME, "version"),
        "mlx": Field(Nullable(_NAME), "version"),
        "mlx-lm": Field(Nullable(_NAME), "version"),
        "python": Field(_NAME, "version"),
        "commit": Field(Nullable(_NAME), "of mlxquant, where it runs from a clone"),
    },
)


def _document(record: Kind) -> Object:
    """A whole document with such records."""
    return Object(
        "a results document",
        {
            "format": Field(Choice(FORMAT), ""),
            "version": Field(Integer(1), f"of this schema: {VERSION}"),
            "kind": Field(Choice("eval", "bench"), "which kind of records"),
            "made": Field(_NAME, "when, UTC: `2026-11-24T02:30:00+00:00`"),
            "machine": Field(_MACHINE, "where"),
            "conditions": Field(_CONDITIONS, "under which circumstances"),
            "software": Field(_SOFTWARE, "by what"),
            "records": Field(
                Items(record, most=100_000), "the figures; of kind `bench`, bench records"
            ),
        },
        _utc,
    )


_DOCUMENTS = {"eval": _document(_EVAL), "bench": _document(_BENCH)}

#: every object of a document, outermost first, for docs/results.md
OBJECTS = (
    _DOCUMENTS["eval"],
    _MACHINE,
    _CONDITIONS,
    _SOFTWARE,
    _EVAL,
    _BENCH,
    _MODEL,
    _PERPLEXITY,
    _TIMING,
)


def validate(document: Any, file: str | os.PathLike[str] = "results") -> None:
    """Check that a document is one of this schema.

    Args:
        document: what a JSON file holds, as `json.loads` gives it.
        file: what the error calls it.

    Raises:
        FileFormatError: it is none; names the field (`records[3].kl.mean.low`), what is expected
            and what was found. A document of a newer schema is refused with both versions.
    """
    try:
        if not isinstance(document, dict):
            raise Wrong(f"an object {{…}} expected, found {found(document)}")
        if document.get("format") != FORMAT:
            told = found(document["format"]) if "format" in document else "nothing"
            raise Wrong(f'not a file of results: "{FORMAT}" expected, found {told}', "format")
        version = document.get("version")
        if isinstance(version, int) and not isinstance(version, bool) and version > VERSION:
            told = found(version)
            raise Wrong(f"{told}; this mlxquant reads up to {VERSION}: update mlxquant", "version")
        kind = document.get("kind")
        _DOCUMENTS[kind if kind == "bench" else "eval"].check(document)
    except Wrong as problem:
        raise FileFormatError(file, problem.field, problem.reason) from None


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document that a file holds.

    Raises:
        FileFormatError: not a JSON file, too large, or not a document of this schema.
    """
    document = read_json_object(path, limit=SIZE_LIMIT)
    validate(document, path)
    return document


def save(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Write a document; a file of that name is replaced, in one step.

    Raises:
        FileFormatError: the document is not one of this schema, or larger than `load` would read.
        OutputError: there is no such folder.
        WriteError: writing failed; what was under the name is still there.
    """
    validate(document, path)
    target = Path(path)
    data = (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if len(data) > SIZE_LIMIT:
        raise FileFormatError(path, "size", f"{len(data)} bytes, at most {SIZE_LIMIT} can be read")
    if not target.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {target.parent}: make it first")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        try:
            write_file(partial, data)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as problem:
        raise WriteError(f"{path}: cannot be written: {problem.strerror}") from problem


def header(kind: str) -> dict[str, Any]:
    """A document of this moment and this machine, complete but for its records.

    Args:
        kind: `eval` or `bench`.
    """
    from .machine import conditions, machine, software

    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "conditions": conditions(),
        "software": software(),
        "records": [],
    }
