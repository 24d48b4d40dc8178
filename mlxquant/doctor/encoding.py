"""Cases of ggml's encoders: normal weights, rows of any number, with importance and without; the
bytes are to be NumPy's, whatever encodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..formats.base import Array
from ..formats.floats import Float32
from ..formats.ggml_format import GgmlFormat
from ..kernels import launch
from ..kernels.host.encode import encoder_for
from ..kernels.known import Runner
from ..kernels.source import ENCODERS
from ..measure.tables import counted
from .checks import Case

__all__ = ["Encode", "by_processor", "by_runner", "cases", "count", "encoded_formats"]

#: a format, rows float32 [n, k], importance [k] or None → uint8 [n, bytes]
Encode = Callable[[GgmlFormat, Float32, Float32 | None], Array]

#: rows, and blocks of a row
_SHAPES = ((1, 1), (7, 3), (33, 2))


def encoded_formats(formats: list[GgmlFormat]) -> list[GgmlFormat]:
    """Those of the formats that kernels are written for."""
    return [fmt for fmt in formats if fmt.name in ENCODERS]


def count(formats: list[GgmlFormat]) -> int:
    """How many cases `cases` gives."""
    return len(formats) * len(_SHAPES) * 2


def cases(formats: list[GgmlFormat], encode: Encode) -> Iterator[Case]:
    """Every case of these formats."""
    for fmt in formats:
        for n, blocks in _SHAPES:
            rows, importance = _rows(n, blocks * fmt.block_size)
            for given in (None, importance):
                what = "" if given is None else ", with importance"
                where = f"{counted(n, 'row')} of {counted(blocks, 'block')}{what}"
                yield Case("encode", fmt.name, where, partial(_encoded, encode, fmt, rows, given))


def by_processor(fmt: GgmlFormat, rows: Float32, importance: Float32 | None) -> Array:
    """By the kernel that is compiled for this processor."""
    kernel = encoder_for(fmt)
    assert kernel is not None
    wire: Array | None = kernel.encode(rows, importance)
    assert wire is not None
    return wire


def by_runner(run: Runner) -> Encode:
    """By what runs launches."""

    def encode(fmt: GgmlFormat, rows: Float32, importance: Float32 | None) -> Array:
        started = launch.encode(fmt, rows.shape, importance is not None)
        wire: Array = run(started, [rows] if importance is None else [rows, importance])
        return wire

    return encode


def _rows(n: int, k: int) -> tuple[Float32, Float32]:
    """Normal weights of the size that models have, float32 [n, k], and importance [k]."""
    random = np.random.default_rng((n, k))
    rows = random.standard_normal((n, k), dtype=np.float32) * np.float32(0.02)
    return rows, random.random(k, dtype=np.float32) ** 4


def _encoded(encode: Encode, fmt: GgmlFormat, rows: Float32, importance: Float32 | None) -> str:
    (wanted,) = fmt.encode(rows, importance)
    ours = encode(fmt, rows, importance)
    if ours.tobytes() == wanted.tobytes():
        return ""
    different = (ours != wanted).reshape(-1, fmt.block_bytes).any(axis=1)
    return f"{different.sum()} of {counted(different.size, 'block')} differ"
