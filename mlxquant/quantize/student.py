"""A quantized model whose scales, biases and norms can be trained; its codes stay.

    w = s·q + b                   q the codes, in groups of one scale and one bias
    s = s₀·(1 + u)                u a change of the group's range, as a part of it
    b = m₀ + v·e - s·c            c the middle code, m₀ = b₀ + s₀·c, e = |s₀|·2^bits/4
    g = g₀ + n·mean |g₀|          of a norm

What is trained are u, v and n, which begin at 0: a step of Adam is then as large in every group,
and a range and a middle do not pull at each other as a scale and a bias would. s, b and g are
rounded to the file's types where they are used, and their derivatives are taken as if they were
not (the straight-through estimate: Bengio, Léonard, Courville, arXiv:1308.3432), so that what is
trained is what is stored.

Weights are decoded where their layer runs and decoded again in the backward pass
(`mx.checkpoint`; Chen et al., arXiv:1604.06174): beside the packed codes, one layer's floats are in
memory, and hidden states between layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..formats.affine import Affine
from ..formats.base import Array
from ..formats.floats import from_float32, to_float32
from ..load.operations import to_mx
from .blocks import OUTSIDE, BlockModel
from .calibrate import Target, wire_step
from .workspace import Workspace

__all__ = ["Student", "Trained", "decoded", "is_norm", "scales_of"]

#: by parameter and letter, `model.norm.weight:n`
Trained = dict[str, mx.array]

_TYPES = {"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}


@dataclass(frozen=True)
class _Weight:
    """A target as it was encoded: packed codes, and scales and biases [..., k / group_size]."""

    target: Target
    packed: mx.array
    scales: mx.array
    biases: mx.array | None

    @property
    def trained(self) -> bool:
        """Whether its scales and biases are; those of microscaling formats are not."""
        return self.biases is not None


class Student:
    """A model of float32 in which some weights are as they were encoded.

    Args:
        model: where its architecture and its floats are from.
        targets: weights whose wire arrays are in `work`.
        norms: names of norms' parameters → element type that the file holds them in.

    Attributes:
        start: what can be trained, all zeros.
    """

    def __init__(
        self,
        model: BlockModel,
        targets: Sequence[Target],
        norms: Mapping[str, str],
        work: Workspace,
    ) -> None:
        self.model, self._norms = model, dict(norms)
        self._weights = {target.name: _read(target, work) for target in targets}
        modules = dict(model.model.named_modules())
        self._places = {
            name: (modules[name.rpartition(".")[0]], name.rpartition(".")[2])
            for name in (*self._weights, *self._norms)
        }
        self._segment = {name: i for i, names in model.names.items() for name in names}
        self._floats: dict[str, mx.array] = {}
        self.start: Trained = {}
        for name, weight in self._weights.items():
            if weight.trained:
                for letter in "uv":
                    self.start[f"{name}:{letter}"] = mx.zeros(weight.scales.shape)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Within, everything that is not encoded is in memory as floats, the head's too."""
        model = self.model
        with ExitStack() as stack:
            for segment, names in model.names.items():
                skipped = [n for n in names if n in self._weights and segment != OUTSIDE]
                stack.enter_context(model.loaded(segment, {n: model.get(n) for n in skipped}))
            self._floats = {name: model.get(name) for name in model.names[OUTSIDE]}
            for name in self._norms:
                self._floats[name] = model.get(name)
                self.start[f"{name}:n"] = mx.zeros(self._floats[name].shape)
            yield
        self._floats = {}

    def teacher(self, tokens: mx.array, hidden: mx.array) -> mx.array:
        """Logits [b, t, vocabulary] of the original's last hidden states."""
        for name in self.model.names[OUTSIDE]:
            self.model.put(name, self._floats[name])
        return self.model.tail(tokens, hidden)

    def logits(self, trained: Trained, tokens: mx.array) -> mx.array:
        """Logits [b, t, vocabulary] for ids [b, t], differentiable in what is trained."""
        parts: dict[int, Trained] = {}
        for key, value in trained.items():
            parts.setdefault(self._segment[key.rpartition(":")[0]], {})[key] = value

        def route(layer: Any, kind: Any, x: Any, args: Any, kwargs: Any) -> Any:
            index = self.model.index(layer)

            def run(own: Trained, hidden: mx.array) -> Any:
                with self._put(index, own):
                    return kind.__call__(layer, hidden, *args, **kwargs)

            return mx.checkpoint(run)(parts.get(index, {}), x)

        with self.model.routed(route), self._put(OUTSIDE, parts.get(OUTSIDE, {})):
            logits: mx.array = self.model.model(tokens)
            return logits

    def stored(self, trained: Trained) -> tuple[dict[str, tuple[Array, Array]], dict[str, Array]]:
        """What the file is to hold.

        Returns: scales and biases [rows, k / group_size] in their carrier types, by the weight's
            name; float32 of the norms, as their types hold them.
        """
        scales = {}
        for name, weight in self._weights.items():
            if weight.trained:
                kind = weight.target.format.parts[1].dtype
                s, b = (np.array(a).reshape(-1, a.shape[-1]) for a in self._scales(weight, trained))
                scales[name] = from_float32(s, kind), from_float32(b, kind)
        norms = {name: np.array(self._norm(name, trained)) for name in self._norms}
        return scales, norms

    @contextmanager
    def _put(self, segment: int, trained: Trained) -> Iterator[None]:
        """Within, a segment has the student's values; a module that kept them kept their memory."""
        before = []
        for name in self.model.names[segment]:
            if name in self._weights:
                values = self._values(self._weights[name], trained)
            elif name in self._norms:
                values = self._norm(name, trained)
            else:
                continue
            module, attribute = self._places[name]
            before.append((module, attribute, getattr(module, attribute)))
            setattr(module, attribute, values)
        try:
            yield
        finally:
            for module, attribute, values in before:
                setattr(module, attribute, values)

    def _values(self, weight: _Weight, trained: Trained) -> mx.array:
        if not weight.trained:
            return decoded(weight.target, weight.packed, weight.scales)
        scales, biases = self._scales(weight, trained)
        codes = decoded(
            weight.target, weight.packed, mx.ones_like(scales), mx.zeros_like(biases)
        ).reshape(*scales.shape, -1)
        return (scales[..., None] * codes + biases[..., None]).reshape(weight.target.shape)

    def _scales(self, weight: _Weight, trained: Trained) -> tuple[mx.array, mx.array]:
        name, kind = weight.target.name, weight.target.format.parts[1].dtype
        assert weight.biases is not None
        return scales_of(
            weight.scales,
            weight.biases,
            trained[f"{name}:u"],
            trained[f"{name}:v"],
            weight.target.format.bits,
            kind,
        )

    def _norm(self, name: str, trained: Trained) -> mx.array:
        before, change = self._floats[name], trained[f"{name}:n"]
        unit = mx.abs(before).mean()
        unit = mx.where(unit == 0, mx.array(1.0), unit)
        return _rounded(before + change * unit, self._norms[name])


