"""The grids of ggml's types: where a block keeps its scales, and where its codes go.

    Q4_0 Q5_0 Q8_0 Q2_0     d · level                     level -8 …, -16 …, -127 …, -1 …
    Q1_0                    2·d · level - d               level 0, 1
    Q4_1 Q5_1               d · level + m
    Q2_K Q4_K Q5_K          (d · s) · level - dmin · m    s, m whole numbers of 4 or 6 bits
    Q3_K Q6_K               (d · s) · level               s signed, of 6 or 8 bits
    IQ4_NL IQ4_XS           d · level, (d · s) · level    sixteen levels, not evenly spaced
    MXFP4 NVFP4             e · level                     as MLX's

A block is taken as the format's encoder wrote it. New codes, and new scales within what d and dmin
of the super-block allow, are written over the old; every other bit stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..formats.base import Array
from ..formats.floats import Bytes, Float32
from ..formats.ggml_format import GgmlFormat
from ..formats.ggml_mxfp4 import TWICE_E2M1, GgmlMxfp4
from ..formats.ggml_nvfp4 import GgmlNvfp4
from ..formats.iq4_nl import LEVELS
from ..formats.k_layout import halves, pack_planes, split, to_halves, unpack_planes
from ..formats.q4_k import pack_scales, unpack_scales
from ..formats.q5_0 import pack_fives
from .grid import Grid, Storage
from .grid_levels import Levels, Steps, Table

__all__ = ["ggml_grid", "has_layout"]

_Fields = dict[str, Bytes]
_LARGEST_HALF = np.float32(65504)


class _Scales:
    """Where a block keeps its scales; a subclass is one way."""

    #: whether scales can be chosen anew
    fixed = False

    def read(self, part: _Fields) -> tuple[Float32, Float32 | None]:
        """A block's fields → scale and low, each float32 [b, J]."""
        raise NotImplementedError

    def units(self, part: _Fields) -> tuple[Float32, Float32]:
        """What scale and low are whole multiples of, float32 [b, 1]; 1 where they are not."""
        one = np.ones((_count(part), 1), np.float32)
        return one, one

    def round_scale(self, scale: Float32, unit: Float32) -> Float32:
        """The nearest that can be stored; float32 of any shape, unit of the same or fewer."""
        return _nearest_half(scale)

    def round_low(self, low: Float32, unit: Float32) -> Float32:
        """As round_scale."""
        return _nearest_half(low)

    def write(self, scale: Float32, low: Float32 | None, part: _Fields) -> _Fields:
        """The fields that hold scale and low, both float32 [b, J]."""
        raise NotImplementedError


class _Half(_Scales):
    """d, one float16."""

    def read(self, part: _Fields) -> tuple[Float32, Float32 | None]:
        return halves(part["d"]), None

    def write(self, scale: Float32, low: Float32 | None, part: _Fields) -> _Fields:
        return {"d": to_halves(scale[:, 0].astype(np.float16))}


class _HalfPair(_Half):
    """d and m, one float16 each."""

    def read(self, part: _Fields) -> tuple[Float32, Float32 | None]:
        return halves(part["d"]), halves(part["m"])

    def write(self, scale: Float32, low: Float32 | None, part: _Fields) -> _Fields:
        assert low is not None
        return super().write(scale, low, part) | {"m": to_halves(low[:, 0].astype(np.float16))}


class _Signs(_Scales):
    """Q1_0: d is both half the scale and the offset."""

    fixed = True

    def read(self, part: _Fields) -> tuple[Float32, Float32 | None]:
        d = halves(part["d"])
        return d * 2, -d

    def write(self, scale: Float32, low: Float32 | None, part: _Fields) -> _Fields:
        return {}


class _Floats(_Scales):
    """MXFP4, NVFP4: bytes that name half of each scale."""

    fixed = True

    def __init__(self, field: str, halves_of: Float32) -> None:
        self.field, self.table = field, halves_of

    def read(self, part: _Fields) -> tuple[Float32, Float32 | None]:
        return self.table[part[self.field]], None

    def write(self, scale: Float32, low: Float32 | None, part: _Fields) -> _Fields:
        return {}


