"""How fast kernels are, next to what the memory allows.

    on a processor   dequantize to float32: bytes are those of the blocks that are read and of the
                     floats that are written. matmul with one row of x and with many, in float32:
                     bytes of the blocks. encode and affine search: weights a second, since
                     arithmetic is their limit, not memory
    on a GPU         products with 1, 4 and 512 rows of x, and with as many that have one of eight
                     matrices: bytes are those of the weights, so that the share is the time that
                     memory takes for them, of the time that it took. dequantize to float16 as above

The best of a few runs: whatever else ran only made the others slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from .. import kernels
from ..formats.affine import Affine
from ..formats.base import Array
from ..formats.floats import Float32
from ..formats.ggml_format import GgmlFormat
from ..kernels import launch
from ..kernels.answers import exact_blocks
from ..kernels.host.affine import kernel_for
from ..kernels.host.encode import encoder_for
from ..kernels.host.product import product
from .encoding import encoded_formats
from .findings import Finding, note
from .on_gpu import Gpu, family

__all__ = ["Speed", "blas", "of_gpu", "of_processor"]

_RUNS = 5
#: seconds after which no run is begun
_PATIENCE = 0.3
#: weights of what is decoded: beyond caches, as floats
_DECODED = 1 << 24
#: weights of a row
_WIDTH = 4096
#: bytes of blocks that one row of x is multiplied with: beyond caches
_SIZE = 1 << 26
#: rows and columns of matrices that are multiplied, and how many times slower is slow
_SIDE, _SLOW = 512, 8
#: weights that are encoded and searched
_ENCODED = 1 << 20
_SEARCHED = 1 << 21


@dataclass(frozen=True)
class Speed:
    """How fast a kernel is.

    Attributes:
        weights_per_s: weights that it works through in a second.
        rows: of x that they are multiplied with; 0 where there is no x.
        bytes_per_s: bytes that it reads and writes; None where memory is not its limit.
        share: of the memory's bandwidth that this is; None where either is not known.
    """

    kernel: str
    format: str
    backend: str
    weights_per_s: float
    rows: int = 0
    bytes_per_s: float | None = None
    share: float | None = None

    def to_json(self) -> dict[str, object]:
        """As it stands in the document."""
        return asdict(self)


@dataclass(frozen=True)
class _Meter:
    """Makes speeds of a backend out of seconds.

    Attributes:
        bandwidth: bytes a second that memory moves, or None.
    """

    backend: str
    bandwidth: float | None

    def of_blocks(
        self, kernel: str, fmt: GgmlFormat, wire: Array, seconds: float, rows: int, written: int = 0
    ) -> Speed:
        """Of blocks that were read, and bytes that were written, in so many seconds."""
        weights = wire.size // fmt.block_bytes * fmt.block_size
        rate = (wire.size + written) / seconds
        share = rate / self.bandwidth if self.bandwidth else None
        return Speed(kernel, fmt.name, self.backend, weights / seconds, rows, rate, share)


def of_processor(
    blocks: list[GgmlFormat], affine: list[Affine], bandwidth: float | None
) -> Iterator[Speed]:
    """Measure the kernels of these formats; of affine ones those in groups of 64.

    Args:
        bandwidth: bytes a second that memory moves, or None.
    """
    meter = _Meter("cpu", bandwidth)
    out = np.empty((_DECODED // _WIDTH, _WIDTH), np.float32)
    for fmt in blocks:
        wire = _wire(fmt, len(out))
        seconds = _best(partial(kernels.dequantize, wire, fmt, "F32", None, out))
        yield meter.of_blocks("dequantize", fmt, wire, seconds, 0, out.nbytes)
        multiply = product(fmt)
        if multiply is None:
            continue
        many = _wire(fmt, _SIZE // wire.shape[1])
        for name, m, part in (("matvec", 1, many), ("matmul", 128, wire[:512])):
            seconds = _best(partial(multiply.matmul, _x(m, np.float32), part, "F32"))
            yield meter.of_blocks(name, fmt, part, seconds, m)
    for fmt in blocks:
        encoder = encoder_for(fmt)
        if encoder is not None:
            seconds = _best(
                partial(encoder.encode, _groups(_ENCODED).reshape(-1, _WIDTH), None, None)
            )
            yield Speed("encode", fmt.name, "cpu", _ENCODED / seconds)
    groups = _groups(_SEARCHED)
    for target in affine:
        search = kernel_for(target)
        if search is not None and target.group_size == 64:
            seconds = _best(partial(search.search, groups, None, target.dtype, None))
            yield Speed("affine search", target.name, "cpu", groups.size / seconds)


def of_gpu(
    gpu: Gpu, blocks: list[GgmlFormat], affine: list[Affine], bandwidth: float | None
) -> Iterator[Speed]:
    """Measure the kernels of these formats; of affine ones those in groups of 64.

    Args:
        bandwidth: bytes a second that memory moves, or None.
    """
    meter = _Meter("metal", bandwidth)
    for fmt in blocks:
        row = _WIDTH // fmt.block_size * fmt.block_bytes
        # of matrices that eight rows may share
        wire = _wire(fmt, max(8, gpu.size // row // 8 * 8))
        experts = wire.reshape(8, -1, row)
        # what is decoded takes 2 bytes a weight
        part = wire[: max(1, gpu.size // _WIDTH)]
        seconds = gpu.timed(launch.dequantize(fmt, part.shape, "F16"), [part])
        yield meter.of_blocks("dequantize", fmt, part, seconds, 0, 2 * len(part) * _WIDTH)
        for m in (1, 4, 512):
            started = launch.product(fmt, (m, _WIDTH), wire.shape, "F16")
            seconds = gpu.timed(started, [_x(m, np.float16), wire])
            yield meter.of_blocks(family(started.kernel.name), fmt, wire, seconds, m)
        for p in (8, 512):
            started = launch.gather(fmt, (p, _WIDTH), experts.shape, "F16")
            ids = (np.arange(p) * 8 // p).astype(np.uint32)
            seconds = gpu.timed(started, [_x(p, np.float16), ids, experts])
            yield meter.of_blocks(family(started.kernel.name), fmt, wire, seconds, p // 8)
    rows = _groups(max(_WIDTH, min(gpu.size // 4, _ENCODED))).reshape(-1, _WIDTH)
    for fmt in encoded_formats(blocks):
        seconds = gpu.timed(launch.encode(fmt, rows.shape, False), [rows])
        yield Speed("encode", fmt.name, "metal", rows.size / seconds)
    groups = _groups(min(gpu.size // 4, _SEARCHED))
    for target in affine:
        if target.group_size == 64:
            started = launch.affine_search(target, *groups.shape[:2], False)
            seconds = gpu.timed(started, [groups.reshape(-1, 64)])
            yield Speed("affine search", target.name, "metal", groups.size / seconds)


def _wire(fmt: GgmlFormat, rows: int) -> Array:
    """Blocks of ordinary weights, uint8 [rows, bytes of _WIDTH weights]."""
    few = exact_blocks(fmt, 64, _WIDTH)
    found: Array = np.tile(few, (-(-rows // 64), 1))[:rows]
    return found


def _x(rows: int, dtype: type[np.float16] | type[np.float32]) -> Array:
    made = np.random.default_rng(rows).standard_normal((rows, _WIDTH), np.float32)
    return made.astype(dtype)


def _groups(weights: int) -> Float32:
    """Float32 [n, 8, 64] of about so many."""
    random = np.random.default_rng(0)
    return random.standard_normal((max(1, weights // 512), 8, 64), np.float32)


def blas() -> list[Finding]:
    """A note where MLX multiplies matrices on this processor much more slowly than NumPy does."""
    import mlx.core as mx

    if mx.default_device().type == mx.gpu:
        return []
    ones = np.ones((_SIDE, _SIDE), np.float32)
    theirs = mx.array(ones)
    operations = 2 * _SIDE**3 / 1e9
    ours = operations / _best(lambda: ones @ ones)
    found = operations / _best(lambda: mx.eval(theirs @ theirs))
    if found * _SLOW > ours:
        return []
    return [
        note(
            f"MLX multiplies matrices at {found:.0f} GFLOP/s, NumPy at {ours:.0f}: MLX's BLAS is a "
            "slow one",
            "install OpenBLAS (Debian: libopenblas0-pthread) and start mlxquant with "
            "LD_PRELOAD=libopenblas.so.0",
        )
    ]


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest run; one before them does not count."""
    run()
    best, spent = float("inf"), 0.0
    for _ in range(_RUNS):
        begin = time.perf_counter()
        run()
        took = time.perf_counter() - begin
        best, spent = min(best, took), spent + took
        if spent > _PATIENCE:
            break
    return best
