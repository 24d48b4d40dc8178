"""Orthogonal rotations folded into a decoder's weights, so that outliers spread.

A root-mean-square norm without weights commutes with any orthogonal matrix R, and what reads and
writes the residual stream is linear. So with every norm's weights g folded into what reads it,

    embedding   E → E R              h → h R throughout
    readers     W → W diag(g) R      q, k, v, gate, up, routers, experts, the head
    writers     W → Rᵀ W, b → b R    output and down projections
    norms       g → 1

leaves every logit as it is (R1). Values can be turned within each head by a matrix Q, since
attention only mixes them over tokens: rows of the values' matrix by Qᵀ, columns of the output's by
Q (R2). Nothing is added to the model; a reader of the file needs to know nothing.

Where the head was the embedding they now differ (only one of them has the last norm's weights in
it), so the model gets a head of its own: more bytes, and a note that says so.

Sources: S. Ashkboos et al., SliceGPT (2024, arXiv:2401.15024), for the invariance; S. Ashkboos et
al., QuaRot (2024, arXiv:2404.00456), for randomized Hadamard matrices; Z. Liu et al., SpinQuant
(2024, arXiv:2405.16406), for R1 and R2, the two that need no operation when the model runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..load.blocks import floats_of
from ..load.lazy import Node
from ..load.operations import cast, constant, to_mx
from ..models.source_model import SourceModel
from .decoder import Decoder, Layer, find_decoder, require_floats
from .orthogonal import Rotation, random_rotation
from .probe import TOLERANCE, Probe
from .transform import Scratch, replaced, turned_columns, turned_rows, untied

__all__ = ["rotate"]

Float32 = NDArray[np.float32]


def rotate(
    source: SourceModel,
    *,
    seed: int = 0,
    residual: bool = True,
    heads: bool | None = None,
    block: int | None = None,
    scratch: Path | None = None,
) -> SourceModel:
    """The same model with rotated weights: its logits are the same to float error.

    New weights are F32 and lazy; norms that became ones keep their type. What it needs of memory is
    a panel of columns. For output and down projections a temporary file holds a few float32
    matrices at a time.

    Args:
        source: float weights. Its architecture is tried at a small size first.
        seed: the same seed gives the same weights.
        residual: rotate the residual stream (R1); the head and the embedding come apart.
        heads: rotate values within heads (R2); None where the architecture has such heads.
        block: R1 is block-diagonal with blocks of so many rows; None for the widest that there is.
        scratch: folder for the temporary file; None for the system's.

    Raises:
        RequestError: the architecture does not allow it, named with the reason; or packed weights.
        ModelError: the architecture cannot be tried.
    """
    if not residual and heads is False:
        raise RequestError("rotate: neither the residual stream nor heads are to be rotated")
    require_floats(source, "a rotation")
    decoder = find_decoder(source)
    if residual:
        _check_residual(source, decoder)
        if block is not None and (block < 1 or decoder.hidden % block):
            raise RequestError(
                f"rotate: the residual stream's {decoder.hidden} numbers do not divide into blocks "
                f"of {block}"
            )
    bare = next((i for i, layer in enumerate(decoder.layers) if not layer.value), None)
    if bare is not None and (heads or not residual):
        raise _refused(source, f"layer {bare} has no values that an output projection reads")
    heads = bare is None if heads is None else heads
    probe = Probe(source)
    if find_decoder(probe.source).names != decoder.names:
        raise _refused(source, "what reads its residual stream cannot be told by shapes alone")
    unit = next((u for u in (0, 1) if _holds(probe, residual, heads, u)), None)
    if unit is None:
        raise _refused(
            source,
            f"what it computes is not indifferent to a rotation (tried at a small size, its logits "
            f"change by more than {TOLERANCE} of their spread)",
        )
    rng = np.random.default_rng(seed)
    return _rotated(source, rng, residual, heads, unit, block, scratch)


def _holds(probe: Probe, residual: bool, heads: bool, unit: int) -> bool:
    """Whether a small model stays what it is, with norms that multiply by `unit + w`."""
    rng = np.random.default_rng(1)
    return probe.keeps(lambda small: _rotated(small, rng, residual, heads, unit, None, None))


def _refused(source: SourceModel, why: str) -> RequestError:
    return RequestError(
        f"{source.checkpoint.path}: {source.config.get('model_type')} cannot be rotated: {why}; "
        "leave the rotation out"
    )


def _check_residual(source: SourceModel, decoder: Decoder) -> None:
    """Refuse what does not look like a decoder with one norm before each block.

    Raises:
        RequestError: it names what is in the way.
    """
    if decoder.embedding is None or decoder.norm is None:
        what = "embedding" if decoder.embedding is None else "last norm"
        raise _refused(source, f"it does not have exactly one {what}")
    if f"{decoder.norm}.bias" in source.parameters:
        raise _refused(
            source, f"{decoder.norm} has a bias: it subtracts the mean, which a rotation changes"
        )
    if decoder.unknown:
        raise _refused(source, f"nothing is known of {decoder.unknown[0]}")
    for index, layer in enumerate(decoder.layers):
        if layer.unknown:
            raise _refused(source, f"nothing is known of {layer.unknown[0]}")
        if len(layer.norms) != 2:
            found = ", ".join(layer.norms) or "none"
            raise _refused(
                source,
                f"layer {index} has {len(layer.norms)} norms of the residual stream's width where "
                f"a rotation needs two, one before each block ({found})",
            )
        biased = next((n for n in layer.norms if f"{n}.bias" in source.parameters), None)
        if biased:
            raise _refused(
                source, f"{biased} has a bias: it subtracts the mean, which a rotation changes"
            )
        if not layer.attention or not layer.feed_forward or len(layer.writers) < 2:
            raise _refused(source, f"layer {index} is not attention followed by an MLP or experts")


def _rotated(
    source: SourceModel,
    rng: np.random.Generator,
    residual: bool,
    heads: bool,
    unit: int,
    block: int | None,
    folder: Path | None,
) -> SourceModel:
    """`source` with new nodes; `unit` is what norms add to their weights."""
    notes: list[str] = []
    if residual:
        own = untied(source)
        if own is not source:
            size = next(m.shape for m in own.modules.values() if m.path not in source.modules)
            notes.append(
                "the head, which was the embedding, is a matrix of its own now: a rotation folds "
                f"the last norm into it ({size[0]} x {size[1]} more weights)"
            )
        source = own
    decoder = find_decoder(source)
    work = _Work(source, Scratch(folder), unit)
    if heads:
        for layer in decoder.layers:
            turn = random_rotation(decoder.head_width, rng)
            work.turn_heads(layer, turn, decoder.heads, decoder.key_heads)
    if residual:
        assert decoder.embedding and decoder.norm and decoder.head
        stream = random_rotation(decoder.hidden, rng, block=block)
        work.read(decoder.embedding, stream, None)
        for layer in decoder.layers:
            for norm, readers in zip(
                layer.norms, (layer.attention, layer.feed_forward), strict=True
            ):
                gains = work.fold(norm)
                for path in readers:
                    work.read(path, stream, gains)
            for path in layer.writers:
                work.write(path, stream)
        work.read(decoder.head, stream, work.fold(decoder.norm))
    return replaced(source, work.nodes, tuple(notes))


class _Work:
    """The new nodes; each step builds on those of the steps before."""

    def __init__(self, source: SourceModel, scratch: Scratch, unit: int) -> None:
        self.nodes: dict[str, Node] = {}
        self._source, self._scratch, self._unit = source, scratch, unit

    def _node(self, name: str) -> Node:
        return self.nodes.get(name) or self._source.parameters[name]

    def fold(self, norm: str) -> Float32:
        """A norm's gains [hidden], which it loses: from here on it multiplies by one."""
        name = f"{norm}.weight"
        old = self._source.parameters[name]
        floats = floats_of(old)
        gains = np.array(floats.flat(0, floats.size), dtype=np.float32) + np.float32(self._unit)
        ones = np.full(old.shape, 1 - self._unit, dtype=np.float32)
        dtype = old.dtype if old.dtype in ("BF16", "F16", "F32") else "F32"
        self.nodes[name] = _constant(cast(ones, "F32", dtype), dtype, old)
        return gains

    def read(self, path: str, turn: Rotation, gains: Float32 | None) -> None:
        """What is multiplied with the residual stream, or is a row of it."""
        name = f"{path}.weight"
        self.nodes[name] = turned_columns(self._node(name), turn, gains)

    def write(self, path: str, turn: Rotation) -> None:
        """What is added to the residual stream."""
        name, bias = f"{path}.weight", f"{path}.bias"
        self.nodes[name] = turned_rows(self._node(name), turn, self._scratch)
        if bias in self._source.parameters:
            self.nodes[bias] = turned_columns(self._node(bias), turn)

    def turn_heads(self, layer: Layer, turn: Rotation, heads: int, key_heads: int) -> None:
        """Values within each head, and back in what reads them."""
        assert layer.value
        rows = layer.value.rows
        name, bias, reader = f"{rows.path}.weight", f"{rows.path}.bias", layer.value.reader
        all_keys, all_heads = turn.repeated(key_heads), turn.repeated(heads)
        self.nodes[name] = turned_rows(self._node(name), all_keys, self._scratch, rows.start)
        if bias in self._source.parameters:
            self.nodes[bias] = turned_columns(self._node(bias), all_keys, first=rows.start)
        output = f"{reader}.weight"
        self.nodes[output] = turned_columns(self._node(output), all_heads)


def _constant(values: NDArray[np.generic], dtype: str, like: Node) -> Node:
    """A node of a small array in the carrier of `dtype`."""
    made = constant(to_mx(values, dtype))
    return Node(made.shape, dtype, made.compute, made.label, like.origin)
