"""llama.cpp's importance matrices: what each matrix of a model saw of its input, in GGUF's names.

    GGUF   general.type "imatrix", imatrix.datasets [str], imatrix.chunk_count u32,
           imatrix.chunk_size u32; for every matrix
           <tensor>.in_sum2   F32 [experts, columns]   sums of squares
           <tensor>.counts    F32 [experts, 1]         tokens
    .dat   the older layout, files/imatrix_dat.py

The mean square of a column's input is what an error of the column's weights costs: Σ v · (w - ŵ)²
is the mean square of the error in a matrix's output, but for what inputs have to do with each
other. Both layouts become `Entry`, a row of sums and a count for every expert; where nothing came
to an expert, its columns count alike. The means are those of llama-quantize, bit for bit.

Facts: tools/imatrix, tools/quantize and common/imatrix-loader.cpp of
https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, RequestError
from ..files.atomic import sync_folder, write_file
from ..files.gguf import GgufEntry, GgufHeader, read_gguf
from ..files.gguf_values import Value
from ..files.gguf_writer import build_gguf
from ..files.imatrix_dat import DatEntry, build_dat, first_wrong, read_dat
from ..files.quote import quote
from ..files.sniff import open_regular

__all__ = ["CHUNK", "Entry", "Imatrix", "read_imatrix", "write_imatrix"]

#: tokens of a chunk where nothing is said, llama-imatrix's default
CHUNK = 512

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNKS, _SIZE = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")
_LARGEST = 2**31 - 1
#: tokens; counts are float32 in GGUF, and not exact beyond 2^24
_MOST = 2**53


@dataclass(frozen=True, eq=False)
class Entry:
    """What one matrix, or each of a stack of experts, saw of its input.

    Attributes:
        sums: float32 [experts, columns], of squared inputs; one row for a single matrix. From a
            `.dat` file [1, experts · columns], which does not say how many experts there are.
        counts: int64 [experts], how many inputs were summed: tokens; of a `.dat` file chunks.

    Raises:
        RequestError: of other shapes; a sum or a count that is negative, infinite or NaN.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        sums = np.ascontiguousarray(self.sums, np.float32)
        counts = np.ascontiguousarray(self.counts, np.int64)
        if sums.ndim != 2 or counts.shape != sums.shape[:1] or not sums.size:
            raise RequestError(
                f"sums have shape {list(sums.shape)} and counts {list(counts.shape)}; "
                "[experts, columns] and [experts] needed"
            )
        wrong = first_wrong(sums)
        if wrong is not None or not ((counts >= 0) & (counts <= _MOST)).all():
            count = int(counts.min() if counts.min() < 0 else counts.max())
            what = f"count {count}" if wrong is None else f"sum {wrong[1]:g}"
            raise RequestError(f"a {what} among importance data; collect them anew")
        object.__setattr__(self, "sums", sums)
        object.__setattr__(self, "counts", counts)

    @classmethod
    def of(cls, sums: NDArray[np.floating], count: int | Sequence[int]) -> Entry:
        """One matrix's sums [columns], or a stack's [experts, columns]; a count for each."""
        rows = np.atleast_2d(np.asarray(sums))
        counts = np.asarray(count, np.int64)
        return cls(rows.astype(np.float32), np.broadcast_to(counts, rows.shape[:1]).copy())

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean squares, float32 [experts, columns]; 1 where nothing was seen."""
        counts = self.counts.astype(np.float32)[:, None]
        seen = counts > 0
        return np.where(seen, self.sums / np.where(seen, counts, np.float32(1)), np.float32(1))

    def of_columns(self, columns: int) -> NDArray[np.float32]:
        """Mean squares, float32 [matrices, columns].

        Raises:
            RequestError: as many columns do not make whole rows of them.
        """
        if self.sums.size % columns:
            raise RequestError(f"{self.sums.size} values do not make rows of {columns} columns")
        return self.mean.reshape(-1, columns)

    @property
    def unseen(self) -> int:
        """How many experts saw nothing."""
        return int((self.counts == 0).sum())


@dataclass(frozen=True, eq=False)
class Imatrix:
    """Importance data of a model.

    Attributes:
        entries: by the name of the tensor in GGUF, e.g. `blk.0.ffn_down.weight`.
        datasets: the texts that they were collected on, as the collector called them.
        chunks: of text; chunk_size: tokens of each, 0 where counts are of chunks (`.dat`).
        name: of the file that they are from, without its folder; empty where there is none.
        digest: SHA-256 of that file.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = CHUNK
    name: str = ""
    digest: str = field(default="", repr=False)

    def only(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Imatrix:
        """The entries whose name has one of `include` in it, if there are any, and none of
        `exclude`: llama-quantize's --include-weights and --exclude-weights."""
        kept = {
            name: entry
            for name, entry in self.entries.items()
            if not any(part in name for part in exclude)
            and (not include or any(part in name for part in include))
        }
        return replace(self, entries=kept)

    def described(self) -> dict[str, object]:
        """What a plan says of it, as plain data; all that the means depend on is in it."""
        digest = self.digest or _digest_of(self.entries)
        return {"file": self.name, "sha256": digest, "entries": len(self.entries)}

    def metadata(self) -> dict[str, Value]:
        """The keys that llama-quantize writes into a model made with it; texts of 127 bytes.

        Of the file its own name only: where it lay is nobody else's business.
        """
        found = {"quantize.imatrix.file": _short(self.name or "imatrix")}
        if self.datasets:
            found["quantize.imatrix.dataset"] = _short(self.datasets[0])
        found["quantize.imatrix.entries_count"] = Value.of("u32", len(self.entries))
        if self.chunks > 0:
            found["quantize.imatrix.chunks_count"] = Value.of("u32", self.chunks)
        return found


def read_imatrix(path: str | os.PathLike[str]) -> Imatrix:
    """Read importance data, of either layout, whatever the file is called.

    Raises:
        FileFormatError: the file is missing, is something else, or lies.
    """
    file = Path(path)
    with open_regular(file) as (handle, size):
        is_gguf = os.pread(handle, 4, 0) == b"GGUF"
        digest = _digest_of_file(handle, size)
    found = _read_gguf(file) if is_gguf else _read_dat(file)
    return replace(found, name=file.name, digest=digest)


def write_imatrix(
    path: str | os.PathLike[str],
    entries: Mapping[str, Entry],
    datasets: Sequence[str] = (),
    chunks: int = 0,
    *,
    chunk_size: int = CHUNK,
) -> None:
    """Write importance data; the file is there whole or not at all.

    Args:
        path: `….gguf`, or `….dat` for the older layout, which has means in place of sums, and
            leaves out matrices that saw nothing.
        entries: by the name of the tensor in GGUF.
        datasets: what they were collected on; of several, `.dat` holds the last.
        chunks: of text; chunk_size: tokens of each, 0 where counts are of chunks.

    Raises:
        RequestError: another ending of the name, no entries, a name that GGUF cannot hold, a count
            beyond the layout's numbers.
        OSError: the file cannot be written.
    """
    file = Path(path)
    if not entries:
        raise RequestError(f"{file}: there are no importance data to write")
    if not 0 <= chunk_size <= _LARGEST or not 0 <= chunks <= _LARGEST:
        raise RequestError(f"{file}: {chunks} chunks of {chunk_size} tokens, out of range")
    ordered = {name: entries[name] for name in sorted(entries)}
    if file.suffix == ".gguf":
        data = _build_gguf(file, ordered, datasets, chunks, chunk_size)
    elif file.suffix == ".dat":
        data = _build_dat(file, ordered, datasets, chunks, chunk_size)
    else:
        raise RequestError(f"{file}: importance matrices are written as .gguf or .dat files")
    partial = file.with_name(f"{file.name}.partial")
    try:
        write_file(partial, data)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(file.parent)


# -- GGUF -----------------------------------------------------------------------------------------


def _read_gguf(file: Path) -> Imatrix:
    header = read_gguf(file)
    if not any(name.endswith(_SUMS) for name in header.entries):
        kind = header.get("general.type", "model")
        reason = f"general.type is {quote(str(kind))} and no tensor ends in {_SUMS}: "
        raise FileFormatError(file, "tensors", f"{reason}this is no importance matrix")
    datasets = _key(header, _DATASETS, "[str]")
    chunks, size = _key(header, _CHUNKS, "u32"), _key(header, _SIZE, "u32")
    entries = {}
    with open_regular(file) as (handle, _):
        for name, entry in sorted(header.entries.items()):
            tensor = name.removesuffix(_SUMS)
            if tensor == name:
                if name.removesuffix(_COUNTS) + _SUMS not in header.entries:
                    _blame(file, entry, f"neither {_SUMS} nor the {_COUNTS} of any")
                continue
            counts = header.entries.get(tensor + _COUNTS)
            if counts is None:
                _blame(file, entry, f"{quote(tensor + _COUNTS)} is missing beside it")
            entries[tensor] = _entry(file, handle, entry, counts)
    texts = tuple(datasets.value)
    return Imatrix(entries, texts, min(chunks.value, _LARGEST), min(size.value, _LARGEST))


def _key(header: GgufHeader, key: str, kind: str) -> Value:
    found = header.metadata.get(key)
    if found is None:
        raise FileFormatError(header.path, key, f"missing; an importance matrix has it, {kind}")
    if found.kind != kind:
        raise FileFormatError(header.path, key, f"of type {found.kind}, {kind} expected")
    return found


def _entry(file: Path, handle: int, sums: GgufEntry, counts: GgufEntry) -> Entry:
    """One matrix's, its values checked."""
    for each in (sums, counts):
        if each.type_name != "F32":
            _blame(file, each, f"of type {each.type_name}, F32 expected")
    values, rows = math.prod(sums.shape), math.prod(counts.shape)
    if values % rows:
        _blame(file, counts, f"{rows} counts for {values} sums, which are no whole rows")
    squares, seen = _floats(file, handle, sums), _floats(file, handle, counts)
    for each, array in ((sums, squares), (counts, seen)):
        wrong = first_wrong(array)
        if wrong is not None:
            what = "sum of squares" if each is sums else "count"
            reason = f"value {wrong[0]} is {wrong[1]:g}, no {what}; collect it anew"
            _blame(file, each, reason, each.start + 4 * wrong[0])
    if seen.max() > _MOST:
        _blame(file, counts, f"a count of {seen.max():g}, at most 2^53 expected")
    return Entry(squares.reshape(rows, -1), np.rint(seen).astype(np.int64))


def _floats(file: Path, handle: int, entry: GgufEntry) -> NDArray[np.float32]:
    """A tensor's values; its range was held against the file when the header was read."""
    data, count = b"", entry.stop - entry.start
    while len(data) < count:
        more = os.pread(handle, count - len(data), entry.start + len(data))
        if not more:
            _blame(file, entry, f"{count} bytes expected, {len(data)} read: did the file change?")
        data += more
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False)


