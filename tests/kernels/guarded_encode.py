"""Encode with arrays at the end of readable memory; a process of its own, which may end badly.

    python guarded_encode.py [--break OLD|NEW] FORMAT...

As guarded.py does with decoders: clang's checks for undefined behaviour are compiled in, and behind
the weights, their importance and the wire bytes there is nothing.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from mlxquant.kernels.host import entries
from mlxquant.kernels.host.encode import Encoder, example, importances

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat

sys.path.insert(0, str(Path(__file__).parent))
from guarded import before_a_wall, main  # noqa: E402


def run(name: str, library: ctypes.CDLL) -> None:
    """Weights of every kind, with each importance, in place of the arrays of `Encoder`."""
    fmt = formats.get(name)
    assert isinstance(fmt, GgmlFormat)
    rows = guarded(example(fmt.block_size))
    encoder = Encoder(fmt, library)

    def wire(shape: tuple[int, int], dtype: type[np.uint8]) -> np.ndarray:
        return guarded(np.zeros(shape, dtype))

    for which, importance in importances(fmt.block_size).items():
        given = None if importance is None else guarded(importance)
        with mock.patch("mlxquant.kernels.host.encode.np.empty", wire):
            ours = encoder.encode(rows, given)
        assert ours is not None
        np.testing.assert_array_equal(ours, fmt.encode(rows, importance)[0], which)


def guarded(values: np.ndarray) -> np.ndarray:
    """A copy before a wall."""
    at = before_a_wall(values.nbytes)
    ctypes.memmove(at, values.ctypes.data, values.nbytes)
    buffer = (ctypes.c_uint8 * values.nbytes).from_address(at)
    return np.frombuffer(buffer, values.dtype).reshape(values.shape)


if __name__ == "__main__":
    main(sys.argv[1:], entries.encode_program, run, "guarded-encode")
