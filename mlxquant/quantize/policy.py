"""Which tensor gets which format: a pure function from a request and a model's names and shapes.

The order of authority, the first that speaks wins:

    1. `tensors`         the user's globs, the last matching one
    2. a plan file       a format for every module (plan_file.py); what follows has no say then
    3. embed/head bits   the user's words for the embedding and the output head
    4. recipe            mlx-lm's mixed recipes
    5. the architecture  what mlx-lm's model class wants for its routers, gates, …
    6. the default       bits, group size and mode

What cannot take its format (a row that is no multiple of the group) stays as it is, and is listed.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import formats
from ..errors import RequestError
from ..formats import MlxFormat
from ..models.roles import layer_of, role_of
from .request import DTYPES, FLOATS, RECIPES, Request

if TYPE_CHECKING:
    from ..models.source_model import Module, SourceModel
    from .exact import ImportRequest

__all__ = ["Item", "Plan", "check_globs", "make_plan", "overridden"]


@dataclass(frozen=True)
class Item:
    """What happens to one parameter.

    Attributes:
        name: the parameter, or for a quantized weight the weight's (`<module>.weight`).
        module: the module's path for a weight that is quantized before or after; else None.
        role, layer: by the name.
        shape: of the weight, unpacked.
        source: the format in the source (`bf16`, `affine4-g64`, …).
        target: the format it gets; None for a float, or for a quantized weight that is kept.
        blocks: the ggml type whose codes it keeps: in wire bytes, or in the target's arrays.
        dtype: safetensors' name of the element type of floats (and of scales), after the cast.
        reason: why it is not what was asked for; None when it is.
        chosen: what chose the format: `default`, `recipe`, `architecture`, a glob, ….
        decoded: a quantized source weight is decoded to `dtype`.
    """

    name: str
    module: str | None
    role: str
    layer: int | None
    shape: tuple[int, ...]
    source: str
    target: MlxFormat | None
    dtype: str
    reason: str | None
    chosen: str
    decoded: bool = False
    blocks: str | None = None

    @property
    def kept_format(self) -> str:
        """The format's name when no target is given: the element type, or the source's format."""
        if self.blocks is not None:
            return self.blocks
        kept = self.module is not None and not self.decoded and self.source in formats.mlx_names()
        return self.source if kept else self.dtype.lower()

    @property
    def size(self) -> int:
        """Number of weights."""
        n = 1
        for axis in self.shape:
            n *= axis
        return n


@dataclass(frozen=True)
class Plan:
    """Every parameter of the output, in order, with its format.

    Attributes:
        items: one a parameter (a quantized weight is one item).
        request: what was asked for.
        quantization: config.json's entry, or None for a float model.
        dtype: what config.json's `torch_dtype` becomes; None leaves it as it is.
        calibration: what was calibrated on, as plain data; None where nothing was.
        choices: what methods chose on the way besides formats, and what was measured of it, as
            plain data by method; for the manifest.
    """

    items: tuple[Item, ...]
    request: Request | ImportRequest
    quantization: dict[str, Any] | None
    dtype: str | None = None
    calibration: dict[str, Any] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def exceptions(self) -> tuple[Item, ...]:
        """What could not be done as asked."""
        return tuple(item for item in self.items if item.reason)


def make_plan(source: SourceModel, request: Request) -> Plan:
    """Decide every parameter's format.

    Raises:
        RequestError: a glob that matches nothing, a recipe that the model cannot take, a source
            that is quantized already.
    """
    target = _target_dtype(source, request)
    _check_source(source, request)
    if request.planned is not None:
        request.planned.check(source.modules)
    recipe = _Recipe(source, request) if request.recipe else None
    decisions = {
        path: _decide(source, module, request, recipe) for path, module in source.modules.items()
    }
    check_globs(source, request)
    items: list[Item] = []
    for name, node in source.parameters.items():
        path, _, last = name.rpartition(".")
        module = source.modules.get(path)
        dtype = source.stored.get(name, node.dtype)
        if target and dtype in (*FLOATS, "F64") and name not in source.uncast:
            dtype = target
        if module is not None and last == "weight":
            items.append(_weight_item(source, module, name, dtype, decisions[path], request))
        elif module is not None and module.quantized and last in ("scales", "biases"):
            continue  # a part of the weight above
        else:
            items.append(
                Item(
                    name,
                    None,
                    role_of(name),
                    layer_of(name),
                    node.shape,
                    node.dtype.lower(),
                    None,
                    dtype,
                    None,
                    "not a weight matrix",
                )
            )
    return Plan(tuple(items), request, _config_entry(source, items, request), request.dtype)


Decision = tuple[MlxFormat | None, str, str | None]  # format, chosen by, reason when not as asked


def _decide(
    source: SourceModel, module: Module, request: Request, recipe: _Recipe | None
) -> Decision:
    """The format of one module."""
    if request.dequantize:
        return None, "dequantize", None
    if module.quantized and not request.requantize:
        return None, "source", None
    for glob, spec in reversed(request.tensors):
        if _matches(module.path, glob):
            return _fit(module, request.format_of(spec), glob)
    if (plan := request.planned) is not None:
        return plan.format_of(module), Path(plan.file).name, None
    role = role_of(module.path)
    if role == "embedding" and request.embed_bits is not None:
        return _fit(module, request._with_bits(request.embed_bits), "--embed-bits")
    if role == "head" and request.head_bits is not None:
        return _fit(module, request._with_bits(request.head_bits), "--head-bits")
    # mlx-lm tests the default group before it asks anybody else, so this does too
    if module.shape[-1] % request.default.block_size:
        return _fit(module, request.default, "default")
    if recipe is not None:
        return _fit(module, recipe(module.path), "recipe")
    if module.advice is False:
        return None, "architecture", "the architecture keeps it unquantized"
    if isinstance(module.advice, Mapping):
        advice = module.advice
        mode = advice.get("mode", "affine")
        group, bits = formats.MODE_DEFAULTS[mode]
        wanted = formats.from_mlx(
            advice.get("bits") or bits, advice.get("group_size") or group, mode
        )
        return _fit(module, wanted, "architecture")
    return _fit(module, request.default, "default")


def _fit(module: Module, wanted: MlxFormat | None, chosen: str) -> Decision:
    """The format if the module's rows can take it."""
    if wanted is None:
        return None, chosen, None
    if module.shape[-1] % wanted.block_size:
        return (
            None,
            chosen,
            f"rows of {module.shape[-1]} are no multiple of {wanted.name}'s {wanted.block_size}",
        )
    return wanted, chosen, None


