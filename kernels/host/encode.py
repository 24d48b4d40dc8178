"""Encoders of ggml's formats, compiled: called, and checked against NumPy's."""

from __future__ import annotations

import ctypes

import numpy as np

from mlxquant.formats.base import Array
from mlxquant.formats.floats import Float32
from mlxquant.formats.ggml_format import GgmlFormat

from ..source import ENCODERS
from . import entries
from .library import cores, held, prepared, shared

__all__ = ["Encoder", "check", "encoder_for", "example", "importances", "reason_for"]

#: blocks that one call of the kernel encodes: LANES of lanes.h
_LANES = 16
#: fewer weights than this are not worth a thread
_SHARE = 1 << 16


class Encoder:
    """The encoder of one format.

    Args:
        fmt: the format.
        loaded: its library.
    """

    def __init__(self, fmt: GgmlFormat, loaded: ctypes.CDLL) -> None:
        self.fmt = fmt
        self._entries = loaded.encode, loaded.encode_weighted
        for entry in self._entries:
            entry.restype = ctypes.c_int
            entry.argtypes = (
                *(ctypes.c_void_p,) * 2,
                *(ctypes.c_uint32, ctypes.c_uint64),
                ctypes.c_void_p,
                *(ctypes.c_uint64,) * 2,
            )

    def encode(
        self, rows: Float32, importance: Float32 | None = None, threads: int | None = 1
    ) -> Array | None:
        """Wire bytes of rows.

        Args:
            rows: float32 [n, k]; k a multiple of the block size.
            importance: float32 [k], finite and not negative, or None.
            threads: at most so many; None for one a core. Bytes do not depend on it.

        Returns: uint8 [n, k / block_size * block_bytes]; None where a weight is NaN or infinite.
        """
        n, k = rows.shape
        columns = k // self.fmt.block_size
        count = n * columns
        given = np.ascontiguousarray(rows)
        shares = None if importance is None else np.ascontiguousarray(importance, np.float32)
        wire = np.empty((n, columns * self.fmt.block_bytes), np.uint8)
        entry = self._entries[shares is not None]
        finite: list[bool] = []

        def share(begin: int, end: int) -> None:
            finite.append(
                entry(
                    given.ctypes.data,
                    None if shares is None else shares.ctypes.data,
                    columns,
                    count,
                    wire.ctypes.data,
                    begin,
                    end,
                )
            )

        shared(share, -(-count // _LANES), min(threads or cores(), max(1, rows.size // _SHARE)))
        return wire if all(finite) else None


def encoder_for(fmt: GgmlFormat) -> Encoder | None:
    """The checked encoder of a format, or None; the first call may compile for a moment."""
    found = _held(fmt)
    return found if isinstance(found, Encoder) else None


def reason_for(fmt: GgmlFormat) -> str | None:
    """Why `encoder_for` gives None; None where it gives an encoder."""
    found = _held(fmt)
    return found if isinstance(found, str) else None


def _held(fmt: GgmlFormat) -> object:
    name = f"encoder of {fmt.name}"
    if fmt.name not in ENCODERS:
        return f"{name} has no kernel"

    def prepare() -> Encoder | str:
        return prepared(
            f"encode-{fmt.name.lower()}",
            entries.encode_program(fmt.name),
            lambda loaded: Encoder(fmt, loaded),
            lambda kernel: check(fmt, kernel),
        )

    return held(name, prepare)


def check(fmt: GgmlFormat, kernel: Encoder) -> str:
    """Empty, or what is wrong: `encoder of Q4_0 with steep importance is wrong on this machine`."""
    rows = example(fmt.block_size)
    for which, importance in importances(fmt.block_size).items():
        (wanted,) = fmt.encode(rows, importance)
        ours = kernel.encode(rows, importance)
        if ours is None or ours.tobytes() != wanted.tobytes():
            return f"encoder of {fmt.name} with {which} importance is wrong on this machine"
    return ""


def example(size: int) -> Float32:
    """Blocks of every kind, float32 [59, 3 · size].

    Normal weights, as they are and from float32's smallest to its largest, around float16's two
    ends in finer steps; each sub-block of 16 of its own size; zeros of both signs, one value, two
    values, whole numbers, one large weight, weights of one sign; codes half-way between two, or
    just not.
    """
    random = np.random.default_rng(1)
    rows = random.standard_normal((59, 3 * size), dtype=np.float32)
    powers = np.concatenate((np.linspace(-149, 126, 9), [-30, -24, -20, -16, 12, 16, 17]))
    finite = np.clip(rows[:16], -3, 3)
    rows[:16] = np.ldexp(finite, powers.astype(np.int32)[:, None])
    rows[16] *= np.exp2(np.repeat(random.integers(-12, 4, 3 * size // 16), 16)).astype(np.float32)
    rows[17] = np.where(rows[17] > 0, np.float32(0), np.float32(-0.0))
    rows[18] = rows[18, 0]
    rows[19] = np.where(rows[19] > 0, np.float32(0.75), np.float32(-0.75))
    rows[20] = np.rint(rows[20] * 2)
    rows[21, 5::size] *= np.float32(1000)
    rows[22] = np.abs(rows[22]) + np.float32(5)
    rows[23] = -np.abs(rows[23])
    rows[24, : 2 * size] = 0
    for row, largest in zip(rows[25:28], (1, -8, 127), strict=True):
        row[:] = random.integers(-abs(largest), abs(largest), 3 * size) + np.float32(0.5)
        row[::5] = 0.5
        row[::3] = np.nextafter(row[::3], np.float32(0))
        row[7::size] = largest
    return rows


def importances(size: int) -> dict[str, Float32 | None]:
    """None, and importance of 3 · size columns: the same, steep, here and there none, for a few
    columns only, none at all in a block."""
    random = np.random.default_rng(2)
    steep = random.random(3 * size, dtype=np.float32) ** 8 * np.float32(1e-3)
    some = np.where(random.random(3 * size) < 0.3, np.float32(0), steep)
    few = np.zeros(3 * size, np.float32)
    few[7::size] = few[9::size] = 2
    none = np.ones(3 * size, np.float32)
    none[size : 2 * size] = 0
    even = np.full(3 * size, 0.3, np.float32)
    return {"no": None, "even": even, "steep": steep, "some": some, "few": few, "zero": none}
