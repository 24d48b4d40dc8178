"""From a model on disk to a model that runs: (model, tokenizer), as mlx-lm's functions take them.

It is checked by mlxquant's own readers first, so that what mlx-lm sees is well formed; what mlx-lm
still cannot build becomes one clear line. mlx-lm loads what it can; models of ggml blocks, GGUF
files among them, are built by `run.packed`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import MlxquantError, ModelError, RequestError, WorkError, one_line
from ..load.checkpoint import Checkpoint
from .stops import stop_ids

__all__ = ["context_length", "load", "load_checkpoint", "load_tokenizer"]

#: what a model can compute in
DTYPES = ("float16", "bfloat16", "float32")

NO_MODEL = "mlx-lm cannot build this model"
NO_TOKENIZER = "its tokenizer cannot be loaded"


def load(
    path: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    approximate_tokenizer: bool = False,
    lazy: bool = False,
    dtype: str | None = None,
) -> tuple[Any, Any]:
    """Load a model to run it.

    Args:
        path: a folder, a GGUF file (of a split model any part), a hub id (`org/name`), or None for
            the bundled model.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that the folder carries.
        approximate_tokenizer: accept a GGUF vocabulary that no tokenizer.json splits exactly as
            llama.cpp does.
        lazy: leave the weights on disk until they are used; ggml blocks are read at once.
        dtype: what the model computes in: `float16`, `bfloat16` or `float32`; None for its own.

    Returns:
        `(model, tokenizer)` as `mlx_lm.generate` and `mlx_lm.stream_generate` take them. The
        tokenizer's `eos_token_ids` is the union of all sources that the model has.

    Raises:
        InputError: not a model, or one that lies about itself, or that mlx-lm does not know.
        HubError: it could not be fetched.
    """
    from ..pipeline import open_checkpoint

    checkpoint = open_checkpoint(
        path,
        revision=revision,
        trust_remote_code=trust_remote_code,
        approximate_tokenizer=approximate_tokenizer,
    )
    return load_checkpoint(checkpoint, lazy=lazy, dtype=dtype)


def load_checkpoint(
    checkpoint: Checkpoint, *, lazy: bool = False, dtype: str | None = None
) -> tuple[Any, Any]:
    """`load` for a checkpoint that is open already.

    Raises:
        ModelError: mlx-lm cannot build the model, or its tokenizer is broken or missing.
        FileFormatError: a file that names an end of sequence is malformed, or a GGUF file changed
            since it was opened.
        RequestError: another `dtype`.
        WorkError: mlx or mlx-lm is missing or broken.
    """
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")
    _check_layers(checkpoint)
    if checkpoint.path.is_file() and not checkpoint.made_files:
        raise ModelError(
            f"{checkpoint.path}: the file has no vocabulary (tokenizer.ggml.tokens), and without "
            "one a model cannot be talked to; get a GGUF file of this model that has it"
        )
    _import_mlx_lm()
    # What mlx-lm prints, it prints on standard output, where only results belong.
    with redirect_stdout(sys.stderr), _refusals(checkpoint, NO_MODEL):
        if checkpoint.path.is_file() or checkpoint.blocks():
            from .packed import build_model

            model, config = build_model(checkpoint, dtype)
        else:
            model, config = _load_folder(checkpoint, lazy=lazy, dtype=dtype)
    return model, load_tokenizer(checkpoint, config)


def load_tokenizer(checkpoint: Checkpoint, config: Mapping[str, Any] | None = None) -> Any:
    """A checkpoint's tokenizer, as mlx-lm wraps it.

    Args:
        config: as mlx-lm read it; the checkpoint's own if left out.

    Raises:
        ModelError, FileFormatError, WorkError: as `load_checkpoint`.
    """
    mlx_lm_utils = _import_mlx_lm()
    eos = (checkpoint.config if config is None else config).get("eos_token_id")
    with (
        redirect_stdout(sys.stderr),
        _refusals(checkpoint, NO_TOKENIZER),
        _tokenizer_folder(checkpoint) as folder,
    ):
        tokenizer = mlx_lm_utils.load_tokenizer(
            folder,
            {"trust_remote_code": checkpoint.trust_remote_code, "local_files_only": True},
            eos_token_ids=eos if isinstance(eos, (int, list)) else None,
        )
        vocabulary = tokenizer.get_vocab()
    tokenizer.eos_token_ids = tokenizer.eos_token_ids | stop_ids(checkpoint, vocabulary)
    return tokenizer


def _import_mlx_lm() -> Any:
    try:
        from mlx_lm import utils
    except (ImportError, OSError, ValueError) as problem:
        # A ValueError: mlx-lm asks for 2048 open files, and may not have them (ulimit -n).
        limit = isinstance(problem, ValueError)
        remedy = "allow more open files: ulimit -n 4096" if limit else "pip install -U mlx-lm"
        raise WorkError(one_line(f"mlx-lm cannot be imported: {problem}; {remedy}")) from problem
    return utils


def _load_folder(
    checkpoint: Checkpoint, *, lazy: bool, dtype: str | None
) -> tuple[Any, dict[str, Any]]:
    """The model of a folder that mlx-lm can load, and its config."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    with _only(checkpoint) as folder:
        model, config = load_model(
            folder, lazy=lazy or dtype is not None, trust_remote_code=checkpoint.trust_remote_code
        )
    if dtype is not None:
        may_be_cast = getattr(model, "cast_predicate", None) or (lambda name: True)
        cast = [
            (name, array.astype(getattr(mx, dtype)))
            for name, array in tree_flatten(model.parameters())
            if mx.issubdtype(array.dtype, mx.floating) and may_be_cast(name)
        ]
        model.load_weights(cast, strict=False)
        if not lazy:
            mx.eval(model.parameters())
    return model, config


