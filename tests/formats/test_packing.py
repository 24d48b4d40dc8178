"""Codes and words: the layout against a bit-by-bit definition and against MLX, and back."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlxquant.errors import RequestError
from mlxquant.formats.packing import WIDTHS, pack, unpack

every_width = pytest.mark.parametrize("bits", WIDTHS)


@st.composite
def codes_of(draw: st.DrawFn, bits: int) -> np.ndarray:
    shape = (draw(st.integers(0, 3)), 32 * draw(st.integers(0, 4)))
    return draw(arrays(np.uint8, shape, elements=st.integers(0, (1 << bits) - 1)))


@every_width
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_there_and_back(bits: int, data: st.DataObject) -> None:
    codes = data.draw(codes_of(bits))
    words = pack(codes, bits)
    assert words.dtype == np.uint32
    assert words.shape == (codes.shape[0], codes.shape[1] * bits // 32)
    back = unpack(words, bits)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, codes)


@every_width
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_words_come_back(bits: int, data: st.DataObject) -> None:
    words = data.draw(arrays(np.uint32, (2, bits * data.draw(st.integers(0, 3)))))
    np.testing.assert_array_equal(pack(unpack(words, bits), bits), words)


@every_width
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_layout_is_one_string_of_bits_low_bits_first(bits: int, data: st.DataObject) -> None:
    codes = data.draw(codes_of(bits))
    string = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    rows = string.reshape(len(codes), codes.shape[1] * bits)
    octets = np.packbits(rows, axis=1, bitorder="little")
    np.testing.assert_array_equal(pack(codes, bits).view(np.uint8), octets)


@every_width
def test_mlx_reads_what_is_packed(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (4, 128), dtype=np.uint8)
    one, zero = mx.ones((4, 4)), mx.zeros((4, 4))
    words = mx.array(pack(codes, bits))
    read = mx.dequantize(words, one, zero, group_size=32, bits=bits, stream=mx.cpu)
    np.testing.assert_array_equal(np.array(read), codes)


@pytest.mark.parametrize("bits", [0, 7, 9, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(RequestError, match="packed in 1, 2, 3, 4, 5, 6, 8 bits"):
        pack(np.zeros((1, 32), np.uint8), bits)
    with pytest.raises(RequestError, match="packed in 1, 2, 3, 4, 5, 6, 8 bits"):
        unpack(np.zeros((1, 32), np.uint32), bits)


@pytest.mark.parametrize(("k", "bits"), [(4, 8), (12, 8), (8, 3), (16, 1), (31, 4)])
def test_rows_that_fill_no_whole_words_are_refused(k: int, bits: int) -> None:
    with pytest.raises(RequestError, match=f"{k} codes of {bits} bits"):
        pack(np.zeros((1, k), np.uint8), bits)


def test_words_that_hold_no_whole_row_are_refused() -> None:
    with pytest.raises(RequestError, match="10 codes of 3 bits"):
        unpack(np.zeros((1, 1), np.uint32), 3)
