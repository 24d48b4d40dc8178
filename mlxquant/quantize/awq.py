"""Scales folded between a weight and what makes its input, so that the loud channels lose less.

A linear module multiplies x Wᵀ. Where what makes x can be divided by s, a number a channel, and W's
columns multiplied by s, nothing changes but what rounding does: in a group of weights that share
a scale, a column that is larger loses relatively less. Columns whose inputs are large deserve that.

    input norm   → q, k, v              norm's weights / s,        W diag(s)
    second norm  → gate, up, routers    norm's weights / s,        W diag(s), experts included
    values       → output               values' rows / s,          W diag(s), s shared by the heads
    up           → down                 up's rows / s,             W diag(s), each expert its own s

s = m^α, or m^α / c^(1-α), with m the root mean square of each input and c the mean size of each
column relative to its row; scaled so that its least and largest are each other's inverse. α is
searched on a grid for the least Σ ‖x Wᵀ - (x / s) Ŵᵀ‖² / Σ ‖x Wᵀ‖², with Ŵ what the caller's
quantizer makes of W diag(s); α = 0 is s = 1, so that the error never grows.

Which foldings an architecture has is suggested by names and shapes and tried at a small size
(`probe.py`); one that changes logits is not used.

Source: J. Lin et al., AWQ: Activation-aware Weight Quantization for LLM Compression and
Acceleration (MLSys 2024, arXiv:2306.00978). It takes the mean of |x| for m; here it is what second
moments give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..load.blocks import floats_of
from ..load.operations import cast
from ..models.source_model import SourceModel
from .awq_fold import Folding, Group, fold, of_rows, vector
from .awq_search import column_sizes, search_scales
from .decoder import Decoder, find_decoder, require_floats
from .probe import Probe
from .request import DTYPES
from .statistics import Statistics

__all__ = ["AwqResult", "awq", "foldings"]

Float32 = NDArray[np.float32]

#: (module's path, rows float32 [n, k], importance float32 [k] or None) → the rows as stored
Quantizer = Callable[[str, Float32, Float32 | None], Float32]
#: called with (foldings done, foldings in all, where the next is)
Progress = Callable[[int, int, str], None]

#: what reads the input that scales are folded into
KINDS = ("attention", "feed forward", "output", "down")

#: rows of a weight that the search looks at
SAMPLE = 512


@dataclass(frozen=True)
class AwqResult:
    """A model with scales folded in.

    Attributes:
        source: the model; its logits are the old ones to float error.
        foldings: what was folded where, in the model's order.
        refused: kinds of foldings that this architecture does not have.
    """

    source: SourceModel
    foldings: tuple[Folding, ...]
    refused: tuple[str, ...]


def awq(
    source: SourceModel,
    statistics: Mapping[str, Sequence[Statistics]],
    quantizer: Quantizer,
    *,
    grid: int = 20,
    dtype: str | None = None,
    sample: int = SAMPLE,
    progress: Progress | None = None,
) -> AwqResult:
    """Choose scales for every group of modules and fold them in.

    One group's sampled rows are in memory at a time, and its statistics.

    Args:
        source: float weights.
        statistics: by module path; one entry, or one an expert. A module without any, or that saw
            no token, takes no part; a group without any stays as it is.
        quantizer: what the modules will be quantized by; gives back the rows of a module that will
            stay float.
        grid: exponents tried between 0 and 1.
        dtype: `bfloat16`, …: what vectors will be stored in; None for what config.json says.
            Scales are taken so that norms (and biases) divided by them are numbers of that type.
        sample: rows of each weight that the search looks at.

    Raises:
        RequestError: packed weights. ModelError: the architecture cannot be tried.
    """
    require_floats(source, "AWQ")
    groups, refused = foldings(source)
    stored = DTYPES.get(dtype or str(source.config.get("torch_dtype")), "F32")
    found: list[Folding] = []
    for done, group in enumerate(groups):
        if progress is not None:
            progress(done, len(groups), group.maker)
        folding = _search_group(source, group, statistics, quantizer, grid, sample)
        if folding is not None:
            found.append(_representable(source, folding, stored))
    return AwqResult(fold(source, found), tuple(found), refused)


def foldings(source: SourceModel) -> tuple[tuple[Group, ...], tuple[str, ...]]:
    """The groups of modules that scales can be folded into, in the model's order; and the kinds
    that this architecture does not have.

    Raises:
        ModelError: the architecture cannot be tried.
    """
    probe = Probe(source)
    small, decoder = find_decoder(probe.source), find_decoder(source)
    if small.names != decoder.names:
        return (), KINDS
    variants: list[tuple[str, int, int]] = []
    refused = []
    for kind in KINDS:
        tries = [(kind, norm, unit) for norm in range(4) for unit in (0, 1)]
        tries = tries if kind in ("attention", "feed forward") else [(kind, 0, 0)]
        fitting = next((t for t in tries if _holds(probe, small, t)), None)
        if fitting is None:
            refused.append(kind)
        else:
            variants.append(fitting)
    layers = range(len(decoder.layers))
    groups = [g for layer in layers for v in variants for g in _groups(decoder, layer, *v)]
    return tuple(groups), tuple(refused)


def _holds(probe: Probe, decoder: Decoder, variant: tuple[str, int, int]) -> bool:
    """Whether foldings of a kind leave a small model's logits alone, whatever the scales."""
    rng = np.random.default_rng(3)
    layers = range(len(decoder.layers))
    groups = [group for layer in layers for group in _groups(decoder, layer, *variant)]
    made = []
    for group in groups:
        scales = np.exp(rng.uniform(-1, 1, _shape(probe.source, group))).astype(np.float32)
        made.append(Folding(group, _shared(group, scales), np.ones((), np.float32), 0.0, 1.0))
    return bool(made) and probe.keeps(lambda model: fold(model, made))


