"""Importance matrices: what is written is what is read, here and by others."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import unchecked

from mlxquant import RequestError
from mlxquant.quantize.imatrix import CHUNK, Entry, Imatrix, read_imatrix, write_imatrix


def made(seed: int = 1) -> dict[str, Entry]:
    """A matrix, a stack of three experts of which one saw nothing, and a matrix that saw nothing;
    not in the order of their names."""
    random = np.random.default_rng(seed)
    return {
        "blk.0.ffn_up_exps.weight": Entry.of(
            random.random((3, 64)) * np.array([[700], [0], [20]]), [700, 0, 20]
        ),
        "blk.0.attn_q.weight": Entry.of(random.random(32) * 900, 900),
        "output.weight": Entry.of(np.zeros(32), 0),
    }


def same(entry: Entry, other: Entry) -> None:
    np.testing.assert_array_equal(entry.sums, other.sums)
    np.testing.assert_array_equal(entry.counts, other.counts)


def test_gguf_comes_back_as_it_went(tmp_path: Path) -> None:
    file, entries = tmp_path / "a.gguf", made()
    write_imatrix(file, entries, ["one.txt", "zwei.txt"], 5, chunk_size=256)
    found = read_imatrix(file)
    assert (found.datasets, found.chunks, found.chunk_size) == (("one.txt", "zwei.txt"), 5, 256)
    assert list(found.entries) == sorted(entries) and found.name == "a.gguf"
    for name, entry in found.entries.items():
        same(entry, entries[name])
    again = tmp_path / "b.gguf"
    write_imatrix(again, found.entries, found.datasets, found.chunks, chunk_size=found.chunk_size)
    assert again.read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_dat_comes_back_as_means(tmp_path: Path) -> None:
    """The older layout has means times chunks, of all experts in one row; 1 where none came."""
    file, entries = tmp_path / "a.dat", made()
    write_imatrix(file, entries, ["one.txt", "two.txt"], 5)
    found = read_imatrix(file)
    assert (found.datasets, found.chunks, found.chunk_size) == (("two.txt",), 5, 0)
    assert list(found.entries) == ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"]
    for name, entry in found.entries.items():
        assert entry.counts.tolist() == [2]  # chunks begun
        np.testing.assert_allclose(
            entry.of_columns(entries[name].sums.shape[1]), entries[name].mean, rtol=3e-7
        )
    again = tmp_path / "b.dat"
    write_imatrix(again, found.entries, found.datasets, found.chunks, chunk_size=found.chunk_size)
    assert again.read_bytes() == file.read_bytes()


def test_dat_becomes_gguf(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "a.dat", made(), ["one.txt"], 5)
    old = read_imatrix(tmp_path / "a.dat")
    write_imatrix(tmp_path / "a.gguf", old.entries, old.datasets, old.chunks, chunk_size=0)
    new = read_imatrix(tmp_path / "a.gguf")
    assert (new.datasets, new.chunks, new.chunk_size) == (old.datasets, 5, CHUNK)
    for name, entry in new.entries.items():
        assert entry.counts.tolist() == [2 * CHUNK]
        np.testing.assert_array_equal(entry.mean, old.entries[name].mean)


def test_bytes_of_the_older_layout(tmp_path: Path) -> None:
    """Written out by hand from the source of llama-imatrix."""
    file = tmp_path / "a.dat"
    write_imatrix(file, {"t": Entry.of(np.array([6.0, 12.0]), 3)}, ["x"], 7, chunk_size=2)
    expected = struct.pack("<ii", 1, 1) + b"t" + struct.pack("<ii2f", 2, 2, 4.0, 8.0)
    assert file.read_bytes() == expected + struct.pack("<ii", 7, 1) + b"x"


@pytest.mark.parametrize("tail", [b"", struct.pack("<i", 9)])
def test_older_files_end_earlier(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / "a.dat"
    body = struct.pack("<ii", 1, 1) + b"t" + struct.pack("<ii2f", 0, 2, 4.0, 8.0)
    file.write_bytes(body + tail)
    found = read_imatrix(file)
    assert (found.datasets, found.chunks) == ((), 9 if tail else 0)
    # values that no number of calls is known of are taken as they are, as llama-quantize does
    assert found.entries["t"].mean.tolist() == [[4.0, 8.0]]


def test_the_gguf_package_reads_the_same(tmp_path: Path) -> None:
    try:
        import gguf
    except ImportError:
        unchecked("gguf", "importance matrices against the gguf package's reader")
    file, entries = tmp_path / "a.gguf", made()
    write_imatrix(file, entries, ["one.txt", "zwei.txt"], 5, chunk_size=256)
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["one.txt", "zwei.txt"]
    assert reader.get_field("imatrix.chunk_count").contents() == 5
    assert reader.get_field("imatrix.chunk_size").contents() == 256
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    assert len(theirs) == 2 * len(entries)
    for name, entry in entries.items():
        sums, counts = theirs[f"{name}.in_sum2"], theirs[f"{name}.counts"]
        np.testing.assert_array_equal(sums.data.reshape(entry.sums.shape), entry.sums)
        np.testing.assert_array_equal(counts.data.reshape(-1), entry.counts)
        # ggml's order of the axes: columns first, and a count in a row of its own
        shape = [entry.sums.shape[1], len(entry.counts)]
        assert sums.shape.tolist() == (shape if shape[1] > 1 else shape[:1])
        assert counts.shape.tolist() == ([1, shape[1]] if shape[1] > 1 else [1])


def test_what_the_gguf_package_writes_is_read(tmp_path: Path) -> None:
    try:
        import gguf
    except ImportError:
        unchecked("gguf", "importance matrices that the gguf package writes")
    file, entries = tmp_path / "theirs.gguf", made()
    writer = gguf.GGUFWriter(file, arch="")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt"])
    writer.add_uint32("imatrix.chunk_count", 5)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, entry in entries.items():
        writer.add_tensor(f"{name}.in_sum2", entry.sums)
        writer.add_tensor(f"{name}.counts", entry.counts.astype(np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_imatrix(file)
    assert (found.datasets, found.chunks) == (("a.txt",), 5)
    assert found.entries.keys() == entries.keys()
    for name, entry in found.entries.items():
        same(entry, entries[name])


names = st.text(st.sampled_from("abk.0_ü"), min_size=1, max_size=12)


@st.composite
def drawn(draw: st.DrawFn) -> Entry:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    sums = random.random((rows, columns)).astype(np.float32) * np.float32(
        2.0 ** draw(st.integers(-60, 60))
    )
    counts = draw(st.lists(st.integers(0, 2**24), min_size=rows, max_size=rows))
    return Entry(sums, np.array(counts, np.int64))


@settings(max_examples=60, deadline=None)
@given(entries=st.dictionaries(names, drawn(), min_size=1, max_size=4), chunks=st.integers(0, 9))
def test_whatever_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Entry], chunks: int
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    write_imatrix(folder / "a.gguf", entries, ["ä", ""], chunks)
    found = read_imatrix(folder / "a.gguf")
    assert (found.datasets, found.chunks) == (("ä", ""), chunks)
    for name, entry in entries.items():
        same(found.entries[name], entry)
    seen = {name: entry for name, entry in entries.items() if entry.counts.any()}
    if not seen:
        with pytest.raises(RequestError, match="no matrix saw any input"):
            write_imatrix(folder / "a.dat", entries)
        return
    write_imatrix(folder / "a.dat", entries, chunks=chunks)
    older = read_imatrix(folder / "a.dat")
    assert older.entries.keys() == seen.keys()
    for name, entry in seen.items():
        means = older.entries[name].of_columns(entry.sums.shape[1])
        np.testing.assert_allclose(means, entry.mean, rtol=3e-7)


def test_means_are_llama_quantize_s() -> None:
    """A float32 division by a float32 count; 1 where the count is 0."""
    entry = Entry(np.array([[1.0, 2.0], [5.0, 7.0]], np.float32), np.array([3, 0]))
    third = np.float32(1) / np.float32(3)
    assert entry.mean.tolist() == [[float(third), float(np.float32(2) / np.float32(3))], [1, 1]]
    assert entry.unseen == 1
    flat = Entry.of(np.arange(6.0), 2)
    assert flat.of_columns(3).tolist() == [[0, 0.5, 1], [1.5, 2, 2.5]]
    with pytest.raises(RequestError, match="6 values do not make rows of 4"):
        flat.of_columns(4)


def test_a_part_of_the_entries() -> None:
    imatrix = Imatrix(made())
    assert list(imatrix.only(["attn", "output"]).entries) == [
        "blk.0.attn_q.weight",
        "output.weight",
    ]
    assert list(imatrix.only(exclude=["exps", "output"]).entries) == ["blk.0.attn_q.weight"]
    assert not imatrix.only(["nothing"]).entries
    assert imatrix.only().entries == imatrix.entries


def test_what_is_described_depends_on_every_value() -> None:
    entries = made()
    before = Imatrix(entries).described()
    assert before == Imatrix(dict(reversed(entries.items()))).described()
    for name, entry in made().items():
        sums = entry.sums.copy()
        sums[0, 3] += 1
        changed = Imatrix({**entries, name: Entry(sums, entry.counts)})
        assert changed.described() != before
        counted = Imatrix({**entries, name: Entry(entry.sums, entry.counts + 1)})
        assert counted.described() != before


@pytest.mark.parametrize(
    ("sums", "counts", "says"),
    [
        (np.ones(3), np.ones(1), "shape"),
        (np.ones((2, 3)), np.ones(3), "shape"),
        (np.ones((2, 0)), np.ones(2), "shape"),
        (np.array([[1, np.nan]]), np.ones(1), "sum nan"),
        (np.array([[1, -1.0]]), np.ones(1), "sum -1"),
        (np.ones((1, 2)), np.array([-2]), "count -2"),
    ],
)
def test_what_is_no_entry(sums: np.ndarray, counts: np.ndarray, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Entry(sums.astype(np.float32), counts)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    entry = made()["blk.0.attn_q.weight"]
    for name, entries, says in (
        ("a.txt", {"t": entry}, "written as .gguf or .dat"),
        ("a.gguf", {}, "no importance data"),
        ("a.gguf", {"t" * 63: entry}, "over 63 bytes"),
        ("a.dat", {"t": Entry.of(np.ones(2), 0)}, "no matrix saw any input"),
        ("a.dat", {"t": Entry.of(np.ones(2), 2**45)}, "too large for .dat"),
    ):
        with pytest.raises(RequestError, match=says):
            write_imatrix(tmp_path / name, entries)
    with pytest.raises(RequestError, match="out of range"):
        write_imatrix(tmp_path / "a.gguf", {"t": entry}, chunks=-1)
    assert not list(tmp_path.iterdir())