def scales_of(
    scales: mx.array, biases: mx.array, u: mx.array, v: mx.array, bits: int, kind: str
) -> tuple[mx.array, mx.array]:
    """Scales and biases, float32 as `kind` holds them, of changes u and v; all of one shape."""
    middle, unit = (2**bits - 1) / 2, mx.abs(scales) * (2**bits / 4)
    changed = _rounded(scales * (1 + u), kind)
    # exactly the old bias where nothing was changed
    moved = biases - (changed - scales) * middle + v * unit
    return changed, _rounded(moved, kind)


def decoded(
    target: Target, packed: mx.array, scales: mx.array, biases: mx.array | None = None
) -> mx.array:
    """float32 of the weight's shape: what MLX decodes."""
    fmt: Any = target.format
    values = mx.dequantize(
        packed, scales, biases, group_size=fmt.block_size, bits=fmt.bits, mode=fmt.mode
    )
    return values.astype(mx.float32).reshape(target.shape)


def is_norm(module: object) -> bool:
    """Whether a module is a norm, of MLX's or of a model's own class."""
    return "Norm" in type(module).__name__


def _rounded(values: mx.array, kind: str) -> mx.array:
    """As `kind` holds them, with the derivative of what was not rounded."""
    stored = values.astype(_TYPES[kind]).astype(mx.float32)
    return values + mx.stop_gradient(stored - values)


def _read(target: Target, work: Workspace) -> _Weight:
    step, lead = wire_step(target.name), target.shape[:-1]
    arrays = work.arrays(step)
    packed = mx.array(arrays["weight"].reshape(*lead, -1))
    if not isinstance(target.format, Affine):
        return _Weight(target, packed, mx.array(arrays["scales"].reshape(*lead, -1)), None)
    kind = target.format.dtype
    scales, biases = (
        to_mx(to_float32(arrays[part], kind).reshape(*lead, -1), "F32")
        for part in ("scales", "biases")
    )
    return _Weight(target, packed, scales, biases)
