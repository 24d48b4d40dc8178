"""NaN and Inf in scales, against the weights that the gguf package decodes from the same blocks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from mlxquant.files.gguf_scales import SCALES, bad_blocks
from mlxquant.files.gguf_types import TENSOR_TYPES, tensor_type

#: types that the package does not decode
_UNDECODED = ("F64", "Q8_1", "Q8_K", "Q1_0", "Q2_0")
_NAN = {"F16": 0x7E00, "BF16": 0x7FC0, "F32": 0x7FC00000, "F64": 0x7FF8000000000000}
_INF = {"F16": 0xFC00, "BF16": 0xFF80, "F32": 0xFF800000, "F64": 0xFFF0000000000000}
_WIDTH = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}


def decoded(name: str, blocks: np.ndarray) -> np.ndarray:
    """Weights [n, block_size] as the gguf package decodes them."""
    with np.errstate(all="ignore"):
        return gguf.dequantize(blocks, gguf.GGMLQuantizationType[name])


def test_every_type_but_integers_has_scales() -> None:
    integers = {"I8", "I16", "I32", "I64"}
    assert SCALES.keys() == {kind.name for kind in TENSOR_TYPES.values()} - integers


@pytest.mark.parametrize("name", SCALES)
def test_where_a_bad_scale_is_put_it_is_found(name: str) -> None:
    kind = tensor_type(name)
    # Codes of all ones and scales of zero: whatever is decoded is finite.
    clean = np.full((5, kind.block_bytes), 0x11, dtype=np.uint8)
    nan, infinite = bad_blocks(name, clean)
    assert not nan.any() and not infinite.any()
    for offset, float_kind in SCALES[name]:
        if float_kind in ("E8M0", "E4M3"):
            blocks = clean.copy()
            blocks[3, offset] = 0xFF if float_kind == "E8M0" else 0x7F
            nan, infinite = bad_blocks(name, blocks)
            assert nan.tolist() == [False] * 3 + [True, False] and not infinite.any()
            continue
        for codes, which in ((_NAN, 0), (_INF, 1)):
            blocks = clean.copy()
            if float_kind == "IQ1_M":
                for place in range(4):
                    byte = offset + 2 * place + 1
                    blocks[3, byte] &= 0x0F
                    blocks[3, byte] |= (codes["F16"] >> 4 * place & 15) << 4
            else:
                width = _WIDTH[float_kind]
                blocks[3, offset : offset + width] = np.frombuffer(
                    codes[float_kind].to_bytes(width, "little"), np.uint8
                )
            found = bad_blocks(name, blocks)
            assert found[which].tolist() == [False] * 3 + [True, False]
            assert not found[1 - which].any()
            if name not in _UNDECODED:
                finite = np.isfinite(decoded(name, blocks)).all(axis=-1)
                assert finite.tolist() == [True] * 3 + [False, True]


@pytest.mark.parametrize("name", sorted(set(SCALES) - {*_UNDECODED, "MXFP4", "NVFP4"}))
def test_random_blocks_are_bad_exactly_where_decoding_is(name: str) -> None:
    kind = tensor_type(name)
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (4000, kind.block_bytes), dtype=np.uint8)
    nan, infinite = bad_blocks(name, blocks)
    if kind.block_bytes > 8:
        assert (nan | infinite).any()
    finite = np.isfinite(decoded(name, blocks)).reshape(len(blocks), -1).all(axis=1)
    assert np.array_equal(finite, ~(nan | infinite))


def test_integers_are_always_fine() -> None:
    for mask in bad_blocks("I32", np.full((3, 4), 0xFF, dtype=np.uint8)):
        assert mask.tolist() == [False] * 3