def _blame(file: Path, entry: GgufEntry, reason: str, at: int | None = None) -> NoReturn:
    where = entry.start if at is None else at
    raise FileFormatError(file, f"tensor {quote(entry.name)}", reason, where)


def _build_gguf(
    file: Path,
    entries: Mapping[str, Entry],
    datasets: Sequence[str],
    chunks: int,
    chunk_size: int,
) -> bytes:
    per = CHUNK if chunk_size == 0 else 1  # counts of chunks become counts of tokens
    metadata = {
        "general.type": Value.of("str", "imatrix"),
        _DATASETS: Value.array("str", datasets),
        _CHUNKS: Value.of("u32", chunks),
        _SIZE: Value.of("u32", chunk_size or CHUNK),
    }
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, entry in entries.items():
        with np.errstate(over="ignore"):
            sums = entry.sums * np.float32(per)
        if not np.isfinite(sums).all():
            raise RequestError(f"{file}: entry {quote(name)}: sums beyond float32; write .dat")
        arrays[name + _SUMS] = sums
        arrays[name + _COUNTS] = (entry.counts * per).astype(np.float32)[:, None]
    shapes = [(name, "F32", _shape(array)) for name, array in arrays.items()]
    try:
        header, ranges = build_gguf(metadata, shapes)
    except ValueError as problem:
        raise RequestError(f"{file}: {problem}") from problem
    data = bytearray(-(-ranges[-1][1] // 32) * 32)
    data[: len(header)] = header
    for array, (start, stop) in zip(arrays.values(), ranges, strict=True):
        data[start:stop] = array.astype("<f4").tobytes()
    return bytes(data)


def _shape(array: NDArray[np.float32]) -> tuple[int, ...]:
    """As ggml writes it: without the axis of a single row."""
    return array.shape if len(array) > 1 else array.shape[1:]


# -- .dat -----------------------------------------------------------------------------------------


def _read_dat(file: Path) -> Imatrix:
    found = read_dat(file)
    # values that were never divided by a number of calls are means as they are
    entries = {e.name: Entry.of(e.values, e.calls or 1) for e in found.entries}
    return Imatrix(entries, (found.dataset,) if found.dataset else (), found.chunks, 0)


def _build_dat(
    file: Path,
    entries: Mapping[str, Entry],
    datasets: Sequence[str],
    chunks: int,
    chunk_size: int,
) -> bytes:
    listed = []
    for name, entry in entries.items():
        most = int(entry.counts.max())
        if most == 0:
            continue
        calls = -(-most // max(chunk_size, 1))
        if calls > _LARGEST or entry.sums.size > _LARGEST:
            raise RequestError(f"{file}: entry {quote(name)} is too large for .dat; write .gguf")
        counts = entry.counts.astype(np.float32)[:, None]
        with np.errstate(over="ignore"):
            means = entry.mean * np.float32(calls)
        whole = counts == calls  # sums as they are: x / n · n need not be x
        values = np.where(whole, entry.sums, means).reshape(-1)
        if not np.isfinite(values).all():
            raise RequestError(f"{file}: entry {quote(name)}: values beyond float32; write .gguf")
        listed.append(DatEntry(name, values, calls))
    if not listed:
        raise RequestError(f"{file}: no matrix saw any input; there is nothing to write")
    return build_dat(listed, chunks, datasets[-1] if datasets else "")


# -- the rest -------------------------------------------------------------------------------------


def _short(text: str) -> Value:
    """A text of at most 127 bytes, as llama-quantize has room for."""
    raw = text.encode("utf-8", "surrogateescape")[:127]
    return Value.of("str", raw.decode("utf-8", "ignore"))


def _digest_of_file(handle: int, size: int) -> str:
    digest, at = sha256(), 0
    while at < size and (data := os.pread(handle, 1 << 20, at)):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def _digest_of(entries: Mapping[str, Entry]) -> str:
    """Of importance data that are in no file."""
    digest = sha256()
    for name in sorted(entries):
        entry = entries[name]
        digest.update(f"{name} {entry.sums.shape}".encode())
        digest.update(entry.sums.tobytes())
        digest.update(entry.counts.tobytes())
    return digest.hexdigest()