def _weight_item(
    source: SourceModel,
    module: Module,
    name: str,
    dtype: str,
    decision: Decision,
    request: Request,
) -> Item:
    """The item of a module's weight."""
    wanted, chosen, reason = decision
    node = source.parameters[name]
    if module.quantized:
        scales = source.parameters[f"{module.path}.scales"].dtype
        if scales in FLOATS:
            cast = None if name in source.uncast else _target_dtype(source, request)
            dtype = cast or scales
        else:  # the fp modes decode to bfloat16 unless the user asks for something else
            dtype = DTYPES[request.dtype] if request.dtype else "BF16"
        if wanted is None and not request.dequantize and not request.requantize:
            reason = f"already {module.quantized} in the source"
    elif wanted is not None and dtype not in FLOATS:
        wanted, reason = None, f"element type {dtype} cannot be quantized"
    if wanted is not None:
        wanted = wanted.with_dtype(dtype)
    return Item(
        name=name,
        module=module.path,
        role=role_of(name),
        layer=layer_of(name),
        shape=module.shape,
        source=module.quantized or node.dtype.lower(),
        target=wanted,
        dtype=dtype,
        reason=reason,
        chosen=chosen,
        decoded=module.quantized is not None and (wanted is not None or request.dequantize),
    )


def _target_dtype(source: SourceModel, request: Request) -> str | None:
    """safetensors' name of the type that floats are cast to, found as mlx_lm.convert finds it."""
    name = request.dtype or source.config.get("torch_dtype")
    if name is None:
        name = (source.config.get("text_config") or {}).get("dtype")
    return DTYPES.get(name) if isinstance(name, str) else None


