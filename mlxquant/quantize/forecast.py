"""What a request will take: time, by a few trials on this machine, and memory.

    search      weights · time of a weight, of some rows of the largest matrix     / threads
    passes      windows · layers · time of one layer and one window
    gptq        weights · time of a weight with a matrix of moments, of the same rows
    formats     divergences: windows that the probes come to, as passes; errors: rows · formats
    training    windows that are seen, forwards and back

What a real run does besides (files, the head, fewer rows at a time) is in factors that were fitted
to runs of the bundled model. Read it as "minutes or hours", not as a promise.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..formats.mlx_format import MlxFormat
from .schedule import Schedule
from .search import search

if TYPE_CHECKING:
    from ..models.source_model import Module, SourceModel
    from .request import Request

__all__ = ["Forecast", "forecast"]

#: rows of a matrix that methods are tried on, and columns at most
_ROWS, _COLUMNS = 64, 4096

#: passes through all layers: statistics for every group of inputs and for a tied head, and a last
#: measurement; of an epoch of training, forwards and back, with the original's head
_PASSES, _TRAINING = 3.0, 6.0

#: windows that divergences of single tensors are measured on, and widths that each is rounded to
_PROBES = 4 * 2

#: formats that a budget chooses from
_MENU = 18

#: bytes of the program with MLX and mlx-lm; of a run without a text, of one with
_PROGRAM, _CALIBRATION = 90e6, 450e6


@dataclass(frozen=True)
class Forecast:
    """What a request will take.

    Attributes:
        parts: seconds by what is done.
        memory: bytes at the peak.
    """

    parts: dict[str, float]
    memory: float

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """A line."""
        parts = ", ".join(f"{name} {_duration(s)}" for name, s in self.parts.items())
        of = f" ({parts})" if parts else ""
        return f"takes about {_duration(self.seconds)} and {self.memory / 1e9:.1f} GB{of}"


def forecast(source: SourceModel, request: Request, threads: int | None = None) -> Forecast:
    """Try the methods of a request on a few rows of a model, and work out what all of it takes.

    Args:
        source: the model, in mlx-lm's names.
        threads: worker threads; None for one a core.
    """
    modules = [m for m in source.modules.values() if m.advice is not False and not m.quantized]
    if not modules:
        return Forecast({}, _PROGRAM)
    weights = sum(math.prod(module.shape) for module in modules)
    fmt, cores = request.default, threads or os.cpu_count() or 1
    # weights whose rows the format cannot take stay as they are, or get another
    able = [module for module in modules if module.shape[-1] % fmt.block_size == 0]
    largest = max((module.shape[-1] for module in able), default=4 * fmt.block_size)
    rows = _sample(largest, fmt.block_size)
    plain = _seconds(lambda: search(fmt, rows, None)) / rows.size
    if not request.calibrate:
        return Forecast({"search": plain * weights / cores}, _PROGRAM + cores * 8e6)
    windows = request.calibrate_windows
    layer = _layer_seconds(source)
    through = windows * source.layers * layer
    parts = {"statistics": _PASSES * through}
    if request.has_target:
        probes = _PROBES * len(modules) * source.layers * layer
        tried = sum(min(256, math.prod(m.shape[:-1])) * m.shape[-1] for m in modules)
        parts["formats"] = probes + _MENU * tried * plain
    parts["gptq"] = weights * _gptq_seconds(fmt, rows)
    if request.distill:
        parts["training"] = _TRAINING * Schedule.epochs * through
    return Forecast(parts, _memory(source, modules, request, weights))


def _sample(width: int, group: int) -> NDArray[np.float32]:
    """Normal weights of a matrix's width, a number of groups."""
    shape = (_ROWS, min(_COLUMNS // group * group, width))
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32) * np.float32(0.02)


def _seconds(work: Callable[[], object]) -> float:
    """Of the second of two calls."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _layer_seconds(source: SourceModel) -> float:
    """Of one window through one layer, in the middle of the model."""
    import mlx.core as mx

    from ..measure.windows import WINDOW
    from ..run.model import context_length
    from .blocks import BlockModel

    model = BlockModel(source)
    index = model.count // 2
    length = min(WINDOW, context_length(source.checkpoint.config) or WINDOW)
    ids = mx.zeros((1, length), mx.int32)
    with model.loaded(index):
        name = next(iter(model.names[index]))
        width = _width(source)
        hidden = mx.random.normal((1, length, width)).astype(model.get(name).dtype)
        return _seconds(lambda: mx.eval(model.layer(index, ids, hidden)))


def _width(source: SourceModel) -> int:
    """Of the hidden states: the width of what an embedding gives."""
    tables = [m.shape[-1] for m in source.modules.values() if m.kind == "Embedding"]
    return tables[0] if tables else int(source.config["hidden_size"])


def _gptq_seconds(fmt: MlxFormat, rows: NDArray[np.float32]) -> float:
    """Of a weight, with the moments of some normal inputs."""
    from .gptq import encode
    from .hessian import factorize

    inputs = np.random.default_rng(1).standard_normal((2 * rows.shape[1], rows.shape[1]))
    known = factorize(inputs.T @ inputs / len(inputs))
    return _seconds(lambda: encode(fmt, rows, known)) / rows.size


def _memory(source: SourceModel, modules: list[Module], request: Request, weights: int) -> float:
    """Bytes at the peak: a layer, moments of the widest input, or the model in training."""
    inside = sum(math.prod(m.shape) for m in modules if ".layers." in f".{m.path}")
    layer = 4 * inside / max(1, source.layers)
    outside = 4 * (weights - inside)
    widest = max(module.shape[-1] for module in modules)
    largest = max(2 * layer, 2 * outside, 4 * weights if request.distill else 0)
    return _CALIBRATION + largest + 16 * widest * widest


def _duration(seconds: float) -> str:
    """`40 s`, `7 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
