"""The sink for apps: a model folder whose large arrays a GPU takes as they lie in the file.

    model*.safetensors, model.safetensors.index.json    the source's arrays, in another order
    config.json, tokenizer.json, …                      as they were
    mlxquant.json                                       the manifest, with an estimate of memory
    ModelInfo.swift                                     constants for the app's own code

Of a GGUF file (swift_gguf.py) it is the file, or its parts, in place of the first two lines.

`swift_layout.py` has the order and the reason for it. Everything but ModelInfo.swift is the folder
to bundle: the manifest lists it, and ModelInfo.swift holds the manifest's SHA-256.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, RequestError
from ..files.atomic import sync_folder, write_file
from ..inspection.architecture import read_architecture
from ..load.blocks import BLOCK_TYPES
from ..load.checkpoint import Checkpoint, LazyTensor, StoredTensor
from ..load.from_gguf import GgufCheckpoint
from .manifest import MANIFEST, SCHEMA, file_hash
from .model_info import FILE, ModelInfo, source_of
from .source_hash import SourceHashes
from .stream import Options, stream
from .swift_gguf import gguf_info, runtime_memory
from .swift_layout import PAGE, in_place, lay_out_gguf_files, lay_out_swift

if TYPE_CHECKING:
    from ..measure.memory_model import Memory
    from .layout import Layout, Output
    from .work import Work

__all__ = ["CONTEXTS", "PREFILL", "SwiftResult", "plan_swift", "save_swift"]

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
        arrays: those of the weights.
        memory: the estimate by context, in tokens; empty where the headers do not tell.
        notes: what was noticed, a line each.
        output: the folder; None for a dry run.
        files: `{bytes, sha256}` of every file by relative name; empty for a dry run.
    """

    layout: Layout
    arrays: tuple[Output, ...]
    memory: Mapping[int, Memory]
    notes: tuple[str, ...] = ()
    output: Path | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def output_bytes(self) -> int:
        """Bytes of the weight arrays."""
        return sum(output.stop - output.start for output in self.arrays)

    @property
    def in_place(self) -> dict[str, int]:
        """How many arrays, and bytes of them, a GPU takes without a copy."""
        return _in_place(self.arrays)

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


def plan_swift(checkpoint: Checkpoint, contexts: Sequence[int] = ()) -> SwiftResult:
    """What a folder for an app would be.

    Args:
        checkpoint: a model folder, or a GGUF file.
        contexts: lengths of text in tokens to estimate memory at; none for CONTEXTS up to the
            model's own, and that.

    Raises:
        RequestError: a length that cannot be.
    """
    memory, notes = _estimate(checkpoint, contexts)
    notes = (*checkpoint.notes, *notes)
    if isinstance(checkpoint, GgufCheckpoint):
        layout, arrays = lay_out_gguf_files(checkpoint.headers)
        notes += (
            "the Swift package's runtime reads the file as it is; for mlx-swift on a GPU import it "
            "first (mlxquant import FILE -o FOLDER) and export the folder",
        )
        return SwiftResult(layout, arrays, memory, notes)
    layout = lay_out_swift(checkpoint)
    return SwiftResult(layout, layout.outputs, memory, notes)