def _groups(decoder: Decoder, index: int, kind: str, norm: int, unit: int) -> Iterator[Group]:
    """The groups of a kind in one layer; `norm`: which of its norms makes the input."""
    layer = decoder.layers[index]
    if kind in ("attention", "feed forward"):
        readers = layer.attention if kind == "attention" else layer.feed_forward
        if readers and norm < len(layer.norms):
            yield Group(kind, layer.norms[norm], None, readers, unit)
    elif kind == "output" and layer.value is not None:
        sizes = (decoder.heads, decoder.key_heads, decoder.head_width)
        yield Group(kind, None, layer.value, (layer.value.reader,), 0, *sizes)
    elif kind == "down":
        for pair in layer.gated:
            yield Group(kind, None, pair, (pair.reader,))


def _shape(source: SourceModel, group: Group) -> tuple[int, ...]:
    """Of a group's scales."""
    *stack, _, k = source.parameters[f"{group.readers[0]}.weight"].shape
    return (k,) if group.norm is not None else (*stack, k)


def _shared(group: Group, scales: Float32) -> Float32:
    """Scales [k] with one number for the channels that read the same value."""
    if group.heads == group.key_heads:
        return scales
    own = scales.reshape(group.key_heads, -1, group.head_width)
    return np.repeat(own[:, :1], own.shape[1], 1).reshape(-1)


