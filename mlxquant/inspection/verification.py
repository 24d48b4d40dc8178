"""Reads every byte of a model and says what is wrong with it, in bounded memory.

A float is NaN or infinite exactly when its exponent bits are all ones, so its bits, sign aside, are
at or above those of infinity. Seen as a signed integer that is the array's maximum for positive
values, and seen as an unsigned one for negative values: two integer maxima a block tell whether
there is anything to look for, and no float is ever made.

    float type   NaN                     infinity          source
    F16          above 7C00              7C00              IEEE 754
    BF16         above 7F80              7F80              the upper half of an F32
    F32          above 7F800000          7F800000          IEEE 754
    F8_E5M2      above 7C                7C                OCP 8-bit floating point 1.0
    F8_E4M3      7F                      none              OCP 8-bit floating point 1.0
    F8_E8M0      FF, of 256 codes        none, no sign     OCP microscaling formats 1.0
    F8_*FNUZ     80, of 256 codes        none              the variants of other vendors
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from ..files.gguf_types import tensor_type
from ..files.sniff import open_regular
from ..formats.base import Array
from ..load.blocks import BLOCK_TYPES
from ..load.checkpoint import Checkpoint, QuantizedTensor, StoredTensor
from .bad_blocks import BadBlocks, index_of
from .problems import Problem

__all__ = ["SHOWN", "scan", "sha256_of"]

Progress = Callable[[int, int, str], None]

#: positions of bad values that are told, a tensor; all are counted
SHOWN = 8

_CHUNK = 8 << 20  # bytes read at once, a thread
_BLOCK = 512 << 10  # bytes examined at once: what a core's second-level cache holds


@dataclass(frozen=True)
class _Floats:
    """How to tell non-finite codes: by magnitude, or where `code` is given by that one code."""

    width: int
    limit: int = 0  # magnitudes from here on are not finite
    infinity: bool = True  # `limit` itself is an infinity, not a NaN
    code: int | None = None

    @property
    def sign(self) -> int:
        return 1 << (8 * self.width - 1)


_FLOATS = {
    "F16": _Floats(2, 0x7C00),
    "BF16": _Floats(2, 0x7F80),
    "F32": _Floats(4, 0x7F800000),
    "C64": _Floats(4, 0x7F800000),
    "F64": _Floats(8, 0x7FF0000000000000),
    "F8_E5M2": _Floats(1, 0x7C),
    "F8_E4M3": _Floats(1, 0x7F, infinity=False),
    "F8_E8M0": _Floats(1, code=0xFF),
    "F8_E4M3FNUZ": _Floats(1, code=0x80),
    "F8_E5M2FNUZ": _Floats(1, code=0x80),
}


@dataclass
class _Finding:
    """What was seen of one stored array. `shape` and `floats` are of its values: a stored word may
    hold several."""

    tensor: StoredTensor
    floats: _Floats | None
    shape: tuple[int, ...]
    zeros: str = ""  # what to say if every value is zero; empty where zeros are nothing special
    nan: int = 0
    infinite: int = 0
    first: list[tuple[str, int]] = field(default_factory=list)
    nonzero: bool = False

    #: bytes of which chunks must have a whole number
    unit = 8

    def examine(self, chunk: Array, begin: int) -> None:
        """Look at a chunk.

        Args:
            chunk: uint8 [n], whole values.
            begin: the chunk's first byte, counted from the tensor's.
        """
        if self.floats is None:
            return
        for start in range(0, chunk.size, _BLOCK):
            self._block(chunk[start : start + _BLOCK], begin + start, self.floats)

    def _block(self, block: Array, begin: int, floats: _Floats) -> None:
        codes = block.view(f"<u{floats.width}")
        if floats.code is not None:
            self.nonzero = True  # codes of a scale: zero bits are no zero
            bad = codes == floats.code
            if bad.any():
                self._record(codes, bad, begin // floats.width, floats)
            return
        high, signed_high = int(codes.max()), int(codes.view(f"<i{floats.width}").max())
        if signed_high > 0 or high > floats.sign:  # else nothing but zeros of either sign
            self.nonzero = True
        if signed_high >= floats.limit or high >= floats.sign | floats.limit:
            bad = (codes & codes.dtype.type(floats.sign - 1)) >= floats.limit
            self._record(codes, bad, begin // floats.width, floats)

    def _record(self, codes: Array, bad: Array, begin: int, floats: _Floats) -> None:
        places = np.flatnonzero(bad)
        values = codes[places]
        infinite = np.zeros(places.shape, dtype=bool)
        if floats.code is None and floats.infinity:
            infinite = (values & codes.dtype.type(floats.sign - 1)) == floats.limit
        self.infinite += int(infinite.sum())
        self.nan += int(places.size - infinite.sum())
        room = SHOWN - len(self.first)
        for place, value, is_infinite in zip(
            places[:room], values[:room], infinite[:room], strict=True
        ):
            sign = "-" if is_infinite and int(value) & floats.sign else ""
            self.first.append((f"{sign}Inf" if is_infinite else "NaN", begin + int(place)))

    def problems(self) -> Iterator[Problem]:
        """What there is to say of this array."""
        counts = ((self.nan, "NaN", "nan"), (self.infinite, "Inf", "inf"))
        for count, what, kind in counts:
            if not count:
                continue
            places = [
                index_of(flat, self.shape) for name, flat in self.first if name.endswith(what)
            ]
            shown = ", ".join(str(list(place)) for place in places)
            where = f" at {shown}" if shown else ""
            more = f" and {count - len(places)} more" if count > len(places) and places else ""
            yield Problem(
                kind=kind,
                file=self.tensor.file.name,
                tensor=self.tensor.name,
                message=f"{count} {what}{where}{more}",
                count=count,
                indices=tuple(places),
            )
        if self.zeros and self.tensor.size and not self.nonzero:
            yield Problem("zeros", self.tensor.file.name, self.tensor.name, self.zeros, note=True)


class _BlocksFinding:
    """The same of a weight of ggml's blocks."""

    def __init__(self, tensor: StoredTensor, owner: QuantizedTensor) -> None:
        self.tensor, self.nonzero = tensor, True
        self.unit = tensor_type(owner.format).block_bytes
        self._bad = BadBlocks(owner.format, owner.shape)

    def examine(self, chunk: Array, begin: int) -> None:
        """As `_Finding.examine`; whole blocks."""
        self._bad.examine(chunk.reshape(-1, self.unit), begin // self.unit)

    def problems(self) -> Iterator[Problem]:
        """What there is to say of this array."""
        return self._bad.problems(self.tensor.file.name, self.tensor.name)


def scan(
    checkpoint: Checkpoint,
    hashes: dict[str, str] | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[Problem]:
    """Read every byte of the weights.

    Args:
        checkpoint: an opened model.
        hashes: SHA-256 in hexadecimal that a weight file should have, by file name; files that are
            not named are read but not hashed.
        progress: called with (bytes done, bytes in all, file name), from any thread, one at a time.
        threads: at most so many files at once; None for one a core.

    Returns: NaN and Inf in floats and in the scales and biases of quantized weights, weights that
        are all zero (a note), files that cannot be read to their end or whose hash differs; in the
        order of the files and tensors. Memory: 8 MiB a thread.
    """
    files: dict[Path, list[_Finding | _BlocksFinding]] = {path: [] for path in checkpoint.shards}
    for finding in _findings(checkpoint):
        files.setdefault(finding.tensor.file, []).append(finding)
    counter = _Counter(sum(_size(path) for path in files), progress)
    wanted = hashes or {}

    def one(path: Path) -> list[Problem]:
        found = sorted(files[path], key=lambda finding: finding.tensor.start)
        return _scan_file(path, found, wanted.get(path.name), counter)

    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, max(len(files), 1))) as pool:
        return [problem for problems in pool.map(one, files) for problem in problems]


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hexadecimal, read in bounded memory.

    Raises:
        FileFormatError: it cannot be opened or read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as (handle, size):
        view = memoryview(bytearray(min(_CHUNK, max(size, 1))))
        offset = 0
        while got := _read(path, handle, view, offset):
            digest.update(view[:got])
            offset += got
    return digest.hexdigest()


