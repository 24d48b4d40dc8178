"""config.json ↔ GGUF metadata, one setting at a time, each with its inverse.

A setting writes metadata from `Settings` (a config.json) and reads config.json's keys back from a
`Header` (a GGUF's metadata and tensor shapes). Metadata keys are written here without the
architecture's name in front.

    Count Real        a number that has a key on both sides
    Fixed             a key that has to have one value: GGUF has no word for another
    Derived           metadata that the other settings imply
    HeadSize Tied Bias Vocabulary SlidingWindow     what their names say
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import ModelError
from ...files.quote import show
from .sides import Header, Metadata, Settings, Value

__all__ = [
    "Bias",
    "Count",
    "Derived",
    "Fixed",
    "HeadSize",
    "Real",
    "Setting",
    "SlidingWindow",
    "Tied",
    "Vocabulary",
]


class Setting:
    """One or several keys of config.json and what they are in GGUF."""

    def write(self, config: Settings) -> Metadata:
        """The metadata, keys without the architecture.

        Raises:
            ModelError: a value that GGUF, or llama.cpp for this architecture, cannot express.
        """
        raise NotImplementedError

    def read(self, header: Header) -> dict[str, Any]:
        """config.json's keys.

        Raises:
            ModelError: metadata that is missing, or that config.json cannot express.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Count(Setting):
    """A whole number.

    Args:
        key: of config.json. name: of the metadata.
        default: where config.json has none; a string names the key whose value it then is.
        least: the smallest that makes sense.
        optional: may be missing on either side, and then is missing on the other.
    """

    key: str
    name: str
    default: int | str | None = None
    least: int = 1
    optional: bool = False

    def write(self, config: Settings) -> Metadata:
        """The number."""
        if self.optional and config.get(self.key) is None:
            return {}
        default = config.count(self.default) if isinstance(self.default, str) else self.default
        value = config.count(self.key, default)
        if value < self.least:
            raise config.refuse(self.key, value, f"at least {self.least} expected")
        return {self.name: value}

    def read(self, header: Header) -> dict[str, Any]:
        """The number."""
        if self.optional and header.get(self.name) is None:
            return {}
        # Files without head_count_kv have as many key heads as query heads.
        fallback = header.count("attention.head_count") if self.name == _HEADS_KV else None
        return {self.key: header.count(self.name, fallback, least=self.least)}


_HEADS_KV = "attention.head_count_kv"


@dataclass(frozen=True)
class Real(Setting):
    """A number, stored as float32. `default` is what config.json means where it has none."""

    key: str
    name: str
    default: float | None = None

    def write(self, config: Settings) -> Metadata:
        """The number."""
        return {self.name: config.real(self.key, self.default)}

    def read(self, header: Header) -> dict[str, Any]:
        """The number."""
        return {self.key: header.real(self.name, self.default)}


@dataclass(frozen=True)
class Fixed(Setting):
    """A key of config.json that means what GGUF has no word for, unless it has this value.

    Args:
        value: written to config.json on the way back.
        also: other values that mean the same. missing: whether the key may be missing, or null.
        quiet: the key is not written on the way back.
    """

    key: str
    value: Any
    also: tuple[Any, ...] = ()
    missing: bool = True
    quiet: bool = False

    def write(self, config: Settings) -> Metadata:
        """Nothing; the value is checked."""
        value = config.get(self.key)
        if value is None and (self.missing or self.value is None):
            return {}
        if value != self.value and value not in self.also:
            wanted = " or ".join(show(each) for each in (self.value, *self.also))
            reason = f"a GGUF file of this architecture means {wanted}"
            raise config.refuse(self.key, value, reason)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """The key with its one value."""
        return {} if self.quiet else {self.key: self.value}


@dataclass(frozen=True)
class Derived(Setting):
    """Metadata that follows from config.json.

    Args:
        check: whether the way back holds the file to the value; otherwise any is taken.
    """

    name: str
    value: Callable[[Settings], Value]
    check: bool = True

    def write(self, config: Settings) -> Metadata:
        """The value."""
        return {self.name: self.value(config)}

    def read(self, header: Header) -> dict[str, Any]:
        """Nothing: `Family.config` compares."""
        header.get(self.name)
        return {}


