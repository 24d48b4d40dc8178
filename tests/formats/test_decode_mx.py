"""`decode_mx` gives the bits of `decode_blocks`, NaN equal to NaN, from any blocks of any type."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from formats.ggml_golden import ggml_format, random_blocks, same_floats, telling_rows

from mlxquant import formats
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.files.safetensors import read_header
from mlxquant.formats.codebook import CodebookFormat
from mlxquant.formats.floats import bf16_to_f32
from mlxquant.formats.ggml_format import GgmlFormat

NAMES = [name for name in formats.names() if isinstance(formats.get(name), GgmlFormat)]
SMALLEST_NORMAL = np.float32(2**-126)

every_type = pytest.mark.parametrize("name", NAMES)


def reference(fmt: GgmlFormat, blocks: np.ndarray) -> np.ndarray:
    """`decode_blocks`; it may warn of what hostile floats do."""
    with np.errstate(all="ignore"):
        return fmt.decode_blocks(np.ascontiguousarray(blocks))


def check(fmt: GgmlFormat, blocks: np.ndarray, what: str, decoded: mx.array | None = None) -> None:
    """Fail unless MLX reads in the blocks what NumPy does; `decoded` is what it read, if given."""
    if decoded is None:
        decoded = fmt.decode_mx(mx.array(blocks))
    ours, wanted = np.array(decoded), reference(fmt, blocks)
    if mx.default_device() == mx.Device(mx.gpu):
        # a GPU may take subnormal numbers for zero
        tiny = (np.abs(wanted) < SMALLEST_NORMAL) & (ours == 0)
        wanted = np.where(tiny, ours, wanted)
    same_floats(ours, wanted, f"{fmt.name}, {what}")


def any_blocks(fmt: GgmlFormat, count: int) -> np.ndarray:
    """Any bytes: uint8 [count, block_bytes]."""
    return random_blocks(fmt, count, seed=31).reshape(count, fmt.block_bytes)


def edge_blocks(fmt: GgmlFormat) -> np.ndarray:
    """Any codes under scales and offsets at the edges of their type: uint8 [640, block_bytes]."""
    random = np.random.default_rng(32)
    blocks = any_blocks(fmt, 640)
    subnormal = random.integers(1, 1 << 10, 18)
    bits = [0, 0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, *subnormal]
    halves = np.array([*bits, *(b | 0x8000 for b in bits)], dtype="<u2")
    chosen = random.choice(halves, (2, len(blocks)))
    if isinstance(fmt, CodebookFormat):
        return fmt.bytes_of(replace(fmt.codes_of(blocks), d=chosen[0].view("<f2")))
    begin = 0
    for field, size in fmt.fields:
        if field in ("d", "dmin", "m") and size == 2:
            which = int(field != "d")
            blocks[:, begin : begin + 2] = chosen[which].view(np.uint8).reshape(-1, 2)
        elif field in ("d", "value") and size == 4 and fmt.name != "NVFP4":
            # float32 with the same first 16 bits: subnormal, infinite and NaN among them
            top = np.where(chosen[0] & 0x7C00, chosen[0] | 0x7F80, chosen[0] & 0x807F)
            blocks[:, begin + 2 : begin + 4] = top.astype("<u2").view(np.uint8).reshape(-1, 2)
        begin += size
    return blocks


def encoded_rows(fmt: GgmlFormat) -> np.ndarray:
    """What `encode` makes of made-up rows and of rows of the bundled model."""
    path = BUNDLED_MODEL / "model.safetensors"
    entry = read_header(path).entries["model.layers.4.mlp.gate_proj.weight"]
    model = bf16_to_f32(np.array(np.memmap(path, "<u2", "r", entry.start, entry.shape)[:8]))
    wires = []
    for rows in (telling_rows(), model):
        whole = fmt.name in ("I8", "I16", "I32", "I64")
        values = np.rint(rows.clip(-9, 9) * 8) if whole else rows
        wires.append(fmt.encode(values)[0].reshape(-1, fmt.block_bytes))
    return np.concatenate(wires)


@every_type
def test_any_bytes(name: str) -> None:
    fmt = ggml_format(name)
    check(fmt, any_blocks(fmt, 1024), "any bytes")


@every_type
def test_scales_at_the_edges(name: str) -> None:
    fmt = ggml_format(name)
    check(fmt, edge_blocks(fmt), "edges")


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "d" in dict(ggml_format(n).fields) and n != "NVFP4"]
)
def test_the_edges_are_there(name: str) -> None:
    """Blocks without any NaN, zeros of both signs, and NaN."""
    fmt = ggml_format(name)
    values = reference(fmt, edge_blocks(fmt))
    assert np.isnan(values).any()
    assert np.isfinite(values).all(axis=1).sum() > 100
    zeros = values[values == 0]
    assert np.signbit(zeros).any()
    assert not np.signbit(zeros).all()


@every_type
def test_what_encode_makes(name: str) -> None:
    fmt = ggml_format(name)
    check(fmt, encoded_rows(fmt), "encoded")


@every_type
def test_no_blocks_and_one_block(name: str) -> None:
    """A block on its own, wherever it lies in the array that it is cut from."""
    fmt = ggml_format(name)
    none = fmt.decode_mx(mx.zeros((0, fmt.block_bytes), mx.uint8))
    assert (none.shape, none.dtype) == ((0, fmt.block_size), mx.float32)
    blocks = any_blocks(fmt, 256)[:5]
    stored = mx.array(blocks)
    for i in range(len(blocks)):
        check(fmt, blocks[i : i + 1], f"block {i}", fmt.decode_mx(stored[i : i + 1]))


@every_type
def test_blocks_that_are_not_contiguous(name: str) -> None:
    """Every other block of a wider array, from an odd column on."""
    fmt = ggml_format(name)
    blocks = any_blocks(fmt, 256)
    wide = np.pad(blocks, ((0, 0), (3, 2)))
    check(fmt, blocks[::2], "strided", fmt.decode_mx(mx.array(wide)[::2, 3:-2]))


@pytest.mark.slow
def test_compiled() -> None:
    """Planes, words and look-ups of IQ3_XXS, fused by `mx.compile`."""
    fmt = ggml_format("IQ3_XXS")
    blocks = any_blocks(fmt, 256)
    check(fmt, blocks, "compiled", mx.compile(fmt.decode_mx)(mx.array(blocks)))


@every_type
def test_memory_stays_a_small_multiple_of_the_result(name: str) -> None:
    fmt = ggml_format(name)
    blocks = mx.array(any_blocks(fmt, (1 << 18) // fmt.block_size))
    mx.eval(blocks, fmt.decode_mx(blocks[:1]))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    decoded = fmt.decode_mx(blocks)
    mx.eval(decoded)
    assert mx.get_peak_memory() - before <= 4 * decoded.nbytes


def test_the_formats_do_not_import_mlx() -> None:
    code = "import mlxquant.formats, sys; print(*{n.partition('.')[0] for n in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" in found.stdout.split()
    assert "mlx" not in found.stdout.split()
