"""The header reader against the safetensors library, against every lie, and against chance."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hostile.building import file_bytes, raw, tensor
from hostile.headers import HEADERS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxquant.errors import FileFormatError
from mlxquant.files.safetensors import HEADER_LIMIT, ITEM_BITS, build_header, read_header

FILE = {
    "b": tensor("F32", 2, 3),
    "a": tensor("U8", 5),
    "z": tensor("BF16", 0, 7),
    "s": tensor("F16"),
}


EMPTY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def test_entries_are_absolute_and_in_the_order_of_their_bytes(file: Path) -> None:
    header = {
        "second": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        "__metadata__": {"format": "mlx", "é": '{"a": "\\""}'},
        "first": {"data_offsets": [0, 3], "dtype": "U8", "shape": [3]},
        "scalar": {"dtype": "F16", "shape": [], "data_offsets": [11, 13]},
    }
    file.write_bytes(raw(header, bytes(13)))
    found = read_header(file)
    start = 8 + len(json.dumps(header))
    assert found.metadata == header["__metadata__"]
    assert (found.path, found.size, found.data_start) == (file, start + 13, start)
    assert [
        (name, entry.name, entry.dtype, entry.shape, entry.start - start, entry.stop - start)
        for name, entry in found.entries.items()
    ] == [
        ("first", "first", "U8", (3,), 0, 3),
        ("second", "second", "F32", (2,), 3, 11),
        ("scalar", "scalar", "F16", (), 11, 13),
    ]


@pytest.mark.parametrize(
    "header",
    [b"{}", b" \n{ }\t ", b'{"__metadata__":{}}', b'{"__metadata__":null}', b"{}" + b" " * 6],
)
def test_a_file_may_hold_no_tensor(file: Path, header: bytes) -> None:
    file.write_bytes(raw(header))
    assert read_header(file).entries == {}
    assert safetensors.deserialize(file.read_bytes()) == []


def test_reads_what_the_safetensors_library_writes(file: Path) -> None:
    arrays = {
        f"{kind}.{dtype}": np.arange(size, dtype=dtype).reshape(shape)
        for dtype in (
            "bool",
            "u1",
            "i1",
            "u2",
            "i2",
            "f2",
            "u4",
            "i4",
            "f4",
            "c8",
            "u8",
            "i8",
            "f8",
        )
        for kind, size, shape in (("flat", 2, (2,)), ("deep", 2, (1, 2, 1)), ("none", 0, (3, 0)))
    }
    arrays['naïve "name" \\ with / 🙂'] = np.ones(3, np.float32)
    safetensors.numpy.save_file(arrays, file, {"format": "np", "note": "a\nb"})
    found = read_header(file)
    assert found.metadata == {"format": "np", "note": "a\nb"}
    assert found.entries.keys() == arrays.keys()
    data = file.read_bytes()
    for name, array in arrays.items():
        entry = found.entries[name]
        assert entry.shape == array.shape
        assert data[entry.start : entry.stop] == array.tobytes()


def test_the_safetensors_library_reads_what_is_laid_out(file: Path) -> None:
    entries = [(f"t.{dtype}", dtype, (2, 4)) for dtype in ITEM_BITS]
    entries += [("scalar", "F32", ()), ("empty", "BF16", (0, 3)), ('"\\\n é', "U8", (3,))]
    head, ranges = build_header(entries, {"format": "mlx"})
    contents = [
        os.urandom(stop - start) for start, stop in ranges
    ]  # random, so that a shifted range shows
    file.write_bytes(head + b"".join(contents))
    assert len(head) % 8 == 0
    assert ranges[0][0] == len(head)
    found = dict(safetensors.deserialize(file.read_bytes()))
    assert len(found) == len(entries)
    for (name, dtype, shape), content in zip(entries, contents, strict=True):
        view = found[name]
        assert (view["dtype"], tuple(view["shape"]), bytes(view["data"])) == (dtype, shape, content)
    with safetensors.safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "mlx"}


def test_the_layout_is_the_librarys_own_byte_for_byte() -> None:
    arrays = {"b": np.zeros((4, 2), np.float32), "a": np.zeros(3, np.float32)}
    theirs = safetensors.numpy.save(arrays, {"format": "np"})
    # The library puts tensors in the order of their alignment, then of their names.
    ours, ranges = build_header([("a", "F32", (3,)), ("b", "F32", (4, 2))], {"format": "np"})
    assert theirs == ours + bytes(ranges[-1][1] - len(ours))


def test_what_is_laid_out_is_read_back(file: Path) -> None:
    entries = [("b", "U32", (3, 2)), ("a", "BF16", (5,)), ("c", "F4", (2, 3))]
    head, ranges = build_header(entries, {})
    file.write_bytes(head + bytes(ranges[-1][1] - len(head)))
    found = read_header(file)
    assert found.metadata == {}
    assert [(e.name, e.dtype, e.shape) for e in found.entries.values()] == entries
    assert [(e.start, e.stop) for e in found.entries.values()] == ranges


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([("a", "U8", (1,)), ("a", "U8", (1,))], "'a' is used twice"),
        ([("__metadata__", "U8", (1,))], "reserved"),
        ([("a", "Q4_K", (256,))], "Q4_K"),
        ([("a", "F4", (3,))], "no whole number of bytes"),
    ],
)
def test_refuses_to_lay_out_what_nobody_can_read(
    entries: list[tuple[str, str, tuple[int, ...]]], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        build_header(entries, {"format": "mlx"})


def test_refuses_to_lay_out_a_header_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HEADER_LIMIT == 100_000_000
    monkeypatch.setattr("mlxquant.files.safetensors.HEADER_LIMIT", 1000)
    build_header([("a" * 900, "U8", (1,))], {})
    with pytest.raises(ValueError, match="the limit is 1000"):
        build_header([("a" * 1000, "U8", (1,))], {})


@pytest.mark.parametrize("name", HEADERS)
def test_a_lie_is_named(name: str, file: Path) -> None:
    content, says = HEADERS[name]
    file.write_bytes(content())
    with pytest.raises(FileFormatError) as caught:
        read_header(file)
    for part in (str(file), *says):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", HEADERS)
def test_what_the_library_refuses_is_refused(name: str) -> None:
    """The list of lies holds nothing that the library accepts, but for these."""
    stricter = {
        "a name of nothing",
        "a name twice",
        "a name twice, once escaped",
        "a metadata key twice",
        "a name with a newline",
        "33 dimensions",
        "a name of 5000 bytes",
    }
    content = HEADERS[name][0]()
    if name in stricter:
        safetensors.deserialize(content)
    else:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(content)


@pytest.mark.parametrize("eighth", range(8))
def test_a_file_cut_at_every_eighth(eighth: int, bundled: Path, file: Path) -> None:
    whole = (bundled / "model.safetensors").read_bytes()
    cut = len(whole) * eighth // 8
    file.write_bytes(whole[:cut])
    with pytest.raises(FileFormatError) as caught:
        read_header(file)
    expected = f"({len(whole)} bytes expected, {cut} found)" if eighth else "an empty file"
    assert expected in str(caught.value)


@pytest.mark.parametrize("size", range(len(file_bytes(FILE))))
def test_a_file_cut_at_every_byte(size: int, file: Path) -> None:
    file.write_bytes(file_bytes(FILE)[:size])
    with pytest.raises(FileFormatError, match="truncated|empty file"):
        read_header(file)


def test_a_huge_file_is_not_read(file: Path) -> None:
    """64 GB of zeros behind a header that asks for 9 MB of it, then behind an honest one."""
    file.write_bytes(raw(b"{", length=9_000_000))
    os.truncate(file, 1 << 36)
    with pytest.raises(FileFormatError, match="invalid JSON"):
        read_header(file)
    size = 1 << 36
    file.write_bytes(raw({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}))
    os.truncate(file, file.stat().st_size + size)
    assert read_header(file).entries["a"].shape == (size,)


@pytest.mark.parametrize(
    ("bound", "header", "says"),
    [
        ("TENSORS", {f"t{n}": EMPTY for n in range(4)}, "more than 3 tensors"),
        (
            "TENSORS",
            json.dumps({f"t{n}": EMPTY for n in range(4)}).replace("_", "\\u005f"),
            "3 tensors",
        ),
        ("METADATA_NAMES", {"__metadata__": {str(n): "" for n in range(4)}}, "more than 3 names"),
        ("METADATA", {"__metadata__": {"a": "long"}}, "text expected within 0 bytes"),
    ],
)
def test_the_cost_of_a_header_is_bounded(
    bound: str, header: Any, says: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bound lowered to 3: the reader stops there."""
    file.write_bytes(raw(header.encode() if isinstance(header, str) else header))
    read_header(file)
    monkeypatch.setattr(f"mlxquant.files.safetensors._MAX_{bound}", 3)
    with pytest.raises(FileFormatError, match=says):
        read_header(file)


