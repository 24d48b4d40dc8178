"""Known answers: of every kernel a small launch, its arrays, and the bits that have to come out.

    dequantize, dequantize_rows   blocks in which every byte takes every value, against NumPy
    products, gathers             weights that are multiples of a power of two, and x of -1, 0, 1:
                                  every sum is exact in float32 in whatever order it is added up,
                                  so that the product has one right value, bit for bit. One weight
                                  that is left out, or is another's, is noticed
    encode, affine search         weights of every kind, against NumPy's encoders and search: bytes

A launch is made by the same functions of launch.py as every other, for sizes that lead to the same
kernel, with tails of rows, columns and tiles. A GPU may take a subnormal number for zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxquant import formats
from mlxquant.formats.affine import Affine
from mlxquant.formats.base import Array
from mlxquant.formats.floats import FLOATS, Float32, from_float32, round_to, to_float32
from mlxquant.formats.ggml_format import GgmlFormat

from . import launch
from .host import encode as encoded
from .host.affine import example
from .host.known_answer import blocks
from .launch import DEVICE, Launch

__all__ = [
    "SMALLEST",
    "Answer",
    "agree",
    "answer",
    "difference",
    "exact_blocks",
    "largest_is_normal",
    "sums_are_normal",
]

#: of a group's weights the largest has to be 0 or this for a GPU to search
SMALLEST = np.float32(2.0**-90)
#: weights that an encoder adds up by themselves, at least, and what their squares have to be
_FEW, _LEAST_SUM = 16, np.float32(2.0**-80)
#: kernels that round weights to the type of x before they multiply
_ROUNDED = ("matmul", "gather_matmul")
#: weights of a row that is looked up, at least: parts for every thread of a threadgroup
_LOOKED_UP = 8192
#: parts of a row of weights for which K is split between 1, 2, 4 and 8 simdgroups
_WIDTHS = (1280, 2304, 4352, 8448)
#: float16 numbers of scales: 2^-7 and 2^-8, of both signs
_SCALES: Array = np.array([0x2000, 0x1C00, 0xA000, 0x9C00], dtype="<u2")
#: IQ1_M: the lowest bit of a scale that each word has
_PLACES: Array = np.array([0, 4, 8, 12], dtype="<u2")
#: bits of the least normal number of a type, without its sign
_LEAST = {"F32": 0x00800000, "F16": 0x0400, "BF16": 0x0080}


@dataclass(frozen=True)
class Answer:
    """A launch whose result is known.

    Attributes:
        launch: the launch.
        inputs: its kernel's arrays, bfloat16 as uint16.
        wanted: what comes out, STORAGE[launch.dtype] of launch.shape.
    """

    launch: Launch
    inputs: tuple[Array, ...]
    wanted: Array


def answer(started: Launch) -> Answer | None:
    """A known answer of the kernel that is launched, for its format and type; None if there is
    none, which a test excludes for every launch that launch.py makes."""
    fmt = formats.get(started.format)
    name = started.kernel.name
    if isinstance(fmt, Affine):
        return _searched(fmt, started)
    assert isinstance(fmt, GgmlFormat)
    if name.startswith("dequantize"):
        return _decoded(name, fmt, started.dtype)
    if name.startswith("encode"):
        return _encoded(fmt, "weighted" in name)
    for small, x, wire in _small(name, fmt, started.dtype):
        if small.kernel == started.kernel:
            return _product(small, fmt, x, wire)
    return None


def difference(ours: Array, wanted: Array, dtype: str) -> str:
    """Empty, or where one array differs from the other; see `agree`."""
    if dtype not in FLOATS:
        same = np.array_equal(ours, wanted)
        return "" if same else f"{(ours != wanted).sum()} of {wanted.size} numbers differ"
    if ours.shape != wanted.shape or ours.dtype != wanted.dtype:
        return f"{ours.dtype} {list(ours.shape)} for {wanted.dtype} {list(wanted.shape)}"
    wrong = np.argwhere(~agree(ours, wanted, dtype))
    if not len(wrong):
        return ""
    at = tuple(int(i) for i in wrong[0])
    found, right = (float(to_float32(array[at].reshape(1), dtype)[0]) for array in (ours, wanted))
    where = ", ".join(map(str, at))
    return f"[{where}] is {found:.6g}, not {right:.6g}; {len(wrong)} of {wanted.size} are wrong"


def agree(ours: Array, wanted: Array, dtype: str) -> Array:
    """Which numbers are the same bits: any NaN for a NaN, and zero for a subnormal number."""
    bits = np.uint32 if dtype == "F32" else np.uint16
    one: NDArray[Any] = ours.view(bits)
    other: NDArray[Any] = wanted.view(bits)
    nan = np.isnan(to_float32(ours, dtype)) & np.isnan(to_float32(wanted, dtype))
    magnitudes = [array & ((1 << (8 * array.itemsize - 1)) - 1) for array in (one, other)]
    small = (magnitudes[0] == 0) & (magnitudes[1] < _LEAST[dtype])
    found: Array = (one == other) | nan | small
    return found


@lru_cache(maxsize=4)
def exact_blocks(fmt: GgmlFormat, rows: int, k: int, seed: int = 0) -> Array:
    """Any codes under scales that are powers of two: uint8 [rows, bytes of k weights].

    Sums of up to 2^13 weights times -1, 0 or 1 are exact in float32 in any order.
    """
    random = np.random.default_rng((seed, rows, k))
    count = rows * (k // fmt.block_size)
    made = random.integers(0, 256, (count, fmt.block_bytes), np.uint8)
    begin = 0
    for field, size in fmt.fields:
        here = made[:, begin : begin + size]
        if fmt.name == "NVFP4" and field == "d":
            # E4M3 of exponents -3 and -2, any fraction
            here[:] = here & 0x0F | 0x20
        elif fmt.name == "MXFP4" and field == "e":
            here[:] = 120 + here % 4
        elif fmt.name == "IQ1_M" and field == "words":
            # the scale lies in the highest four bits of each of four words
            words = here.view("<u2") & 0x0FFF
            scale = random.choice(_SCALES, (count, 1)) >> _PLACES << 12
            here[:] = (words | scale).astype("<u2").view(np.uint8)
        elif field in ("d", "dmin", "m"):
            here[:] = random.choice(_SCALES, count).view(np.uint8).reshape(count, 2)
        begin += size
    return made.reshape(rows, -1)


def _decoded(name: str, fmt: GgmlFormat, dtype: str) -> Answer:
    wire = blocks(fmt)
    with np.errstate(all="ignore"):
        decoded = fmt.decode((wire,))
    if name == "dequantize":
        small = launch.dequantize(fmt, wire.shape, dtype)
        return Answer(small, (wire,), from_float32(decoded, dtype))
    ids = np.array([65, 0, 64, 7, 7, 66, 2**32 - 1], np.uint32)
    chosen = np.where((ids < len(wire))[:, None], decoded[np.minimum(ids, 65)], np.float32(np.nan))
    # as many threads in a threadgroup as of any row: a GPU may refuse what takes too much for that
    turns = -(-_LOOKED_UP // decoded.shape[1])
    wire, chosen = np.tile(wire, turns), np.tile(chosen, turns)
    small = launch.dequantize_rows(fmt, wire.shape, len(ids), dtype)
    return Answer(small, (wire, _filled(ids)), from_float32(chosen, dtype))


def _small(
    name: str, fmt: GgmlFormat, dtype: str
) -> Iterator[tuple[Launch, tuple[int, int], tuple[int, ...]]]:
    """Small launches of the kernels whose names begin alike: each with the shapes of x and wire."""
    of_k = {k: k // fmt.block_size * fmt.block_bytes for k in _WIDTHS}
    tiled = 512 + fmt.block_size, (512 // fmt.block_size + 1) * fmt.block_bytes
    if name.startswith("matvec"):
        for k, size in of_k.items():
            for m in (1, 2, 3, 7):
                yield launch.matvec(fmt, (m, k), (19, size), dtype), (m, k), (19, size)
    elif name.startswith("matmul"):
        for m, width in product((13, 29, 75), (launch.WIDTH, launch.NARROW)):
            x, wire = (m, tiled[0]), (70, tiled[1])
            yield launch.matmul(fmt, x, wire, dtype, width), x, wire
    elif name.startswith("gather_matvec"):
        for k, size in of_k.items():
            x, experts = (9, k), (3, 19, size)
            yield launch.gather_matvec(fmt, x, experts, dtype), x, experts
    elif name.startswith("gather_matmul"):
        for pairs, width in product((61, 151, 401), (launch.WIDTH, launch.NARROW)):
            x, experts = (pairs, tiled[0]), (3 if pairs < 401 else 1, 70, tiled[1])
            yield launch.gather_matmul(fmt, x, experts, dtype, width), x, experts


def _product(small: Launch, fmt: GgmlFormat, x: tuple[int, int], wire: tuple[int, ...]) -> Answer:
    m, k = x
    packed = exact_blocks(fmt, int(np.prod(wire[:-1])), k)
    weights = fmt.decode((packed,))
    if small.kernel.name.startswith(_ROUNDED):
        weights = round_to(weights, small.dtype)
    rows = np.random.default_rng(m).integers(-1, 2, (m, k)).astype(np.float32)
    given = from_float32(rows, small.dtype)
    if len(wire) == 2:
        return Answer(small, (given, packed), _exact(rows, weights, small.dtype))
    matrices = weights.reshape(*wire[:2], k)
    ids = np.sort(np.random.default_rng(k).integers(0, wire[0], m)).astype(np.uint32)
    ids[-1] = wire[0]
    wanted = np.full(small.shape, np.nan, np.float32)
    for expert, matrix in enumerate(matrices):
        chosen = ids == expert
        wanted[chosen] = rows[chosen].astype(np.float64) @ matrix.T.astype(np.float64)
    inputs = (given, _filled(ids), packed.reshape(wire))
    return Answer(small, inputs, from_float32(wanted, small.dtype))


def _exact(rows: Float32, weights: Float32, dtype: str) -> Array:
    """rows · weightsᵀ, which float32 holds, rounded to the type."""
    product = (rows.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.float32)
    return from_float32(product, dtype)


def _encoded(fmt: GgmlFormat, weighted: bool) -> Answer:
    rows = encoded.example(fmt.block_size)
    importance = encoded.importances(fmt.block_size)["some"] if weighted else None
    # blocks in which something subnormal is added up: as large as others
    blocks = rows.reshape(len(rows), -1, fmt.block_size)
    normal = sums_are_normal(rows, importance).reshape(*blocks.shape[:2], -1).all(axis=2)
    powers = np.frexp(np.abs(blocks).max(axis=2))[1]
    raised = np.ldexp(blocks, np.where(normal, 0, -powers)[..., None]).reshape(rows.shape)
    inputs = (raised,) if importance is None else (raised, importance)
    with np.errstate(all="ignore"):
        wanted = fmt.encode(raised, importance)[0]
    return Answer(launch.encode(fmt, rows.shape, weighted), inputs, wanted)


def sums_are_normal(rows: Float32, importance: Float32 | None) -> NDArray[np.bool_]:
    """Whether an encoder's sums of squares are so far from subnormal numbers that a GPU, which may
    take those for zero, adds up what NumPy does: float32 [n, k] → bool [n, k / 16]. Where there is
    nothing but zeros they are; where there is a NaN they are not."""
    there = rows != 0
    with np.errstate(all="ignore"):
        squares = rows * rows
        if importance is not None:
            there &= importance > 0
            squares = np.where(there, squares * importance, np.float32(0))
        sums = squares.reshape(len(rows), -1, _FEW).sum(axis=2)
    any_there = there.reshape(*sums.shape, _FEW).any(axis=2)
    found: NDArray[np.bool_] = ~any_there | (sums >= _LEAST_SUM)
    return found


def largest_is_normal(groups: Float32) -> NDArray[np.bool_]:
    """The same of the search, which makes a group's largest weight about 1 before it adds up
    anything: float32 [..., size] → bool [...]."""
    largest = np.maximum(groups.max(axis=-1), -groups.min(axis=-1))
    found: NDArray[np.bool_] = (largest == 0) | (largest >= SMALLEST)
    return found


def _searched(target: Affine, started: Launch) -> Answer | None:
    from mlxquant.quantize.search_affine import search_affine

    for dtype, weighted in product(FLOATS, (False, True)):
        typed = Affine(target.bits, target.group_size, dtype)
        small = launch.affine_search(typed, 47, 3, weighted)
        if small.kernel != started.kernel:
            continue
        groups, weights = example(target.group_size, dtype)
        normal = largest_is_normal(groups)[..., None]
        groups = groups * np.where(normal, np.float32(1), np.float32(2.0**60))
        codes, *pairs = search_affine(typed, groups, weights if weighted else None)
        found = (to_float32(pair, dtype).view(np.uint32).reshape(-1) for pair in pairs)
        inputs = (groups.reshape(-1, target.group_size), *((weights,) if weighted else ()))
        return Answer(small, inputs, np.concatenate((codes.reshape(-1), *found)))
    return None


def _filled(ids: Array) -> Array:
    """As many ids as come in device memory, at least."""
    return np.concatenate((ids, np.zeros(max(0, DEVICE - len(ids)), np.uint32)))
