"""ggml's blocks as MLX's arrays and back: other places, the same codes and the same numbers.

    type    ggml's block                   MLX's format     weight            scales      biases
    Q4_0    d 2  qs 16                     affine4-g32      codes             d           -8 · d
    Q4_1    d 2  m 2  qs 16                affine4-g32      codes             d           m
    Q5_0    d 2  qh 4  qs 16               affine5-g32      codes             d           -16 · d
    Q5_1    d 2  m 2  qh 4  qs 16          affine5-g32      codes             d           m
    Q8_0    d 2  qs 32                     affine8-g32      codes + 128       d           -128 · d
    MXFP4   e 1  qs 16                     mxfp4            codes             e
    NVFP4   d 4  qs 32                     nvfp4            codes             d

    wire    uint8 [n, row_bytes]  ──to_mlx──▶  the format's parts  ──from_mlx──▶  wire

Nothing is rounded: scale · code + bias is the same real number on both sides, and rows for which
that cannot be are refused. `held_by_mlx` and `held_by_ggml` tell beforehand, from the scales alone.
Back from MLX, groups of 64 and 128 repeat their scale, and codes of 1, 2 and 3 bits go to Q4_1.
There and back again gives the same bytes, of rows whose groups are of 32.

In float32 MLX computes ggml's own numbers; in float16 or bfloat16 its sum of product and bias is
rounded like all its arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import RequestError
from .affine import Affine
from .base import Array
from .floats import Bytes
from .mlx_format import MlxFormat
from .registry import FORMATS
from .repack_codes import (
    close_up,
    lanes_of_planes,
    nibbles_to_planes,
    nibbles_to_rows,
    planes_of_lanes,
    spread_out,
)
from .repack_held import (
    ZEROS,
    Holding,
    affine_fields,
    candidates,
    held_by_ggml,
    held_by_mlx,
    minus,
    mlx_format_of,
    records,
)

__all__ = ["Holding", "from_mlx", "held_by_ggml", "held_by_mlx", "mlx_format_of", "to_mlx"]

#: codes moved at a time, so that temporaries stay in the cache
_PIECE = 1 << 18
#: turns the sign bit of 8 codes: int8 to code + 128
_SIGNS = np.uint64(0x8080808080808080)


def to_mlx(type_name: str, wire: Array) -> tuple[Array, ...]:
    """Blocks → the parts of `mlx_format_of(type_name)`.

    Args:
        wire: uint8 [n, row_bytes], rows of whole blocks.

    Returns: weight uint32 [n, k · bits / 32]; scales [n, k / group_size], float16 or uint8; biases
    likewise, of an affine format.

    Raises:
        RequestError: MLX cannot hold these rows (see `held_by_mlx`), or they are no such blocks.
    """
    target, held = mlx_format_of(type_name), held_by_mlx(type_name, wire)
    if target is None or not held:
        raise RequestError(f"{held.reason}: MLX cannot hold these rows; keep them as they are")
    blocks = records(type_name, wire)
    weights = _block_size(type_name)
    row_bytes = weights * target.bits // 8
    rows = np.empty(len(blocks) * row_bytes, np.uint8)
    for piece in _pieces(len(blocks), weights):
        out = rows[piece.start * row_bytes : piece.stop * row_bytes]
        codes = np.ascontiguousarray(blocks["qs"][piece]).view(np.uint8)
        if target.bits == 8:
            np.bitwise_xor(codes.view("<u8"), _SIGNS, out=out.view("<u8"))
        elif target.bits == 5:
            fifth = np.ascontiguousarray(blocks["qh"][piece]).view(np.uint8)
            close_up(lanes_of_planes(codes, fifth), 5, out)
        else:
            nibbles_to_rows(codes, _run(type_name), out)
    n, per_row = len(wire), wire.shape[1] // blocks.itemsize
    weight = rows.view("<u4").reshape(n, per_row * row_bytes // 4)
    if not isinstance(target, Affine):
        scales = np.ascontiguousarray(blocks["e" if type_name == "MXFP4" else "d"])
        return weight, scales.view(np.uint8).reshape(n, per_row * weights // target.block_size)
    d = np.ascontiguousarray(blocks["d"]).reshape(n, per_row)
    zero = ZEROS.get(type_name)
    m = (
        np.ascontiguousarray(blocks["m"]).reshape(n, per_row)
        if zero is None
        else minus(zero).take(d)
    )
    return weight, d.view("<f2"), m.view("<f2")


def from_mlx(fmt: MlxFormat, type_name: str, parts: tuple[Array, ...]) -> Bytes:
    """The parts of an MLX format → blocks.

    Args:
        type_name: one of `held_by_ggml(…).types` for these rows.
        parts: as `fmt.encode` returns them.

    Returns: uint8 [n, row_bytes].

    Raises:
        RequestError: the type cannot hold these rows (see `held_by_ggml`), or `parts` are not the
            format's.
    """
    fmt.check_wire(parts)
    fields = _fields(fmt, type_name, parts)
    n, columns = parts[0].shape
    k = columns * 32 // fmt.bits
    weights = _block_size(type_name)
    wire = np.empty((n, k // weights * FORMATS[type_name].block_bytes), np.uint8)
    blocks = records(type_name, wire)
    for name, values in fields.items():
        blocks[name] = values
    rows = np.ascontiguousarray(parts[0]).reshape(-1).view(np.uint8)
    row_bytes = weights * fmt.bits // 8
    for piece in _pieces(len(blocks), weights):
        codes = rows[piece.start * row_bytes : piece.stop * row_bytes]
        if fmt.bits == 8:
            packed = np.bitwise_xor(codes.view("<u8"), _SIGNS)
        elif fmt.bits == 4:
            packed = nibbles_to_planes(codes, _run(type_name))
        else:
            packed, fifth = planes_of_lanes(spread_out(codes, fmt.bits))
            if fmt.bits == 5:
                blocks["qh"][piece] = fifth.view("<u4")
        blocks["qs"][piece] = packed.view(blocks["qs"].dtype)
    return wire


def _fields(fmt: MlxFormat, type_name: str, parts: tuple[Array, ...]) -> dict[str, Array]:
    """A block's fields beside the codes, [n · k / block_size] each."""
    if type_name not in candidates(fmt):
        raise RequestError(f"{type_name} has no codes of {fmt.name}; see held_by_ggml")
    fields: dict[str, Array] = {}
    if isinstance(fmt, Affine):
        _, scales, biases = parts
        halves, held = affine_fields(type_name, fmt, scales, biases, lambda: parts[0])
        repeats = fmt.group_size // 32
        for name, values in halves.items():
            fields[name] = np.repeat(values, repeats) if repeats > 1 else values.reshape(-1)
    else:
        held = held_by_ggml(fmt, parts[1])
        fields["e" if type_name == "MXFP4" else "d"] = np.ascontiguousarray(parts[1]).reshape(-1)
    if not held:
        raise RequestError(f"{held.reason}: choose another type or leave these rows as they are")
    return {"d": fields["d"].view("<u4")} if type_name == "NVFP4" else fields


def _block_size(type_name: str) -> int:
    return FORMATS[type_name].block_size


def _run(type_name: str) -> int:
    """Bytes that hold a run of codes: a whole block's, or a group's of NVFP4."""
    return 8 if type_name == "NVFP4" else 16


def _pieces(blocks: int, weights: int) -> Iterator[slice]:
    """Slices of so many blocks, _PIECE weights each."""
    step = _PIECE // weights
    for begin in range(0, blocks, step):
        yield slice(begin, min(begin + step, blocks))