@dataclass(frozen=True)
class HeadSize(Setting):
    """Columns of a head, and how many of them rotate.

    Args:
        key: write `head_dim` to config.json. Without, the model has hidden_size / heads.
        partial: the model has a `partial_rotary_factor`, this where config.json has none.
    """

    key: bool = True
    partial: float | None = None

    def write(self, config: Settings) -> Metadata:
        """`attention.key_length`, `value_length` and `rope.dimension_count`."""
        if self.key:
            size = config.head_size()
        else:
            size = config.count("hidden_size") // config.count("num_attention_heads")
            if config.get("head_dim", size) != size:
                reason = f"hidden_size / num_attention_heads, {size}, expected"
                raise config.refuse("head_dim", config.get("head_dim"), reason)
        turning = size
        if self.partial is not None:
            turning = int(size * config.real("partial_rotary_factor", self.partial))
        elif config.get("partial_rotary_factor", 1.0) != 1.0:
            raise config.refuse("partial_rotary_factor", config.get("partial_rotary_factor"), "1")
        return {
            "attention.key_length": size,
            "attention.value_length": size,
            "rope.dimension_count": turning,
        }

    def read(self, header: Header) -> dict[str, Any]:
        """`head_dim` and `partial_rotary_factor`."""
        heads = header.count("attention.head_count", least=1)
        usual = header.count("embedding_length", least=1) // heads
        size = header.count("attention.key_length", usual, least=1)
        if header.count("attention.value_length", size) != size:
            value = header.get("attention.value_length")
            raise header.refuse("attention.value_length", value, f"{size} expected, as the keys'")
        if not self.key and size != usual:
            raise header.refuse("attention.key_length", size, f"{usual} expected")
        turning = header.count("rope.dimension_count", size, least=1)
        if turning > size:
            raise header.refuse("rope.dimension_count", turning, f"{size} at most")
        found: dict[str, Any] = {"head_dim": size} if self.key else {}
        if self.partial is not None:
            found["partial_rotary_factor"] = turning / size
        elif turning != size:
            raise header.refuse("rope.dimension_count", turning, f"{size} expected")
        return found


@dataclass(frozen=True)
class Tied(Setting):
    """Whether the embedding is the head too; in GGUF, whether there is no `output.weight`."""

    default: bool

    def write(self, config: Settings) -> Metadata:
        """Nothing; the tensors say it."""
        config.get("tie_word_embeddings", self.default)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """`tie_word_embeddings`."""
        return {"tie_word_embeddings": "output.weight" not in header.tensors}


@dataclass(frozen=True)
class Bias(Setting):
    """A flag of config.json that GGUF shows by a tensor's being there."""

    key: str
    tensor: str

    def write(self, config: Settings) -> Metadata:
        """Nothing; the tensors say it."""
        config.get(self.key)
        return {}

    def read(self, header: Header) -> dict[str, Any]:
        """The flag."""
        return {self.key: self.tensor in header.tensors}


@dataclass(frozen=True)
class Vocabulary(Setting):
    """Rows of the embedding."""

    def write(self, config: Settings) -> Metadata:
        """`vocab_size`."""
        return {"vocab_size": config.count("vocab_size")}

    def read(self, header: Header) -> dict[str, Any]:
        """`vocab_size`, of the embedding itself."""
        header.get("vocab_size")
        shape = header.shape("token_embd.weight")
        if shape is None or len(shape) != 2:
            raise ModelError("tensor 'token_embd.weight' is missing or no matrix")
        return {"vocab_size": shape[0]}


@dataclass(frozen=True)
class SlidingWindow(Setting):
    """A window that this architecture's llama.cpp and mlx-lm agree on without more keys, or that
    neither of them uses. `default` is what config.json means where it has none."""

    default: int | None = None

    def write(self, config: Settings) -> Metadata:
        """`attention.sliding_window`, where there is one."""
        value = config.get("sliding_window", self.default)
        return (
            {}
            if value is None
            else {"attention.sliding_window": config.count("sliding_window", self.default)}
        )

    def read(self, header: Header) -> dict[str, Any]:
        """`sliding_window`, where there is one."""
        if not header.get("attention.sliding_window", self.default):
            return {}
        return {"sliding_window": header.count("attention.sliding_window", self.default)}
