"""Where NaN came from: the first module of a model whose output is not finite.

Every module of the model watches its own output for one run over the window concerned. The run is
slow, for each output is looked at as soon as it is there; it happens once, on the way to an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

__all__ = ["first_non_finite"]


def first_non_finite(model: Any, tokens: NDArray[np.int32]) -> str:
    """In words, what makes the first NaN or infinity.

    Args:
        model: an mlx.nn.Module: token ids [1, t] → logits.
        tokens: [length], of the window.
    """
    found: list[str] = []
    with _watched(model, found):
        logits = model(mx.array(tokens[None, :-1]))
        mx.eval(logits)
    if not found:
        return "made by the output head: the outputs of all layers are finite"
    name = found[0]
    module = dict(model.named_modules())[name]
    bad = [key for key, array in tree_flatten(module.parameters()) if not _is_finite(array)]
    what = f", whose {bad[0]} has such numbers too" if bad else ""
    return f"first in the output of {name}{what}"


@contextmanager
def _watched(model: Any, found: list[str]) -> Iterator[None]:
    """Within, every module's class is one that looks at outputs; their names go to `found`."""
    before: dict[int, tuple[Any, type]] = {}
    try:
        for name, module in model.named_modules():
            if name and id(module) not in before:
                before[id(module)] = (module, type(module))
                module.__class__ = _watching(type(module), name, found)
        yield
    finally:
        for module, kind in before.values():
            module.__class__ = kind


def _watching(kind: Any, name: str, found: list[str]) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = kind.__call__(self, *args, **kwargs)
        if not found and not _is_finite(output):
            found.append(name)
        return output

    return type(kind.__name__, (kind,), {"__call__": call})


def _is_finite(output: Any) -> bool:
    """Whether all floats of an output are; one that is only being traced counts as finite."""
    for _, array in tree_flatten(output):
        if isinstance(array, mx.array) and mx.issubdtype(array.dtype, mx.floating):
            try:
                if not mx.isfinite(array).all().item():
                    return False
            except (RuntimeError, ValueError):
                return True
    return True