def _representable(source: SourceModel, folding: Folding, dtype: str) -> Folding:
    """Scales moved by less than a rounding, so that what is divided by them is a number of `dtype`.

    Otherwise a norm in bfloat16 would be off by up to 2^-9 in every channel, as much as eight bits.
    """
    group, scales = folding.group, folding.scales
    if group.norm is not None:
        values, unit = vector(source.parameters[f"{group.norm}.weight"]), group.unit
        exact = _exact(values, scales, unit, dtype)
    else:
        assert group.pair is not None
        rows = group.pair.rows
        bias = source.parameters.get(f"{rows.path}.bias")
        if bias is None:
            return folding
        values = vector(bias)[..., rows.start : rows.stop]
        exact = _exact(values, of_rows(group, scales), 0, dtype)
        if group.heads != group.key_heads:
            own = exact.reshape(group.key_heads, 1, group.head_width)
            exact = np.repeat(own, group.heads // group.key_heads, 1).reshape(-1)
    return Folding(group, exact, folding.alpha, folding.error, folding.before)


def _exact(values: Float32, scales: Float32, unit: int, dtype: str) -> Float32:
    """s near `scales` with (unit + values) / s - unit a number of `dtype`; `scales` for zeros."""
    gains = values + np.float32(unit)
    divided = gains / scales - np.float32(unit)
    rounded = _vector_of(cast(divided, "F32", dtype), dtype) + np.float32(unit)
    near = np.abs(rounded * scales - gains) <= 2.0**-7 * np.abs(gains)
    exact = np.divide(gains, rounded, out=scales.copy(), where=near & (rounded != 0))
    return np.where(scales == 1, np.float32(1), exact).astype(np.float32)


def _vector_of(carrier: NDArray[np.generic], dtype: str) -> Float32:
    return np.array(cast(carrier, dtype, "F32"), dtype=np.float32)


def _search_group(
    source: SourceModel,
    group: Group,
    statistics: Mapping[str, Sequence[Statistics]],
    quantizer: Quantizer,
    grid: int,
    sample: int,
) -> Folding | None:
    """The best scales of a group; None where nothing is known of its input."""
    shape = _shape(source, group)
    if len(shape) == 1:
        parts = [
            part for path in group.readers for part in _parts(source, path, statistics, sample)
        ]
        one = _search(parts, quantizer, grid, group)
        return (
            None if one is None else Folding(group, one[0], np.array(one[1], np.float32), *one[2:])
        )
    scales, alphas = np.ones(shape, dtype=np.float32), np.zeros(shape[0], dtype=np.float32)
    error = before = 0.0
    found = False
    for part in _parts(source, group.readers[0], statistics, sample):
        one = _search([part], quantizer, grid, group)
        if one is not None:
            scales[part.expert], alphas[part.expert] = one[0], one[1]
            error, before, found = error + one[2], before + one[3], True
    return Folding(group, scales, alphas, error, before) if found else None


@dataclass(frozen=True)
class _Part:
    """A matrix that reads the input: sampled rows [n, k], and second moments [k, k] or [k]."""

    path: str
    expert: int
    rows: Float32
    moments: Float32
    importance: Float32


def _parts(
    source: SourceModel,
    path: str,
    statistics: Mapping[str, Sequence[Statistics]],
    sample: int,
) -> Iterator[_Part]:
    """A module's matrices of which the input is known, experts one by one."""
    floats = floats_of(source.parameters[f"{path}.weight"])
    *stack, n, k = floats.shape
    for expert, seen in enumerate(statistics.get(path, ())):
        importance = seen.importance
        if importance is None:
            continue
        step = max(1, n // sample)
        lead = tuple(range(expert, expert + 1) for _ in stack)
        rows = np.array(floats.compute((*lead, range(0, n, step), range(k))), dtype=np.float32)
        moments = seen.hessian
        yield _Part(
            path,
            expert,
            rows.reshape(-1, k),
            importance if moments is None else moments,
            importance,
        )


def _search(
    parts: Sequence[_Part], quantizer: Quantizer, grid: int, group: Group
) -> tuple[Float32, float, float, float] | None:
    if not parts:
        return None
    sizes = np.mean([part.importance for part in parts], axis=0) ** 0.5
    if group.heads != group.key_heads:
        by_head = sizes.reshape(group.key_heads, -1, group.head_width)
        sizes = np.broadcast_to(
            np.mean(by_head**2, axis=1, keepdims=True) ** 0.5, by_head.shape
        ).reshape(-1)
    columns = np.mean([column_sizes(part.rows) for part in parts], axis=0)

    def stored(part: _Part, rows: Float32, scales: Float32) -> Float32:
        return quantizer(part.path, rows, part.importance / scales**2)

    return search_scales(
        [part.rows for part in parts],
        [part.moments for part in parts],
        [partial(stored, part) for part in parts],
        sizes.astype(np.float32),
        _shared_mean(group, columns.astype(np.float32)),
        grid=grid,
    )


def _shared_mean(group: Group, columns: Float32) -> Float32:
    if group.heads == group.key_heads:
        return columns
    by_head = columns.reshape(group.key_heads, -1, group.head_width)
    return np.broadcast_to(by_head.mean(1, keepdims=True), by_head.shape).reshape(-1)