def _estimate(
    checkpoint: Checkpoint, contexts: Sequence[int]
) -> tuple[dict[int, Memory], tuple[str, ...]]:
    """The memory that a model takes, by length of the text; and notes.

    Of a folder with mlx-swift, of a GGUF file with the Swift package's own runtime.
    """
    architecture = read_architecture(checkpoint.config)
    for context in contexts:
        if not 1 <= context <= _MOST_CONTEXT:
            raise RequestError(f"--context {context}: from 1 to {_MOST_CONTEXT:,} tokens")
    own = architecture.context
    if not contexts:
        contexts = [each for each in CONTEXTS if own is None or each < own]
        contexts += [own] if own is not None and own <= _MOST_CONTEXT else []
    lengths = sorted(set(contexts))
    try:
        if isinstance(checkpoint, GgufCheckpoint):
            return {
                context: runtime_memory(architecture, checkpoint.nbytes, context)
                for context in lengths
            }, ()
        from ..measure.memory_model import Footprint
        from ..models.header_model import header_model

        footprint = Footprint(header_model(checkpoint))
    except ModelError as problem:
        return {}, (f"memory is not estimated: {problem}",)
    itemsize = 4 if architecture.dtype == "float32" else 2
    return {
        context: footprint.memory(
            checkpoint.nbytes, context, itemsize=itemsize, device="gpu", prefill=PREFILL
        )
        for context in lengths
    }, ()


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
        checkpoint: a model folder, or a GGUF file.
        contexts: as of `plan_swift`.
        type_name: of the type in ModelInfo.swift.
    """
    from .. import __version__

    plan = plan_swift(checkpoint, contexts)
    identity = [__version__, sorted(plan.memory), type_name, checkpoint.config]
    written: dict[str, dict[str, Any]] = {}

    def finish(folder: Path, work: Work) -> None:
        written.update(_finish(checkpoint, plan, type_name, folder, work))

    with SourceHashes(checkpoint.shards) as hashes:
        stream(
            plan.layout,
            output,
            checkpoint.path,
            checkpoint.shards,
            identity,
            options,
            hashes=hashes,
            finish=finish,
        )
    return replace(plan, output=output, files=written)


def _finish(
    checkpoint: Checkpoint,
    plan: SwiftResult,
    type_name: str,
    folder: Path,
    work: Work,
) -> dict[str, dict[str, Any]]:
    """All that is in the folder beside the weights; returns size and hash by file."""
    from .. import __version__

    files = {
        shard.name: {"bytes": shard.size, "sha256": work.output_hashes[shard.name]}
        for shard in plan.layout.shards
    }
    sources = dict(work.source_hashes)
    for name, data in _contents(checkpoint, plan.layout).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, data)
        files[name] = file_hash(folder / name)
        if name == "config.json":
            sources[name] = str(file_hash(checkpoint.path / name)["sha256"])
    write_file(folder / MANIFEST, _manifest(checkpoint, plan, sources, files))
    files[MANIFEST] = file_hash(folder / MANIFEST)
    info = _info(checkpoint, plan.memory, type_name, str(files[MANIFEST]["sha256"]))
    write_file(folder / FILE, source_of(info, __version__).encode())
    files[FILE] = file_hash(folder / FILE)
    for inside in {(folder / name).parent for name in files}:
        sync_folder(inside)
    return files


def _contents(checkpoint: Checkpoint, layout: Layout) -> dict[str, bytes]:
    """The files beside the weights, by name; a GGUF file has none."""
    if isinstance(checkpoint, GgufCheckpoint):
        return {}
    copies = ["config.json", *(path.as_posix() for path in checkpoint.extra_files)]
    contents = {name: (checkpoint.path / name).read_bytes() for name in copies}
    contents["config.json"] = _without_nulls(contents["config.json"])
    contents["model.safetensors.index.json"] = json.dumps(_index(layout), indent=4).encode()
    return contents


def _without_nulls(config: bytes) -> bytes:
    """config.json, with `false` for layers that are null: which mlx-lm takes for that, and
    mlx-swift-lm refuses. As it is where none is."""
    content = json.loads(config)
    found = False
    for key in ("quantization", "quantization_config"):
        layers = content.get(key)
        for path, entry in layers.items() if isinstance(layers, dict) else ():
            if entry is None:
                layers[path], found = False, True
    return json.dumps(content, indent=4).encode() if found else config


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
    plan: SwiftResult,
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
        "request": {"export": "swift", "contexts": sorted(plan.memory)},
        "swift": plan.in_place,
        "memory": _described(plan.memory),
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
                "source": _format_of(tensor),
                "format": _format_of(tensor),
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


def _format_of(tensor: LazyTensor) -> str:
    """`affine4-g64`, `Q4_K`, `bf16`."""
    if isinstance(tensor, StoredTensor) and tensor.dtype in BLOCK_TYPES:
        return tensor.dtype
    return tensor.format


def _in_place(arrays: Sequence[Output]) -> dict[str, int]:
    found = in_place(arrays)
    return {
        "page": PAGE,
        "arrays": len(arrays),
        "bytes": sum(output.stop - output.start for output in arrays),
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
    name = checkpoint.path.resolve().name
    if isinstance(checkpoint, GgufCheckpoint):
        return re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name)
    return name if local else checkpoint.source


def _info(
    checkpoint: Checkpoint, memory: Mapping[int, Memory], type_name: str, manifest: str
) -> ModelInfo:
    architecture = read_architecture(checkpoint.config)
    formats: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        formats[_format_of(tensor)] += tensor.nbytes
    return ModelInfo(
        type_name=type_name,
        name=_name(checkpoint),
        model_type=architecture.model_type,
        parameters=sum(tensor.size for tensor in checkpoint.tensors.values()),
        nbytes=checkpoint.nbytes,
        formats=tuple(name for name, _ in sorted(formats.items(), key=lambda f: (-f[1], f[0]))),
        context=architecture.context,
        vocabulary=architecture.vocabulary,
        layers=architecture.layers,
        manifest=manifest,
        memory=memory,
        **(
            gguf_info(checkpoint.headers[0])
            if isinstance(checkpoint, GgufCheckpoint)
            else _of_folder(checkpoint)
        ),
    )


def _of_folder(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the tokenizer's files say, as fields of ModelInfo."""
    from ..tokenizers.folder import open_tokenizer_folder

    names = {path.as_posix() for path in checkpoint.extra_files}
    has_tokenizer = not names.isdisjoint({"tokenizer.json", "tokenizer.model"})
    tokenizer = open_tokenizer_folder(checkpoint.path) if has_tokenizer else None
    said = tokenizer.config.get("tokenizer_class") if tokenizer else None
    ends = (tokenizer.generation.get("eos_token_id") if tokenizer else None) or (
        checkpoint.config.get("eos_token_id")
    )
    ids = ends if isinstance(ends, list) else [ends]
    special = (token for token in tokenizer.added.values() if token.special) if tokenizer else ()
    return {
        "runner": "mlx-swift",
        "tokenizer_class": said if isinstance(said, str) else None,
        "end_tokens": tuple(id_ for id_ in ids if type(id_) is int),
        "special_tokens": {token.id: token.content for token in special},
        "has_chat_template": bool(tokenizer and tokenizer.templates),
    }