@contextmanager
def _tokenizer_folder(checkpoint: Checkpoint) -> Iterator[Path]:
    """A folder that holds the tokenizer's files; of a GGUF file, for as long as it is needed."""
    if checkpoint.path.is_dir():
        yield checkpoint.path
        return
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as name:
        for file, content in checkpoint.made_files.items():
            path = Path(name, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(name)


def context_length(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model was made for, or None where config.json does not say.

    Where positions are stretched (`rope_scaling`), it is the stretched length.
    """
    text = config.get("text_config")
    if "max_position_embeddings" not in config and isinstance(text, Mapping):
        config = text
    length = config.get("max_position_embeddings")
    if type(length) is not int or length < 1:
        return None
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.get(key)
        if isinstance(scaling, Mapping):
            factor = scaling.get("factor")
            original = scaling.get("original_max_position_embeddings")
            if isinstance(factor, (int, float)) and type(original) is int:
                length = max(length, int(original * factor))
    return length


def _check_layers(checkpoint: Checkpoint) -> None:
    """A config that claims a billion layers would have mlx-lm build them before it looks."""
    text = checkpoint.config.get("text_config")
    for part in (checkpoint.config, text if isinstance(text, Mapping) else {}):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            layers = part.get(key)
            if type(layers) is int and layers > len(checkpoint.stored):
                raise ModelError(
                    f"{checkpoint.path / 'config.json'}: {key}: {layers}, but the weights are "
                    f"{len(checkpoint.stored)} tensors, which cannot be that many layers"
                )


@contextmanager
def _only(checkpoint: Checkpoint) -> Iterator[Path]:
    """A folder in which mlx-lm finds this checkpoint's shards and no others.

    mlx-lm loads every `model*.safetensors` of a folder, named in the index or not. Where that is
    not the same set, this is a temporary folder of links; the weights need it only while they are
    opened.
    """
    stock = {file.name for file in checkpoint.path.glob("model*.safetensors")}
    if stock == {file.name for file in checkpoint.shards}:
        yield checkpoint.path
        return
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as name:
        folder = Path(name)
        for number, shard in enumerate(checkpoint.shards):
            (folder / f"model-{number:05}.safetensors").symlink_to(shard.absolute())
        for file in checkpoint.path.iterdir():
            if file.suffix in (".json", ".py") and file.is_file():
                (folder / file.name).symlink_to(file.absolute())
        yield folder


@contextmanager
def _refusals(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Errors of mlx-lm, transformers and tokenizers → ModelError, one line."""
    try:
        yield
    except (MlxquantError, MemoryError):
        raise
    except BaseException as problem:
        # tokenizers is Rust: its panics are BaseExceptions of a class that cannot be imported.
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise ModelError(_explain(checkpoint, what, problem)) from problem


def _explain(checkpoint: Checkpoint, what: str, problem: BaseException) -> str:
    """One line on why a model could not be loaded."""
    said = " ".join(str(problem).split()).replace(str(checkpoint.path) + os.sep, "")
    if isinstance(problem, KeyError):
        said = f"{said} is missing"
    kind = checkpoint.config.get("model_type")
    if said == f"Model type {kind} not supported.":
        from importlib.metadata import version

        return one_line(
            f"{checkpoint.path}: mlx-lm {version('mlx-lm')} does not know the architecture "
            f"{kind!r}; a newer one may: pip install -U mlx-lm"
        )
    if lists := re.match(r"(Missing|Received) (\d+) parameters[^:]*:\W*(.*)", said):
        lacking, count, names = lists.groups()
        few = ", ".join(names.replace(",", " ").split()[:3])
        what = "config.json and the weights do not fit together"
        said = (
            f"{count} parameters are missing" if lacking == "Missing" else f"{count} are too many"
        )
        said += f" ({few}{', …' if int(count) > 3 else ''}); is the download complete?"
    elif what == NO_TOKENIZER and not (
        checkpoint.path.is_file() or (checkpoint.path / "tokenizer.json").is_file()
    ):
        said = f"there is no tokenizer.json, and it cannot be made from other files ({said})"
    elif isinstance(problem, (AttributeError, KeyError, TypeError)) or not said:
        said = f"{said} ({type(problem).__name__})"
    return one_line(f"{checkpoint.path}: {what}: {said}", limit=400)
