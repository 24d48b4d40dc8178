"""The sink for apps: a model folder whose large arrays a GPU takes as they lie in the file.

    model*.safetensors, model.safetensors.index.json    the source's arrays, in another order
    config.json, tokenizer.json, …                      as they were
    mlxquant.json                                       the manifest, with an estimate of memory
    ModelInfo.swift                                     constants for the app's own code

`swift_layout.py` has the order and the reason for it. Everything but ModelInfo.swift is the folder
to bundle: the manifest lists it, and ModelInfo.swift holds the manifest's SHA-256.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, RequestError
from ..files.atomic import sync_folder, write_file
from ..inspection.architecture import read_architecture
from ..load.checkpoint import Checkpoint
from .manifest import MANIFEST, SCHEMA, file_hash
from .model_info import FILE, ModelInfo, source_of
from .source_hash import SourceHashes
from .stream import Options, stream
from .swift_layout import PAGE, in_place, lay_out_swift

if TYPE_CHECKING:
    from ..measure.memory_model import Memory
    from .layout import Layout
    from .work import Work

__all__ = ["CONTEXTS", "PREFILL", "SwiftResult", "estimate", "save_swift"]

#: lengths of text that memory is estimated at where nothing else is asked for; and the model's own
CONTEXTS = (2048, 8192, 32768)
#: prompt tokens that mlx-swift-lm sends through a model at a time
PREFILL = 512
_MOST_CONTEXT = 1 << 24


@dataclass(frozen=True)
class SwiftResult:
    """What a run did, or with a dry run what it would do.

    Attributes:
        layout: every byte range.
        memory: the estimate by context, in tokens; empty where the headers do not tell.
        notes: what was noticed, a line each.
        output: the folder; None for a dry run.
        files: `{bytes, sha256}` of every file by relative name; empty for a dry run.
    """

    layout: Layout
    memory: Mapping[int, Memory]
    notes: tuple[str, ...] = ()
    output: Path | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def output_bytes(self) -> int:
        """Bytes of the weight arrays."""
        return sum(output.stop - output.start for output in self.layout.outputs)

    @property
    def in_place(self) -> dict[str, int]:
        """How many arrays, and bytes of them, a GPU takes without a copy."""
        return _in_place(self.layout)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {
            "output": None if self.output is None else str(self.output),
            "parameters": self.layout.parameters,
            "output_bytes": self.output_bytes,
            "bits_per_weight": 8 * self.output_bytes / max(1, self.layout.parameters),
            "swift": self.in_place,
            "memory": _described(self.memory),
            "notes": list(self.notes),
            "files": self.files,
        }


def estimate(
    checkpoint: Checkpoint, contexts: Sequence[int] = ()
) -> tuple[dict[int, Memory], tuple[str, ...]]:
    """The memory that a model takes with mlx-swift, by length of the text; and notes.

    Args:
        contexts: lengths in tokens; none for CONTEXTS up to the model's own, and that.

    Raises:
        RequestError: a length that cannot be.
    """
    from ..measure.memory_model import Footprint
    from ..models.header_model import header_model

    architecture = read_architecture(checkpoint.config)
    for context in contexts:
        if not 1 <= context <= _MOST_CONTEXT:
            raise RequestError(f"--context {context}: from 1 to {_MOST_CONTEXT:,} tokens")
    own = architecture.context
    if not contexts:
        contexts = [each for each in CONTEXTS if own is None or each < own]
        contexts += [own] if own is not None and own <= _MOST_CONTEXT else []
    try:
        footprint = Footprint(header_model(checkpoint))
    except ModelError as problem:
        return {}, (f"memory is not estimated: {problem}",)
    itemsize = 4 if architecture.dtype == "float32" else 2
    memory = {
        context: footprint.memory(
            checkpoint.nbytes, context, itemsize=itemsize, device="gpu", prefill=PREFILL
        )
        for context in sorted(set(contexts))
    }
    return memory, ()


def save_swift(
    checkpoint: Checkpoint,
    output: Path,
    options: Options,
    *,
    contexts: Sequence[int] = (),
    type_name: str = "ModelInfo",
) -> SwiftResult:
    """Write a folder for an app. Errors as `pipeline.quantize`.

    Args:
        checkpoint: a model folder.
        contexts: as of `estimate`.
        type_name: of the type in ModelInfo.swift.
    """
    from .. import __version__

    layout = lay_out_swift(checkpoint)
    memory, notes = estimate(checkpoint, contexts)
    identity = [__version__, sorted(memory), type_name, checkpoint.config]
    written: dict[str, dict[str, Any]] = {}

    def finish(folder: Path, work: Work) -> None:
        written.update(_finish(checkpoint, layout, memory, type_name, folder, work))

    with SourceHashes(checkpoint.shards) as hashes:
        stream(
            layout,
            output,
            checkpoint.path,
            checkpoint.shards,
            identity,
            options,
            hashes=hashes,
            finish=finish,
        )
    return SwiftResult(layout, memory, (*checkpoint.notes, *notes), output, written)


def _finish(
    checkpoint: Checkpoint,
    layout: Layout,
    memory: Mapping[int, Memory],
    type_name: str,
    folder: Path,
    work: Work,
) -> dict[str, dict[str, Any]]:
    """All that is in the folder beside the weights; returns size and hash by file."""
    from .. import __version__

    files = {
        shard.name: {"bytes": shard.size, "sha256": work.output_hashes[shard.name]}
        for shard in layout.shards
    }
    index = json.dumps(_index(layout), indent=4).encode()
    copies = ["config.json", *(path.as_posix() for path in checkpoint.extra_files)]
    contents = {name: (checkpoint.path / name).read_bytes() for name in copies}
    for name, data in {**contents, "model.safetensors.index.json": index}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, data)
        files[name] = file_hash(folder / name)
    sources = {**work.source_hashes, "config.json": str(files["config.json"]["sha256"])}
    write_file(folder / MANIFEST, _manifest(checkpoint, layout, memory, sources, files))
    files[MANIFEST] = file_hash(folder / MANIFEST)
    info = _info(checkpoint, memory, type_name, str(files[MANIFEST]["sha256"]))
    write_file(folder / FILE, source_of(info, __version__).encode())
    files[FILE] = file_hash(folder / FILE)
    for inside in {(folder / name).parent for name in files}:
        sync_folder(inside)
    return files


def _index(layout: Layout) -> dict[str, Any]:
    """model.safetensors.index.json."""
    return {
        "metadata": {
            "total_size": sum(output.stop - output.start for output in layout.outputs),
            "total_parameters": layout.parameters,
        },
        "weight_map": {
            output.name: layout.shards[output.shard].name
            for output in sorted(layout.outputs, key=lambda output: output.name)
        },
    }


def _manifest(
    checkpoint: Checkpoint,
    layout: Layout,
    memory: Mapping[int, Memory],
    sources: Mapping[str, str],
    files: Mapping[str, dict[str, Any]],
) -> bytes:
    """mlxquant.json; what made the source comes along as `made_by`."""
    from .. import __version__

    before = _manifest_of(checkpoint)
    content = {
        "schema": SCHEMA,
        "source": {
            "name": _name(checkpoint),
            "revision": checkpoint.revision,
            "sha256": dict(sorted(sources.items())),
        },
        "request": {"export": "swift", "contexts": sorted(memory)},
        "swift": _in_place(layout),
        "memory": _described(memory),
        **({"made_by": before} if before else {}),
        "plan": "@plan",
        "versions": {"mlxquant": __version__},
        "files": dict(sorted(files.items())),
    }
    lines = ",\n".join(
        "  "
        + json.dumps(
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "source": tensor.format,
                "format": tensor.format,
            }
        )
        for tensor in checkpoint.tensors.values()
    )
    text = json.dumps(content, indent=1).replace('"@plan"', f"[\n{lines}\n ]", 1)
    return (text + "\n").encode()


def _manifest_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What made the source: its own manifest's words, without its files and tensors."""
    from ..files.json_file import read_json_object

    path = checkpoint.path / MANIFEST
    if not path.is_file():
        return {}
    try:
        found = read_json_object(path)
    except ModelError:
        return {}
    return {key: found[key] for key in ("source", "request", "versions") if key in found}


