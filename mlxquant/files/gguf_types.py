"""The types of a GGUF file: of its tensors, and of the values in its metadata.

Numbers and sizes are those of ggml's `enum ggml_type` and of its block structures
(https://github.com/ggml-org/llama.cpp, ggml/include/ggml.h and ggml/src/ggml-common.h); those of
the metadata are in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

__all__ = [
    "ALIGNMENT",
    "MAX_ALIGNMENT",
    "MAX_DIMENSIONS",
    "MAX_KEY",
    "RETIRED",
    "TENSOR_TYPES",
    "VALUE_NAMES",
    "VALUE_TYPES",
    "GgmlType",
    "padded",
    "tensor_type",
]

#: of tensors in files that name no other, bytes
ALIGNMENT = 32
#: a bound beyond any page
MAX_ALIGNMENT = 1 << 20
#: of a tensor
MAX_DIMENSIONS = 4
#: bytes of a key
MAX_KEY = 65_535


@dataclass(frozen=True)
class GgmlType:
    """How a tensor's weights are stored.

    Attributes:
        number: in the file; name: llama.cpp's, e.g. `Q4_K`.
        block_size: weights of a block; 1 for plain numbers.
        block_bytes: bytes of a block.
    """

    number: int
    name: str
    block_size: int
    block_bytes: int

    @property
    def bpw(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.block_bytes / self.block_size

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor whose rows are whole blocks."""
        return prod(shape) // self.block_size * self.block_bytes


# Sizes are sums of a block's fields, in their order: scales, then codes, or as the block has them.
_TYPES = (
    GgmlType(0, "F32", 1, 4),
    GgmlType(1, "F16", 1, 2),
    GgmlType(2, "Q4_0", 32, 2 + 16),
    GgmlType(3, "Q4_1", 32, 2 + 2 + 16),
    GgmlType(6, "Q5_0", 32, 2 + 4 + 16),
    GgmlType(7, "Q5_1", 32, 2 + 2 + 4 + 16),
    GgmlType(8, "Q8_0", 32, 2 + 32),
    GgmlType(9, "Q8_1", 32, 2 + 2 + 32),
    GgmlType(10, "Q2_K", 256, 16 + 64 + 2 + 2),
    GgmlType(11, "Q3_K", 256, 32 + 64 + 12 + 2),
    GgmlType(12, "Q4_K", 256, 2 + 2 + 12 + 128),
    GgmlType(13, "Q5_K", 256, 2 + 2 + 12 + 32 + 128),
    GgmlType(14, "Q6_K", 256, 128 + 64 + 16 + 2),
    GgmlType(15, "Q8_K", 256, 4 + 256 + 32),
    GgmlType(16, "IQ2_XXS", 256, 2 + 64),
    GgmlType(17, "IQ2_XS", 256, 2 + 64 + 8),
    GgmlType(18, "IQ3_XXS", 256, 2 + 96),
    GgmlType(19, "IQ1_S", 256, 2 + 32 + 16),
    GgmlType(20, "IQ4_NL", 32, 2 + 16),
    GgmlType(21, "IQ3_S", 256, 2 + 64 + 8 + 32 + 4),
    GgmlType(22, "IQ2_S", 256, 2 + 64 + 8 + 8),
    GgmlType(23, "IQ4_XS", 256, 2 + 2 + 4 + 128),
    GgmlType(24, "I8", 1, 1),
    GgmlType(25, "I16", 1, 2),
    GgmlType(26, "I32", 1, 4),
    GgmlType(27, "I64", 1, 8),
    GgmlType(28, "F64", 1, 8),
    GgmlType(29, "IQ1_M", 256, 32 + 16 + 8),
    GgmlType(30, "BF16", 1, 2),
    GgmlType(34, "TQ1_0", 256, 48 + 4 + 2),
    GgmlType(35, "TQ2_0", 256, 64 + 2),
    GgmlType(39, "MXFP4", 32, 1 + 16),
    GgmlType(40, "NVFP4", 64, 4 + 32),
    GgmlType(41, "Q1_0", 128, 2 + 16),
    GgmlType(42, "Q2_0", 64, 2 + 16),
)

#: number in the file → type
TENSOR_TYPES: dict[int, GgmlType] = {each.number: each for each in _TYPES}

_BY_NAME = {each.name: each for each in _TYPES}

#: numbers that ggml no longer reads → what they were
RETIRED: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

#: name of a metadata type → (number in the file, struct code; empty for text and arrays)
VALUE_TYPES: dict[str, tuple[int, str]] = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "?"),
    "str": (8, ""),
    "arr": (9, ""),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}

#: number of a metadata type → its name
VALUE_NAMES: dict[int, str] = {number: name for name, (number, _) in VALUE_TYPES.items()}


def tensor_type(name: str) -> GgmlType:
    """The type of that name, in any case.

    Raises:
        ValueError: there is none.
    """
    found = _BY_NAME.get(name.upper())
    if found is None:
        raise ValueError(f"tensor type {name!r}: choose one of {', '.join(_BY_NAME)}")
    return found


def padded(size: int, alignment: int) -> int:
    """`size`, or the next multiple of `alignment`."""
    return -(-size // alignment) * alignment
