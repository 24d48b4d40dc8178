"""The numbers that each weight can be, once the scales of its block are fixed.

    w = scale · level + low          level one of a format's levels, low 0 where it has no offset

All formats that give every weight a code of its own are of this form: a group's scale and bias
(affine), a power of two (mxfp4, mxfp8), an 8-bit float (nvfp4), the product of a super-block's and
a sub-block's scale (K-quants). A `Grid` holds scale and low of each group of each row, as real
numbers, and rounds weights to the nearest number that they allow.

Arrays inside are in lanes, so that a column of weights is contiguous:

    rows    float32 [n, k]              what comes in and goes out
    lanes   float32 [k, n]              the same transposed
    scale   float32 [k / group, n]      of each group of each row; low the same

Values are what runtimes compute with: scale · level + low in float32, each operation rounded. (MLX
rounds a weight to the model's type only in `mx.dequantize`; its matrix products do not.)

What a file stores beside codes belongs to the format: `Storage` rounds scales to what it can hold
and writes the bytes. MLX's formats are here, ggml's in `grid_ggml`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..formats.affine import Affine
from ..formats.base import Array, Format
from ..formats.floats import (
    Bytes,
    Float32,
    e2m1_to_f32,
    e4m3_to_f32,
    e8m0_to_f32,
    f32_to_e4m3,
    from_float32,
    round_to,
    to_float32,
)
from ..formats.ggml_format import GgmlFormat
from ..formats.mlx_format import MlxFormat
from ..formats.mxfp4 import Mxfp4
from ..formats.mxfp8 import Mxfp8
from ..formats.nvfp4 import Nvfp4
from ..formats.packing import pack
from .encode import encoded
from .grid_levels import E4m3, Levels, Steps, Table

__all__ = ["Grid", "Storage", "grid_of_wire", "make_grid"]

Columns = NDArray[np.int64]

#: E2M1's levels; half-way points are multiples of a quarter
E2M1 = Table(e2m1_to_f32(np.arange(16, dtype=np.uint8)), 4)


class Storage(ABC):
    """How a format stores the scales and codes of a grid.

    Attributes:
        group: weights that share a scale.
        levels: what a weight divided by its scale can be.
    """

    group: int
    levels: Levels
    #: whether scales are as they are, for good
    fixed: bool = False

    @abstractmethod
    def round_scale(self, scale: Float32, begin: int) -> Float32:
        """The nearest scales that the format can store, finite.

        Args:
            scale: float32 [g, n], of the groups `begin` … `begin + g` of each row.
        """

    def round_low(self, low: Float32, begin: int) -> Float32:
        """The nearest offsets that the format can store; as `round_scale`."""
        raise NotImplementedError("a format without offsets")  # pragma: no cover

    @abstractmethod
    def wire(self, scale: Float32, low: Float32 | None, codes: Bytes) -> tuple[Array, ...]:
        """The format's bytes.

        Args:
            scale, low: float32 [m, n], as `round_scale` and `round_low` return them.
            codes: uint8 [n, k].
        """


@dataclass(frozen=True)
class Grid:
    """The numbers that the weights of some rows can be; see the module's text.

    Attributes:
        storage: what the format can store.
        scale: float32 [k / group, n].
        low: float32 [k / group, n], or None where the format has no offset.
    """

    storage: Storage
    scale: Float32
    low: Float32 | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, k)."""
        groups, n = self.scale.shape
        return n, groups * self.storage.group

    @cached_property
    def inverse(self) -> Float32:
        """1 / scale, and 0 where that is no number; float32 [k / group, n]."""
        with np.errstate(divide="ignore", over="ignore"):
            inverse: Float32 = np.float32(1) / self.scale
        inverse[~np.isfinite(inverse)] = 0
        return inverse

    def nearest_lane(self, lane: Float32, column: int) -> Float32:
        """The nearest number on the grid for every row's weight in one column.

        Args:
            lane: float32 [n], finite.
        """
        group = column // self.storage.group
        return self._nearest(lane, group)

    def nearest_lanes(self, lanes: Float32, columns: Columns) -> Float32:
        """As `nearest_lane`, for many columns: float32 [c, n], int [c] → float32 [c, n]."""
        return self._nearest(lanes, columns // self.storage.group)

    def _nearest(self, lanes: Float32, group: int | Columns) -> Float32:
        with np.errstate(over="ignore", under="ignore"):
            if self.low is None:
                levels = self.storage.levels.snap(lanes * self.inverse[group])
                levels *= self.scale[group]
                return levels
            low = self.low[group]
            steps = lanes - low
            steps *= self.inverse[group]
            levels = self.storage.levels.snap(steps)
            levels *= self.scale[group]
            levels += low
        return levels

    def nearest(self, weights: Float32, columns: Columns) -> Float32:
        """The nearest numbers on the grid.

        Args:
            weights: float32 [n, c], finite.
            columns: int [c], which columns of the rows they are.

        Returns: float32 [n, c].
        """
        return np.ascontiguousarray(self.nearest_lanes(weights.T, columns).T)

    def with_scales(self, scale: Float32, low: Float32 | None) -> Grid:
        """The grid of other scales, float32 [k / group, n], as `storage` rounds them."""
        return replace(self, scale=scale, low=low)

    def levels_of(self, values: Float32) -> Float32:
        """The levels of values on the grid: float32 [n, k] → float32 [n, k].

        Raises:
            RequestError: a value is not on the grid.
        """
        size, snap = self.storage.group, self.storage.levels.snap
        n, k = self.shape
        if values.shape != (n, k):
            raise RequestError(f"values of shape {list(values.shape)}; {[n, k]} needed")
        grouped = values.reshape(n, k // size, size)
        scale = self.scale.T[:, :, None]
        low = np.float32(0) if self.low is None else self.low.T[:, :, None]
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            quotient = (grouped - low) / scale
            levels = snap(np.where(np.isfinite(quotient), quotient, np.float32(0)))
            wrong = levels * scale + low != grouped
            for other in self.storage.levels.neighbours(levels) if wrong.any() else ():
                fits = wrong & (other * scale + low == grouped)
                levels, wrong = np.where(fits, other, levels), wrong & ~fits
        if wrong.any():
            row, group, place = (int(i) for i in np.argwhere(wrong)[0])
            raise RequestError(
                f"{values[row, group * size + place]} at row {row}, column {group * size + place} "
                "is not on the grid; round with `nearest` first"
            )
        return levels.reshape(n, k)

    def wire(self, values: Float32) -> tuple[Array, ...]:
        """The format's bytes of values on the grid: float32 [n, k] → as `Format.encode`.

        Exact: scale · level + low of the bytes are the values again.

        Raises:
            RequestError: a value is not on the grid.
        """
        codes = self.storage.levels.codes(self.levels_of(values))
        return self.storage.wire(self.scale, self.low, codes)


def make_grid(fmt: Format, rows: Float32, importance: Float32 | None = None) -> Grid | None:
    """The grid of the scales that fit rows best.

    Scales come from the search for the least error weighted by importance (MLX's formats), or from
    the format's own encoder (ggml's).

    Args:
        rows: float32 [n, k], finite; k a multiple of the format's block.
        importance: float32 [k] or None, mean squared activation per column.

    Returns: None where a weight has no code of its own: codebooks, ternary types, plain floats.

    Raises:
        NonFiniteError, RequestError: as `Format.encode`.
    """
    if not has_grid(fmt):
        return None
    return grid_of_wire(fmt, encoded(fmt, rows, importance))


def has_grid(fmt: Format) -> bool:
    """Whether each weight of the format has a code of its own."""
    from .grid_ggml import has_layout

    return isinstance(fmt, MlxFormat) or (isinstance(fmt, GgmlFormat) and has_layout(fmt))


def grid_of_wire(fmt: Format, wire: tuple[Array, ...]) -> Grid | None:
    """The grid of the scales that encoded rows have; None where the format has no grid.

    Args:
        wire: as `fmt.encode` returns it.
    """
    if isinstance(fmt, Affine):
        scale = _lanes(to_float32(wire[1], fmt.dtype))
        return Grid(_AffineStorage(fmt), scale, _lanes(to_float32(wire[2], fmt.dtype)))
    if isinstance(fmt, Nvfp4):
        return Grid(_Nvfp4Storage(), _lanes(e4m3_to_f32(wire[1])))
    if isinstance(fmt, Mxfp4 | Mxfp8):
        return Grid(_MicroscaledStorage(fmt), _lanes(e8m0_to_f32(wire[1])))
    if isinstance(fmt, GgmlFormat):
        from .grid_ggml import ggml_grid

        return ggml_grid(fmt, wire[0])
    return None


def _lanes(scales: Float32) -> Float32:
    """float32 [n, m] → contiguous [m, n]."""
    return np.ascontiguousarray(scales.T)


class _AffineStorage(Storage):
    """MLX's affine formats: scale and bias in the model's type."""

    def __init__(self, fmt: Affine) -> None:
        self.fmt, self.group = fmt, fmt.group_size
        self.levels = Steps(0, (1 << fmt.bits) - 1)

    def round_scale(self, scale: Float32, begin: int) -> Float32:
        return _finite(round_to(scale, self.fmt.dtype))

    def round_low(self, low: Float32, begin: int) -> Float32:
        return _finite(round_to(low, self.fmt.dtype))

    def wire(self, scale: Float32, low: Float32 | None, codes: Bytes) -> tuple[Array, ...]:
        assert low is not None
        stored = (from_float32(np.ascontiguousarray(x.T), self.fmt.dtype) for x in (scale, low))
        return (pack(codes, self.fmt.bits), *stored)


class _Nvfp4Storage(Storage):
    """MLX's nvfp4: an 8-bit float for every 16 weights, never negative."""

    group, levels = 16, E2M1

    def round_scale(self, scale: Float32, begin: int) -> Float32:
        return e4m3_to_f32(f32_to_e4m3(np.maximum(scale, np.float32(0))))

    def wire(self, scale: Float32, low: Float32 | None, codes: Bytes) -> tuple[Array, ...]:
        return pack(codes, 4), f32_to_e4m3(np.ascontiguousarray(scale.T))


class _MicroscaledStorage(Storage):
    """mxfp4 and mxfp8: a power of two for every 32 weights."""

    group = 32

    def __init__(self, fmt: Mxfp4 | Mxfp8) -> None:
        self.bits = fmt.bits
        self.levels = E2M1 if isinstance(fmt, Mxfp4) else E4m3()

    def round_scale(self, scale: Float32, begin: int) -> Float32:
        fraction, exponent = np.frexp(scale)  # fraction · 2^exponent, 0.5 ≤ fraction < 1
        exponent -= fraction < np.float32(np.sqrt(0.5))
        rounded = np.ldexp(np.float32(1), np.clip(exponent, -127, 127)).astype(np.float32)
        return np.where(scale > 0, rounded, np.float32(2.0**-127))

    def wire(self, scale: Float32, low: Float32 | None, codes: Bytes) -> tuple[Array, ...]:
        _, exponent = np.frexp(np.ascontiguousarray(scale.T))
        return pack(codes, self.bits), (exponent - 1 + 127).astype(np.uint8)


def _finite(rounded: Float32) -> Float32:
    """What overflowed in rounding becomes 0, which no fit prefers."""
    return np.where(np.isfinite(rounded), rounded, np.float32(0))
