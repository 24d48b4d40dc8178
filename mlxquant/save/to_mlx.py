"""The MLX folder sink: what stock `mlx_lm.load` opens, written so that memory stays flat.

Everything is written to `<output>.partial`; the folder gets its name when it is complete and
synced. An interrupted run leaves the partial folder behind, and `resume` ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, OutputError, RequestError, WriteError
from ..files.atomic import sync_folder, write_file
from .journal import Journal
from .layout import Layout, lay_out
from .manifest import (
    MANIFEST,
    describe_items,
    describe_request,
    file_hash,
    manifest,
    versions,
)

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Plan

__all__ = ["Result", "check_output", "save_folder"]

JOURNAL = "journal"


@dataclass(frozen=True)
class Result:
    """What a run did, or with a dry run what it would do.

    Attributes:
        plan, layout: every tensor and every byte range.
        source_bytes, output_bytes: of the weights.
        notes: what was noticed about the source, a line each.
        output: the folder; None for a dry run.
        files: `{bytes, sha256}` of every file by relative name; empty for a dry run.
    """

    plan: Plan
    layout: Layout
    source_bytes: int
    notes: tuple[str, ...] = ()
    output: Path | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def output_bytes(self) -> int:
        """Bytes of the weight arrays."""
        return sum(output.stop - output.start for output in self.layout.outputs)

    @property
    def bpw(self) -> float:
        """Bits per weight over the whole model."""
        return 8 * self.output_bytes / max(1, self.layout.parameters)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        parameters = max(1, self.layout.parameters)
        return {
            "output": None if self.output is None else str(self.output),
            "parameters": self.layout.parameters,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "source_bits_per_weight": 8 * self.source_bytes / parameters,
            "bits_per_weight": self.bpw,
            "request": describe_request(self.plan),
            "plan": describe_items(self.plan),
            "notes": list(self.notes),
            "files": self.files,
        }


def partial_of(output: Path) -> Path:
    """Where an output is while it is not complete."""
    return output.with_name(output.name + ".partial")


def check_output(
    output: str | PathLike[str] | None, *, force: bool = False, resume: bool = False
) -> None:
    """Say before any work what stands in the way of an output folder.

    Raises:
        OutputError: it exists, its parent is missing or read-only, or an interrupted run is there.
    """
    if output is None:
        raise RequestError("no output folder: name one with -o")
    final = Path(output)
    parent = final.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{final}: the folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{final}: the folder {parent} is read-only")
    if final.is_symlink() or final.exists():
        if not force:
            raise OutputError(f"{final}: exists already; --force replaces it")
        if final.is_symlink() or not _is_replaceable(final):
            raise OutputError(f"{final}: is not a model folder; --force replaces only those")
    if partial_of(final).exists() and not (resume or force):
        raise OutputError(
            f"{partial_of(final)}: an interrupted run is here; --resume finishes it, "
            "--force starts over"
        )


def _is_replaceable(folder: Path) -> bool:
    """An empty folder, or one that holds a model and nothing that looks like a project."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    return not names or ("config.json" in names and ".git" not in names)


