"""Encode with arrays at the end of readable memory; a process of its own, which may end badly.

    python guarded_encode.py [--break OLD|NEW] FORMAT...

As guarded.py does with decoders: clang's checks for undefined behaviour are compiled in, and behind
the weights, their importance and the wire bytes there is nothing.
"""

from __future__ import annotations

import ctypes
import sys
from unittest import mock

import numpy as np
from guarded import CHECKS, before_a_wall
from mlxquant.kernels.host import entries
from mlxquant.kernels.host.compiler import Compiler, find
from mlxquant.kernels.host.encode import Encoder, example, importances
from mlxquant.kernels.host.store import folder

from mlxquant import formats
from mlxquant.formats.ggml_format import GgmlFormat


def main(names: list[str], broken: tuple[str, str] | None) -> None:
    """Compile and run each format."""
    flags = (*Compiler.flags.__get__(find()), *CHECKS)
    for name in names:
        text = entries.encode_program(name)
        if broken:
            assert broken[0] in text
            text = text.replace(*broken)
        path = folder() / f"guarded-encode-{name}.so"
        with mock.patch.object(Compiler, "flags", flags):
            find().compile(text, path)
        run(name, ctypes.CDLL(str(path)))
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()


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
    arguments = sys.argv[1:]
    replaced = None
    if arguments[0] == "--break":
        old, new = arguments[1].split("|")
        replaced, arguments = (old, new), arguments[2:]
    main(arguments, replaced)
