"""NaN and infinity in the blocks of a GGUF tensor, found in the scales without decoding a weight.

A block's weights are finite when its scales are: codes are integers, and an f16 scale times the
largest of them is far below float32's limit. So the few bytes of the scales tell, at the offsets
where each block of ggml's has them. For plain floats the number is its own scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCALES", "bad_blocks"]

#: type → (offset in the block, kind of the float there) of its scales and minimums
SCALES: dict[str, tuple[tuple[int, str], ...]] = {
    "F32": ((0, "F32"),),
    "F16": ((0, "F16"),),
    "BF16": ((0, "BF16"),),
    "F64": ((0, "F64"),),
    "Q4_0": ((0, "F16"),),
    "Q4_1": ((0, "F16"), (2, "F16")),
    "Q5_0": ((0, "F16"),),
    "Q5_1": ((0, "F16"), (2, "F16")),
    "Q8_0": ((0, "F16"),),
    "Q8_1": ((0, "F16"), (2, "F16")),
    "Q2_K": ((80, "F16"), (82, "F16")),
    "Q3_K": ((108, "F16"),),
    "Q4_K": ((0, "F16"), (2, "F16")),
    "Q5_K": ((0, "F16"), (2, "F16")),
    "Q6_K": ((208, "F16"),),
    "Q8_K": ((0, "F32"),),
    "IQ1_S": ((0, "F16"),),
    "IQ1_M": ((48, "IQ1_M"),),
    "IQ2_XXS": ((0, "F16"),),
    "IQ2_XS": ((0, "F16"),),
    "IQ2_S": ((0, "F16"),),
    "IQ3_XXS": ((0, "F16"),),
    "IQ3_S": ((0, "F16"),),
    "IQ4_NL": ((0, "F16"),),
    "IQ4_XS": ((0, "F16"),),
    "TQ1_0": ((52, "F16"),),
    "TQ2_0": ((64, "F16"),),
    "MXFP4": ((0, "E8M0"),),
    "NVFP4": ((0, "E4M3"), (1, "E4M3"), (2, "E4M3"), (3, "E4M3")),
    "Q1_0": ((0, "F16"),),
    "Q2_0": ((0, "F16"),),
}

#: kind → (bytes, bits without the sign, those of infinity)
_FLOATS = {
    "F16": (2, 0x7FFF, 0x7C00),
    "BF16": (2, 0x7FFF, 0x7F80),
    "F32": (4, 0x7FFFFFFF, 0x7F800000),
    "F64": (8, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
}
#: floats without infinity: kind → (bits that count, those of its NaN)
_BYTES = {"E8M0": (0xFF, 0xFF), "E4M3": (0x7F, 0x7F)}

Mask = NDArray[np.bool_]


def bad_blocks(type_name: str, blocks: NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Which blocks have a NaN, and which an infinity, among their scales.

    Args:
        type_name: ggml's, e.g. `Q4_K`; integers have neither.
        blocks: uint8 [n, block_bytes].

    Returns: two masks, bool [n].
    """
    nan = np.zeros(len(blocks), dtype=bool)
    infinite = np.zeros(len(blocks), dtype=bool)
    for offset, kind in SCALES.get(type_name, ()):
        if kind in _BYTES:
            used, code = _BYTES[kind]
            nan |= (blocks[:, offset] & used) == code
            continue
        if kind == "IQ1_M":
            bits, mask, limit = _iq1_m(blocks, offset), 0x7FFF, 0x7C00
        else:
            width, mask, limit = _FLOATS[kind]
            words = np.ascontiguousarray(blocks).view(f"<u{width}")  # blocks are whole words
            bits = words[:, offset // width]
        magnitudes = bits & bits.dtype.type(mask)
        nan |= magnitudes > limit
        infinite |= magnitudes == limit
    return nan, infinite


def _iq1_m(blocks: NDArray[np.uint8], offset: int) -> NDArray[Any]:
    """The f16 that IQ1_M keeps in the upper four bits of its four words of scales, low bits first;
    uint16 [n]."""
    words = np.ascontiguousarray(blocks[:, offset : offset + 8]).view("<u2")
    bits = np.zeros(len(blocks), dtype=np.uint16)
    for place in range(4):
        bits |= (words[:, place] >> np.uint16(12)) << np.uint16(4 * place)
    return bits
