"""What modules are given when a model reads a text: statistics of their inputs.

    collect           mean squares of every module's input, in the model as it is
    head_statistics   second moments of a head's input
    measure           of one input, in a layer that is loaded
    measure_together  the same, of all experts as one

One layer is in memory at a time, with the moments of one input; hidden states and results are steps
of a workspace, so that a stopped run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ModelError
from ..formats.base import Array
from ..models.source_model import SourceModel
from .blocks import OUTSIDE, TABLES, BlockModel
from .statistics import Statistics
from .streams import Stream, Tokens
from .taps import Moments
from .workspace import Workspace

__all__ = [
    "Progress",
    "begin",
    "collect",
    "experts_at_a_time",
    "head_statistics",
    "measure",
    "measure_together",
]

#: bytes of experts' moments in memory at a time
_MOMENTS = 512 << 20

#: called with (done, in all, what was worked on)
Progress = Callable[[int, int, str], None]


def collect(
    source: SourceModel, tokens: Tokens, work: Workspace, progress: Progress | None = None
) -> dict[str, list[Statistics]]:
    """The mean squares of every module's input, in the model as it is.

    Args:
        tokens: int32 [windows, length].

    Returns: by the module's path one, or one for each expert.

    Raises:
        ModelError: layers that cannot be run one by one; NaN or infinity, with the layer's name.
    """
    model = BlockModel(source)
    stream = Stream(model, tokens, work, "inputs")
    modules = stream.modules
    segments = [*range(model.count), OUTSIDE]
    begin(stream)
    for done, index in enumerate(segments, 1):
        step = f"squares-{index}"
        # a run may have been stopped between what was measured and the layer's output
        behind = index == OUTSIDE or (stream.reached() or 0) > index
        if not (work.has(step) and behind):
            with model.loaded(index, without=TABLES):
                if not work.has(step):
                    arrays: dict[str, Array] = {}
                    counts: dict[str, list[int]] = {}
                    for group in stream.groups(index, modules[index]):
                        shared = {path: modules[index][path] for path in group}
                        found = measure(stream, index, shared, False)
                        for path in group:
                            counts[path] = [each.count for each in found]
                            arrays[path] = np.stack([each.squares for each in found])
                    work.put(step, arrays, counts)
                if index != OUTSIDE:
                    stream.advance(index)
        if progress is not None:
            progress(done, len(segments), "the head" if index == OUTSIDE else model.paths[index])
    measured: dict[str, list[Statistics]] = {}
    for index in segments:
        arrays = work.arrays(f"squares-{index}")
        for path, seen in work.facts(f"squares-{index}").items():
            measured[path] = [Statistics(n, arrays[path][i]) for i, n in enumerate(seen)]
    return measured


def head_statistics(
    source: SourceModel,
    paths: Iterable[str],
    tokens: Tokens,
    work: Workspace,
    progress: Progress | None = None,
) -> dict[str, Statistics]:
    """Second moments of the inputs of heads that are outside of the layers, in the model as it is.

    Args:
        paths: of modules; those that are no head are left out of what is returned.

    Raises:
        ModelError: as `collect`.
    """
    model = BlockModel(source)
    stream = Stream(model, tokens, work, "float")
    modules = {path: stream.modules[OUTSIDE][path] for path in paths}
    if not work.has("heads"):
        begin(stream)
        for index in range(stream.reached() or 0, model.count):
            with model.loaded(index):
                stream.advance(index)
            if progress is not None:
                progress(index + 1, model.count, model.paths[index])
        arrays: dict[str, Array] = {}
        counts: dict[str, int] = {}
        with model.loaded(OUTSIDE, without=TABLES):  # inputs are seen before a head multiplies
            for group in stream.groups(OUTSIDE, modules):
                (found,) = measure(stream, OUTSIDE, {p: modules[p] for p in group}, True)
                for path in group:
                    assert found.moments is not None
                    counts[path], arrays[path] = found.count, found.moments
        work.put("heads", arrays, counts)
    arrays = work.arrays("heads")
    return {
        path: Statistics(
            count,
            np.diagonal(arrays[path]).astype(np.float64),
            arrays[path],
            looked_up=hasattr(modules[path], "as_linear"),
        )
        for path, count in work.facts("heads").items()
    }


def begin(stream: Stream) -> None:
    """Bring a stream to its first layer, if it is nowhere yet."""
    if stream.reached() is None:
        with stream.model.loaded(OUTSIDE, without=("head",)):
            stream.embed()


def measure(
    stream: Stream,
    index: int,
    modules: Mapping[str, Any],
    full: bool,
    experts: range | None = None,
) -> list[Statistics]:
    """Statistics of one input, which these modules share: one, or one for each of the experts.

    The layer (or OUTSIDE) must be loaded.

    Args:
        full: keep Σ x·xᵀ; experts: which to measure, None for all.
    """
    path, module = next(iter(modules.items()))
    count = getattr(module, "num_experts", None)
    if count is not None and experts is None:
        experts = range(count)
    sums = Moments(full=full, experts=experts)
    stream.watch(index, modules, sums.add)
    found = [sums.of_experts()[e] for e in experts] if experts else [sums.statistics()]
    if not all(each.is_finite for each in found):
        raise ModelError(
            f"{stream.model.origin}: NaN or infinity in the input of {path} on the calibration "
            "text; `mlxquant inspect --verify` looks for such weights"
        )
    return found


def experts_at_a_time(width: int) -> int:
    """How many experts' moments [width, width] may be in memory."""
    return max(1, _MOMENTS // (4 * width * width))


def measure_together(
    stream: Stream, index: int, modules: Mapping[str, Any], width: int
) -> Statistics:
    """Second moments of one input: of experts, some at a time, the sum over all of them.

    Args:
        stream, index, modules: as of `measure`; width: of the input.
    """
    count = getattr(next(iter(modules.values())), "num_experts", None)
    if count is None:
        return measure(stream, index, modules, True)[0]
    some = experts_at_a_time(width)
    whole: Statistics | None = None
    for first in range(0, count, some):
        experts = range(first, min(first + some, count))
        for each in measure(stream, index, modules, True, experts):
            whole = each if whole is None else whole + each
    assert whole is not None
    return whole
