"""Broken safetensors files (and files that are none) as bytes, and what each must get."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from hostile.building import raw

A = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}


def _entry(**changes: Any) -> dict[str, Any]:
    return {"a": A | changes}


#: name → (the file's bytes, what the error must contain)
HEADERS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "empty file": (lambda: b"", ("empty file",)),
    "four bytes": (lambda: b"\x02\0\0\0", ("truncated", "4 bytes")),
    "length alone": (lambda: struct.pack("<Q", 2), ("truncated", "8 bytes")),
    "header length 0": (lambda: raw(b"", b"data", 0), ("header length @0", "0, at least 2")),
    "header length 2^64-1": (
        lambda: raw({}, length=2**64 - 1),
        ("header length @0", str(2**64 - 1), "100000000"),
    ),
    "header length over 100 MB": (
        lambda: raw({}, length=100_000_001),
        ("header length @0", "100000001", "limit is 100000000"),
    ),
    "header longer than the file": (
        lambda: raw({}, length=99_999_999),
        ("truncated", "100000007", "10"),
    ),
    "not JSON": (lambda: raw(b"{nonsense}   "), ("header @9", "invalid JSON")),
    "a list": (lambda: raw(b"[1,2,3]"), ("'{' expected",)),
    "JSON cut short": (lambda: raw(json.dumps({"a": A}).encode()[:-1], b"1234"), ("invalid JSON",)),
    "a trailing comma in a tensor": (
        lambda: raw(json.dumps(_entry()).encode().replace(b"}}", b",}}"), b"1234"),
        ("tensor 'a' @14", "invalid JSON"),
    ),
    "two objects": (lambda: raw(b"{}{}"), ("invalid JSON",)),
    "a trailing comma": (lambda: raw(b'{"a":%s,}' % json.dumps(A).encode(), b"1234"), ("invalid",)),
    "not UTF-8": (
        lambda: raw(json.dumps({"@": A}).encode().replace(b"@", b"\xff"), b"1234"),
        ("invalid text", "utf-8"),
    ),
    "a lone surrogate": (
        lambda: raw(b'{"\\ud800":%s}' % json.dumps(A).encode(), b"1234"),
        ("invalid text", "surrogates"),
    ),
    "lists 10^5 deep": (
        lambda: raw(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        ("tensor 'a' @13", "invalid JSON"),
    ),
    "objects 10^5 deep": (lambda: raw(b'{"a":' * 10**5 + b"1" + b"}" * 10**5), ("invalid JSON",)),
    "lists 10^5 deep in metadata": (
        lambda: raw(b'{"__metadata__":{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}}"),
        ("__metadata__ 'a'", "text expected within"),
    ),
    "a shape 10^3 deep": (
        lambda: raw(
            json.dumps(_entry(shape="@")).encode().replace(b'"@"', b"[" * 999 + b"]" * 999)
        ),
        ("tensor 'a'", "lists of integers"),
    ),
    "a name twice": (
        lambda: raw(b'{"a":%s,"a":%s}' % ((json.dumps(A).encode(),) * 2), b"1234"),
        ("tensor 'a'", "duplicate name"),
    ),
    "a name twice, once escaped": (
        lambda: raw(b'{"a":%s,"\\u0061":%s}' % ((json.dumps(A).encode(),) * 2), b"1234"),
        ("tensor 'a'", "duplicate name"),
    ),
    "metadata twice": (
        lambda: raw(b'{"__metadata__":{},"__metadata__":{}}'),
        ("__metadata__", "duplicate name"),
    ),
    "a metadata key twice": (
        lambda: raw(b'{"__metadata__":{"k":"1","k":"2"}}'),
        ("__metadata__ 'k'", "duplicate name"),
    ),
    "metadata of numbers": (lambda: raw({"__metadata__": {"k": 1}}), ("__metadata__ 'k'", "text")),
    "dtype twice": (
        lambda: raw(b'{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"1234"),
        ("tensor 'a'", '["dtype", "dtype", "shape", "data_offsets"]', "each once"),
    ),
    "no shape": (
        lambda: raw({"a": {"dtype": "U8", "data_offsets": [0, 4], "shapes": [4]}}, b"1234"),
        ("tensor 'a'", 'has ["dtype", "data_offsets", "shapes"]'),
    ),
    "a name of nothing": (lambda: raw({"": A}, b"1234"), ("bad name",)),
    "a name with a newline": (lambda: raw({"a\nb": A}, b"1234"), ("bad name", "a\\nb")),
    "a name of 5000 bytes": (
        lambda: raw({"n" * 5000: A}, b"1234"),
        ("header @9", "expected within 4096 bytes"),
    ),
    "a shape of 5000 bytes": (
        lambda: raw(_entry(shape=[1] * 2500)),
        ("tensor 'a' @14", "expected within 4096 bytes"),
    ),
    "offsets reversed": (
        lambda: raw(_entry(data_offsets=[4, 0]), b"1234"),
        ("tensor 'a'", "[4, 0]", "reversed"),
    ),
    "offsets negative": (
        lambda: raw(_entry(data_offsets=[-4, 0]), b"1234"),
        ("tensor 'a'", "[-4, 0]"),
    ),
    "offsets of 3 numbers": (lambda: raw(_entry(data_offsets=[0, 2, 4]), b"1234"), ("[0, 2, 4]",)),
    "offsets true": (lambda: raw(_entry(data_offsets=[False, 4]), b"1234"), ("[false, 4]",)),
    "offsets of floats": (lambda: raw(_entry(data_offsets=[0.0, 4]), b"1234"), ("[0.0, 4]",)),
    "offsets past 2^63": (
        lambda: raw(_entry(data_offsets=[2**63, 2**63 + 4]), b"1234"),
        ("2^63-1",),
    ),
    "offsets overlapping": (
        lambda: raw({"a": A, "b": A | {"data_offsets": [2, 6]}}, b"123456"),
        ("tensor 'b'", "data byte 2", "tensor 'a' ends at 4", "overlap"),
    ),
    "the same bytes twice": (lambda: raw({"a": A, "b": A}, b"1234"), ("tensor 'b'", "overlap")),
    "a hole": (
        lambda: raw({"a": A, "b": A | {"data_offsets": [6, 10]}}, b"1234567890"),
        ("tensor 'b'", "a hole of 2 bytes"),
    ),
    "a hole at the start": (
        lambda: raw(_entry(data_offsets=[1, 5]), b"12345"),
        ("tensor 'a'", "the header ends at 0", "a hole of 1 bytes"),
    ),
    "past the end": (
        lambda: raw(_entry(shape=[2**40], data_offsets=[0, 2**40]), b"1234"),
        ("tensor 'a'", "past the file's end", "bytes expected", "found"),
    ),
    "range smaller than the shape": (
        lambda: raw(_entry(shape=[5]), b"1234"),
        ("tensor 'a'", "U8 [5] needs 5 bytes", "[0, 4] hold 4"),
    ),
    "range larger than the shape": (
        lambda: raw(_entry(shape=[3]), b"1234"),
        ("tensor 'a'", "U8 [3] needs 3 bytes"),
    ),
    "a size that wraps 64 bits": (
        lambda: raw(_entry(dtype="F32", shape=[2**62 + 1, 1]), b"1234"),
        ("tensor 'a'", f"needs {2**64 + 4} bytes", "hold 4"),
    ),
    "dimensions that wrap 64 bits": (
        lambda: raw(_entry(shape=[4194305, 4194305, 211106198978564]), b"1234"),
        ("tensor 'a'", "needs 3713821", "hold 4"),
    ),
    "a negative dimension": (lambda: raw(_entry(shape=[-4]), b"1234"), ("tensor 'a'", "[-4]")),
    "two negative dimensions": (lambda: raw(_entry(shape=[-2, -2]), b"1234"), ("[-2, -2]",)),
    "a dimension of 2^63": (lambda: raw(_entry(shape=[2**63]), b"1234"), ("2^63-1",)),
    "a dimension true": (lambda: raw(_entry(shape=[True, 4]), b"1234"), ("[true, 4]",)),
    "a dimension 4.0": (lambda: raw(_entry(shape=[4.0]), b"1234"), ("[4.0]",)),
    "a dimension NaN": (lambda: raw(_entry(shape=[float("nan")]), b"1234"), ("[NaN]",)),
    "a dimension of 4000 digits": (
        lambda: raw(b'{"a":{"dtype":"U8","shape":[1%s],"data_offsets":[0,4]}}' % (b"0" * 3999)),
        ("tensor 'a'",),
    ),
    "33 dimensions": (lambda: raw(_entry(shape=[1] * 32 + [4]), b"1234"), ("at most 32",)),
    "a shape of text": (lambda: raw(_entry(shape="[[4"), b"1234"), ("tensor 'a'",)),
    "half a byte": (
        lambda: raw(_entry(dtype="F4", shape=[7]), b"1234"),
        ("F4 [7] needs 28 bits", "hold 4"),
    ),
    "trailing bytes": (
        lambda: raw({"a": A}, b"123456"),
        ("end of data", "2 trailing bytes", "72 bytes expected, 74 found"),
    ),
    "trailing bytes and no tensor": (lambda: raw({}, b"123456"), ("6 trailing bytes",)),
    "an unknown dtype": (
        lambda: raw(_entry(dtype="Q4_K"), b"1234"),
        ("tensor 'a'", 'unknown dtype "Q4_K"', "BF16"),
    ),
    "a dtype in lower case": (lambda: raw(_entry(dtype="u8"), b"1234"), ('unknown dtype "u8"',)),
    "a dtype that is no text": (lambda: raw(_entry(dtype=8), b"1234"), ("unknown dtype 8",)),
    # Things that are no safetensors files at all.
    "HTML": (lambda: b"<!DOCTYPE html><html><body>Sign in</body></html>", ("an HTML page",)),
    "Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        ("a Git LFS pointer", "git lfs pull"),
    ),
    "ZIP": (lambda: b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(40), ("a ZIP archive",)),
    "pickle": (lambda: b"\x80\x04\x95\x0b\0\0\0\0\0\0\0" + bytes(40), ("a pickle",)),
    "PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(40), ("a PNG image",)),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + bytes(40), ("a GGUF file",)),
    "gzip": (lambda: b"\x1f\x8b\x08\0\0\0\0\0" + bytes(40), ("a gzip archive",)),
    "zeros": (lambda: bytes(4096), ("zero bytes", "download it again")),
}
