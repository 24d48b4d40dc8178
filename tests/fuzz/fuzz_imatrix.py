"""Coverage-guided fuzzing of what reads importance matrices: nothing but FileFormatError comes out.

    python tests/fuzz/fuzz_imatrix.py -runs=20000 -seed=1 CORPUS

As fuzz_gguf.py; what can be read is written in both layouts, and read again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mlxquant.files", "mlxquant.quantize.imatrix"]):
    import numpy as np

    from mlxquant.errors import FileFormatError, RequestError
    from mlxquant.quantize.imatrix import read_imatrix, write_imatrix

FOLDER = Path(tempfile.mkdtemp())


def one_input(data: bytes) -> None:
    """Read a file of these bytes; what can be read comes back as it was."""
    file = FOLDER / "m.imatrix"
    file.write_bytes(data)
    try:
        found = read_imatrix(file)
    except FileFormatError as problem:
        if not str(problem).isprintable():
            raise ValueError("a message of several lines") from problem
        return
    for entry in found.entries.values():
        if entry.sums.nbytes > len(data) or not np.isfinite(entry.sums).all():
            raise ValueError("numbers that the file does not hold")
    found.described()
    found.metadata()
    for ending in ("gguf", "dat"):
        again = FOLDER / f"again.{ending}"
        try:
            write_imatrix(
                again, found.entries, found.datasets, found.chunks, chunk_size=found.chunk_size
            )
        except RequestError:  # names too long for GGUF, counts too large for .dat
            continue
        if ending == "gguf" and read_imatrix(again).entries.keys() != found.entries.keys():
            raise ValueError("other entries are written back")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    try:
        atheris.Fuzz()
    finally:
        for left in FOLDER.iterdir():
            left.unlink()
        FOLDER.rmdir()
