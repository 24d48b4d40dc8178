"""Whether one side's numbers are numbers of the other, from the scales alone.

    ggml                                MLX                                     w
    Q4_0  Q5_0  Q8_0    d               scale d, bias -zero · d, in float16     d · (q - zero)
    Q4_1  Q5_1          d, m            scale d, bias m                         d · q + m
    MXFP4               e               the same byte                           2^(e-127) · level
    NVFP4               four of d       the same bytes                          d · level

`zero`, the code that means 0, is 8, 16 and 128. To MLX, -zero · d must not overflow; it cannot lose
digits. To ggml, a scale must be a float16 number, and the bias either -zero · d or one too. Groups
of 64 and 128 repeat their scale; codes of 1, 2 and 3 bits are codes of 4. Two scale bytes have a
meaning of their own in ggml: 255 of MXFP4 is 2^128, and the sign of NVFP4's counts for nothing.

What is held is held as real numbers: a weight of 0 may change its sign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .affine import Affine
from .base import Array
from .floats import bf16_to_f32, to_float32
from .ggml_format import GgmlFormat
from .mlx_format import MlxFormat
from .mxfp4 import Mxfp4
from .nvfp4 import Nvfp4
from .registry import FORMATS

__all__ = [
    "ZEROS",
    "Holding",
    "affine_fields",
    "candidates",
    "held_by_ggml",
    "held_by_mlx",
    "minus",
    "mlx_format_of",
    "records",
]

#: float16 numbers by their bits, uint16
Halves = NDArray[np.uint16]

#: ggml's types without an offset → the code that means 0
ZEROS = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}

_MLX: dict[str, MlxFormat] = {
    "Q4_0": Affine(4, 32, "F16"),
    "Q4_1": Affine(4, 32, "F16"),
    "Q5_0": Affine(5, 32, "F16"),
    "Q5_1": Affine(5, 32, "F16"),
    "Q8_0": Affine(8, 32, "F16"),
    "MXFP4": Mxfp4(),
    "NVFP4": Nvfp4(),
}

#: bits of an affine code → ggml's types that have such codes, smallest first
_GGML = {
    1: ("Q4_1",),
    2: ("Q4_1",),
    3: ("Q4_1",),
    4: ("Q4_0", "Q4_1"),
    5: ("Q5_0", "Q5_1"),
    8: ("Q8_0",),
}

_MAGNITUDE = np.uint16(0x7FFF)
_INFINITY = np.uint16(0x7C00)
_NAN = np.uint16(0x7E00)

_LOST_SCALES = "scales that float16 cannot hold"
_MXFP4_OBSTACLE = "scale bytes of 255, 2^128 to ggml and infinite to MLX,"
_NVFP4_OBSTACLE = "scale bytes above 126, which ggml and MLX read differently,"


@dataclass(frozen=True)
class Holding:
    """Which formats hold some rows exactly, and what is in the way of the others.

    True if there is one. The answers for parts of one tensor add up to that for the whole.

    Attributes:
        candidates: formats that have such codes, in order of preference.
        groups: how many scales were looked at.
        obstacles: candidate → what is in its way → in how many groups; nothing where it is held.
        misfit: why there is no candidate at all.
    """

    candidates: tuple[str, ...]
    groups: int
    obstacles: dict[str, Counter[str]]
    misfit: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """The formats that hold every row, in order of preference."""
        return tuple(name for name in self.candidates if not self.obstacles[name])

    @property
    def reason(self) -> str:
        """Why not the candidates that are not in `types`; empty if all are."""
        return self.misfit or "; ".join(
            f"{name}: {what} in {count} of {self.groups} groups"
            for name in self.candidates
            for what, count in sorted(self.obstacles[name].items())
        )

    def __bool__(self) -> bool:
        return bool(self.types)

    def __add__(self, other: Holding) -> Holding:
        obstacles = {name: found + other.obstacles[name] for name, found in self.obstacles.items()}
        return Holding(self.candidates, self.groups + other.groups, obstacles, self.misfit)


def mlx_format_of(type_name: str) -> MlxFormat | None:
    """The MLX format that has the codes and scales of a ggml type; None if there is none.

    Scales and biases of the affine ones are float16, as ggml's.
    """
    return _MLX.get(type_name)


def held_by_mlx(type_name: str, wire: Array) -> Holding:
    """Whether `mlx_format_of(type_name)` holds every number of some rows; looks at scales only.

    Args:
        wire: uint8 [n, row_bytes], rows of whole blocks.

    Raises:
        RequestError: another type or shape of `wire`.
    """
    target = _MLX.get(type_name)
    if target is None:
        return Holding((), 0, {}, f"MLX has no format with the codes and scales of {type_name}")
    blocks = records(type_name, wire)
    obstacles: Counter[str] = Counter()
    if type_name == "MXFP4":
        scales = blocks["e"]
        _note(obstacles, _MXFP4_OBSTACLE, scales == 255)
    elif type_name == "NVFP4":
        scales = np.ascontiguousarray(blocks["d"]).view(np.uint8)
        _note(obstacles, _NVFP4_OBSTACLE, scales > 126)
    elif zero := ZEROS.get(type_name):
        scales = blocks["d"]
        # in float16 times a power of two is one more in bits 10 and up for each doubling
        limit = _INFINITY - np.uint16(zero.bit_length() - 1 << 10)
        what = f"scales that times -{zero} are no finite float16 numbers"
        _note(obstacles, what, (scales & _MAGNITUDE) >= limit)
    else:
        scales = blocks["d"]
        _note(obstacles, "scales that are not finite", _lost(scales))
        _note(obstacles, "offsets that are not finite", _lost(blocks["m"]))
    return Holding((target.name,), scales.size, {target.name: obstacles})


def held_by_ggml(
    fmt: MlxFormat,
    scales: Array,
    biases: Array | None = None,
    words: Callable[[], Array] | None = None,
) -> Holding:
    """Which ggml types hold every number of some rows.

    Args:
        scales: [n, k / group_size], as the format's part.
        biases: the same of an affine format; None for others.
        words: gives the rows' codes, uint32 [n, k · bits / 32]. Called only where float16 cannot
            hold a scale: what scales nothing but codes of 0 need not be held. Groups of zeros have
            such scales, of 1e-7, and bfloat16's is no number of float16. None: do without.

    Raises:
        RequestError: an affine format without biases.
    """
    names = candidates(fmt)
    if isinstance(fmt, Affine):
        if biases is None:
            raise RequestError(f"{fmt.name}: biases needed beside the scales")
        found: dict[str, Counter[str]] = {}
        for name in names:
            found |= affine_fields(name, fmt, scales, biases, words)[1].obstacles
        misfit = "" if names else f"GGUF has no type with codes of {fmt.bits} bits and a bias"
        return Holding(names, scales.size, found, misfit)
    if not names:
        return Holding((), scales.size, {}, f"GGUF has no type with the codes of {fmt.name}")
    obstacles: Counter[str] = Counter()
    if fmt.mode == "mxfp4":
        _note(obstacles, _MXFP4_OBSTACLE, scales == 255)
    else:
        _note(obstacles, _NVFP4_OBSTACLE, scales > 126)
        if scales.shape[1] % 4:
            misfit = f"rows of {16 * scales.shape[1]} weights are no multiple of NVFP4's 64"
            return Holding((), scales.size, {}, misfit)
    return Holding(names, scales.size, {names[0]: obstacles})


def candidates(fmt: MlxFormat) -> tuple[str, ...]:
    """The ggml types that have the codes of an MLX format, the smallest first."""
    if isinstance(fmt, Affine):
        return _GGML.get(fmt.bits, ())
    return tuple(name for name, member in _MLX.items() if member.mode == fmt.mode)


def affine_fields(
    type_name: str,
    fmt: Affine,
    scales: Array,
    biases: Array,
    words: Callable[[], Array] | None = None,
) -> tuple[dict[str, Halves], Holding]:
    """The float16 fields of a ggml type, a number a group, and whether they hold the rows.

    Args:
        type_name: one of `candidates(fmt)`; the others as of `held_by_ggml`.

    Returns: name of the field (`d`, `m`) → bits uint16 [n, k / group_size], wrong where not held.
    """
    obstacles: Counter[str] = Counter()
    d = _halves(scales, fmt.dtype)
    lost = _lost(d)
    if zero := ZEROS.get(type_name):
        _note(obstacles, _LOST_SCALES, lost)
        differ = _differ(fmt.dtype, d, scales, biases, zero)
        _note(obstacles, f"biases other than -{zero} · scale", differ)
        return {"d": d}, Holding((type_name,), scales.size, {type_name: obstacles})
    if words is not None and lost.any():
        unused = lost & np.isfinite(to_float32(scales, fmt.dtype))
        unused[unused] = ~words().reshape(lost.size, -1)[unused.reshape(-1)].any(axis=1)
        d, lost = np.where(unused, np.uint16(0), d), lost & ~unused
    m = _halves(biases, fmt.dtype)
    _note(obstacles, _LOST_SCALES, lost)
    _note(obstacles, "biases that float16 cannot hold", _lost(m))
    return {"d": d, "m": m}, Holding((type_name,), scales.size, {type_name: obstacles})


def _differ(dtype: str, d: Halves, scales: Array, biases: Array, zero: int) -> NDArray[np.bool_]:
    """Where biases are not -zero · scale, as real numbers."""
    if dtype == "F16":
        expected = minus(zero).take(d)
        bits: NDArray[np.bool_] = (expected != biases.view("<u2")) | _lost(expected)
        if not bits.any():  # so in all that to_mlx made; otherwise it may be the sign of a 0
            return bits
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = to_float32(scales, dtype) * np.float32(-zero)
    differ: NDArray[np.bool_] = to_float32(biases, dtype) != wanted
    return differ


@cache
def minus(zero: int) -> Halves:
    """The bits of -zero · d in float16, by the bits of d: uint16 [65536]."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (np.arange(1 << 16, dtype="<u2").view("<f2") * np.float16(-zero)).view("<u2")