class _Products(_Scales):
    """d times a whole number from `lowest` to `highest` for each sub-block, and dmin likewise.

    Args:
        unpack: fields → whole numbers of scales and of mins (or None), each [b, J].
        pack: the inverse, to fields.
    """

    def __init__(
        self,
        lowest: int,
        highest: int,
        unpack: Callable[[_Fields], tuple[Array, Array | None]],
        pack: Callable[[Array, Array], _Fields],
    ) -> None:
        self.lowest, self.highest = np.float32(lowest), np.float32(highest)
        self.unpack, self.pack = unpack, pack

    def read(self, part: _Fields) -> tuple[Float32, Float32 | None]:
        scales, mins = self.unpack(part)
        scale = halves(part["d"]) * scales.astype(np.float32)
        return scale, None if mins is None else -(halves(part["dmin"]) * mins.astype(np.float32))

    def units(self, part: _Fields) -> tuple[Float32, Float32]:
        d = halves(part["d"])
        return d, halves(part["dmin"]) if "dmin" in part else d

    def _steps(self, value: Float32, unit: Float32) -> Float32:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            steps = np.rint(value / unit)
        steps = np.where(np.isfinite(steps), steps, np.float32(0))
        return np.clip(steps, self.lowest, self.highest)

    def round_scale(self, scale: Float32, unit: Float32) -> Float32:
        return self._steps(scale, unit) * unit

    def round_low(self, low: Float32, unit: Float32) -> Float32:
        return -(self._steps(-low, unit) * unit)

    def write(self, scale: Float32, low: Float32 | None, part: _Fields) -> _Fields:
        d, dmin = self.units(part)
        # where d is 0 every number of steps is as good, and 0 is what is written
        scales = self._steps(scale, d).astype(np.int8)
        return self.pack(scales, scales if low is None else self._steps(-low, dmin).astype(np.int8))


class _Layout(NamedTuple):
    """levels and scales of a type, weights that share a scale, and where codes go.

    put: codes uint8 [b, block] → the fields that hold them.
    """

    group: int
    levels: Levels
    scales: _Scales
    put: Callable[[Bytes], _Fields]


class _GgmlStorage(Storage):
    """Blocks as an encoder wrote them, to be written over."""

    def __init__(self, fmt: GgmlFormat, layout: _Layout, wire: Array) -> None:
        self.fmt, self.layout, self.base = fmt, layout, wire
        self.group, self.levels = layout.group, layout.levels
        self.fixed = layout.scales.fixed
        unit, unit_low = layout.scales.units(self._part(wire))
        repeats = fmt.block_size // layout.group
        self._unit = self._lanes(np.repeat(unit, repeats, axis=1))
        self._unit_low = self._lanes(np.repeat(unit_low, repeats, axis=1))

    def _part(self, wire: Array) -> _Fields:
        blocks = np.ascontiguousarray(wire).reshape(-1, self.fmt.block_bytes)
        return split(blocks, self.fmt.fields)

    def _lanes(self, values: Float32) -> Float32:
        """[b, J] → [m, n]."""
        return np.ascontiguousarray(values.reshape(len(self.base), -1).T)

    def grid(self) -> Grid:
        """The grid of the scales in the blocks."""
        scale, low = self.layout.scales.read(self._part(self.base))
        return Grid(self, self._lanes(scale), None if low is None else self._lanes(low))

    def round_scale(self, scale: Float32, begin: int) -> Float32:
        """See Storage."""
        return self.layout.scales.round_scale(scale, self._unit[begin : begin + len(scale)])

    def round_low(self, low: Float32, begin: int) -> Float32:
        """See Storage."""
        return self.layout.scales.round_low(low, self._unit_low[begin : begin + len(low)])

    def wire(self, scale: Float32, low: Float32 | None, codes: Bytes) -> tuple[Array, ...]:
        """See Storage."""
        wire = self.base.copy()
        part = self._part(wire)
        blocks = _count(part)
        by_block = [None if x is None else x.T.reshape(blocks, -1) for x in (scale, low)]
        assert by_block[0] is not None
        written = self.layout.scales.write(by_block[0], by_block[1], part)
        written |= self.layout.put(np.ascontiguousarray(codes).reshape(blocks, -1))
        for name, values in written.items():
            part[name][:] = values
        return (wire,)


def has_layout(fmt: GgmlFormat) -> bool:
    """Whether `ggml_grid` knows the type."""
    return fmt.name in _LAYOUTS


def ggml_grid(fmt: GgmlFormat, wire: Array) -> Grid | None:
    """The grid of the scales in blocks, uint8 [n, bytes]; None for types without one."""
    layout = _LAYOUTS.get(fmt.name)
    return None if layout is None else _GgmlStorage(fmt, layout, wire).grid()


def _count(part: _Fields) -> int:
    """Blocks."""
    return len(next(iter(part.values())))


def _nearest_half(values: Float32) -> Float32:
    with np.errstate(under="ignore"):
        clipped = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF)
        return clipped.astype(np.float16).astype(np.float32)


def _nibbles(width: int) -> Callable[[Bytes], _Fields]:
    return lambda codes: {"qs": pack_planes(codes, 4, width)}


def _fives(codes: Bytes) -> _Fields:
    high, low = pack_fives(codes)
    return {"qh": high, "qs": low}


def _pairs(codes: Bytes) -> _Fields:
    quarters = codes.reshape(len(codes), -1, 4) << np.arange(0, 8, 2, dtype=np.uint8)
    packed: Bytes = np.bitwise_or.reduce(quarters, axis=2)
    return {"qs": packed}


