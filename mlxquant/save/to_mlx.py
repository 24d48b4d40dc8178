"""The MLX folder sink: what stock `mlx_lm.load` opens, written so that memory stays flat.

Everything is written below `<output>.partial`; the output gets its name when it is complete and
synced. An interrupted run leaves the partial folder behind, and `resume` ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileFormatError, ModelError, OutputError, RequestError
from ..files.atomic import sync_file, sync_folder, write_file
from .layout import UNIT_BYTES, Layout, lay_out
from .manifest import (
    MANIFEST,
    describe_items,
    describe_request,
    file_hash,
    manifest,
    versions,
)
from .partial import Partial, check_output, check_space, partial_of, write_error

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Plan

__all__ = ["Result", "check_output", "save_folder"]


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
    check_space(final, layout.nbytes)
    stamps = _stamps(source)
    identity = _identity(plan, source, layout, stamps)
    sizes = {shard.name: shard.size for shard in layout.shards}
    partial = Partial(final, identity, sizes, force=force, resume=resume)
    try:
        files = _write(plan, source, layout, partial, threads, progress)
        if _stamps(source) != stamps:
            raise ModelError(f"{source.checkpoint.path}: changed while it was read; run again")
        partial.publish()
    except (FileFormatError, ModelError) as problem:
        # A resumed run could only fail in the same way, unless it was the reading that failed.
        if isinstance(problem, ModelError) or _stamps(source) != stamps:
            partial.discard()
        raise
    finally:
        partial.close()
    checkpoint = source.checkpoint
    return Result(plan, layout, checkpoint.nbytes, checkpoint.notes, final, files)


def _write(
    plan: Plan,
    source: SourceModel,
    layout: Layout,
    partial: Partial,
    threads: int | None,
    progress: Callable[[int, int, str], None] | None,
) -> dict[str, dict[str, Any]]:
    """Everything that goes into the folder; returns size and hash by file."""
    import mlx.core as mx

    from .work import Work

    folder = partial.folder
    work = Work(plan, source, layout, folder, partial.journal)
    threads = threads or os.cpu_count() or 1
    # MLX keeps freed buffers for the next unit, as many as the units in flight need: returning them
    # to the system each time costs more than the rounding (page faults, on every thread at once).
    before = mx.set_cache_limit(16 * UNIT_BYTES * threads)
    try:
        work.run(source.checkpoint.shards, threads, progress)
    finally:
        mx.set_cache_limit(before)
    files = {
        shard.name: {"bytes": shard.size, "sha256": work.output_hashes[shard.name]}
        for shard in layout.shards
    }
    try:
        for name in _write_small_files(plan, source, layout, folder):
            files[name] = file_hash(folder / name)
        hashes = work.source_hashes
        config = source.checkpoint.path / "config.json"
        if config.exists():  # a GGUF file holds its own
            hashes["config.json"] = file_hash(config)["sha256"]
        write_file(folder / MANIFEST, manifest(plan, source, hashes, files))
        files[MANIFEST] = file_hash(folder / MANIFEST)
        _remove_others(folder, files)
        for inside in {(folder / name).parent for name in files}:
            sync_folder(inside)
    except OSError as problem:
        raise write_error(folder, problem) from problem
    return files


def _write_small_files(plan: Plan, source: SourceModel, layout: Layout, folder: Path) -> list[str]:
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
    save_config(config, folder / "config.json", keep_vision_config=source.keeps_vision)
    sync_file(folder / "config.json")
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
    write_file(folder / "model.safetensors.index.json", json.dumps(index, indent=4).encode())
    names = ["config.json", "model.safetensors.index.json"]
    for relative in source.checkpoint.extra_files:
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, (source.checkpoint.path / relative).read_bytes())
        names.append(str(relative))
    for name, data in source.checkpoint.made_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, data)
        names.append(name)
    return names


def _remove_others(folder: Path, files: Collection[str]) -> None:
    """Leave nothing in the folder but the model's own files."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in files:
            path.unlink()


def _stamps(source: SourceModel) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the source's weight files; -1 for one that is gone."""
    stamps = []
    for path in source.checkpoint.shards:
        try:
            stat = path.stat()
            stamps.append((path.name, stat.st_size, stat.st_mtime_ns))
        except OSError:
            stamps.append((path.name, -1, -1))
    return stamps


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
        source.config,
    ]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _check_apart(final: Path, model: Path) -> None:
    """Neither the output nor its partial folder may hold the model that is read, or lie in it."""
    for output in (final, partial_of(final)):
        if _is_inside(model, output):
            raise OutputError(f"{output}: the model itself lies there; choose another output")
        if _is_inside(output, model):
            raise OutputError(f"{final}: lies in the model's folder {model}; choose another output")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is the folder or lies in it; either may not exist, or be spelt differently."""
    if not folder.exists():
        return False
    real = path.resolve()
    return any(place.exists() and place.samefile(folder) for place in (real, *real.parents))
