"""What mlx-lm knows of an architecture: module names, shapes, what can be quantized.

The model class is built with lazy arrays (nothing is allocated or read), so every architecture that
mlx-lm knows is known here too, its own `sanitize`, `quant_predicate` and `cast_predicate` included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm import utils as mlx_lm_utils

from ..errors import ModelError, one_line
from ..formats import from_mlx
from ..load.checkpoint import Checkpoint
from ..load.lazy import Node
from .source_model import Module, SourceModel
from .trace import LOADED, sanitized

__all__ = ["Module", "SourceModel", "build_model", "describe_model", "resolve_model"]


def resolve_model(checkpoint: Checkpoint) -> SourceModel:
    """Name a checkpoint's tensors as mlx-lm does.

    Raises:
        ModelError: an architecture that mlx-lm does not know, a config that does not describe one,
            or weights that are missing, unexpected or of the wrong shape.
    """
    is_folder = checkpoint.path.is_dir()
    config = mlx_lm_utils.load_config(checkpoint.path) if is_folder else dict(checkpoint.config)
    model = build_model(checkpoint, config)

    def sanitize(weights: dict[str, Any]) -> Mapping[str, Any]:
        # A model of its own for every run: some architectures change themselves in `sanitize`
        # (gemma3 drops its head when the checkpoint has none).
        nonlocal model
        model = build_model(checkpoint, config)
        return model.sanitize(weights) if hasattr(model, "sanitize") else weights

    given, blocks = checkpoint.nodes(), checkpoint.blocks()
    try:
        nodes = sanitized(given, sanitize)
    except Exception as problem:  # whatever a sanitize written for honest checkpoints raises
        raise ModelError(
            f"{checkpoint.path}: the weights do not fit model type {config['model_type']!r}: "
            f"{type(problem).__name__}: {one_line(str(problem), 200)}"
        ) from problem
    quantization = _quantization(checkpoint, config)
    if quantization is not None:
        config["quantization"] = config["quantization_config"] = quantization
        _quantize_as_stored(model, quantization, nodes)
    parameters = _match(checkpoint, model, nodes)
    undecoded = {id(given[name]): node for name, node in blocks.items()}
    kept = {name: undecoded[id(node)] for name, node in parameters.items() if id(node) in undecoded}
    return describe_model(checkpoint, config, model, parameters, kept)


def describe_model(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    model: Any,
    parameters: dict[str, Node],
    blocks: dict[str, Node],
) -> SourceModel:
    """What mlx-lm's model says of its modules, with the parameters that it is given.

    Args: as SourceModel's attributes; `model` comes from `build_model` and may be quantized since.
    """
    predicate = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    modules = {
        path: module
        for path, leaf in leaves
        if (module := _module(path, leaf, predicate)) is not None
    }
    cast = getattr(model, "cast_predicate", None) or (lambda name: True)
    down = [path for path, _ in model.named_modules() if "down_proj" in path]
    return SourceModel(
        checkpoint=checkpoint,
        config=config,
        parameters=parameters,
        blocks=blocks,
        modules=modules,
        layers=len(model.layers) if hasattr(model, "layers") else 0,
        down_path=down[0] if down else None,
        uncast=frozenset(name for name in parameters if not cast(name)),
        keeps_vision="vision_tower" in getattr(model, "model", {}),
        model=model,
    )


def build_model(checkpoint: Checkpoint, config: dict[str, Any]) -> Any:
    """mlx-lm's model of a config, its parameters lazy.

    Raises:
        ModelError: an architecture that mlx-lm does not know, or a config that describes none.
    """
    kind = config["model_type"]
    try:
        model_class, args_class = mlx_lm_utils._get_classes(config)
    except ValueError as problem:
        raise ModelError(
            f"{checkpoint.path}/config.json: model type {one_line(kind, 80)!r} is not known to the "
            "installed mlx-lm; a newer mlx-lm may know it (pip install -U mlx-lm)"
        ) from problem
    try:
        model = model_class(args_class.from_dict(config))
    except Exception as problem:  # whatever a constructor raises for values it cannot use
        raise ModelError(
            f"{checkpoint.path}/config.json: does not describe a {kind} model: "
            f"{type(problem).__name__}: {one_line(str(problem), 200)}"
        ) from problem
    model.eval()
    return model


def _quantization(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, Any] | None:
    """The MLX quantization of the stored weights, translated from Hugging Face's where it can be.

    Block-scaled fp8 is no packed format here: `sanitize` dequantizes it.
    """
    if checkpoint.quantization is not None:
        return dict(checkpoint.quantization)
    foreign = config.get("quantization_config") or (config.get("text_config") or {}).get(
        "quantization_config"
    )
    separate = checkpoint.path / "hf_quant_config.json"
    if foreign is None and separate.exists():
        foreign = json.loads(separate.read_text(encoding="utf-8"))
    if not foreign:
        return None
    method = foreign.get("quant_method")
    where = f"{checkpoint.path}/config.json: quantization_config"
    if method in ("mxfp4", "mxfp8"):
        return {"group_size": 32, "bits": 4 if method == "mxfp4" else 8, "mode": method}
    if method == "compressed-tensors":
        try:
            return dict(mlx_lm_utils._compressed_tensors_quantization(foreign))
        except ValueError as problem:
            raise ModelError(f"{where}: {one_line(str(problem))}") from problem
    if method == "fp8":
        blocks = list(foreign.get("weight_block_size") or ())
        if foreign.get("scale_fmt") == "ue8m0" and blocks == [32, 32]:
            return {"group_size": 32, "bits": 8, "mode": "mxfp8"}
        return None
    if method == "modelopt":
        settings = foreign.get("quantization", foreign)
        if settings.get("quant_algo") == "NVFP4":
            return {"group_size": settings.get("group_size", 16), "bits": 4, "mode": "nvfp4"}
    raise ModelError(
        f"{where}: weights packed by {method!r} cannot be read; start from the model's "
        "unquantized weights"
    )


def _quantize_as_stored(model: Any, quantization: dict[str, Any], nodes: dict[str, Node]) -> None:
    """Give the (lazy) model the quantized modules that the stored weights have."""
    seen = {
        name: SimpleNamespace(shape=node.shape, dtype=LOADED[node.dtype])
        for name, node in nodes.items()
    }

    def predicate(path: str, module: Any) -> bool | dict[str, Any]:
        entry = quantization.get(path)
        if isinstance(entry, dict):
            return entry
        if entry is False or not hasattr(module, "to_quantized") or f"{path}.scales" not in seen:
            return False
        return dict(mlx_lm_utils.infer_quant_config(path, module, seen))

    try:
        nn.quantize(
            model,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            mode=quantization.get("mode", "affine"),
            class_predicate=predicate,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise ModelError(f"quantization: {one_line(str(problem), 300)}") from problem


def _match(checkpoint: Checkpoint, model: Any, nodes: dict[str, Node]) -> dict[str, Node]:
    """The nodes in the order of the model's parameters; names and shapes must agree."""
    wanted = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
    missing = [name for name in wanted if name not in nodes]
    extra = [name for name in nodes if name not in wanted]
    for what, names in (("missing", missing), ("not part of the model", extra)):
        if names:
            shown = ", ".join(one_line(name, 80) for name in names[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ModelError(f"{checkpoint.path}: weights {what}: {shown}{more}")
    for name, shape in wanted.items():
        if nodes[name].shape != shape:
            raise ModelError(
                f"{checkpoint.path}: weight {one_line(name, 80)!r} has shape "
                f"{list(nodes[name].shape)}, config.json implies {list(shape)}"
            )
    return {name: nodes[name] for name in wanted}


def _module(
    path: str, leaf: Any, predicate: Callable[[str, Any], bool | Mapping[str, Any]]
) -> Module | None:
    kind = type(leaf).__name__
    if hasattr(leaf, "to_quantized"):
        return Module(path, kind, tuple(leaf.weight.shape), None, predicate(path, leaf))
    if hasattr(leaf, "bits") and "scales" in leaf:
        *rows, columns = leaf.weight.shape
        fmt = from_mlx(leaf.bits, leaf.group_size, getattr(leaf, "mode", "affine"))
        shape = (*rows, columns * 32 // leaf.bits)
        return Module(path, kind, shape, fmt.name, True)
    return None
