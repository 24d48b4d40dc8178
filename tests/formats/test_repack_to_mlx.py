"""Blocks of ggml's as MLX's: the same codes, the same real numbers, the same bytes on the way back.

The numbers are held against ggml's own decoder and MLX's own, which agree in float32, and in
float64, where scale · code + bias is exact.
"""

from __future__ import annotations

import numpy as np
import pytest
from formats.ggml_checks import model_rows
from formats.ggml_golden import ggml_format
from formats.repacking import (
    AFFINE,
    ANY_HALF,
    TYPES,
    ZEROS,
    are_parts,
    blocks_with,
    every_type,
    ggml_reads,
    is_the_same,
    mlx_reads,
    ordinary_rows,
    target_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlxquant.errors import RequestError
from mlxquant.formats.mxfp4 import Mxfp4
from mlxquant.formats.nvfp4 import Nvfp4
from mlxquant.formats.repack import (
    from_mlx,
    held_by_ggml,
    held_by_mlx,
    mlx_format_of,
    to_mlx,
)


@every_type
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (2, 16), (0, 4), (2, 0), (1, 9001)])
def test_blocks_there_and_back(name: str, shape: tuple[int, int]) -> None:
    """9001 blocks are more than are moved at a time."""
    wire, fmt = ordinary_rows(name, *shape), target_of(name)
    before = wire.copy()
    parts = to_mlx(name, wire)
    are_parts(fmt, parts, shape[0], shape[1] * ggml_format(name).block_size)
    np.testing.assert_array_equal(wire, before)
    if wire.size:
        is_the_same(name, wire, fmt, parts)
    back = from_mlx(fmt, name, parts)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, wire)


@every_type
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_bytes_come_back_or_are_refused(name: str, data: st.DataObject) -> None:
    size = ggml_format(name).block_bytes
    shape = (data.draw(st.integers(1, 3)), size * data.draw(st.integers(1, 3)))
    wire = data.draw(arrays(np.uint8, shape))
    fmt = target_of(name)
    if held_by_mlx(name, wire):
        parts = to_mlx(name, wire)
        is_the_same(name, wire, fmt, parts)
        assert name in held_by_ggml(fmt, *parts[1:]).types
        np.testing.assert_array_equal(from_mlx(fmt, name, parts), wire)
    else:
        with pytest.raises(RequestError, match="MLX cannot hold these rows"):
            to_mlx(name, wire)


@pytest.mark.parametrize("name", AFFINE)
def test_every_float16_scale(name: str) -> None:
    """Held if the bias is a finite float16, which is held against its definition."""
    halves = ANY_HALF.view(np.float16)
    wire = blocks_with(name, 4, d=halves, m=halves[::-1].copy())
    with np.errstate(over="ignore", invalid="ignore"):
        bias = halves[::-1] if name.endswith("_1") else halves * np.float16(-ZEROS[name])
        product = halves.astype(np.float64) * -ZEROS.get(name, 0)
    finite = np.isfinite(halves) & np.isfinite(bias)
    held = np.array([bool(held_by_mlx(name, row)) for row in wire[::97, None]])
    np.testing.assert_array_equal(held, finite[::97])
    whole = held_by_mlx(name, wire)
    (obstacles,) = whole.obstacles.values()
    assert max(obstacles.values()) <= (~finite).sum() <= sum(obstacles.values())
    parts = to_mlx(name, wire[finite])
    is_the_same(name, wire[finite], target_of(name), parts)
    np.testing.assert_array_equal(parts[1][:, 0].view(np.uint16), ANY_HALF[finite])
    if name in ZEROS:
        np.testing.assert_array_equal(parts[2][:, 0].astype(np.float64), product[finite])
    np.testing.assert_array_equal(from_mlx(target_of(name), name, parts), wire[finite])


def test_every_mxfp4_scale_but_the_last() -> None:
    """6 times 2^127 is infinite in float32, to both."""
    wire = blocks_with("MXFP4", 5, e=np.arange(256, dtype=np.uint8))
    held = held_by_mlx("MXFP4", wire)
    assert held.reason == (
        "mxfp4: scale bytes of 255, 2^128 to ggml and infinite to MLX, in 1 of 256 groups"
    )
    parts = to_mlx("MXFP4", wire[:255])
    is_the_same("MXFP4", wire[:255], Mxfp4(), parts)
    np.testing.assert_array_equal(from_mlx(Mxfp4(), "MXFP4", parts), wire[:255])
    different = mlx_reads(Mxfp4(), (parts[0][:1], np.full((1, 1), 255, np.uint8)))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(different, ggml_reads("MXFP4", wire[255:]))