def _in_place(layout: Layout) -> dict[str, int]:
    found = in_place(layout)
    return {
        "page": PAGE,
        "arrays": len(layout.outputs),
        "bytes": sum(output.stop - output.start for output in layout.outputs),
        "arrays_in_place": len(found),
        "bytes_in_place": sum(output.stop - output.start for output in found),
    }


def _described(memory: Mapping[int, Memory]) -> list[dict[str, int]]:
    return [
        {"context": context, **asdict(each), "total": each.total}
        for context, each in sorted(memory.items())
    ]


def _name(checkpoint: Checkpoint) -> str:
    """A hub id, or a folder's own name: where it lies is nobody else's business."""
    local = not checkpoint.source or Path(checkpoint.source).exists()
    return checkpoint.path.resolve().name if local else checkpoint.source


def _info(
    checkpoint: Checkpoint, memory: Mapping[int, Memory], type_name: str, manifest: str
) -> ModelInfo:
    from ..tokenizers.folder import open_tokenizer_folder

    architecture = read_architecture(checkpoint.config)
    names = {path.as_posix() for path in checkpoint.extra_files}
    has_tokenizer = not names.isdisjoint({"tokenizer.json", "tokenizer.model"})
    tokenizer = open_tokenizer_folder(checkpoint.path) if has_tokenizer else None
    formats: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        formats[tensor.format] += tensor.nbytes
    said = tokenizer.config.get("tokenizer_class") if tokenizer else None
    ends = (tokenizer.generation.get("eos_token_id") if tokenizer else None) or (
        checkpoint.config.get("eos_token_id")
    )
    ids = ends if isinstance(ends, list) else [ends]
    return ModelInfo(
        type_name=type_name,
        name=_name(checkpoint),
        model_type=architecture.model_type,
        tokenizer_class=said if isinstance(said, str) else None,
        parameters=sum(tensor.size for tensor in checkpoint.tensors.values()),
        nbytes=checkpoint.nbytes,
        formats=tuple(name for name, _ in sorted(formats.items(), key=lambda f: (-f[1], f[0]))),
        context=architecture.context,
        vocabulary=architecture.vocabulary,
        layers=architecture.layers,
        end_tokens=tuple(id_ for id_ in ids if type(id_) is int),
        special_tokens={
            id_: token.content for id_, token in tokenizer.added.items() if token.special
        }
        if tokenizer
        else {},
        has_chat_template=bool(tokenizer and tokenizer.templates),
        manifest=manifest,
        memory=memory,
    )
