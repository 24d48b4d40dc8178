"""A model run block by block: one decoder layer's weights in memory at a time.

    tokens ──embed──▶ h0 ──layer 0──▶ h1 ──layer 1──▶ … ──tail──▶ logits

mlx-lm's own model is what runs, so embeddings, masks, scalings and the head are its own. For the
time of a call its layers are of a class that asks the router: the layers before the wanted one give
back what they got, the wanted one computes from the hidden states that the caller kept, and there
the call ends. Nothing that was left out is ever evaluated.

The weights of a segment come from the checkpoint's lazy nodes for as long as it runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..errors import ModelError
from ..formats.base import Array
from ..load.operations import cast, to_mx
from ..measure.session import usual_dtype
from ..models.roles import role_of
from ..models.source_model import SourceModel

__all__ = ["OUTSIDE", "TABLES", "BlockModel", "Reached", "assembled"]

#: the segment of everything that is in no layer: embeddings, the last norm, the head
OUTSIDE = -1

#: the two largest of them, by their roles
TABLES = ("embedding", "head")

#: bytes of a weight that are read in one go
_PIECE = 16 << 20

_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


class Reached(Exception):
    """All that was wanted of a call has been seen; a tap may raise it."""


class BlockModel:
    """A model in mlx-lm's classes, without its weights until a segment is loaded.

    Attributes:
        model: mlx-lm's.
        names: of each segment's parameters, by layer index and OUTSIDE.
        count: number of layers; paths: theirs.
        origin: where the model is, to blame.

    Raises:
        ModelError: the model has no list of layers.
    """

    def __init__(self, source: SourceModel, dtype: str | None = None) -> None:
        self._source = source
        self.origin = source.checkpoint.path
        self.model: Any = source.model
        self._dtype = _TYPES.get(dtype or usual_dtype() or "")
        layers = list(getattr(self.model, "layers", ()))
        paths = {id(module): path for path, module in self.model.named_modules()}
        if not layers or any(id(layer) not in paths for layer in layers):
            raise self._refusal("it has no list of layers")
        self._layers = layers
        self.paths = [paths[id(layer)] for layer in layers]
        self.names: dict[int, list[str]] = {OUTSIDE: []}
        prefixes = {f"{path}.": index for index, path in enumerate(self.paths)}
        self.names.update({index: [] for index in range(len(layers))})
        for name in source.parameters:
            owner = next((i for p, i in prefixes.items() if name.startswith(p)), OUTSIDE)
            self.names[owner].append(name)
        self._index = {id(layer): index for index, layer in enumerate(layers)}

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self._layers)

    @contextmanager
    def loaded(
        self,
        segment: int,
        values: Mapping[str, mx.array] | None = None,
        *,
        without: Collection[str] = (),
    ) -> Iterator[None]:
        """Within, the weights of a segment are in memory.

        Args:
            segment: a layer's index, or OUTSIDE.
            values: parameters to set instead of the checkpoint's, by name.
            without: roles of parameters that what is run does not look at.
        """
        names = [
            name
            for name in self.names[segment]
            if role_of(name) not in without or name in (values or {})
        ]
        before = dict(tree_flatten(self.model.parameters()))
        try:
            for name in names:
                array = (values or {}).get(name)
                if array is None:
                    array = self._read(name)
                    mx.eval(array)
                self.put(name, array)
            yield
        finally:
            for name in names:
                self.put(name, before[name])
            del before
            mx.clear_cache()

    @contextmanager
    def kept(self, *names: str) -> Iterator[None]:
        """Afterwards, these parameters are what they were."""
        parameters = dict(tree_flatten(self.model.parameters()))
        before = {name: parameters[name] for name in names if name in parameters}
        try:
            yield
        finally:
            for name, array in before.items():
                self.put(name, array)

    def put(self, name: str, array: mx.array) -> None:
        """Set one parameter."""
        self.model.load_weights([(name, array)], strict=False)

    def get(self, name: str) -> mx.array:
        """One parameter, as it is now."""
        array: mx.array = dict(tree_flatten(self.model.parameters()))[name]
        return array

    @property
    def head(self) -> str | None:
        """The weight that makes logits: a head's, or the embedding's where it is tied to that."""
        for role in reversed(TABLES):
            for name in self.names[OUTSIDE]:
                if role_of(name) == role and name.endswith(".weight"):
                    return name
        return None

    def index(self, layer: Any) -> int:
        """Of one of the model's layers."""
        return self._index[id(layer)]

    def not_finite(self, segment: int) -> str | None:
        """The first parameter of a loaded segment that has NaN or infinity, or None."""
        arrays = dict(tree_flatten(self.model.parameters()))
        for name in self.names[segment]:
            array = arrays[name]
            if mx.issubdtype(array.dtype, mx.floating) and not mx.isfinite(array).all().item():
                return name
        return None

    def embed(self, tokens: mx.array) -> mx.array:
        """Token ids [b, t] → the first layer's input. OUTSIDE must be loaded."""
        return self._run(tokens, 0, None)

    def layer(self, index: int, tokens: mx.array, hidden: mx.array) -> mx.array:
        """A layer's input → its output, lazily. The layer must be loaded.

        Args:
            tokens: ids [b, t], which give the masks their shape.
            hidden: what `embed` or the layer before gave for them.

        Raises:
            ModelError: its layers hand each other more than hidden states.
        """
        return self._run(tokens, index, hidden)

    def tail(self, tokens: mx.array, hidden: mx.array) -> mx.array:
        """The last layer's output → logits [b, t, vocabulary]. OUTSIDE must be loaded."""
        return self._run(tokens, self.count, hidden)

    def _run(self, tokens: mx.array, at: int, hidden: mx.array | None) -> mx.array:
        found: list[mx.array] = []

        def route(layer: Any, kind: Any, x: Any, args: Any, kwargs: Any) -> Any:
            index = self.index(layer)
            if hidden is None:
                found.append(x)
                raise Reached
            if index == at:
                y = kind.__call__(layer, hidden, *args, **kwargs)
                if not isinstance(y, mx.array) or y.shape != hidden.shape:
                    raise self._refusal("its layers hand each other more than hidden states")
                found.append(y)
                raise Reached
            return hidden if index == 0 else x

        with self.routed(route):
            try:
                return self.model(tokens)  # type: ignore[no-any-return]
            except Reached:
                return found[0] if found else tokens

    @contextmanager
    def routed(self, route: Any) -> Iterator[None]:
        """Within, a call of a layer is one of `route(layer, its class, x, args, kwargs)`."""
        kinds = [type(layer) for layer in self._layers]
        made: dict[type, type] = {}
        # classes are garbage that waits for the collector: what the router holds must not
        held = [route]
        try:
            for layer, kind in zip(self._layers, kinds, strict=True):
                layer.__class__ = made.setdefault(kind, _routing(kind, held))
            yield
        finally:
            for layer, kind in zip(self._layers, kinds, strict=True):
                layer.__class__ = kind
            held.clear()

    def _read(self, name: str) -> mx.array:
        """A parameter from the checkpoint, in the element type that the model runs in."""
        node = self._source.parameters[name]
        count = int(np.prod(node.shape[:-1], dtype=np.int64))
        step = max(1, _PIECE * count // max(1, node.nbytes))
        parts = (
            self.rows(name, first, min(first + step, count)) for first in range(0, count, step)
        )
        return assembled(node.shape, parts)

    def rows(self, name: str, first: int, last: int) -> mx.array:
        """Some rows of a parameter, [last - first, …], in the type that the model runs in."""
        node = self._source.parameters[name]
        dtype = node.dtype
        if self._dtype and dtype in _TYPES.values() and name not in self._source.uncast:
            dtype = self._dtype
        array: mx.array = to_mx(cast(node.rows(first, last), node.dtype, dtype), dtype)
        return array

    def _refusal(self, why: str) -> ModelError:
        kind = self._source.config.get("model_type")
        return ModelError(
            f"{self._source.checkpoint.path}: {kind} models cannot be calibrated layer by layer: "
            f"{why}; quantize without --calibrate"
        )


def assembled(shape: tuple[int, ...], parts: Iterable[mx.array | Array]) -> mx.array:
    """An array of its rows, which come some at a time: with one more piece in memory, not twice.

    Args:
        shape: of the result; parts: [rows, …] each, of one element type.
    """
    whole: mx.array | None = None
    at = 0
    for part in parts:
        array = mx.array(part)
        if whole is None:
            if len(array) * math.prod(shape[-1:]) == math.prod(shape):
                return array.reshape(shape)
            whole = mx.zeros((math.prod(shape[:-1]), *shape[-1:]), array.dtype)
        whole[at : at + len(array)] = array
        mx.eval(whole)
        at += len(array)
    return mx.zeros(shape) if whole is None else whole.reshape(shape)


def _routing(kind: Any, held: list[Any]) -> type:
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return held[0](self, kind, x, args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})
