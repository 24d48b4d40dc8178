"""The two sides of a setting: a config.json, and the head of a GGUF file.

Both are read by key and remember what was asked for, so that what nobody asked for can be named.
Their numbers are checked here: every error names the file's key and its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import ModelError, one_line
from ...files.gguf_values import Value as Typed
from ...files.quote import quote, show
from ...load.lazy import Node

__all__ = ["Header", "Metadata", "Settings", "Value", "typed"]

#: int is UINT32 in the file, float FLOAT32, a list of ints INT32s, of bools BOOLs
Value = int | float | bool | str | list[int] | list[bool] | list[float]
Metadata = dict[str, Value]

_LARGEST = (1 << 31) - 1


class Settings:
    """A config.json, read by key; the text model's part of it where there are several parts.

    What transformers 5 nests in `rope_parameters`, in some models once more by the kind of layer,
    is found under the keys that it had before.

    Args:
        defaults: what a key means that is missing or null.
    """

    def __init__(
        self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> None:
        text = config.get("text_config")
        self.values: dict[str, Any] = {**config, **text} if isinstance(text, dict) else {**config}
        self.asked: set[str] = set()
        rope = self.values.get("rope_parameters")
        if isinstance(rope, dict):
            self.asked.add("rope_parameters")
            self._fill(_flat_rope(rope))
        self._fill(defaults or {})

    def _fill(self, found: Mapping[str, Any]) -> None:
        """Take values for keys that are missing or null."""
        for key, value in found.items():
            if self.values.get(key) is None:
                self.values[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; `default` where it is missing or null."""
        self.asked.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 0.

        Raises:
            ModelError: it is missing and has no default, or is no such number.
        """
        value = self.get(key, default)
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise self.refuse(key, value, "a whole number expected")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number.

        Raises:
            ModelError: it is missing and has no default, or is no such number.
        """
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise self.refuse(key, value, "a number expected")
        return float(value)

    def head_size(self) -> int:
        """Columns of a query or key head."""
        given = self.get("head_dim")
        if given is not None:
            return self.count("head_dim")
        return self.count("hidden_size") // max(self.count("num_attention_heads"), 1)

    @staticmethod
    def refuse(key: str, value: Any, reason: str) -> ModelError:
        """The error that blames a key of config.json."""
        return ModelError(one_line(f"config.json: {quote(key)} is {show(value)}: {reason}"))


def _flat_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` as the keys of config.json that they were."""
    found: dict[str, Any] = {}
    local = rope.get("sliding_attention")
    if isinstance(local, dict):
        found["rope_local_base_freq"] = local.get("rope_theta")
        if local.get("rope_type", "default") != "default":
            raise Settings.refuse("rope_parameters.sliding_attention", local, "no scaling expected")
    whole = rope.get("full_attention")
    flat = whole if isinstance(whole, dict) else rope
    for key in ("rope_theta", "partial_rotary_factor"):
        found[key] = flat.get(key)
    if flat.get("rope_type", flat.get("type", "default")) != "default":
        found["rope_scaling"] = {key: flat[key] for key in flat if key not in found}
    return found


class Header:
    """What a GGUF file says of a model: its metadata and the tensors that it holds.

    Args:
        architecture: `general.architecture`.
        metadata: every key as in the file, plain values or `files.gguf_values.Value`s, which are
            decoded when they are asked for.
        tensors: by name, shapes as NumPy has them (rows first); only the small ones that hold
            rope factors are ever read.
    """

    def __init__(
        self, architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, Node]
    ) -> None:
        self.architecture, self.metadata, self.tensors = architecture, metadata, tensors
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture."""
        self.asked.add(key)
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return value.value if isinstance(value, Typed) else value

    def count(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number; of an array with one number a layer, the number if all are the same.

        Raises:
            ModelError: it is missing and has no default, or is no such number.
        """
        value = self.get(key, default)
        if isinstance(value, list | tuple | np.ndarray) and len(value):
            if any(each != value[0] for each in value):
                raise self.refuse(key, list(value), "one number for all layers expected")
            value = value[0]
        if isinstance(value, np.integer):
            value = int(value)
        if type(value) is not int or not least <= value <= _LARGEST:
            raise self.refuse(key, value, f"a whole number of at least {least} expected")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number, as short as its float32 can be written.

        Raises:
            ModelError: it is missing and has no default, or is no such number.
        """
        value = self.get(key, default)
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not _finite(value):
            raise self.refuse(key, value, "a number expected")
        return float(str(np.float32(value)))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape, or None where the file has no such tensor."""
        return self.tensors[name].shape if name in self.tensors else None

    def refuse(self, key: str, value: Any, reason: str) -> ModelError:
        """The error that blames a key of the metadata."""
        shown = "missing" if value is None else one_line(str(value), 120)
        return ModelError(f"metadata {quote(f'{self.architecture}.{key}')} is {shown}: {reason}")


def typed(metadata: Metadata) -> dict[str, Typed]:
    """Metadata as `files.gguf_writer.build_gguf` takes it."""
    return {
        key: Typed.array(_TYPES[type(value[0])], value)
        if isinstance(value, list)
        else Typed.of(_TYPES[type(value)] if type(value) is not int else "u32", value)
        for key, value in metadata.items()
    }


_TYPES = {bool: "bool", int: "i32", float: "f32", str: "str"}


def _finite(value: Any) -> bool:
    return bool(np.isfinite(np.float32(value)))
