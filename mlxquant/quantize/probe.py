"""Whether a change of weights leaves an architecture's logits as they are: tried, not believed.

mlx-lm's own class is built with the model's config at a small size (narrow, few heads, a small
vocabulary, all of its layers) and random float32 weights, and run on the CPU before and after the
change. A change that is exact agrees to float error; one that overlooks a bias, a second reader of
a norm or a nonlinearity is off by a good part of a logit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..errors import InputError, ModelError, one_line
from ..load.lazy import Node
from ..load.operations import constant, to_mx
from ..models.mlx_lm import build_model, describe_model
from ..models.source_model import SourceModel

__all__ = ["Probe", "small_config"]

#: how far logits may be apart, in standard deviations of theirs
TOLERANCE = 1e-3

#: keys of widths that a small model has smaller
_WIDTHS = {
    "intermediate_size": 48,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 56,
    "vocab_size": 80,
}
#: of heads, the first that gives the residual stream a width that nothing else has
_HEAD_WIDTHS = (16, 24, 40, 56)
_TOKENS = 12


class Probe:
    """An architecture at a small size.

    Args:
        source: the model whose class and settings it has.
        seed: of its weights.

    Raises:
        ModelError: no small model can be built of this config.
    """

    def __init__(self, source: SourceModel, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        config = small_config(source.config)
        checkpoint = replace(source.checkpoint, config=config, notes=())
        try:
            with mx.stream(mx.cpu):
                model = build_model(checkpoint, config)
                parameters = {
                    name: self._random(name, array.shape)
                    for name, array in tree_flatten(model.parameters())
                }
                self.source = describe_model(checkpoint, config, model, parameters, {})
                tokens = np.arange(1, 1 + _TOKENS * 5, 5) % 64
                self._tokens = mx.array(tokens[None])
                self._logits = self._run(self.source)
        except InputError:
            raise
        except Exception as problem:  # whatever a class raises for a size that it does not expect
            raise self._failed(source, f"{type(problem).__name__}: {problem}") from problem
        if not np.isfinite(self._logits).all() or self._logits.std() < 1e-3:
            raise self._failed(source, "its logits are not of ordinary size")

    def difference(self, change: Callable[[SourceModel], SourceModel]) -> float:
        """The largest change of a logit, in standard deviations of logits; infinite for NaN."""
        after = self._run(change(self.source))
        worst = float(np.abs(after - self._logits).max() / self._logits.std())
        return worst if np.isfinite(worst) else float("inf")

    def keeps(self, change: Callable[[SourceModel], SourceModel]) -> bool:
        """Whether logits stay what they are, to float error."""
        return self.difference(change) < TOLERANCE

    @staticmethod
    def _failed(source: SourceModel, why: str) -> ModelError:
        return ModelError(
            f"{source.checkpoint.path}: {source.config.get('model_type')} cannot be tried at a "
            f"small size, so that nothing can be folded into its weights: {one_line(why, 200)}"
        )

    def _random(self, name: str, shape: tuple[int, ...]) -> Node:
        """Matrices that keep their input's size; norms about one, or about zero as `1 + w`."""
        values = self._rng.standard_normal(shape)
        if len(shape) > 1:
            values *= shape[-1] ** -0.5
        elif name.endswith("weight"):
            values = 1 + 0.3 * values
        else:
            values *= 0.3
        return constant(mx.array(values.astype(np.float32)))

    def _run(self, source: SourceModel) -> Any:
        with mx.stream(mx.cpu):
            weights = [
                (name, to_mx(node.flat(0, node.size).reshape(node.shape), node.dtype))
                for name, node in source.parameters.items()
            ]
            source.model.load_weights(weights)
            return np.array(source.model(self._tokens).astype(mx.float32))


def small_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the same settings and layers, and small widths.

    Heads keep their ratio. Where rotary settings list a number for every pair of a head's numbers,
    heads keep their width.
    """
    small = copy.deepcopy(config)
    for level in [small, *(v for v in small.values() if isinstance(v, dict))]:
        if "hidden_size" in level:
            _shrink(level)
    return small


def _shrink(level: dict[str, Any]) -> None:
    heads = level.get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        return
    key_heads = level.get("num_key_value_heads")
    ratio = heads // key_heads if isinstance(key_heads, int) and key_heads > 0 else 1
    few = min(2, heads // ratio)
    listed = any(isinstance(v, list) for v in (level.get("rope_scaling") or {}).values())
    own = level.get("head_dim")
    level["num_attention_heads"] = few * ratio
    if isinstance(key_heads, int):
        level["num_key_value_heads"] = few
    for key, value in _WIDTHS.items():
        if isinstance(level.get(key), int):
            level[key] = value
    others = [v for k, v in level.items() if k not in ("hidden_size", "head_dim")]
    widths = (own or level["hidden_size"] // heads,) if listed else _HEAD_WIDTHS
    fitting = [w for w in widths if few * ratio * w not in others]
    width = (fitting or list(widths))[0]
    level["hidden_size"] = few * ratio * width
    if own:
        level["head_dim"] = width
