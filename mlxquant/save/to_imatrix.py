"""The sink of an importance matrix: one small file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..errors import FileFormatError, OutputError, RequestError
from ..quantize.imatrix import Imatrix, read_imatrix, write_imatrix
from .partial import check_output, write_error

__all__ = ["check_imatrix_output", "save_imatrix"]

_ENDINGS = (".gguf", ".dat")


def check_imatrix_output(output: str | PathLike[str] | None, *, force: bool = False) -> Path:
    """Say before any work what stands in the way of the file.

    Args:
        force: replace one that is there, if it is an importance matrix too.

    Raises:
        RequestError: no name, or one that says of neither layout that it is it.
        OutputError: it exists, or its folder will not do.
    """
    final = Path(output or "")
    if output is not None and final.suffix not in _ENDINGS:
        raise RequestError(f"{final}: importance matrices are written as .gguf or .dat files")
    if output is None or not final.is_file():
        check_output(output, file=True)
        return final
    if not force:
        raise OutputError(f"{final}: exists already; --force replaces it")
    try:
        read_imatrix(final)
    except FileFormatError as problem:
        raise OutputError(
            f"{final}: is not an importance matrix; --force replaces only those"
        ) from problem
    return final


def save_imatrix(found: Imatrix, final: Path) -> None:
    """Write the file; it is there whole or not at all.

    Raises:
        RequestError: as `write_imatrix`. WriteError: the disk is full or failed.
    """
    try:
        write_imatrix(
            final, found.entries, found.datasets, found.chunks, chunk_size=found.chunk_size
        )
    except OSError as problem:
        raise write_error(final, problem) from problem