def _q3_codes(codes: Bytes) -> _Fields:
    return {"hmask": pack_planes(codes >> 2, 1, 32), "qs": pack_planes(codes & 3, 2, 32)}


def _q6_codes(codes: Bytes) -> _Fields:
    return {"ql": pack_planes(codes & 15, 4, 64), "qh": pack_planes(codes >> 4, 2, 32)}


def _q3_scales(part: _Fields) -> tuple[Array, None]:
    low = unpack_planes(part["scales"][:, :8], 4, 8)
    high = unpack_planes(part["scales"][:, 8:], 2, 4)
    return (low | high << 4).view(np.int8) - np.int8(32), None


def _put_q3_scales(scales: Array, _: Array) -> _Fields:
    stored = (scales + np.int8(32)).view(np.uint8)
    packed = (pack_planes(stored & 15, 4, 8), pack_planes(stored >> 4, 2, 4))
    return {"scales": np.concatenate(packed, axis=1)}


def _iq4_scales(part: _Fields) -> tuple[Array, None]:
    high, low = unpack_planes(part["scales_h"], 2, 1), unpack_planes(part["scales_l"], 4, 1)
    return (high << 4 | low).view(np.int8) - np.int8(32), None


def _put_iq4_scales(scales: Array, _: Array) -> _Fields:
    stored = (scales + np.int8(32)).view(np.uint8)
    return {"scales_h": pack_planes(stored >> 4, 2, 1), "scales_l": pack_planes(stored & 15, 4, 1)}


_Q2_SCALES = _Products(
    0,
    15,
    lambda part: (part["scales"] & 15, part["scales"] >> 4),
    lambda scales, mins: {"scales": (scales | mins << 4).view(np.uint8)},
)
_K_SCALES = _Products(
    0,
    63,
    lambda part: unpack_scales(part["scales"]),
    lambda scales, mins: {"scales": pack_scales(scales.view(np.uint8), mins.view(np.uint8))},
)
_Q6_SCALES = _Products(
    -128,
    127,
    lambda part: (part["scales"].view(np.int8), None),
    lambda scales, _: {"scales": scales.view(np.uint8)},
)


def _scales_of_bytes(fmt: GgmlFormat) -> Float32:
    """By a block's first byte, the scale of level 1: float32 [256]."""
    blocks = np.zeros((256, fmt.block_bytes), np.uint8)
    part = split(blocks, fmt.fields)
    part[fmt.fields[0][0]][:] = np.arange(256, dtype=np.uint8)[:, None]
    part["qs"][:] = 0x11
    return fmt.decode_blocks(blocks)[:, 0]


_TWICE_E2M1 = Table(TWICE_E2M1, 2)
_IQ4 = Table(LEVELS, 2)

_LAYOUTS = {
    "Q4_0": _Layout(32, Steps(-8, 7, 8), _Half(), _nibbles(16)),
    "Q4_1": _Layout(32, Steps(0, 15), _HalfPair(), _nibbles(16)),
    "Q5_0": _Layout(32, Steps(-16, 15, 16), _Half(), _fives),
    "Q5_1": _Layout(32, Steps(0, 31), _HalfPair(), _fives),
    "Q8_0": _Layout(32, Steps(-127, 127), _Half(), lambda codes: {"qs": codes}),
    "Q1_0": _Layout(
        128,
        Steps(0, 1),
        _Signs(),
        lambda codes: {"qs": np.packbits(codes, axis=1, bitorder="little")},
    ),
    "Q2_0": _Layout(64, Steps(-1, 2, 1), _Half(), _pairs),
    "Q2_K": _Layout(16, Steps(0, 3), _Q2_SCALES, lambda codes: {"qs": pack_planes(codes, 2, 32)}),
    "Q3_K": _Layout(16, Steps(-4, 3, 4), _Products(-32, 31, _q3_scales, _put_q3_scales), _q3_codes),
    "Q4_K": _Layout(32, Steps(0, 15), _K_SCALES, _nibbles(32)),
    "Q5_K": _Layout(
        32,
        Steps(0, 31),
        _K_SCALES,
        lambda codes: {
            "qh": pack_planes(codes >> 4, 1, 32),
            "qs": pack_planes(codes & 15, 4, 32),
        },
    ),
    "Q6_K": _Layout(16, Steps(-32, 31, 32), _Q6_SCALES, _q6_codes),
    "IQ4_NL": _Layout(32, _IQ4, _Half(), _nibbles(16)),
    "IQ4_XS": _Layout(32, _IQ4, _Products(-32, 31, _iq4_scales, _put_iq4_scales), _nibbles(16)),
    "MXFP4": _Layout(32, _TWICE_E2M1, _Floats("e", _scales_of_bytes(GgmlMxfp4())), _nibbles(16)),
    "NVFP4": _Layout(16, _TWICE_E2M1, _Floats("d", _scales_of_bytes(GgmlNvfp4())), _nibbles(8)),
}
