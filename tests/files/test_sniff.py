"""Wrong files are named for what they are, and right ones are not mistaken for them."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mlxquant.errors import FileFormatError
from mlxquant.files.sniff import PREFIX, describe, open_regular, sniff


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"b")
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n\n  <HTML lang=en>", "an HTML page"),
        (b"\xef\xbb\xbf<!doctype HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "an XML document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (_zip(), "a ZIP archive"),
        *((pickle.dumps({"a": [1]}, protocol), "a pickle") for protocol in (2, 3, 4, 5)),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (_npy(), "a NumPy"),
        (bytes(PREFIX), "zero bytes"),
    ],
)
def test_names_a_wrong_file(data: bytes, what: str, tmp_path: Path) -> None:
    assert what in str(sniff(data[:PREFIX]))
    (tmp_path / "x").write_bytes(data)
    assert what in str(describe(tmp_path / "x"))


def test_says_nothing_of_right_files(bundled: Path) -> None:
    names = sorted(path.name for path in bundled.iterdir())
    assert "model.safetensors" in names
    assert "tokenizer.json" in names
    for name in names:
        assert describe(bundled / name) is None


def test_names_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert describe(tmp_path) == "a directory, not a file"
    assert describe(tmp_path / "pipe") == "not a regular file"
    assert describe("/dev/null") == "not a regular file"
    assert describe(tmp_path / "gone") is None
    assert describe("nul\0") is None


def test_a_file_is_closed_whatever_happens(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with open_regular(tmp_path / "x") as (handle, size):
        assert (os.read(handle, 9), size) == (b"12345", 5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
    with pytest.raises(FileFormatError), open_regular(tmp_path):
        pass
    with pytest.raises(ZeroDivisionError), open_regular(tmp_path / "x") as (handle, _):
        1 / 0  # noqa: B018
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)