def test_a_long_but_bounded_header_is_read(file: Path) -> None:
    metadata = {"config": json.dumps({"escaped": "\n" * 10**5}), "é" * 2000: ""}
    head, _ = build_header([("n" * 4000, "U8", (0,) * 32)], metadata)
    file.write_bytes(head)
    assert read_header(file).metadata == metadata


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, says in (
        ("", "a directory, not a file"),
        ("pipe", "not a regular file"),
        ("gone", "No such file"),
        ("loop", "cannot be opened"),
        ("nul\0", "cannot be opened"),
    ):
        with pytest.raises(FileFormatError, match=says):
            read_header(tmp_path / name)


# --- chance ---------------------------------------------------------------------------------------


def fuzz(examples: int) -> settings:
    """So many examples; they share one file, which each writes anew."""
    shared = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=shared)


NUMBERS = st.one_of(
    st.integers(-2, 12),
    st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 10**30, True, None, 1.0, "4", [], {}]),
)
NAMES = st.one_of(st.sampled_from(["a", "b", "__metadata__", "", "é", "x.weight"]), st.text())
DTYPES = st.one_of(st.sampled_from([*ITEM_BITS, "Q4_0", "", "bf16"]), NUMBERS)
ENTRIES = st.one_of(
    st.builds(
        lambda dtype, shape, begin, size: {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [begin, begin + size],
        },
        st.sampled_from([*ITEM_BITS]),
        st.lists(st.integers(0, 4), max_size=3),
        st.integers(0, 20),
        st.integers(0, 20),
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": DTYPES,
            "shape": st.lists(NUMBERS, max_size=4),
            "data_offsets": st.lists(NUMBERS, max_size=3),
            "more": NUMBERS,
        },
    ),
    st.recursive(NUMBERS, st.lists, max_leaves=4),
)


