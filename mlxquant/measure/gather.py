"""Results from many files and machines as one set: every JSON file below a folder, merged.

Two eval records are one where model, text, windows and reference are equal; the machine does not
matter. Two bench records are one where model, settings and chip are equal. Of equal ones the newest
counts, so that every figure is one that some file holds. Before that, a run on a machine that
throttled, was hot or saved power yields to one that did not, and an evaluation without a reference
to one with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError
from .groups import Record, model_key, panel_of
from .results import load
from .tables import number, plain

__all__ = ["Gathered", "Measured", "Skipped", "chip_of", "gather"]

#: how well evaluations of one model on the same tokens must agree, relative, whatever computes them
AGREEMENT = 0.005


@dataclass(frozen=True)
class Measured:
    """A record and the document that it stood in.

    Attributes:
        record: as in the file.
        document: the document, of which only the head is looked at.
        file: path below the folder that was gathered.
    """

    record: Record
    document: dict[str, Any] = field(repr=False)
    file: str

    @property
    def made(self) -> datetime:
        """When."""
        return datetime.fromisoformat(self.document["made"])


@dataclass(frozen=True)
class Skipped:
    """A file that is none of results, and why in a line."""

    file: str
    reason: str


@dataclass(frozen=True)
class Gathered:
    """Everything that a folder holds.

    Attributes:
        evals, benches: merged records, in an order that does not depend on the file system's.
        files: those that were read, by path; their documents.
        skipped: JSON files that could not be used.
        replaced: how many records gave way to one of the same key.
        notes: where files contradict each other.
    """

    evals: tuple[Measured, ...]
    benches: tuple[Measured, ...]
    files: dict[str, dict[str, Any]]
    skipped: tuple[Skipped, ...]
    replaced: int
    notes: tuple[str, ...]


def gather(path: str | os.PathLike[str]) -> Gathered:
    """Read every results file below a folder, or one file.

    Symbolic links to folders are not followed.

    Raises:
        InputError: there is no such path, or no results in it.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"{path}: there is no such file or folder")
    files: dict[str, dict[str, Any]] = {}
    skipped: list[Skipped] = []
    for name, file in _json_files(root, skipped):
        try:
            files[name] = load(file)
        except FileFormatError as problem:
            skipped.append(Skipped(name, f"{problem.field}: {problem.reason}"))
    found = [
        (document["kind"], Measured(record, document, name))
        for name, document in files.items()
        for record in document["records"]
    ]
    if not found:
        why = f"; of {len(skipped)} JSON files none is: {_told(skipped[0])}" if skipped else ""
        hint = "make some with mlxquant eval -o or mlxquant bench -o"
        raise InputError(f"{path}: no results in it{why}; {hint}")
    evals, notes = _merge_evals(one for kind, one in found if kind == "eval")
    benches = _merge((one for kind, one in found if kind == "bench"), _bench_key, _bench_rank)
    return Gathered(
        tuple(evals),
        tuple(benches),
        files,
        tuple(skipped),
        len(found) - len(evals) - len(benches),
        tuple(notes),
    )


def _told(skipped: Skipped) -> str:
    return f"{skipped.file}: {skipped.reason}"


def _json_files(root: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Path]]:
    """(path below the root, path) of every JSON file, in an order of their names."""
    if not root.is_dir():
        yield root.name, root
        return

    def unreadable(problem: OSError) -> None:
        name = os.path.relpath(problem.filename, root)
        skipped.append(Skipped(name, f"folder: cannot be read: {problem.strerror}"))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(".json"):
                file = Path(folder) / name
                yield file.relative_to(root).as_posix(), file


def chip_of(document: dict[str, Any]) -> str:
    """A machine by what its speed depends on: chip, device, and cores of that device."""
    machine = document["machine"]
    cores = machine["gpu_cores"] if machine["kind"] == "gpu" else machine["cpu_cores"]
    kind = {"gpu": "GPU", "cpu": "CPU"}[machine["kind"]]
    words = f", {cores}-core {kind}" if cores else f", {kind}"
    return plain(machine["chip"], 60) + words


def _eval_key(one: Measured) -> tuple[Any, ...]:
    # The text's name is left out: the same text under another name is the same.
    panel = panel_of(one.record)
    return (*model_key(one.record), panel[2:-1])


def _bench_key(one: Measured) -> tuple[Any, ...]:
    settings = (one.record[name] for name in ("prompt", "context", "batch", "generated"))
    return (chip_of(one.document), *model_key(one.record), *settings)


def _bench_rank(one: Measured) -> tuple[Any, ...]:
    conditions = one.document["conditions"]
    hot = conditions["thermal"] in ("serious", "critical")
    sound = not (one.record["throttled"] or conditions["low_power_mode"] or hot)
    return sound, one.made, one.file


def _merge(
    records: Iterable[Measured],
    key: Callable[[Measured], tuple[Any, ...]],
    rank: Callable[[Measured], tuple[Any, ...]],
) -> list[Measured]:
    """Of equal keys the highest rank, of equal ranks the last; by key."""
    best: dict[tuple[Any, ...], Measured] = {}
    for one in records:
        there = best.get(key(one))
        if there is None or rank(one) >= rank(there):
            best[key(one)] = one
    return [best[found] for found in sorted(best)]


def _merge_evals(records: Iterable[Measured]) -> tuple[list[Measured], list[str]]:
    """Merged evaluations, and a note for each that machines do not agree on."""
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for one in records:
        groups.setdefault(_eval_key(one), []).append(one)
    merged, notes = [], []
    for key in sorted(groups):
        group = groups[key]
        referenced = [one for one in group if one.record["reference"]]
        merged += _merge(
            referenced or group,
            lambda one: ((one.record["reference"] or {"name": ""})["name"],),
            lambda one: (one.made, one.file),
        )
        low = min(group, key=lambda one: one.record["perplexity"]["value"])
        high = max(group, key=lambda one: one.record["perplexity"]["value"])
        least, most = (one.record["perplexity"]["value"] for one in (low, high))
        if most > least * (1 + AGREEMENT):
            notes.append(
                f"{plain(low.record['model']['name'])}: perplexity {number(least, 4)} on "
                f"{chip_of(low.document)} ({plain(low.file)}), {number(most, 4)} on "
                f"{chip_of(high.document)} ({plain(high.file)}): one of them is wrong, or "
                "they are not the same model"
            )
    return merged, notes
