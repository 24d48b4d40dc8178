"""MLX's packed weights: what config.json's `quantization` says, held against the stored arrays.

    P.weight   U32 [..., n, k · bits / 32]       codes, packed
    P.scales   [..., n, k / group_size]          affine: F16, BF16 or F32; the other modes: U8
    P.biases   as P.scales                       affine only

Which format a layer P has is decided as mlx_lm.utils.load_model does it: the entry
`quantization[P]` if there is one, else its scales where they can only mean one mode, else the
top-level group size, bits and mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, ModelError
from ..files.quote import quote, show
from .checkpoint import LazyTensor, QuantizedTensor, StoredTensor
from .folder import refuse

__all__ = ["group_packed", "hidden_size", "read_quantization"]

#: mode → its (group size, bits) where nothing is said; all but affine's are the only ones
_DEFAULTS = {"affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
_AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)
_AFFINE_GROUPS = (32, 64, 128)

_FIELD = "quantization"  # of config.json
_OWN_KEYS = ("group_size", "bits", "mode")
#: what other writers leave beside MLX's keys, and mlx-lm does not look at
_FOREIGN_KEYS = ("quant_method", "linear_class", "quantization_mode")
_ENTRY_FLAGS = ("global_scale", "quantize_input")


@dataclass(frozen=True)
class _Scheme:
    """How a layer is packed."""

    group_size: int
    bits: int
    mode: str

    @property
    def format(self) -> str:
        """The format's name: `affine4-g64`, `mxfp4`, …"""
        return f"affine{self.bits}-g{self.group_size}" if self.mode == "affine" else self.mode

    def width(self, packed: int, scales: int) -> int | None:
        """Weights in a row of so many packed words and scales; None if they do not fit."""
        width, rest = divmod(packed * 32, self.bits)
        return width if rest == 0 and width == scales * self.group_size else None