@st.composite
def laid_out(draw: st.DrawFn) -> bytes:
    """A file whose entries follow each other, as honest as the sizes drawn for them."""
    header: dict[str, Any] = {}
    offset = 0
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype = draw(st.sampled_from([*ITEM_BITS]))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        size = int(np.prod(shape)) * ITEM_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    pairs = draw(st.permutations(list(header.items())))
    return raw(dict(pairs), bytes(offset))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A laid out file with a few bytes changed, cut out, put in or cut off."""
    data = bytearray(draw(laid_out()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        change = draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"[", b"}", b'"', b"\\", b"9"]))
        )
        data[at : at + draw(st.integers(0, 3))] = change
    return bytes(data[: draw(st.one_of(st.none(), st.integers(0, len(data))))])


@st.composite
def any_header(draw: st.DrawFn) -> bytes:
    """A well formed file of an arbitrary header, and some data."""
    header = draw(st.dictionaries(NAMES, ENTRIES, max_size=4))
    return raw(header, draw(st.binary(max_size=24)))


FILES = st.one_of(laid_out(), mutated(), any_header(), st.binary(max_size=64))


@pytest.mark.slow
@fuzz(1000)
@given(FILES)
@example(b"")
@example(raw(b"{" * 10**5))
def test_chance_gets_a_format_error_or_what_the_library_reads(file: Path, data: bytes) -> None:
    """Whatever the bytes: a FileFormatError, or what the safetensors library reads."""
    file.write_bytes(data)
    try:
        found = read_header(file)
    except FileFormatError as problem:
        assert str(problem).isprintable()
        return
    theirs = {
        name: (v["dtype"], tuple(v["shape"]), bytes(v["data"]))
        for name, v in safetensors.deserialize(data)
    }
    assert {
        name: (entry.dtype, entry.shape, data[entry.start : entry.stop])
        for name, entry in found.entries.items()
    } == theirs


@fuzz(150)
@given(laid_out())
def test_honest_files_are_read(file: Path, data: bytes) -> None:
    """Files that the library reads are read, unless a name is empty or not printable."""
    file.write_bytes(data)
    try:
        theirs = [name for name, _ in safetensors.deserialize(data)]
    except safetensors.SafetensorError:
        theirs = None
    if theirs is None or not all(name and name.isprintable() for name in theirs):
        with pytest.raises(FileFormatError):
            read_header(file)
    else:
        assert sorted(read_header(file).entries) == sorted(theirs)
