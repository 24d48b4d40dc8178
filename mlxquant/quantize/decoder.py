"""Where a decoder's weights stand to each other: what reads the residual stream, what writes to it.

    embedding ─▶ h ─▶ norm ─▶ [q k v] … value ─▶ output ─▶ + ─▶ norm ─▶ [gate up router] … down ─▶ +
                 └──────────────────────────────────────▶ ┘ └───────────────────────────────────▶ ┘

Names and shapes suggest it; whether a model computes so is for `probe.py` to try.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from ..models.header_model import text_settings
from ..models.roles import layer_of, role_of
from ..models.source_model import SourceModel

__all__ = ["Decoder", "Layer", "Pair", "Rows", "find_decoder", "require_floats"]

_READ_ATTENTION = {"attention.q", "attention.k", "attention.v", "attention.qkv", "attention.other"}
_READ_MLP = {"mlp.gate", "mlp.up", "mlp.gate_up"}
_READ_EXPERTS = {"expert.gate", "expert.up", "expert.gate_up", "router"}
_WRITERS = {"attention.out", "mlp.down", "expert.down"}


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of a module's weight, and of its bias."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Pair:
    """Rows whose outputs, mixed over tokens or multiplied by others, are a module's inputs."""

    rows: Rows
    reader: str


@dataclass(frozen=True)
class Layer:
    """One decoder layer, by paths of modules.

    Attributes:
        norms: the layer's own of the residual stream's width, in the model's order.
        attention, feed_forward: matrices that read the stream, behind a norm each.
        writers: matrices that write to it.
        value: the rows that make values, and the matrix that reads the attention's output.
        gated: up and down projections, an expert's or a dense MLP's.
        unknown: matrices with the stream's width that are none of these.
    """

    norms: tuple[str, ...]
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    writers: tuple[str, ...]
    value: Pair | None
    gated: tuple[Pair, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """A decoder.

    Attributes:
        embedding, norm, head: paths; None where there is none, or several. `head` is also None
            where it is the embedding.
        unknown: further matrices with the stream's width outside of layers.
        layers: in order.
        hidden: width of the residual stream.
        heads, key_heads, head_width: of values; zeros where they do not fit the shapes.
    """

    embedding: str | None
    norm: str | None
    head: str | None
    unknown: tuple[str, ...]
    layers: tuple[Layer, ...]
    hidden: int
    heads: int
    key_heads: int
    head_width: int

    @property
    def names(self) -> tuple[object, ...]:
        """Every path in its place: what a model and a smaller one of its kind have in common."""
        layers = [
            (
                *(layer.norms, layer.attention, layer.feed_forward, layer.writers),
                *((pair.rows.path, pair.reader) for pair in (layer.value, *layer.gated) if pair),
            )
            for layer in self.layers
        ]
        return (self.embedding, self.norm, self.head, *layers)


def require_floats(source: SourceModel, what: str) -> None:
    """Refuse a model of packed weights.

    Raises:
        RequestError: it names the first.
    """
    packed = next((m for m in source.modules.values() if m.quantized), None)
    if packed is not None:
        raise RequestError(
            f"{source.checkpoint.path}: {packed.path} is {packed.quantized} already, and {what} "
            "changes weights before they are rounded; start from the original weights"
        )


def find_decoder(source: SourceModel) -> Decoder:
    """Find out by names and shapes; nothing is read."""
    settings = text_settings(source.config)
    hidden = int(settings.get("hidden_size") or 0)
    inside: dict[int, list[str]] = {}
    outside: list[str] = []
    for name in source.parameters:
        index = layer_of(name)
        (outside if index is None else inside.setdefault(index, [])).append(name)
    ends = {
        role: [name.rpartition(".")[0] for name in outside if role_of(name) == role]
        for role in ("embedding", "head", "norm")
    }
    known = {path for paths in ends.values() for path in paths}
    heads, key_heads, width = _heads(source, settings)
    return Decoder(
        embedding=_only(ends["embedding"]),
        norm=_only(ends["norm"]),
        head=_only(ends["head"]),
        unknown=tuple(n for n in outside if n.rpartition(".")[0] not in known),
        layers=tuple(
            _layer(source, inside[index], hidden, heads, key_heads, width)
            for index in sorted(inside)
        ),
        hidden=hidden,
        heads=heads,
        key_heads=key_heads,
        head_width=width,
    )


def _only(paths: list[str]) -> str | None:
    found = set(paths)
    return found.pop() if len(found) == 1 else None


def _heads(source: SourceModel, settings: Mapping[str, Any]) -> tuple[int, int, int]:
    """Heads that read values, heads that make them, and their width."""
    heads = settings.get("num_attention_heads")
    key_heads = settings.get("num_key_value_heads") or heads
    outputs = {
        module.shape[-1]
        for path, module in source.modules.items()
        if role_of(path) == "attention.out"
    }
    if not isinstance(heads, int) or not isinstance(key_heads, int) or len(outputs) != 1:
        return 0, 0, 0
    columns = outputs.pop()
    if heads < 1 or key_heads < 1 or columns % heads or heads % key_heads:
        return 0, 0, 0
    return heads, key_heads, columns // heads


def _layer(
    source: SourceModel, names: list[str], hidden: int, heads: int, key_heads: int, width: int
) -> Layer:
    shapes = {n.rpartition(".")[0]: source.parameters[n].shape for n in names if "weight" in n}
    roles = {path: role_of(f"{path}.weight") for path in shapes}
    norms = tuple(
        path
        for path, shape in shapes.items()
        if roles[path] == "norm" and shape == (hidden,) and path.split(".")[-2].isdigit()
    )
    reading = [p for p, s in shapes.items() if len(s) > 1 and s[-1] == hidden]
    writers = tuple(
        p for p, s in shapes.items() if len(s) > 1 and s[-2] == hidden and roles[p] in _WRITERS
    )
    attention = tuple(p for p in reading if roles[p] in _READ_ATTENTION and p not in writers)
    feed = tuple(p for p in reading if roles[p] in _READ_MLP | _READ_EXPERTS and p not in writers)
    known = {*norms, *writers, *attention, *feed}
    outputs = [p for p in writers if roles[p] == "attention.out"]
    value = None
    if len(outputs) == 1 and width and shapes[outputs[0]] == (hidden, heads * width):
        rows = _value_rows(roles, shapes, key_heads * width, (heads + 2 * key_heads) * width)
        value = Pair(rows, outputs[0]) if rows else None
    return Layer(
        norms=norms,
        attention=attention,
        feed_forward=feed,
        writers=writers,
        value=value,
        gated=tuple(pair for p in writers if (pair := _gated(p, roles, shapes)) is not None),
        unknown=tuple(
            n
            for n in names
            if len(source.parameters[n].shape) > 1
            and hidden in source.parameters[n].shape[-2:]
            and n.rpartition(".")[0] not in known
            and role_of(n) != "bias"
        ),
    )


def _value_rows(
    roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], rows: int, joined: int
) -> Rows | None:
    """The rows of the values' matrix, which may be the last of a joined one."""
    for role, total in (("attention.v", rows), ("attention.qkv", joined)):
        paths = [p for p, each in roles.items() if each == role]
        if len(paths) == 1 and len(shapes[paths[0]]) == 2 and shapes[paths[0]][0] == total:
            return Rows(paths[0], total - rows, total)
    return None


def _gated(
    down: str, roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Pair | None:
    """The up projection beside a down projection."""
    *stack, _, inner = shapes[down]
    beside = down.rpartition(".")[0]
    for path, role in roles.items():
        if path.rpartition(".")[0] != beside or list(shapes[path][:-2]) != stack:
            continue
        kind = role.partition(".")[2]
        if kind == "up" and shapes[path][-2] == inner:
            return Pair(Rows(path, 0, inner), down)
        if kind == "gate_up" and shapes[path][-2] == 2 * inner:
            return Pair(Rows(path, inner, 2 * inner), down)
    return None