def test_every_nvfp4_scale() -> None:
    """Beyond 126 no byte but that of -0 means the same to both."""
    scales = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
    wire = blocks_with("NVFP4", 6, d=scales)
    held = [bool(held_by_mlx("NVFP4", block[None])) for block in wire]
    assert held == [byte <= 126 for byte in range(256)]
    ours = ggml_format("NVFP4").decode((wire,))
    words = to_mlx("NVFP4", blocks_with("NVFP4", 6, d=np.zeros_like(scales)))[0]
    theirs = mlx_reads(Nvfp4(), (words, scales))
    same = (ours == theirs).all(axis=1)
    assert np.flatnonzero(same).tolist() == [*range(127), 128]


@every_type
def test_one_bad_scale_among_many_is_found(name: str) -> None:
    wire = ordinary_rows(name, 6, 40)
    assert held_by_mlx(name, wire).types == (target_of(name).name,)
    assert held_by_mlx(name, wire).reason == ""
    size = ggml_format(name).block_bytes
    bad = {"MXFP4": b"\xff", "NVFP4": b"\x00\x00\x00\x7f"}.get(name, b"\x00\x7c")
    wire[4, 39 * size : 39 * size + len(bad)] = np.frombuffer(bad, np.uint8)
    held = held_by_mlx(name, wire)
    assert not held and held.types == ()
    assert held.reason.endswith(f" in 1 of {held.groups} groups")
    assert held.groups == 6 * 40 * (4 if name == "NVFP4" else 1)


def test_the_bias_names_the_first_scale_that_is_too_large() -> None:
    for name, limit in (("Q4_0", 8192), ("Q5_0", 4096), ("Q8_0", 512)):
        below, at = np.nextafter(np.float16(limit), np.float16(0)), np.float16(limit)
        assert held_by_mlx(name, blocks_with(name, 1, d=np.array([below, -below])))
        found = held_by_mlx(name, blocks_with(name, 1, d=np.array([below, -at, np.nan], "f2")))
        assert found.reason == (
            f"{target_of(name).name}: scales that times -{ZEROS[name]} are no finite float16 "
            "numbers in 2 of 3 groups"
        )


def test_types_that_mlx_has_nothing_for() -> None:
    for name in ("Q4_K", "Q6_K", "IQ4_NL", "F16", "TQ2_0", "Q2_0"):
        assert mlx_format_of(name) is None
        wire = np.zeros((1, 1024), np.uint8)
        held = held_by_mlx(name, wire)
        assert held.types == ()
        assert held.reason == f"MLX has no format with the codes and scales of {name}"
        with pytest.raises(RequestError, match="MLX has no format"):
            to_mlx(name, wire)


def test_codes_and_scales_by_hand() -> None:
    """Weight j in the low nibble of byte j, weight j + 16 in the high one; MLX wants them in
    order."""
    block = np.zeros((1, 18), np.uint8)
    block[0, :2] = np.frombuffer(np.float16(0.5).tobytes(), np.uint8)
    block[0, 2:5] = [0x21, 0x43, 0x65]
    words, scales, biases = to_mlx("Q4_0", block)
    assert words.tolist() == [[0x531, 0, 0x642, 0]]
    assert (scales.tolist(), biases.tolist()) == ([[0.5]], [[-4.0]])


@every_type
def test_encoded_rows_of_a_model(name: str) -> None:
    for rows in model_rows().values():
        (wire,) = ggml_format(name).encode(rows)
        parts = to_mlx(name, wire)
        is_the_same(name, wire, target_of(name), parts)
        np.testing.assert_array_equal(from_mlx(target_of(name), name, parts), wire)


def test_slices_and_unaligned_rows() -> None:
    """Rows need be neither contiguous nor aligned, on either side."""
    for name in TYPES:
        wire = ordinary_rows(name, 8, 8)
        shifted = np.empty(wire.size + 1, np.uint8)[1:].reshape(wire.shape)
        shifted[:] = wire
        expected = to_mlx(name, wire)
        for given_wire, step in ((shifted, 1), (wire[::2], 2)):
            parts = to_mlx(name, given_wire)
            for ours, theirs in zip(parts, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs[::step])
        strided = tuple(np.repeat(part, 2, axis=1)[:, ::2] for part in expected)
        np.testing.assert_array_equal(from_mlx(target_of(name), name, strided), wire)
