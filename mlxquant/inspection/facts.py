"""What a model on disk is: the facts behind `mlxquant inspect`, as plain data.

    inspect       Checkpoint → Facts       costs the headers and the JSON files
    verify        Checkpoint → [Problem]   reads every byte
    open_path     a folder, a hub id, nothing, or one .safetensors file → Checkpoint;
                  a GGUF file, or any part of a split one → GgufModel, which the others take too

Nothing here imports mlx, mlx-lm or transformers, and only `verify` imports NumPy.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..load.checkpoint import Checkpoint, StoredTensor
from . import gguf
from .architecture import Architecture, read_architecture
from .census import FormatRow, TensorRow, format_rows, is_ambiguous, tensor_rows
from .gguf import GgufModel, MetadataRow
from .made_by import ManifestFacts, check_manifest, manifest_hashes, read_manifest
from .problems import Problem
from .tokenizer import TemplateFacts, TokenizerFacts, template_facts, tokenizer_facts

__all__ = [
    "Facts",
    "FormatRow",
    "MetadataRow",
    "TensorRow",
    "as_json",
    "inspect",
    "open_path",
    "verify",
]


@dataclass(frozen=True)
class Facts:
    """Everything that is known without reading a weight.

    Attributes:
        path: the folder, or the file.
        source, revision: what was asked for, and the hub commit.
        architecture: None for a bare weight file.
        parameters: weights, unpacked; None where the files alone do not tell.
        bytes: of all weights on disk; files: how many hold them.
        bpw: 8 · bytes / parameters.
        formats: by group of roles, then by size.
        tensors: a row each, in file order.
        quantization: `{bits, group_size, mode, overrides}` of an MLX model.
        eos: where an end of sequence is named → ids or texts.
        conflicts, notes: a line each.
        problems: what is wrong.
        metadata: a row for each key of a GGUF file.
    """

    path: str
    source: str
    revision: str | None
    architecture: Architecture | None
    parameters: int | None
    bytes: int
    files: int
    bpw: float | None
    formats: tuple[FormatRow, ...]
    tensors: tuple[TensorRow, ...]
    quantization: dict[str, Any] | None
    tokenizer: TokenizerFacts | None
    chat_template: TemplateFacts | None
    eos: dict[str, list[int | str]]
    manifest: ManifestFacts | None
    conflicts: tuple[str, ...]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]
    metadata: tuple[MetadataRow, ...] = ()


def open_path(
    path: str | os.PathLike[str] | None = None, *, trust_remote_code: bool = False
) -> Checkpoint | GgufModel:
    """Open what a user points at.

    Args:
        path: a folder, a hub id, None for the bundled model, a GGUF file (or the folder that
            `export --to swift` made of one), or one `.safetensors` file, which is taken as weights
            alone: what lies beside it is not read.
        trust_remote_code: accept a folder that carries Python code; nothing here runs it.

    Raises:
        InputError: not a model, or one that lies about itself.
        HubError: it could not be fetched.
    """
    if path is not None and (file := _file(path)) is not None:
        return _bare(file)
    from ..load.from_hf import open_folder
    from ..load.gguf_folder import exported_gguf
    from ..load.hub import resolve

    found = resolve(path, trust_remote_code=trust_remote_code)
    if (inside := exported_gguf(found.path)) is not None:
        return dataclasses.replace(gguf.open_gguf(inside), folder=found.path)
    return open_folder(
        found.path,
        source=found.source,
        revision=found.revision,
        trust_remote_code=trust_remote_code,
        quick=True,
    )


def inspect(checkpoint: Checkpoint | GgufModel) -> Facts:
    """The facts of a model. What is wrong with its smaller files is listed, not raised."""
    if isinstance(checkpoint, GgufModel):
        return _gguf_facts(checkpoint)
    problems: list[Problem] = []
    conflicts: list[str] = []
    notes = list(checkpoint.notes)
    rows = tuple(tensor_rows(checkpoint))
    nbytes = checkpoint.nbytes
    parameters = None if is_ambiguous(checkpoint) else sum(row.weights for row in rows)
    architecture = tokenizer = template = made = None
    eos: dict[str, list[int | str]] = {}
    if checkpoint.config:
        architecture = read_architecture(checkpoint.config)
        names = {file.as_posix() for file in checkpoint.extra_files}
        tokenizer = tokenizer_facts(checkpoint.path, names, problems)
        template = template_facts(checkpoint.path, names, problems)
        eos = _eos(checkpoint, problems)
        made = read_manifest(checkpoint.path, problems)
        problems.extend(_contradictions(rows, architecture, tokenizer))
        conflicts.extend(_conflicts(eos, template))
        if tokenizer.kind is None:
            notes.append("no tokenizer among the files: the model can be converted, not run")
        if architecture.tied and any(row.role == "head" for row in rows):
            notes.append("an output head is stored though the config ties it to the embedding")
    elif parameters is None:
        notes.append("packed weights without a config.json: their width in bits is not known")
    return Facts(
        path=str(checkpoint.path),
        source=checkpoint.source,
        revision=checkpoint.revision,
        architecture=architecture,
        parameters=parameters,
        bytes=nbytes,
        files=len(checkpoint.shards),
        bpw=8 * nbytes / parameters if parameters else None,
        formats=format_rows(rows),
        tensors=rows,
        quantization=_quantization(checkpoint.quantization),
        tokenizer=tokenizer,
        chat_template=template,
        eos=eos,
        manifest=made,
        conflicts=tuple(conflicts),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def _gguf_facts(model: GgufModel) -> Facts:
    """The facts of a GGUF model."""
    problems = gguf.check(model)
    made = None if model.folder is None else read_manifest(model.folder, problems)
    rows = tuple(gguf.rows_of(model))
    parameters, nbytes = sum(row.weights for row in rows), sum(row.bytes for row in rows)
    return Facts(
        path=str(model.folder or model.path),
        source=str(model.folder or model.path),
        revision=None,
        architecture=gguf.architecture_of(model),
        parameters=parameters,
        bytes=nbytes,
        files=len(model.parts),
        bpw=8 * nbytes / parameters if parameters else None,
        formats=format_rows(rows),
        tensors=rows,
        quantization=None,
        tokenizer=gguf.tokenizer_of(model),
        chat_template=gguf.template_of(model),
        eos=gguf.eos_of(model),
        manifest=made,
        conflicts=(),
        notes=tuple(gguf.notes_of(model)),
        problems=tuple(problems),
        metadata=gguf.metadata_rows(model),
    )


def verify(
    checkpoint: Checkpoint | GgufModel,
    progress: Callable[[int, int, str], None] | None = None,
    threads: int | None = None,
) -> list[Problem]:
    """Read every byte of a model and list what is wrong: NaN and Inf, files that differ from the
    manifest, files that cannot be read; as notes, weights that are all zero.

    Args:
        checkpoint: an opened model.
        progress: called with (bytes of weights done, in all, file name), from any thread.
        threads: at most so many weight files at once; None for one a core.
    """
    if isinstance(checkpoint, GgufModel):
        problems = gguf.scan_gguf(checkpoint, progress)
        if checkpoint.folder is not None:
            hashes = manifest_hashes(checkpoint.folder, problems)
            problems.extend(check_manifest(checkpoint.folder, hashes))
        return list(dict.fromkeys(problems))
    from .verification import scan

    problems = []
    hashes = manifest_hashes(checkpoint.path, problems) if checkpoint.config else {}
    problems.extend(scan(checkpoint, hashes, progress, threads))
    if checkpoint.config:
        scanned = {shard.name for shard in checkpoint.shards}
        others = {name: value for name, value in hashes.items() if name not in scanned}
        problems.extend(check_manifest(checkpoint.path, others))
        names = {file.as_posix() for file in checkpoint.extra_files}
        tokenizer_facts(checkpoint.path, names, problems, whole=True)
    return list(dict.fromkeys(problems))


def as_json(facts: object) -> Any:
    """Dataclasses as JSON values: tuples as lists, and as text the numbers that JSON lacks."""
    if dataclasses.is_dataclass(facts) and not isinstance(facts, type):
        return {f.name: as_json(getattr(facts, f.name)) for f in dataclasses.fields(facts)}
    if isinstance(facts, Mapping):
        return {str(key): as_json(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [as_json(value) for value in facts]
    if isinstance(facts, float) and not math.isfinite(facts):
        return str(facts)
    return facts if facts is None or isinstance(facts, str | int | float) else str(facts)


def _file(path: str | os.PathLike[str]) -> Path | None:
    """The path if it is a file; names that no file can have are for `resolve` to explain."""
    try:
        file = Path(path).expanduser()
        return file if file.is_file() else None
    except (OSError, RuntimeError):
        return None


def _bare(file: Path) -> Checkpoint | GgufModel:
    """A GGUF model, or a safetensors file alone.

    Raises:
        InputError: it is something else.
    """
    from ..files.safetensors import read_header
    from ..files.sniff import describe

    what = describe(file)
    if what == "a GGUF file" or file.suffix.lower() == ".gguf":
        return gguf.open_gguf(file)
    header = read_header(file)
    stored = {
        entry.name: StoredTensor(
            entry.name, entry.dtype, entry.shape, file, entry.start, entry.stop
        )
        for entry in header.entries.values()
    }
    return Checkpoint(
        path=file,
        config={},
        stored=stored,
        tensors=stored,
        quantization=None,
        shards=(file,),
        extra_files=(),
        source=str(file),
    )


def _quantization(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    own: dict[str, Any] = {
        key: entry[key] for key in ("bits", "group_size", "mode") if key in entry
    }
    overrides = {key: value for key, value in entry.items() if isinstance(value, dict | bool)}
    return {**own, "mode": own.get("mode", "affine"), "overrides": overrides}


def _eos(checkpoint: Checkpoint, problems: list[Problem]) -> dict[str, list[int | str]]:
    from ..run.stops import eos_sources

    try:
        return eos_sources(checkpoint)
    except FileFormatError as problem:
        file = Path(problem.file).name
        if file not in {known.file for known in problems}:
            problems.append(Problem("config", file, None, f"{problem.field}: {problem.reason}"))
        return {}


def _contradictions(
    rows: tuple[TensorRow, ...], architecture: Architecture, tokenizer: TokenizerFacts
) -> list[Problem]:
    """What the config says against what the files hold."""
    problems = []
    embeddings = [row for row in rows if row.role == "embedding" and len(row.shape) == 2]
    if embeddings and tokenizer.largest_id is not None:
        table = max(embeddings, key=lambda row: row.shape[0])
        if tokenizer.largest_id >= table.shape[0]:
            message = f"token id {tokenizer.largest_id}, but {table.name} has {table.shape[0]} rows"
            problems.append(Problem("tokenizer", "tokenizer.json", None, message))
    if architecture.vocabulary and embeddings:
        heights = {row.shape[0] for row in embeddings}
        if architecture.vocabulary not in heights:
            message = f"vocab_size {architecture.vocabulary}, but {embeddings[0].name} has "
            message += f"{embeddings[0].shape[0]} rows"
            problems.append(Problem("config", "config.json", None, message))
    return problems


def _conflicts(eos: dict[str, list[int | str]], template: TemplateFacts) -> list[str]:
    """Sources that contradict each other, and which of them holds."""
    conflicts = [template.conflict] if template.conflict else []
    for kind, what in ((int, "ids"), (str, "texts")):
        named = {
            source: {value for value in values if isinstance(value, kind)}
            for source, values in eos.items()
            if source != "tokenizer.json"  # a list of candidates, not a claim
        }
        claims = {source: values for source, values in named.items() if values}
        if len(set(map(frozenset, claims.values()))) > 1:
            shown = "; ".join(
                f"{source} {sorted(values, key=str)}" for source, values in claims.items()
            )
            conflicts.append(f"end-of-sequence {what} differ: {shown}; generation stops at any")
    return conflicts