def _check_source(source: SourceModel, request: Request) -> None:
    """Refuse to quantize twice, or to dequantize floats, without being asked to."""
    quantized = [m for m in source.modules.values() if m.quantized]
    if request.dequantize:
        if not quantized and not source.checkpoint.blocks():
            raise RequestError("--dequantize: no weight of this model is quantized")
        return
    if quantized and not request.requantize and len(quantized) == len(source.modules):
        kinds = ", ".join(sorted({str(m.quantized) for m in quantized}))
        raise RequestError(
            f"the model is quantized already ({kinds}); start from the original weights, or pass "
            "--requantize to decode and quantize again, or --dequantize"
        )


def check_globs(source: SourceModel, request: Request) -> None:
    """A glob that matches nothing is a typing error.

    Raises:
        RequestError: it names the glob.
    """
    for glob, _ in request.tensors:
        if not any(_matches(path, glob) for path in source.modules):
            example = next(iter(source.modules), "model.layers.0.*")
            raise RequestError(f"--tensor {glob!r} matches no module; a module is {example!r}")


def overridden(request: Request, path: str) -> str | None:
    """The format's name, or `keep`, that the user's globs give a module; None where none does."""
    for glob, spec in reversed(request.tensors):
        if _matches(path, glob):
            wanted = request.format_of(spec)
            return "keep" if wanted is None else wanted.name
    return None


def _matches(path: str, glob: str) -> bool:
    """Globs are over module paths; `.weight` at the end is allowed."""
    return fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(f"{path}.weight", glob)


class _Recipe:
    """mlx_lm's mixed recipes: more bits for v_proj and down_proj in some layers and for the head.

    The layers: the first and the last eighth, and every third between.
    """

    def __init__(self, source: SourceModel, request: Request) -> None:
        if source.down_path is None:
            raise RequestError(
                f"recipe {request.recipe} goes by modules named down_proj; this model has none"
            )
        assert request.recipe is not None
        low, high = RECIPES[request.recipe]
        group = request.default.block_size
        self._low, self._high = formats.from_mlx(low, group), formats.from_mlx(high, group)
        parts = source.down_path.split(".")
        self._at = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
        self._layers = source.layers

    def __call__(self, path: str) -> MlxFormat:
        parts = path.split(".")
        layer = int(parts[self._at]) if len(parts) > self._at and parts[self._at].isdigit() else 0
        eighth = self._layers // 8
        more = layer < eighth or layer >= 7 * self._layers // 8 or (layer - eighth) % 3 == 2
        value = any(name in path for name in ("v_proj", "v_a_proj", "v_b_proj"))
        if "lm_head" in path or (more and (value or "down_proj" in path)):
            return self._high
        return self._low


def _config_entry(
    source: SourceModel, items: list[Item], request: Request
) -> dict[str, Any] | None:
    """config.json's `quantization`: the default, and an entry for every module that departs."""
    if request.dequantize:
        return None
    stored = source.config.get("quantization")
    default = request.default.mlx_config()
    quantization: dict[str, Any] = dict(default)
    any_quantized = False
    for item in items:
        if item.module is None:
            continue
        entry: dict[str, Any] | bool = False
        if item.target is not None:
            entry = item.target.mlx_config()
        elif item.source == source.modules[item.module].quantized and stored is not None:
            entry = formats.get_mlx(item.source).mlx_config()
        any_quantized |= bool(entry)
        if entry != default:
            quantization[item.module] = entry
    return quantization if any_quantized else None
