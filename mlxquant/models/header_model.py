"""A checkpoint in mlx-lm's names, from its headers alone: what `mlx_lm.py` finds out, without mlx.

mlx-lm's classes are not asked: names say what a tensor is (`roles.py`), and tables what the classes
do beyond that (`quirks.py`). Sizes come out as mlx-lm would have them; values cannot be read.

    experts.0.w1.weight … experts.7.w1.weight   →  switch_mlp.gate_proj.weight    stacked
    experts.gate_up_proj [experts, k, 2n]       →  …gate_proj, …up_proj           cut, and turned
    experts.gate_up_proj_blocks, _scales        →  the same, packed in mxfp4
    self_attn.kv_b_proj.weight                  →  embed_q, unembed_out           latent attention
    a head tied to the embedding, towers for pictures and sound, layers that predict further
    tokens, scales of fp8 blocks                →  left out
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from .. import formats
from ..errors import ModelError, one_line
from ..formats.base import Array
from ..formats.mlx_format import MlxFormat
from ..load.checkpoint import Checkpoint, QuantizedTensor
from ..load.lazy import Node, Region
from .quirks import Quirks, quirks_of
from .roles import layer_of, role_of
from .source_model import Module, SourceModel

__all__ = ["header_model", "text_settings"]

_NESTED = ("text_config", "llm_config", "language_config")
_EXPERT = re.compile(r"^(.*\.)?experts\.([0-9]{1,6})\.(.+)$")
#: names of an expert's matrices in the first models that had them
_OLD_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
#: what is stored beside a weight, or computed, and is no parameter
_BESIDE = re.compile(
    r"(\.inv_freq|\.masked_bias|rotary_emb\..*|_scale_inv|\.input_scale|[_.](in|out)put_(max|min))$"
)
_FURTHER = re.compile(r"(^|\.)mtp\.")
_FP8 = ("F8_E4M3", "F8_E5M2")


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json's keys, those of the language model inside a larger one in front."""
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            return {**config, **inner, "model_type": config.get("model_type")}
    return dict(config)


