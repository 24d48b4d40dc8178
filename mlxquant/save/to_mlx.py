"""The MLX folder sink: what stock `mlx_lm.load` opens, written so that memory stays flat."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.atomic import sync_file, sync_folder, write_file
from ..load.kept_blocks import KEY as BLOCKS_KEY
from ..load.kept_blocks import VERSION as BLOCKS_VERSION
from .folder import Staged, lay_out
from .layout import Layout
from .manifest import (
    MANIFEST,
    describe_items,
    describe_request,
    file_hash,
    manifest,
    versions,
)
from .partial import check_output
from .source_hash import SourceHashes
from .stream import Options, stream

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Plan
    from ..quantize.spending import Spending
    from .work import Work

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
        spent: where the bits of a budget went, by role.
        measured: divergence of the predictions on the calibration text, nats a token, where known.
        source_parameters: of the source; None where the output has as many.
    """

    plan: Plan
    layout: Layout
    source_bytes: int
    notes: tuple[str, ...] = ()
    output: Path | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    spent: tuple[Spending, ...] = ()
    measured: float | None = None
    source_parameters: int | None = None

    @property
    def source_bpw(self) -> float:
        """Bits per weight of the source."""
        return 8 * self.source_bytes / max(1, self.source_parameters or self.layout.parameters)

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
        return {
            "output": None if self.output is None else str(self.output),
            "parameters": self.layout.parameters,
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "source_bits_per_weight": self.source_bpw,
            "bits_per_weight": self.bpw,
            "request": describe_request(self.plan),
            "plan": describe_items(self.plan),
            **({} if self.measured is None else {"kl_on_calibration_text": self.measured}),
            "notes": list(self.notes),
            "files": self.files,
        }


def save_folder(
    plan: Plan,
    source: SourceModel,
    output: str | PathLike[str],
    options: Options,
    *,
    finite: bool = False,
    hashes: SourceHashes | None = None,
    staged: Mapping[str, Staged] | None = None,
    files: Mapping[str, bytes] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Write a plan's model to a folder. Errors as `pipeline.quantize`.

    Args:
        finite: refuse NaN and infinity also where the output could hold them.
        hashes: of the checkpoint's weight files, where they are under way.
        staged: weights that are encoded already, by the item's name.
        files: what belongs beside the weights, by name.
        notes: what a user should know besides.
    """
    final, layout = Path(output), lay_out(plan, source, finite=finite, staged=staged)
    identity = [
        describe_request(plan),
        versions(),
        [
            (item.name, item.source, str(item.target), item.dtype, item.blocks)
            for item in plan.items
        ],
        source.config,
    ]
    written: dict[str, dict[str, Any]] = {}

    def finish(folder: Path, work: Work) -> None:
        written.update(_finish(plan, source, layout, folder, work, files or {}))

    checkpoint = source.checkpoint
    shards = checkpoint.shards
    with hashes or SourceHashes(shards) as hashes:
        stream(
            layout,
            final,
            checkpoint.path,
            shards,
            identity,
            options,
            hashes=hashes,
            finish=finish,
        )
    return Result(plan, layout, checkpoint.nbytes, (*checkpoint.notes, *notes), final, written)


def _finish(
    plan: Plan,
    source: SourceModel,
    layout: Layout,
    folder: Path,
    work: Work,
    others: Mapping[str, bytes],
) -> dict[str, dict[str, Any]]:
    """All that is in the folder beside the weights; returns size and hash by file."""
    files = {
        shard.name: {"bytes": shard.size, "sha256": work.output_hashes[shard.name]}
        for shard in layout.shards
    }
    names = _write_small_files(plan, source, layout, folder)
    for name, data in others.items():
        write_file(folder / name, data)
    for name in (*names, *others):
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
    return files


def _write_small_files(plan: Plan, source: SourceModel, layout: Layout, folder: Path) -> list[str]:
    """config.json, the index, the tokenizer's and other files as they were; returns their names."""
    from mlx_lm.utils import save_config

    config = dict(source.config)
    for key in ("quantization", "quantization_config", BLOCKS_KEY):
        config.pop(key, None)
    if plan.quantization is not None:
        config["quantization"] = plan.quantization
    kept = {str(i.module): i.blocks for i in plan.items if i.blocks and i.target is None}
    if kept:
        config[BLOCKS_KEY] = {"version": BLOCKS_VERSION, "blocks": kept}
    if plan.dtype is not None:
        config["torch_dtype"] = plan.dtype
        if "dtype" in config:
            config["dtype"] = plan.dtype
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
