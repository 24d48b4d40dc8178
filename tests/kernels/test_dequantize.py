"""Compiled kernels give NumPy's bits, NaN equal to NaN, from any blocks of any format."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from formats.ggml_golden import ggml_format, same_floats
from formats.test_decode_mx import any_blocks, edge_blocks, encoded_rows
from mlxquant.kernels.host.compiler import Compiler
from mlxquant.kernels.source import FORMATS

from mlxquant import kernels
from mlxquant.errors import RequestError
from mlxquant.formats.base import STORAGE
from mlxquant.formats.floats import FLOATS, bf16_to_f32, from_float32
from mlxquant.formats.ggml_format import GgmlFormat

every_format = pytest.mark.parametrize("name", FORMATS)


def reference(fmt: GgmlFormat, wire: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return fmt.decode((wire,))


def same(ours: np.ndarray, wanted: np.ndarray, dtype: str, what: str) -> None:
    """Fail unless both hold the same bits of `dtype`; NaN equals NaN."""
    assert ours.dtype == STORAGE[dtype]
    widened = [bf16_to_f32(a) if dtype == "BF16" else a.astype(np.float32) for a in (ours, wanted)]
    same_floats(widened[0], widened[1], what)


def check(fmt: GgmlFormat, wire: np.ndarray, what: str, threads: int | None = 1) -> None:
    """Fail unless a kernel serves the format and gives what NumPy gives, in every type."""
    assert kernels.reason(fmt) is None
    decoded = reference(fmt, wire)
    for dtype in FLOATS:
        ours = kernels.dequantize(wire, fmt, dtype, threads)
        same(ours, from_float32(decoded, dtype), dtype, f"{fmt.name} {dtype}, {what}")


def rows_of(fmt: GgmlFormat, n: int, blocks: int) -> np.ndarray:
    """Any bytes: uint8 [n, blocks · block_bytes]."""
    return any_blocks(fmt, 256)[: n * blocks].reshape(n, -1)


@every_format
def test_any_bytes(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    check(fmt, any_blocks(fmt, 1024), "any bytes")


@every_format
def test_the_ends_of_codes_and_scales(name: str, clang: Compiler) -> None:
    """All bits clear and set; scales subnormal, infinite, NaN, the largest, of both signs."""
    fmt = ggml_format(name)
    check(fmt, np.zeros((3, fmt.block_bytes), np.uint8), "zeros")
    check(fmt, np.full((3, fmt.block_bytes), 255, np.uint8), "ones")
    check(fmt, edge_blocks(fmt), "edges")


@every_format
def test_what_encode_makes(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    check(fmt, encoded_rows(fmt), "encoded")


@every_format
def test_rows_of_any_number_and_length(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    for n, blocks in ((1, 1), (1, 5), (3, 1), (7, 3), (5, 8)):
        check(fmt, rows_of(fmt, n, blocks), f"{n} rows of {blocks} blocks")


@every_format
def test_gathered_rows(name: str, clang: Compiler) -> None:
    fmt = ggml_format(name)
    wire = rows_of(fmt, 11, 3)
    decoded = reference(fmt, wire)
    for ids in ([10], [0, 0, 0], [7, 2, 9, 2, 10, 0, 1, 5, 3], []):
        for kind in (np.int64, np.uint32, np.int16):
            chosen = np.array(ids, kind)
            for dtype in FLOATS:
                ours = kernels.dequantize_rows(wire, chosen, fmt, dtype)
                wanted = from_float32(decoded[chosen], dtype)
                same(ours, wanted, dtype, f"{name} {dtype}, rows {ids}")


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "IQ3_S", "MXFP4"])
def test_wherever_the_bytes_lie(name: str, clang: Compiler) -> None:
    """Odd addresses, strides, read-only memory: what a memory map or a slice may be."""
    fmt = ggml_format(name)
    wire = rows_of(fmt, 9, 2)
    for shift in range(4):
        wide = np.pad(wire, ((0, 0), (shift, 3)))
        check(fmt, wide[:, shift:-3], f"cut from column {shift}")
        flat = np.concatenate((np.zeros(shift, np.uint8), wire.reshape(-1)))
        moved = flat[shift:].reshape(wire.shape)
        moved.flags.writeable = False
        check(fmt, moved, f"at an odd address, {shift}")
        same(
            kernels.dequantize_rows(moved, np.array([8, 1]), fmt),
            reference(fmt, wire)[[8, 1]],
            "F32",
            f"{name}, rows at {shift}",
        )
    check(fmt, wire[::-2], "every other row, backwards")
    with mmap.mmap(-1, wire.size) as mapped:
        mapped[:] = wire.tobytes()
        view = np.frombuffer(bytes(mapped), np.uint8).reshape(wire.shape)
        check(fmt, view, "mapped")


@pytest.mark.parametrize("threads", [1, 2, 3, 7, None])
def test_threads_share_the_work(threads: int | None, clang: Compiler) -> None:
    """Enough weights for seven threads, in shares that end inside a row."""
    fmt = ggml_format("Q4_K")
    wire = np.tile(rows_of(fmt, 1, 37), (233, 1))
    wire[:, 7] = np.arange(len(wire)) % 256
    check(fmt, wire, f"{threads} threads", threads)
    ids = np.random.default_rng(5).permutation(len(wire))
    ours = kernels.dequantize_rows(wire, ids, fmt, threads=threads)
    same(ours, reference(fmt, wire[ids]), "F32", f"rows, {threads} threads")


@pytest.mark.parametrize("name", ["Q4_K", "Q8_K"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_into_memory_that_is_there(name: str, dtype: str) -> None:
    """With a kernel and without."""
    wire = rows_of(ggml_format(name), 6, 2)
    ids = np.array([5, 0, 0])
    whole = np.empty((6, 512), STORAGE[dtype])
    assert kernels.dequantize(wire, name, dtype, out=whole) is whole
    same(whole, kernels.dequantize(wire, name, dtype), dtype, name)
    assert kernels.dequantize_rows(wire, ids, name, dtype, out=whole[3:]).base is whole
    same(whole[3:], kernels.dequantize_rows(wire, ids, name, dtype), dtype, name)
    read_only = np.zeros_like(whole)
    read_only.flags.writeable = False
    for wrong in (whole[:5], whole[:, ::2], whole.view(np.uint8), whole.T.copy().T, read_only):
        with pytest.raises(RequestError, match=r"C-contiguous \w+ \[6, 512\] needed"):
            kernels.dequantize(wire, name, dtype, out=wrong)


@every_format
def test_no_rows_and_empty_rows(name: str) -> None:
    fmt = ggml_format(name)
    for n, blocks in ((0, 2), (2, 0), (0, 0)):
        wire = np.zeros((n, blocks * fmt.block_bytes), np.uint8)
        assert kernels.dequantize(wire, name).shape == (n, blocks * fmt.block_size)
        none = kernels.dequantize_rows(wire, np.zeros(0, np.int64), name, "F16")
        assert (none.shape, none.dtype) == ((0, blocks * fmt.block_size), np.float16)


def test_formats_without_a_kernel_take_numpy() -> None:
    fmt = ggml_format("Q8_K")
    assert not kernels.available("Q8_K")
    assert kernels.reason("Q8_K") == "Q8_K has no kernels"
    wire = any_blocks(fmt, 256)
    same_floats(kernels.dequantize(wire, "Q8_K"), reference(fmt, wire), "Q8_K")


def test_refusals() -> None:
    wire = np.zeros((4, 144), np.uint8)
    for wrong in (wire[0], wire.astype(np.int8), wire[:, :-1]):
        with pytest.raises(RequestError, match="whole blocks of 144 bytes needed"):
            kernels.dequantize(wrong, "Q4_K")
    with pytest.raises(RequestError, match="dtype 'F64': choose one of"):
        kernels.dequantize(wire, "Q4_K", "F64")
    with pytest.raises(RequestError, match="kernels are for the formats of GGUF files"):
        kernels.dequantize(wire, "affine4-g64")
    with pytest.raises(RequestError, match="format 'Q9_K'"):
        kernels.available("Q9_K")
    for wrong_ids in (np.zeros(2), np.zeros((1, 2), np.int64)):
        with pytest.raises(RequestError, match="integers in one dimension needed"):
            kernels.dequantize_rows(wire, wrong_ids, "Q4_K")
    for row in (-1, 4, 2**32):
        with pytest.raises(RequestError, match=f"row {row} asked for; there are 4"):
            kernels.dequantize_rows(wire, np.array([0, row]), "Q4_K")