class _Counter:
    """Bytes done, over all threads."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._lock = threading.Lock()
        self._done, self._total, self._progress = 0, total, progress

    def add(self, count: int, name: str) -> None:
        """Count bytes of the file `name` as done."""
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(self._done, self._total, name)


def _scan_file(
    path: Path, findings: Sequence[_Finding | _BlocksFinding], wanted: str | None, counter: _Counter
) -> list[Problem]:
    """Read one file from its first byte to its last, in order, each byte once."""
    digest = hashlib.sha256() if wanted else None
    problems: list[Problem] = []
    # The findings come in file order without holes; what lies before the first is the header.
    spans: list[tuple[int, int, _Finding | _BlocksFinding | None]] = []
    end = 0
    for finding in findings:
        if finding.tensor.start > end:
            spans.append((end, finding.tensor.start, None))
        spans.append((finding.tensor.start, finding.tensor.stop, finding))
        end = finding.tensor.stop
    try:
        with open_regular(path) as (handle, size):
            if hasattr(os, "posix_fadvise"):
                with suppress(OSError):
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            buffer = np.empty(min(_CHUNK, max(size, 8)) // 8 * 8 or 8, dtype=np.uint8)
            view = buffer.data
            if size > end:
                spans.append((end, size, None))
            for start, stop, owner in spans:
                unit = owner.unit if owner is not None else 1
                step = buffer.size // unit * unit
                for offset in range(start, stop, step):
                    count = min(step, stop - offset)
                    got = _read(path, handle, view[:count], offset)
                    if got < count:
                        raise FileFormatError(
                            path,
                            "file",
                            f"ends at byte {offset + got}, {stop} expected; it changed while it "
                            "was read",
                        )
                    if digest is not None:
                        digest.update(view[:count])
                    if owner is not None:
                        owner.examine(buffer[:count], offset - start)
                    counter.add(count, path.name)
    except FileFormatError as problem:
        problems.append(Problem("unreadable", path.name, None, problem.reason))
        for finding in findings:
            finding.nonzero = True  # what was not read may be
    else:
        if digest is not None and (found := digest.hexdigest()) != wanted:
            message = f"its SHA-256 is {found}, the manifest says {wanted}"
            problems.append(Problem("hash", path.name, None, message))
    for finding in findings:
        problems.extend(finding.problems())
    return problems


def _findings(checkpoint: Checkpoint) -> Iterator[_Finding | _BlocksFinding]:
    """What to look at in each stored array, and as what."""
    owners = {
        part.name: tensor
        for tensor in checkpoint.tensors.values()
        if isinstance(tensor, QuantizedTensor)
        for part in tensor.parts
    }
    for tensor in checkpoint.stored.values():
        owner = owners.get(tensor.name)
        dtype, zeros = tensor.dtype, ""
        if owner is not None and owner.format in BLOCK_TYPES:
            yield _BlocksFinding(tensor, owner)
            continue
        if owner is not None:
            dtype = _packed_type(tensor, owner.format)
            if tensor.name.endswith("scales"):
                zeros = "all its scales are zero"
        elif tensor.name.endswith("_scales") and dtype == "U8":
            dtype = "F8_E8M0"
        elif len(tensor.shape) > 1:
            zeros = "all its values are zero"
        floats = _FLOATS.get(dtype)
        yield _Finding(tensor, floats, _shape_of(tensor, floats), zeros if floats else "")


def _packed_type(tensor: StoredTensor, format_name: str) -> str:
    """The float type of the values in a quantized weight's array, or its own element type."""
    weight = tensor.name.endswith("weight")
    if format_name.startswith("mxfp") and tensor.dtype == "U8":
        return "F8_E8M0"
    if format_name.startswith("nvfp") and tensor.dtype == "U8":
        return "F8_E4M3"
    if format_name.startswith("mxfp8") and weight:
        return "F8_E4M3"
    return tensor.dtype


def _shape_of(tensor: StoredTensor, floats: _Floats | None) -> tuple[int, ...]:
    """The shape of the values: as stored, but that a word may hold several."""
    if floats is None or not tensor.size:
        return tensor.shape
    several = tensor.nbytes // tensor.size // floats.width
    if several == 1:
        return tensor.shape
    return (*tensor.shape[:-1], tensor.shape[-1] * several) if tensor.shape else (several,)


def _read(path: Path, handle: int, view: memoryview, offset: int) -> int:
    """Fill `view` from the file; fewer bytes than it holds only at the file's end."""
    done = 0
    try:
        while done < len(view):
            got = os.preadv(handle, [view[done:]], offset + done)
            if got == 0:
                break
            done += got
    except OSError as problem:
        raise FileFormatError(
            path, "file", f"cannot be read at byte {offset + done}: {problem.strerror}"
        ) from problem
    return done


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
