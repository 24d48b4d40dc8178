"""Broken importance matrices, as data: what the file is, and what its one-line error must contain.

DAT are files of the older layout, GGUF of the newer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from hostile.gguf_building import Metadata, Tensor, gguf, text, value
from hostile.gguf_cases import Case

NAME = "blk.0.attn_q.weight"
HEAD: Metadata = {
    "general.type": ("str", "imatrix"),
    "imatrix.datasets": ("[str]", ["some text"]),
    "imatrix.chunk_count": ("u32", 3),
    "imatrix.chunk_size": ("u32", 512),
}


def entry(
    name: bytes = NAME.encode(),
    values: Sequence[float] = (1.0, 2.0),
    calls: int = 3,
    *,
    length: int | None = None,
    count: int | None = None,
) -> bytes:
    """One entry of a `.dat` file; `length` and `count` are what it claims."""
    return (
        struct.pack("<i", len(name) if length is None else length)
        + name
        + struct.pack("<ii", calls, len(values) if count is None else count)
        + struct.pack(f"<{len(values)}f", *values)
    )


def dat(*entries: bytes, count: int | None = None, tail: bytes | None = None) -> bytes:
    """A `.dat` file of these entries; `count` is how many it claims."""
    number = len(entries) if count is None else count
    end = struct.pack("<ii", 3, 9) + b"some text" if tail is None else tail
    return struct.pack("<i", number) + b"".join(entries) + end


def tensors(**changes: Any) -> list[Tensor]:
    """The sums and the counts of one matrix.

    Args:
        name: of the matrix; sums, counts: (dims in the file's order, values); kinds: ggml types of
            the two.
    """
    name = changes.get("name", NAME)
    dims, sums = changes.get("sums", ((4,), (1.0, 2.0, 3.0, 4.0)))
    many, counts = changes.get("counts", ((1,), (7.0,)))
    kinds = changes.get("kinds", (0, 0))
    data = [np.asarray(each, "<f4").tobytes() for each in (sums, counts)]
    return [
        (f"{name}.in_sum2", dims, kinds[0], 0, data[0]),
        (f"{name}.counts", many, kinds[1], -(-len(data[0]) // 32) * 32, data[1]),
    ]


def without(key: str) -> Metadata:
    """The metadata but for one key."""
    return {name: pair for name, pair in HEAD.items() if name != key}


DAT: dict[str, Case] = {
    "empty": (lambda: b"", ("entry count @0", "empty file")),
    "three bytes": (lambda: b"\1\0\0", ("entry count @0", "3 bytes")),
    "HTML": (lambda: b"<!doctype html><html>" + bytes(99), ("this is an HTML page",)),
    "LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        ("this is a Git LFS pointer: run git lfs pull",),
    ),
    "ZIP": (lambda: b"PK\x03\x04" + bytes(99), ("this is a ZIP archive",)),
    "zeros": (lambda: bytes(4096), ("zero bytes from its start",)),
    "no entries": (lambda: dat(), ("entry count @0: 0 entries",)),
    "entries below zero": (lambda: dat(count=-1), ("entry count @0: -1 entries",)),
    "2^31-1 entries": (
        lambda: dat(entry(), count=2**31 - 1),
        ("entry count @0: 2147483647 exceeds the file",),
    ),
    "an entry too many": (lambda: dat(entry(), count=2), ("entry '\\t\\x00\\x00' @43: bad name",)),
    "an entry too few": (lambda: dat(entry(), entry(b"b"), count=1), ("dataset @",)),
    "a name of length 0": (lambda: dat(entry(b"")), ("entry 0 @4: bad name: 0 bytes",)),
    "a name of negative length": (
        lambda: dat(entry(length=-5)),
        ("entry 0 @4: bad name: -5 bytes",),
    ),
    "a name of 2^31-1 bytes": (
        lambda: dat(entry(length=2**31 - 1)),
        ("entry 0 @4: bad name: 2147483647 bytes", "255"),
    ),
    "a name behind the end": (
        lambda: dat(entry(length=200)),
        ("entry 0 @8: truncated: 200 bytes expected",),
    ),
    "a name that is no UTF-8": (lambda: dat(entry(b"a\xff")), ("entry 0 @9: bad name: not UTF-8",)),
    "a name with an escape": (lambda: dat(entry(b"a\x1b[2J")), ("bad name", "\\x1b")),
    "a name that climbs": (lambda: dat(entry(b"../a")), ("entry '../a' @4: bad name",)),
    "a name twice": (lambda: dat(entry(b"ab"), entry(b"ab")), ("entry 'ab' @26", "twice")),
    "no values": (lambda: dat(entry(values=())), ("@31: 0 values",)),
    "values below zero": (lambda: dat(entry(count=-1)), ("@31: -1 values",)),
    "2^31-1 values": (
        lambda: dat(entry(count=2**31 - 1)),
        ("entry 'blk.0.attn_q.weight' @31: 2147483647 values need 8589934588 bytes",),
    ),
    "a value too many": (lambda: dat(entry(count=3), tail=b""), ("3 values need 12 bytes",)),
    "negative calls": (lambda: dat(entry(calls=-3)), ("@27: -3 calls",)),
    "NaN": (lambda: dat(entry(values=(1, float("nan")))), ("@39: value 1 is nan",)),
    "infinity": (lambda: dat(entry(values=(float("inf"), 1))), ("@35: value 0 is inf",)),
    "a negative value": (lambda: dat(entry(values=(1, -2))), ("@39: value 1 is -2",)),
    "cut in the chunk count": (
        lambda: dat(entry(), tail=b"\1\0"),
        ("chunk count @43: truncated: 4 bytes expected, 2 left",),
    ),
    "chunks below zero": (
        lambda: dat(entry(), tail=struct.pack("<i", -1)),
        ("chunk count @43: -1 is negative",),
    ),
    "a dataset of negative length": (
        lambda: dat(entry(), tail=struct.pack("<ii", 3, -1)),
        ("dataset @47: bad length: -1",),
    ),
    "a dataset of 2^31-1 bytes": (
        lambda: dat(entry(), tail=struct.pack("<ii", 3, 2**31 - 1)),
        ("dataset @47: bad length: 2147483647",),
    ),
    "a dataset behind the end": (
        lambda: dat(entry(), tail=struct.pack("<ii", 3, 9) + b"some"),
        ("dataset @51: truncated: 9 bytes expected, 4 left",),
    ),
    "more behind the end": (
        lambda: dat(entry(), tail=struct.pack("<ii", 3, 1) + b"ab"),
        ("end @52: 1 bytes follow",),
    ),
}

GGUF: dict[str, Case] = {
    "a model": (lambda: gguf(), ("general.type is 'model'", "no importance matrix")),
    "no tensors": (lambda: gguf(HEAD, []), ("general.type is 'imatrix'", ".in_sum2")),
    "the magic alone": (lambda: b"GGUF", ("truncated header",)),
    "cut in the data": (lambda: gguf(HEAD, tensors())[:-40], ("truncated",)),
    "no counts": (
        lambda: gguf(HEAD, tensors()[:1]),
        ("tensor 'blk.0.attn_q.weight.in_sum2'", "'blk.0.attn_q.weight.counts' is missing"),
    ),
    "no sums": (
        lambda: gguf(HEAD, [*tensors(), ("b.counts", (1,), 0, 64, bytes(4))]),
        ("tensor 'b.counts' @", "neither .in_sum2 nor the .counts of any"),
    ),
    "a tensor that is neither": (
        lambda: gguf(HEAD, [*tensors(), ("b.weight", (1,), 0, 64, bytes(4))]),
        ("tensor 'b.weight' @", "neither .in_sum2 nor the .counts of any"),
    ),
    "sums in F16": (
        lambda: gguf(HEAD, tensors(sums=((4,), (1.0, 2.0)), kinds=(1, 0))),
        (".in_sum2' @", "of type F16, F32 expected"),
    ),
    "counts in I32": (
        lambda: gguf(HEAD, tensors(kinds=(0, 26))),
        (".counts' @", "of type I32, F32 expected"),
    ),
    "counts that divide no sums": (
        lambda: gguf(HEAD, tensors(counts=((1, 3), (1.0, 1.0, 1.0)))),
        (".counts' @", "3 counts for 4 sums"),
    ),
    "NaN among the sums": (
        lambda: gguf(HEAD, tensors(sums=((2,), (1.0, float("nan"))))),
        (".in_sum2' @", "value 1 is nan, no sum of squares"),
    ),
    "a negative sum": (
        lambda: gguf(HEAD, tensors(sums=((2,), (-1.0, 1.0)))),
        (".in_sum2' @", "value 0 is -1, no sum of squares"),
    ),
    "a negative count": (
        lambda: gguf(HEAD, tensors(counts=((1,), (-1.0,)))),
        (".counts' @", "value 0 is -1, no count"),
    ),
    "a count beyond all": (
        lambda: gguf(HEAD, tensors(counts=((1,), (1e30,)))),
        (".counts' @", "a count of 1e+30"),
    ),
    "no datasets": (
        lambda: gguf(without("imatrix.datasets"), tensors()),
        ("imatrix.datasets: missing", "[str]"),
    ),
    "no chunk count": (
        lambda: gguf(without("imatrix.chunk_count"), tensors()),
        ("imatrix.chunk_count: missing", "u32"),
    ),
    "a chunk size of another type": (
        lambda: gguf(HEAD | {"imatrix.chunk_size": ("str", "512")}, tensors()),
        ("imatrix.chunk_size: of type str, u32 expected",),
    ),
    "datasets that are one text": (
        lambda: gguf(HEAD | {"imatrix.datasets": ("str", "a")}, tensors()),
        ("imatrix.datasets: of type str, [str] expected",),
    ),
    "datasets without end": (
        lambda: gguf(HEAD | {"imatrix.datasets": ("raw", struct.pack("<IIQ", 9, 8, 2**61))}, []),
        ("imatrix.datasets", "bad array"),
    ),
    "a dataset of 2^64-1 bytes": (
        lambda: gguf(
            HEAD | {"imatrix.datasets": ("raw", struct.pack("<IIQQ", 9, 8, 1, 2**64 - 1))}, []
        ),
        ("imatrix.datasets", "bad length"),
    ),
    "2^40 sums": (
        lambda: gguf(HEAD, tensors(sums=((1 << 40,), (1.0,)))),
        ("tensor 'blk.0.attn_q.weight.in_sum2'", "the whole file has"),
    ),
    "a key twice": (
        lambda: gguf(HEAD, tensors(), keys=5).replace(
            text("imatrix.chunk_size") + value("u32", 512),
            2 * (text("imatrix.chunk_size") + value("u32", 512)),
        ),
        ("duplicate key",),
    ),
}