def read_quantization(path: Path, config: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The MLX quantization that a config.json declares, validated, and a note if there is one.

    A `quantization_config` of another tool (it has a `quant_method`) is not MLX's: None.

    Raises:
        ModelError: a value that MLX does not have, or `quantization` and `quantization_config`
            are both MLX's and differ.
    """
    main, other = config.get("quantization"), config.get("quantization_config")
    if not (isinstance(other, dict) and "quant_method" not in other and "bits" in other):
        other = None
    note = ""
    if main is None and other is not None:
        main, note = other, "config.json: quantization is missing, quantization_config is used"
    elif main is not None and other is not None and main != other:
        raise _conflict(path, main, other)
    if main is None:
        return None, note
    if not isinstance(main, dict):
        raise refuse(path, "quantization", f"bad quantization: {show(main)}, an object expected")
    for key in ("group_size", "bits"):
        if key not in main:
            raise refuse(path, "quantization", f"bad quantization: {key} is missing")
    _scheme(path, _FIELD, {key: main[key] for key in _OWN_KEYS if key in main})
    for layer, entry in main.items():
        if layer in _OWN_KEYS or (layer in _FOREIGN_KEYS and isinstance(entry, str)):
            continue
        field = f"quantization[{quote(layer)}]"
        if isinstance(entry, dict):
            _scheme(path, field, entry)
        elif entry is not None and not isinstance(entry, bool):
            reason = f"bad quantization: {show(entry)}, an object, true or false expected"
            raise refuse(path, field, reason)
    return main, note


def group_packed(
    path: Path,
    config: dict[str, Any],
    quantization: dict[str, Any] | None,
    stored: Mapping[str, StoredTensor],
) -> tuple[dict[str, LazyTensor], list[str]]:
    """The weights by name, in file order, with packed ones as one QuantizedTensor each; and notes.

    Args:
        path: of config.json, to blame.
        quantization: of `read_quantization`.

    Raises:
        ModelError: the stored arrays contradict `quantization`, with both values.
        FileFormatError: packed arrays contradict each other.
    """
    stems = [name.removesuffix(".weight") for name in stored if name.endswith(".weight")]
    stems = [stem for stem in stems if f"{stem}.scales" in stored]
    if quantization is None:
        for stem in stems:
            if stored[f"{stem}.weight"].dtype == "U32" and not config.get("quantization_config"):
                reason = f"missing, but {quote(stem)} is packed: add what it was quantized with"
                raise refuse(path, "quantization", reason)
        return dict(stored), []
    packed = {stem: _packed(path, config, quantization, stored, stem) for stem in stems}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in stored.items():
        stem, _, last = name.rpartition(".")
        if stem not in packed or last not in ("weight", "scales", "biases"):
            tensors[name] = tensor
        elif last == "weight":
            tensors[name] = packed[stem]
    return tensors, _check_entries(path, quantization, stored, packed)


def _packed(
    path: Path,
    config: dict[str, Any],
    quantization: dict[str, Any],
    stored: Mapping[str, StoredTensor],
    stem: str,
) -> QuantizedTensor:
    """One packed layer, its arrays held against each other and against config.json."""
    weight, scales = stored[f"{stem}.weight"], stored[f"{stem}.scales"]
    biases = stored.get(f"{stem}.biases")
    floating = scales.dtype in ("F16", "BF16", "F32")
    if weight.dtype != "U32" or not (floating or scales.dtype == "U8"):
        reason = f"{weight.dtype} with scales of {scales.dtype}; packed weights are U32, with"
        raise _blame(weight, f"{reason} scales of F16, BF16, F32 or U8")
    if f"{stem}.global_scale" in stored:
        raise _blame(weight, "a nvfp4 weight with a global_scale is not supported")
    if len(weight.shape) < 2 or weight.shape[:-1] != scales.shape[:-1]:
        raise _blame(weight, f"shape {list(weight.shape)}, but its scales {list(scales.shape)}")
    kind = f"{scales.dtype} {list(scales.shape)}"
    other = f"{biases.dtype} {list(biases.shape)}" if biases else "missing"
    if floating and kind != other:
        reason = f"scales {kind}, biases {other}; an affine weight needs both alike"
        raise _blame(weight, reason)
    if not floating and biases is not None:
        raise _blame(weight, "has biases beside U8 scales; only affine weights have biases")
    scheme, said_by = _declared(path, quantization, stem, weight, scales)
    words, groups = weight.shape[-1], scales.shape[-1]
    width = scheme.width(words, groups)
    fitting = _fitting(words, groups, floating)
    hidden = hidden_size(config) if stem.endswith(("embed_tokens", "lm_head")) else None
    if scheme not in fitting or width is None:
        holds = f"{words} packed columns and {groups} scales ({scales.dtype}) a row"
        means = " or ".join(_describe(each) for each in fitting) or "nothing that MLX has"
        reason = f"conflict: {said_by} says {_describe(scheme)}, but {weight.file.name} holds"
        raise refuse(path, f"layer {quote(stem)}", f"{reason} {holds}: {means}")
    if hidden is not None and width != hidden:
        # 4 bits in groups of 64 look like 8 bits in groups of 32: only the width tells them apart.
        for each in fitting:
            if each.width(words, groups) == hidden:
                reason = f"conflict: {said_by} says {_describe(scheme)}, so rows of {width}"
                means = f"hidden_size {hidden} means {_describe(each)}"
                raise refuse(path, f"layer {quote(stem)}", f"{reason}; {means}")
    found = (weight, scales) if biases is None else (weight, scales, biases)
    return QuantizedTensor(weight.name, (*weight.shape[:-1], width), scheme.format, found)


def _declared(
    path: Path,
    quantization: dict[str, Any],
    stem: str,
    weight: StoredTensor,
    scales: StoredTensor,
) -> tuple[_Scheme, str]:
    """What a layer's packing is declared to be, and what declares it."""
    top = _scheme(path, _FIELD, {k: v for k, v in quantization.items() if k in _OWN_KEYS})
    if stem not in quantization:
        # U8 scales beside an affine top level: their number alone tells which mode they are of.
        if scales.dtype == "U8" and top.mode == "affine":
            only = _fitting(weight.shape[-1], scales.shape[-1], floating=False)
            if len(only) == 1:
                return only[0], "its scales"
        return top, "quantization"
    field, entry = f"quantization[{quote(stem)}]", quantization[stem]
    if isinstance(entry, dict):
        return _scheme(path, field, entry), field
    if entry is True:
        return top, field
    reason = f"conflict: {show(entry)} (not quantized), but {weight.file.name} holds it packed"
    raise refuse(path, field, reason)


def _scheme(path: Path, field: str, entry: dict[str, Any]) -> _Scheme:
    """An entry's scheme, with MLX's defaults for what it does not say."""
    mode = entry.get("mode", "affine")
    if not isinstance(mode, str) or mode not in _DEFAULTS:
        reason = f"bad quantization: mode {show(mode)}, one of {', '.join(_DEFAULTS)} expected"
        raise refuse(path, field, reason)
    for key, value in entry.items():
        known = key in _OWN_KEYS or (key in _ENTRY_FLAGS and isinstance(value, bool))
        if not known:
            raise refuse(path, field, f"bad quantization: unknown {quote(key)}: {show(value)}")
    # mlx_lm.convert writes null into a layer's entry where it was asked for the default.
    given = {key: value for key, value in entry.items() if value is not None or field == _FIELD}
    group_size, bits = (
        given.get(key, default)
        for key, default in zip(("group_size", "bits"), _DEFAULTS[mode], strict=True)
    )
    groups, widths = (_AFFINE_GROUPS, _AFFINE_BITS) if mode == "affine" else _only(mode)
    for key, value, allowed in (("bits", bits, widths), ("group_size", group_size, groups)):
        if type(value) is not int or value not in allowed:
            choices = " ".join(map(str, allowed))
            reason = f"bad quantization: {key} {show(value)}, {mode} has {choices}"
            raise refuse(path, field, reason)
    return _Scheme(group_size, bits, mode)


def _only(mode: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    group_size, bits = _DEFAULTS[mode]
    return (group_size,), (bits,)


def _fitting(words: int, groups: int, floating: bool) -> list[_Scheme]:
    """Every scheme that rows of so many packed words and scales can have."""
    if floating:
        every = [_Scheme(g, b, "affine") for b in _AFFINE_BITS for g in _AFFINE_GROUPS]
    else:
        every = [_Scheme(*_DEFAULTS[mode], mode) for mode in _DEFAULTS if mode != "affine"]
    return [scheme for scheme in every if scheme.width(words, groups) is not None]


def _check_entries(
    path: Path,
    quantization: dict[str, Any],
    stored: Mapping[str, StoredTensor],
    packed: Mapping[str, QuantizedTensor],
) -> list[str]:
    """Refuse entries for layers that are not there or not packed; note what changes nothing."""
    layers = {name.rpartition(".")[0] for name in stored}
    notes = []
    for layer, entry in quantization.items():
        if layer in _OWN_KEYS or layer in _FOREIGN_KEYS or layer in packed:
            continue
        field = f"quantization[{quote(layer)}]"
        if entry is None or entry is False:
            if layer not in layers:
                notes.append(f"config.json: {field} is {show(entry)} for a layer that is not there")
            continue
        if layer not in layers:
            reason = f"conflict: {show(entry)}, but the weights hold no such layer"
            raise refuse(path, field, reason)
        weight = stored.get(f"{layer}.weight")
        holds = f"{weight.dtype} {list(weight.shape)}, not packed" if weight else "no weight"
        raise refuse(path, field, f"conflict: {show(entry)}, but the layer holds {holds}")
    if not packed:
        notes.append("config.json: quantization is given, but no weight is packed")
    return notes


def hidden_size(config: dict[str, Any]) -> int | None:
    """The width of the model's embedding and head, where config.json says it."""
    text = config.get("text_config")
    value = config.get("hidden_size", text.get("hidden_size") if isinstance(text, dict) else None)
    return value if isinstance(value, int) else None


def _describe(scheme: _Scheme) -> str:
    return f"{scheme.bits} bits in groups of {scheme.group_size} ({scheme.mode})"


def _blame(tensor: StoredTensor, reason: str) -> FileFormatError:
    return FileFormatError(tensor.file, f"tensor {quote(tensor.name)}", reason)


def _conflict(path: Path, main: Any, other: dict[str, Any]) -> ModelError:
    """`quantization` and `quantization_config` differ: where first, and both values."""
    if not isinstance(main, dict):
        main, other = {_FIELD: main}, {_FIELD: other}
    key = next(key for key in sorted({*main, *other}) if main.get(key, ...) != other.get(key, ...))
    mine, theirs = (show(each[key]) if key in each else "nothing" for each in (main, other))
    field = f"quantization[{quote(key)}]"
    return refuse(path, field, f"conflict: {mine}, but quantization_config says {theirs}")
