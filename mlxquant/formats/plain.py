"""The element types of GGUF: no blocks, no codes, one value a weight, little-endian.

    type  F64  F32  F16  BF16  I8  I16  I32  I64
    bytes   8    4    2     2   1    2    4    8

`decode` gives float32: exact for F32, F16, BF16, I8 and I16, rounded to nearest for the rest. NaN
keeps its sign and payload, as ggml's decoders do, and becomes quiet in F16. `encode` rounds floats
to nearest, ties to even, and what exceeds F16 and BF16 becomes infinite, as from ggml; whole
numbers have to be whole and in range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import RequestError
from .base import Array
from .floats import Float32, bf16_to_f32, f32_to_bf16
from .ggml_format import GgmlFormat
from .mx_layout import MxArray
from .registry import register

__all__ = ["BF16", "F16", "F32", "F64", "I8", "I16", "I32", "I64", "Plain"]


@dataclass(frozen=True)
class Plain(GgmlFormat):
    """One value a weight.

    Attributes:
        storage: NumPy's dtype of the stored value; BF16 travels as uint16.
    """

    storage: ClassVar[str]
    weights = 1

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Round to the type; importance changes nothing."""
        with np.errstate(over="ignore", under="ignore"):
            stored = blocks.astype(self.storage)
        return stored.view(np.uint8)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Convert to float32; beyond its range infinite."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return blocks.view(self.storage).astype(np.float32)

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        import mlx.core as mx

        stored = getattr(mx, np.dtype(self.storage).name)
        return blocks.view(stored).astype(mx.float32)


class F32(Plain):
    """32-bit floats."""

    ggml_name, ggml_type, code_bits = "F32", 0, 32
    fields = (("value", 4),)
    storage = "<f4"


class F64(Plain):
    """64-bit floats."""

    ggml_name, ggml_type, code_bits = "F64", 28, 64
    fields = (("value", 8),)
    storage = "<f8"

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat; on the CPU, since Metal has no such type."""
        import mlx.core as mx

        return blocks.view(mx.float64, stream=mx.cpu).astype(mx.float32, stream=mx.cpu)


class F16(Plain):
    """16-bit floats of IEEE 754."""

    ggml_name, ggml_type, code_bits = "F16", 1, 16
    fields = (("value", 2),)
    storage = "<f2"

    def decode_blocks(self, blocks: Array) -> Float32:
        """Exact; NaN is made by hand, since processors differ in what they make of it."""
        bits = blocks.view("<u2")
        values = super().decode_blocks(blocks)
        nan = (bits & 0x7FFF) > 0x7C00
        if nan.any():
            some = bits[nan].astype(np.uint32)
            values.view(np.uint32)[nan] = (some & 0x8000) << 16 | 0x7FC00000 | (some & 0x3FF) << 13
        return values


class BF16(Plain):
    """The upper half of 32-bit floats."""

    ggml_name, ggml_type, code_bits = "BF16", 30, 16
    fields = (("value", 2),)
    storage = "<u2"

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Round to nearest, ties to even."""
        return f32_to_bf16(blocks).view(np.uint8)

    def decode_blocks(self, blocks: Array) -> Float32:
        """Exact, bit for bit."""
        return bf16_to_f32(blocks.view("<u2"))

    def decode_mx(self, blocks: MxArray) -> MxArray:
        """See GgmlFormat."""
        import mlx.core as mx

        return blocks.view(mx.bfloat16).astype(mx.float32)


class _Whole(Plain):
    """Signed integers."""

    def encode_blocks(self, blocks: Float32, importance: Float32 | None) -> Array:
        """Whole numbers that the type holds.

        Raises:
            RequestError: another number; names it and the range.
        """
        limit = np.float32(2 ** (self.code_bits - 1))
        wrong = (blocks != np.rint(blocks)) | (blocks < -limit) | (blocks >= limit)
        if wrong.any():
            top = 2 ** (self.code_bits - 1)
            raise RequestError(
                f"{float(blocks[wrong][0])} is no {self.name}: whole numbers from {-top} to "
                f"{top - 1} are; choose F32 or another type of floats"
            )
        return super().encode_blocks(blocks, importance)


class I8(_Whole):
    """8-bit integers."""

    ggml_name, ggml_type, code_bits = "I8", 24, 8
    fields = (("value", 1),)
    storage = "<i1"


class I16(_Whole):
    """16-bit integers."""

    ggml_name, ggml_type, code_bits = "I16", 25, 16
    fields = (("value", 2),)
    storage = "<i2"


class I32(_Whole):
    """32-bit integers."""

    ggml_name, ggml_type, code_bits = "I32", 26, 32
    fields = (("value", 4),)
    storage = "<i4"


class I64(_Whole):
    """64-bit integers."""

    ggml_name, ggml_type, code_bits = "I64", 27, 64
    fields = (("value", 8),)
    storage = "<i8"


for _member in (F32(), F16(), BF16(), F64(), I8(), I16(), I32(), I64()):
    assert _member.block_bytes * 8 == _member.code_bits
    assert np.dtype(_member.storage).itemsize == _member.block_bytes
    register(_member)