def header_model(checkpoint: Checkpoint) -> SourceModel:
    """Name a checkpoint's tensors as mlx-lm does; nothing but names, shapes and types is looked at.

    Returns: a SourceModel whose parameters cannot be computed, and whose `model` is None.

    Raises:
        ModelError: weights that another tool packed.
    """
    settings = text_settings(checkpoint.config)
    _check_packing(checkpoint)
    quirks = quirks_of(checkpoint.config)
    packed = {
        name: tensor.format
        for name, tensor in checkpoint.tensors.items()
        if isinstance(tensor, QuantizedTensor) and tensor.format in formats.mlx_names()
    }
    parameters: dict[str, Node] = {}
    kinds: dict[str, str] = {}  # weights that are packed → format
    nodes = checkpoint.nodes()
    experts = _experts(nodes)
    for stored, node in nodes.items():
        found = _EXPERT.match(stored)
        if (found and found[2] != "0") or _is_left_out(stored, settings):
            continue
        if node.dtype in _FP8 or f"{stored}_scale_inv" in nodes:
            node = _node(node.shape, "BF16", stored)
        for name, part, kind in _renamed(stored, node, settings, quirks):
            if found:
                head, _, tail = found[3].partition(".")
                name = f"{found[1] or ''}switch_mlp.{_OLD_NAMES.get(head, head)}.{tail}"
                part = _node((experts[found[1], found[3]], *part.shape), part.dtype, name)
            parameters[name] = part
            if kind or stored in packed:
                kinds[name] = kind or packed[stored]
    modules = {
        module.path: module
        for name, node in parameters.items()
        if (module := _module(name, node, kinds.get(name), quirks, settings)) is not None
    }
    down = [path for path in modules if "down_proj" in path]
    return SourceModel(
        checkpoint=checkpoint,
        config=dict(checkpoint.config),
        parameters=parameters,
        blocks={},
        modules=modules,
        layers=_count(settings, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        down_path=down[0] if down else None,
        uncast=frozenset(n for n in parameters if any(part in n for part in quirks.uncast)),
        keeps_vision=False,
        model=None,
    )


def _experts(names: Iterable[str]) -> Counter[tuple[str | None, str]]:
    """How many experts there are with this matrix: (before the number, behind it) → count."""
    found = (_EXPERT.match(name) for name in names)
    return Counter((match[1], match[3]) for match in found if match)


def _check_packing(checkpoint: Checkpoint) -> None:
    """Refuse weights that another tool packed, save those that `_renamed` knows."""
    if checkpoint.quantization is not None:
        return
    settings = text_settings(checkpoint.config)
    foreign = settings.get("quantization_config")
    method = foreign.get("quant_method") if isinstance(foreign, Mapping) else None
    if foreign and method not in ("fp8", "mxfp4"):
        raise ModelError(
            f"{checkpoint.path}: weights packed by {one_line(repr(method), 60)} cannot be judged "
            "by their headers; start from the model's unquantized weights"
        )


def _is_left_out(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether mlx-lm drops this tensor."""
    role = role_of(name)
    if role == "vision" or _BESIDE.search(name) or _FURTHER.search(name):
        return True
    if role == "head":
        return settings.get("tie_word_embeddings") is True
    layer = layer_of(name)
    layers = _count(settings, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    return layer is not None and 0 < layers <= layer


def _renamed(
    name: str, node: Node, settings: Mapping[str, Any], quirks: Quirks
) -> Iterator[tuple[str, Node, str]]:
    """(name, node, format if packed) of what mlx-lm makes of one tensor."""
    role = role_of(name)
    if name.endswith("kv_b_proj.weight") and quirks.latent:
        yield from _latent(name, node, settings)
    elif name.endswith(("_blocks", "_scales")) and role.startswith("expert."):
        yield from _expert_blocks(name, node)
    elif role.startswith("expert.") and len(node.shape) == 3 and not name.endswith("weight"):
        yield from _expert_matrices(name, node, role, settings)
    elif name.endswith("gate_up_proj_bias"):
        half = _node((*node.shape[:-1], node.shape[-1] // 2), node.dtype, name)
        base = name.removesuffix("gate_up_proj_bias")
        yield f"{base}gate_proj.bias", half, ""
        yield f"{base}up_proj.bias", half, ""
    elif name.endswith("down_proj_bias"):
        yield name.replace("_proj_bias", "_proj.bias"), node, ""
    else:
        yield name, node, ""


def _latent(name: str, node: Node, settings: Mapping[str, Any]) -> Iterator[tuple[str, Node, str]]:
    """kv_b_proj [heads · (keys + values), latent] → keys turned, and values."""
    base = name.removesuffix("kv_b_proj.weight")
    heads = _count(settings, "num_attention_heads")
    keys, values = _count(settings, "qk_nope_head_dim"), _count(settings, "v_head_dim")
    latent = node.shape[-1]
    if heads * (keys + values) != node.shape[0]:
        yield name, node, ""
        return
    yield f"{base}embed_q.weight", _node((heads, latent, keys), node.dtype, name), ""
    yield f"{base}unembed_out.weight", _node((heads, values, latent), node.dtype, name), ""


def _expert_blocks(name: str, node: Node) -> Iterator[tuple[str, Node, str]]:
    """mxfp4 codes [experts, rows, groups, 16] in bytes, or their scales [experts, rows, groups]."""
    base, _, what = name.rpartition("_")
    shape, dtype = list(node.shape), node.dtype
    suffix, kind = "scales", ""
    if what == "blocks":
        shape, dtype = [*shape[:-2], shape[-2] * 4], "U32"
        suffix, kind = "weight", "mxfp4"
    if not base.endswith("gate_up_proj"):
        yield f"{base}.{suffix}", _node(tuple(shape), dtype, name), kind
        return
    shape[1] //= 2
    for part in ("gate_proj", "up_proj"):
        path = f"{base.removesuffix('gate_up_proj')}{part}"
        yield f"{path}.{suffix}", _node(tuple(shape), dtype, name), kind


def _expert_matrices(
    name: str, node: Node, role: str, settings: Mapping[str, Any]
) -> Iterator[tuple[str, Node, str]]:
    """Stacked matrices that are parameters by themselves, whichever way they are turned."""
    experts, a, b = node.shape
    hidden = _count(settings, "hidden_size")
    if role == "expert.gate_up":
        inner = (b if a == hidden else a) // 2
        base = name.removesuffix("gate_up_proj")
        for part in ("gate_proj", "up_proj"):
            shape = (experts, inner, hidden)
            yield f"{base}{part}.weight", _node(shape, node.dtype, name), ""
        return
    inner = b if a == hidden else a
    shape = (experts, hidden, inner) if role == "expert.down" else (experts, inner, hidden)
    yield f"{name}.weight", _node(shape, node.dtype, name), ""


def _module(
    name: str, node: Node, packed: str | None, quirks: Quirks, settings: Mapping[str, Any]
) -> Module | None:
    """The module of a weight that can be quantized; None for any other parameter."""
    path, _, last = name.rpartition(".")
    if last != "weight" or not path:
        return None
    if packed:
        return Module(path, "", _unpacked(node, packed), packed, True)
    role = role_of(name)
    leaf = path.rpartition(".")[2]
    bare = name.endswith(quirks.bare) if quirks.bare else False
    if len(node.shape) < 2 or bare or role == "norm" or "conv" in leaf:
        return None
    advice: bool | Mapping[str, Any] = True
    if quirks.kept and path.endswith(quirks.kept):
        advice = False
    elif quirks.eight_bits and path.endswith(quirks.eight_bits):
        advice = {"group_size": 64, "bits": 8}
    return Module(path, "", node.shape, None, advice)


def _unpacked(node: Node, name: str) -> tuple[int, ...]:
    """The shape of the weights behind packed words."""
    fmt = formats.get(name)
    assert isinstance(fmt, MlxFormat)
    return (*node.shape[:-1], node.shape[-1] * 32 // fmt.bits)


def _node(shape: tuple[int, ...], dtype: str, label: str) -> Node:
    """A node that has a shape and a type, and no values."""

    def compute(region: Region) -> Array:
        _refuse(label)

    return Node(shape, dtype, compute, label)


def _refuse(label: str) -> NoReturn:
    raise AssertionError(f"{label}: only its shape is known")


def _count(settings: Mapping[str, Any], *keys: str) -> int:
    """The first of these settings that is a count; 0 where none is."""
    for key in keys:
        value = settings.get(key)
        if type(value) is int and value > 0:
            return value
    return 0


def parameter_bytes(node: Node) -> int:
    """Bytes of a parameter as it is stored."""
    return math.prod(node.shape) * formats.STORAGE[node.dtype].itemsize