def save_folder(
    plan: Plan,
    source: SourceModel,
    output: str | PathLike[str],
    *,
    force: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Result:
    """Write a plan's model to a folder. Arguments and errors as `pipeline.quantize`."""
    if threads is not None and threads < 1:
        raise RequestError(f"threads {threads} is not at least 1")
    final = Path(output)
    _check_apart(final, source.checkpoint.path)
    layout = lay_out(plan, source)
    partial = partial_of(final)
    if partial.exists() and force and not resume:
        shutil.rmtree(partial)
    started = partial.exists()
    try:
        partial.mkdir(exist_ok=True)
    except OSError as problem:
        raise OutputError(f"{final}: cannot be created: {problem.strerror}") from problem
    stamps = _stamps(source)
    try:
        journal = Journal(partial / JOURNAL, _identity(plan, source, layout, stamps))
    except OSError as problem:
        raise OutputError(f"{partial}: cannot be written: {problem.strerror}") from problem
    try:
        if not started:
            _check_space(partial, layout.nbytes)
        files = _write(plan, source, layout, partial, journal, threads, progress)
        if _stamps(source) != stamps:
            raise ModelError(f"{source.checkpoint.path}: changed while it was read; run again")
    except (ModelError, OutputError):
        shutil.rmtree(partial)  # a resumed run could only fail in the same way
        raise
    finally:
        journal.close()
    _publish(partial, final)
    checkpoint = source.checkpoint
    return Result(plan, layout, checkpoint.nbytes, checkpoint.notes, final, files)


def _write(
    plan: Plan,
    source: SourceModel,
    layout: Layout,
    partial: Path,
    journal: Journal,
    threads: int | None,
    progress: Callable[[int, int, str], None] | None,
) -> dict[str, dict[str, Any]]:
    """Everything that goes into the folder; returns size and hash by file."""
    import mlx.core as mx

    from .work import Work

    work = Work(plan, source, layout, partial, journal)
    # Freed chunks go back to the system: kept, they would add up over threads and chunk sizes.
    before = mx.set_cache_limit(0)
    try:
        work.run(source.checkpoint.shards, threads or os.cpu_count() or 1, progress)
    finally:
        mx.set_cache_limit(before)
    files = {
        shard.name: {"bytes": shard.size, "sha256": work.output_hashes[shard.name]}
        for shard in layout.shards
    }
    try:
        for name in _write_small_files(plan, source, layout, partial):
            files[name] = file_hash(partial / name)
        hashes = work.source_hashes
        hashes["config.json"] = file_hash(source.checkpoint.path / "config.json")["sha256"]
        write_file(partial / MANIFEST, manifest(plan, source, hashes, files))
        files[MANIFEST] = file_hash(partial / MANIFEST)
        for folder in {(partial / name).parent for name in files}:
            sync_folder(folder)
    except OSError as problem:
        raise WriteError(
            f"{partial}: writing failed: {problem.strerror}; run again with --resume"
        ) from problem
    return files


def _write_small_files(plan: Plan, source: SourceModel, layout: Layout, partial: Path) -> list[str]:
    """config.json, the index, the tokenizer's and other files as they were; returns their names."""
    from mlx_lm.utils import save_config

    config = dict(source.config)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    if plan.quantization is not None:
        config["quantization"] = plan.quantization
    if plan.request.dtype is not None:
        config["torch_dtype"] = plan.request.dtype
        if "dtype" in config:
            config["dtype"] = plan.request.dtype
    save_config(config, partial / "config.json", keep_vision_config=source.keeps_vision)
    index = {
        "metadata": {
            "total_size": sum(output.stop - output.start for output in layout.outputs),
            "total_parameters": layout.parameters,
        },
        "weight_map": {
            output.name: layout.shards[output.shard].name
            for output in sorted(layout.outputs, key=lambda output: output.name)
        },
    }
    write_file(partial / "model.safetensors.index.json", json.dumps(index, indent=4).encode())
    names = ["config.json", "model.safetensors.index.json"]
    for relative in source.checkpoint.extra_files:
        target = partial / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, (source.checkpoint.path / relative).read_bytes())
        names.append(str(relative))
    return names


def _stamps(source: SourceModel) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the source's weight files."""
    stats = [(path.name, path.stat()) for path in source.checkpoint.shards]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _identity(
    plan: Plan, source: SourceModel, layout: Layout, stamps: list[tuple[str, int, int]]
) -> str:
    """A hash of all that the output's bytes depend on."""
    content = [
        describe_request(plan),
        versions(),
        stamps,
        [hashlib.sha256(shard.header).hexdigest() for shard in layout.shards],
        [(item.name, item.source, str(item.target), item.dtype) for item in plan.items],
        [(unit.item, unit.outputs, unit.begin, unit.end) for unit in layout.units],
        file_hash(source.checkpoint.path / "config.json"),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _check_apart(final: Path, model: Path) -> None:
    """The output must not replace the model that is read."""
    output, folder = final.resolve(), model.resolve()
    if output == folder or output in folder.parents:
        raise OutputError(f"{final}: is where the model itself lies; choose another output")


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OutputError(
            f"{folder}: the output takes {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        )


def _publish(partial: Path, final: Path) -> None:
    """Give the complete folder its name; an old one is set aside until that is done."""
    (partial / JOURNAL).unlink()
    old = final.with_name(final.name + ".replaced")
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync_folder(final.absolute().parent)
    if old.exists():
        shutil.rmtree(old)