def records(type_name: str, wire: Array) -> NDArray[Any]:
    """Rows of blocks as one array of records with the type's fields, [n · k / block_size].

    Fields of up to four bytes come as unsigned integers, longer ones as void. Not a copy if `wire`
    is contiguous.

    Raises:
        RequestError: not two-dimensional uint8 of whole blocks.
    """
    dtype = _record(type_name)
    if wire.ndim != 2 or wire.dtype != np.uint8 or wire.shape[1] % dtype.itemsize:
        raise RequestError(
            f"{type_name}: {wire.dtype} {list(wire.shape)} given; uint8 rows of whole blocks of "
            f"{dtype.itemsize} bytes needed"
        )
    return np.ascontiguousarray(wire).reshape(-1).view(dtype)


@cache
def _record(type_name: str) -> np.dtype[Any]:
    fmt = FORMATS[type_name]
    assert isinstance(fmt, GgmlFormat)
    kinds = {1: "<u1", 2: "<u2", 4: "<u4"}
    return np.dtype([(name, kinds.get(size, f"V{size}")) for name, size in fmt.fields])


def _note(obstacles: Counter[str], what: str, where: Array) -> None:
    if count := int(np.count_nonzero(where)):
        obstacles[what] = count


def _lost(halves: Array) -> NDArray[np.bool_]:
    """Which float16 numbers, by their bits, are infinite or NaN."""
    lost: NDArray[np.bool_] = np.greater_equal(halves & _MAGNITUDE, _INFINITY)
    return lost


def _halves(stored: Array, dtype: str) -> Halves:
    """An array as its file holds it → the bits of the same numbers in float16, of the same shape.

    NaN or infinite where float16 has no such number.
    """
    if dtype == "F16":
        return stored.view("<u2")
    if dtype == "BF16":
        return _halves_of_bf16().take(stored)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = stored.astype("<f2")
        halves: Halves = rounded.view("<u2")
        halves[rounded.astype(np.float32) != stored] = _NAN
    return halves


@cache
def _halves_of_bf16() -> Halves:
    """By the bits of a bfloat16."""
    return _halves(bf16_to_f32(np.arange(1 << 16, dtype=np.uint16)), "F32")
