"""What MLX's formats have in common: a mode, groups along the row, an element type.

    rows     float32 [n, k]  ──groups_of──▶  [n, k / group_size, group_size]
    weight   uint32  [n, k · bits / 32]      the codes, packed
    scales   [n, k / group_size]             one a group; affine has biases of the same shape

Everything here is arithmetic that MLX does on a CPU, operation by operation, in its types.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .base import STORAGE, Array, Format, NonFiniteError
from .floats import Bytes, Float32, e8m0_to_f32, round_to

__all__ = ["MlxFormat", "decode_microscaled", "groups_of", "microscale", "refuse_nonfinite"]

#: the bits of a float32 without its sign; as integers they order like the magnitudes they stand
#: for, with infinity and every NaN at the top
_MAGNITUDE = np.uint32(0x7FFFFFFF)


class MlxFormat(Format):
    """A format that MLX itself has.

    Attributes:
        mode: MLX's name of the family: `affine`, `mxfp4`, `mxfp8`, `nvfp4`.
        dtype: `BF16`, `F16` or `F32`: the type in which MLX held the weights and does arithmetic.
            `encode` expects rows that this type holds exactly, and `decode` returns such rows.
    """

    mode: ClassVar[str]
    dtype: str

    def with_dtype(self, dtype: str) -> Self:
        """The same format for weights of another type.

        Raises:
            RequestError: `dtype` is none of BF16, F16, F32.
        """
        return replace(self, dtype=dtype)  # type: ignore[call-arg]

    def mlx_config(self) -> dict[str, Any]:
        """The entry of config.json's `quantization`: `{group_size, bits, mode}`."""
        return {"group_size": self.block_size, "bits": self.bits, "mode": self.mode}

    def check_wire(self, wire: tuple[Array, ...]) -> None:
        """Refuse arrays that are not what `encode` returns.

        Raises:
            RequestError: a part is missing, or its type or shape is not what the first part's
                shape calls for.
        """
        if len(wire) != len(self.parts):
            wanted = ", ".join(part.suffix for part in self.parts)
            raise RequestError(f"{self.name}: {len(wire)} arrays given, {wanted} needed")
        for part, array in zip(self.parts, wire, strict=True):
            storage = STORAGE[part.dtype]
            if array.ndim != 2 or array.dtype != storage:
                raise RequestError(
                    f"{self.name}: {part.suffix} is {array.dtype} {list(array.shape)}, "
                    f"a two-dimensional array of {storage} ({part.dtype}) needed"
                )
            n, columns = wire[0].shape
            blocks = columns // self.parts[0].per_block
            if array.shape != (n, blocks * part.per_block):
                raise RequestError(
                    f"{self.name}: {part.suffix} has shape {list(array.shape)}, "
                    f"{[n, blocks * part.per_block]} needed for a "
                    f"{self.parts[0].suffix} of {[n, columns]}"
                )


def groups_of(rows: Array, group_size: int) -> Float32:
    """float32 [n, k] → contiguous float32 [n, k / group_size, group_size].

    Raises:
        RequestError: not two-dimensional float32, or k is no multiple of `group_size`.
    """
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise RequestError(
            f"rows are {rows.dtype} {list(rows.shape)}; give float32 in two dimensions"
        )
    n, k = rows.shape
    if k % group_size:
        raise RequestError(
            f"{k} weights a row are no multiple of {group_size}; "
            "choose another group size or leave this tensor as it is"
        )
    return np.ascontiguousarray(rows).reshape(n, k // group_size, group_size)


def refuse_nonfinite(groups: Float32, *extremes: Float32) -> None:
    """Refuse NaN and infinity.

    Args:
        groups: float32 [n, b, g].
        extremes: per-group reductions of `groups` which a NaN or an infinity in the group reaches;
            only they are searched, unless one is found.

    Raises:
        NonFiniteError: with the row, column and value of the first, and how many there are.
    """
    if all(bool(np.isfinite(extreme).all()) for extreme in extremes):
        return
    rows = groups.reshape(groups.shape[0], -1)
    wrong = ~np.isfinite(rows)
    row, column = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
    raise NonFiniteError(row, column, float(rows[row, column]), int(np.count_nonzero(wrong)))


def largest_of(groups: Float32) -> Float32:
    """float32 [n, b, g] → float32 [n, b], the largest magnitude of each group.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    bits: NDArray[np.uint32] = np.bitwise_and(groups.view(np.uint32), _MAGNITUDE)
    largest: Float32 = bits.max(axis=-1).view(np.float32)
    refuse_nonfinite(groups, largest)
    return largest


def microscale(groups: Float32, top: float, dtype: str) -> tuple[Float32, Bytes]:
    """The power-of-two scale of each group (mxfp4, mxfp8), and the weights divided by it.

        s = max |w| / top       rounded to dtype
        2^e ≥ s                 the smallest such e; 0 where s is 0
        x = w / 2^e             scale byte e + 127

    Older versions of MLX (0.32.2 is one) took the power of two nearest to s and cut what exceeded
    the largest element; their bytes differ in about half of all groups.

    A group of weights so small that e < -127 has no scale byte: e + 127 wraps around, as in
    mx.quantize on x86 (its conversion is undefined in C++), and such a group decodes to nonsense.
    It takes a largest weight that is not 0 and at most 2^-128 · top, some 10^-38.

    Args:
        groups: float32 [n, b, g].
        top: the largest magnitude of the element type.
        dtype: the type in which MLX computes.

    Returns: x, float32 [n, b, g]; the scale bytes, uint8 [n, b].

    Raises:
        NonFiniteError: a weight is NaN or infinite.
    """
    scale = round_to(largest_of(groups) / np.float32(top), dtype)
    fraction, exponent = np.frexp(scale)  # scale = fraction · 2^exponent, 0.5 ≤ fraction < 1
    exponent -= fraction == 0.5
    power: Float32 = np.ldexp(np.float32(1), exponent, dtype=np.float32)
    return groups / power[:, :, None], (exponent + 127).astype(np.uint8)


def decode_microscaled(values: Float32, scales: Array, group_size: int, dtype: str) -> Float32:
    """Elements times their groups' powers of two, both and the product rounded to `dtype`.

    Args:
        values: float32 [n, k], changed in place.
        scales: uint8 [n, k / group_size], E8M0.

    Returns: float32 [n, k]; NaN where a scale of 255 meets a zero.
    """
    n, k = values.shape
    power = round_to(e8m0_to_f32(scales), dtype)
    groups = values.reshape(n, k // group_size, group_size)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.multiply(groups, power[:, :, None], out=groups)
    return round_to(values, dtype)
