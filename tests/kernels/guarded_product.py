"""Products with arrays at the end of readable memory; a process of its own, which may end badly.

    python guarded_product.py [--break OLD|NEW] FORMAT...

As guarded.py: clang's checks for undefined behaviour end the process, as does any access behind the
wire bytes, x or the result. Prints each format that came through.
"""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path

import numpy as np
from mlxquant.kernels.host import product

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat

sys.path.insert(0, str(Path(__file__).parent))
from guarded import before_a_wall, main  # noqa: E402


def run(name: str, library: ctypes.CDLL) -> None:
    """A piece of every size, of every type, with an odd number of rows; and tiles."""
    fmt = formats.get(name)
    assert isinstance(fmt, GgmlFormat)
    n, blocks = 19, 16 // math.gcd(fmt.block_bytes, 4)
    k, pointer = blocks * fmt.block_size, ctypes.c_void_p
    wire = np.random.default_rng(1).integers(0, 256, (n, blocks * fmt.block_bytes), np.uint8)
    at = before_a_wall(wire.size)
    ctypes.memmove(at, wire.ctypes.data, wire.size)
    sizes = ctypes.c_uint64(n), ctypes.c_uint64(wire.shape[1])
    library.decode_tile(pointer(at), *sizes, pointer(before_a_wall(n * k * 4)), None, 1)
    for m in range(1, 9):
        pieces = np.array([(0, 0, m)], np.int32)
        for kind, size in enumerate((4, 2, 2)):
            library.multiply_few(
                pointer(at),
                *sizes,
                pointer(before_a_wall(m * k * size)),
                ctypes.c_uint64(m),
                kind,
                pointer(pieces.ctypes.data),
                ctypes.c_uint64(1),
                pointer(before_a_wall(m * k * 4)),
                pointer(before_a_wall(m * n * size)),
                None,
                1,
            )


if __name__ == "__main__":
    main(sys.argv[1:], product.program, run, "guarded-product")
