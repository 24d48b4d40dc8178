"""Our reader and writer of GGUF against the gguf package's, and against chance."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hostile import gguf_building as building
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxquant.errors import FileFormatError
from mlxquant.files.gguf import GgufHeader, Value, build_gguf, read_gguf
from mlxquant.files.gguf_split import open_split
from mlxquant.files.gguf_types import RETIRED, TENSOR_TYPES, VALUE_TYPES, tensor_type
from mlxquant.load.gguf_checks import check_model, check_vocabulary

VALUES: dict[str, Any] = {
    "u8": 200,
    "i8": -100,
    "u16": 60_000,
    "i16": -30_000,
    "u32": 4_000_000_000,
    "i32": -2_000_000_000,
    "u64": 2**64 - 1,
    "i64": -(2**63),
    "f32": 1.5,
    "f64": math.pi,
    "bool": True,
    "str": "größe 重み",
}


def written_by_gguf(file: Path, vocabulary: int = 300, **options: Any) -> Path:
    """A model that the gguf package writes: every type of value, arrays, tensors of many types."""
    writer = gguf.GGUFWriter(file, "llama", **options)
    for name, value in VALUES.items():
        kind = gguf.GGUFValueType(VALUE_TYPES[name][0])
        writer.add_key_value(f"test.{name}", value, kind)
    writer.add_array("test.array.nested", [[1, 2], [3]])
    for name, value in (("i32", -7), ("f32", 0.5), ("bool", True), ("str", "ö")):
        writer.add_array(f"test.array.{name}", [value] * 3)
    words = [f"wörd{number}" * (number % 5) for number in range(vocabulary)]
    writer.add_token_list(words)
    writer.add_token_scores([-float(number) for number in range(vocabulary)])
    writer.add_token_types([1] * vocabulary)
    rng = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", rng.random((5, 64), dtype=np.float32))
    writer.add_tensor("norm.weight", rng.random(7).astype(np.float16))
    writer.add_tensor("stack.weight", rng.random((2, 3, 32), dtype=np.float32))
    for kind in ("Q4_0", "Q8_0", "Q4_K", "IQ4_XS", "MXFP4"):
        number = gguf.GGMLQuantizationType[kind]
        blocks = rng.integers(0, 255, (3, tensor_type(kind).block_bytes), dtype=np.uint8)
        writer.add_tensor(f"{kind}.weight", blocks, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def rebuilt(header: GgufHeader) -> bytes:
    """The header's bytes, laid out anew from what was read."""
    tensors = [(e.name, e.type_name, e.shape) for e in header.entries.values()]
    data, ranges = build_gguf(header.metadata, tensors, header.alignment, header.version)
    assert ranges == [(e.start, e.stop) for e in header.entries.values()]
    return data[: header.data_start]


def assert_same(found: GgufHeader, theirs: gguf.GGUFReader) -> None:
    """What we read is what GGUFReader reads."""
    fields = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert list(found.metadata) == fields
    for name in fields:
        field = theirs.fields[name]
        assert [VALUE_TYPES[found.metadata[name].type][0]] == [int(t) for t in field.types[:1]]
        if found.metadata[name].item != "arr":  # which their `contents` does not know
            assert found.get(name) == field.contents(), name
    assert found.data_start == theirs.data_offset or not found.entries
    assert [entry.name for entry in found.entries.values()] == [t.name for t in theirs.tensors]
    for tensor in theirs.tensors:
        entry = found.entries[tensor.name]
        assert entry.type == int(tensor.tensor_type)
        assert entry.type_name == tensor.tensor_type.name
        assert entry.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (entry.start, entry.stop - entry.start) == (tensor.data_offset, tensor.n_bytes)


@pytest.mark.parametrize("alignment", [32, 8, 4096])
def test_what_the_gguf_package_writes(tmp_path: Path, alignment: int) -> None:
    options = {} if alignment == 32 else {"alignment": alignment}
    file = tmp_path / "m.gguf"
    writer_alignment(file, **options)
    header = read_gguf(file)
    assert header.alignment == alignment
    assert_same(header, gguf.GGUFReader(file))
    assert rebuilt(header) == file.read_bytes()[: header.data_start]
    assert header.get("test.array.nested") == [[1, 2], [3]]
    assert {name: header.get(f"test.{name}") for name in VALUES} == VALUES


def writer_alignment(file: Path, alignment: int = 32) -> None:
    """`written_by_gguf`, aligned: the writer takes that by a call."""
    if alignment == 32:
        written_by_gguf(file)
        return
    plain = gguf.GGUFWriter.__init__

    def init(self: gguf.GGUFWriter, *args: Any, **options: Any) -> None:
        plain(self, *args, **options)
        self.add_custom_alignment(alignment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "__init__", init)
        written_by_gguf(file)


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_merges(["a b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    header = read_gguf(file)
    assert header.entries == {}
    assert header.get("tokenizer.ggml.tokens") == ["a", "b", "ab"]
    assert rebuilt(header) == file.read_bytes()
    check_vocabulary(header)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 16_384])
def test_what_we_write_the_gguf_package_reads(tmp_path: Path, version: int, alignment: int) -> None:
    metadata = {f"a.{name}": Value.of(name, value) for name, value in VALUES.items()}
    metadata |= {f"b.{n}": Value.array(n, [v] * 3) for n, v in VALUES.items()}
    metadata["general.architecture"] = Value.of("str", "llama")
    tensors = [
        (f"blk.0.{kind.name}", kind.name, (3, 2 * kind.block_size)[: 1 + index % 2])
        if kind.block_size > 1
        else (f"blk.0.{kind.name}", kind.name, (2, 3, 5, 7)[: 1 + index % 4])
        for index, kind in enumerate(TENSOR_TYPES.values())
        if kind.name not in ("Q8_1", "Q2_0", "Q1_0")
    ]
    tensors = [
        (name, kind, shape if not shape[-1] % tensor_type(kind).block_size else (512,))
        for name, kind, shape in tensors
    ]
    header, ranges = build_gguf(metadata, tensors, alignment, version)
    data = bytearray(header)
    for index, (start, stop) in enumerate(ranges):
        assert start % alignment == 0
        data += bytes(start - len(data)) + bytes([index + 1]) * (stop - start)
    file = tmp_path / "m.gguf"
    file.write_bytes(data)
    theirs = gguf.GGUFReader(file)
    assert_same(read_gguf(file), theirs)
    for index, tensor in enumerate(theirs.tensors):
        assert bytes(tensor.data.tobytes()) == bytes([index + 1]) * int(tensor.n_bytes)


def test_the_table_of_types_is_ggml_s() -> None:
    ours = {kind.number: kind for kind in TENSOR_TYPES.values()}
    for kind in gguf.GGMLQuantizationType:
        assert ours[int(kind)].name == kind.name
        if kind.name != "Q8_1":  # the package counts the fields of an older block
            size = (ours[int(kind)].block_size, ours[int(kind)].block_bytes)
            assert size == gguf.GGML_QUANT_SIZES[kind], kind
    assert not RETIRED.keys() & ours.keys()
    assert RETIRED.keys() | ours.keys() >= set(range(43))


def test_values_keep_their_bits(tmp_path: Path) -> None:
    """A signalling NaN, minus zero, and texts that are not UTF-8."""
    pairs = {
        "a": Value("f32", struct.pack("<I", 0x7F800001)),
        "b": Value.of("f32", -0.0),
        "c": Value.array("str", [b"\xff\xfe", "é", ""]),
        "d": Value.array("f32", [math.nan, math.inf]),
        "e": Value.array("str", []),
    }
    header, _ = build_gguf(pairs, [])
    file = tmp_path / "m.gguf"
    file.write_bytes(header)
    found = read_gguf(file)
    assert found.metadata == pairs
    assert math.isnan(found.get("a")) and math.copysign(1, found.get("b")) == -1
    assert found.get("c") == ["\udcff\udcfe", "é", ""]
    assert found.metadata["c"].texts() == [b"\xff\xfe", "é".encode(), b""]
    assert Value.array("str", found.get("c")) == pairs["c"]
    assert found.metadata["c"].head(1) == ["\udcff\udcfe"]
    assert found.metadata["d"].head(9)[1] == math.inf
    assert (found.get("e"), found.metadata["e"].head(3)) == ([], [])
    assert np.frombuffer(found.metadata["d"].data, "<f4")[1] == np.inf


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Value.of("u8", 256), "u8"),
        (lambda: Value.of("u32", -1), "u32"),
        (lambda: Value.of("f32", 1e300), "f32"),
        (lambda: Value.of("u128", 1), "choose one of u8"),
        (lambda: Value.array("arr", [[1]]), "choose one of u8"),
        (lambda: build_gguf({}, [("a", "Q5_9", (32,))]), "'Q5_9'"),
        (lambda: build_gguf({}, [("a", "Q4_K", (3, 32))]), "blocks of 256"),
        (lambda: build_gguf({}, [("a", "F32", (0,))]), "'a'"),
        (lambda: build_gguf({}, [("a", "F32", (1,) * 5)]), "1 to 4 dimensions"),
        (lambda: build_gguf({}, [("a", "F32", (1,))] * 2), "used twice"),
        (lambda: build_gguf({}, [("a" * 64, "F32", (1,))]), "over 63 bytes"),
        (lambda: build_gguf({}, [("../a", "F32", (1,))]), "not printable"),
        (lambda: build_gguf({"": Value.of("u8", 1)}, []), "key ''"),
        (lambda: build_gguf({}, [], alignment=24), "power of two"),
        (lambda: build_gguf({}, [], version=1), "version 1"),
        (lambda: build_gguf({"general.alignment": Value.of("u32", 64)}, []), "is not 32"),
    ],
)
def test_what_cannot_be_written(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        make()


def test_a_header_longer_than_what_is_read_at_first(tmp_path: Path) -> None:
    """Pieces of a megabyte that end inside of lengths and of texts."""
    words = ["w" * (number % 97) for number in range(90_000)]
    header, _ = build_gguf({"a": Value.array("str", words), "b": Value.of("u8", 7)}, [])
    assert len(header) > 4 << 20
    file = tmp_path / "m.gguf"
    file.write_bytes(header)
    found = read_gguf(file)
    assert found.get("a") == words
    assert found.metadata["a"].head(2) == words[:2]
    assert found.get("b") == 7


def test_tensors_may_be_described_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(building.gguf(tensors=building.TENSORS[::-1]))
    header = read_gguf(file)
    assert list(header.entries) == ["token_embd.weight", "blk.0.attn_q.weight"]
    assert header.stop == header.size


def test_a_split_model(tmp_path: Path) -> None:
    """Written by the gguf package in parts."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    writer.add_block_count(1)
    for index in range(3):
        writer.add_tensor(f"blk.0.part{index}.weight", np.full((2, 32), index, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    for name in names:
        found = open_split(tmp_path / name)
        assert [header.path.name for header in found] == names
        assert [list(header.entries) for header in found] == [
            [f"blk.0.part{index}.weight"] for index in range(3)
        ]
    assert found[0].get("general.architecture") == "llama"


# --- chance ---------------------------------------------------------------------------------------


def fuzz(examples: int) -> settings:
    """So many examples; they share one file, which each writes anew."""
    shared = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=shared)


NAMES = st.one_of(
    st.sampled_from(["general.architecture", "general.alignment", "llama.block_count", "", "é"]),
    st.text(max_size=8),
)
SCALARS = st.one_of(
    st.tuples(st.just("u32"), st.sampled_from([0, 1, 2, 8, 32, 2**31, 2**32 - 1])),
    st.tuples(st.just("u64"), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("i8"), st.integers(-128, 127)),
    st.tuples(st.just("f32"), st.floats(width=32)),
    st.tuples(st.just("bool"), st.integers(0, 2)),
    st.tuples(st.just("str"), st.one_of(st.text(max_size=9), st.binary(max_size=9))),
)
ARRAYS = st.one_of(
    st.tuples(st.just("[str]"), st.lists(st.binary(max_size=4), max_size=4)),
    st.tuples(st.just("[i32]"), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)),
    st.tuples(st.just("raw"), st.binary(max_size=30)),
)
METADATA = st.dictionaries(NAMES, st.one_of(SCALARS, ARRAYS), max_size=4)


@st.composite
def laid_out(draw: st.DrawFn) -> bytes:
    """A file whose tensors follow each other, as honest as the sizes drawn for them."""
    tensors, offset = [], 0
    for name in draw(st.lists(st.text(max_size=6), max_size=3, unique=True)):
        kind = draw(st.sampled_from(list(TENSOR_TYPES.values())))
        rows = draw(st.lists(st.integers(1, 3), max_size=4))
        dims = [kind.block_size * draw(st.integers(1, 2)), *rows]
        size = math.prod(dims) // kind.block_size * kind.block_bytes
        tensors.append((name, dims, kind.number, offset, bytes(size)))
        offset += -(-size // 32) * 32
    return building.gguf(draw(METADATA), draw(st.permutations(tensors)))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A laid out file with a few bytes changed, cut out, put in or cut off."""
    data = bytearray(draw(st.one_of(laid_out(), st.just(building.gguf()))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        change = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from(
                    [b"\xff" * 8, bytes(8), b"\t\0\0\0", b"\x80", struct.pack("<Q", 1)]
                ),
            )
        )
        data[at : at + draw(st.integers(0, 9))] = change
    return bytes(data[: draw(st.one_of(st.none(), st.integers(0, len(data))))])


@pytest.mark.slow
@fuzz(500)
@given(st.one_of(laid_out(), mutated(), st.binary(max_size=64)))
@example(b"")
@example(b"GGUF")
def test_chance_gets_a_format_error_or_a_file_that_is_written_back(
    tmp_path: Path, data: bytes
) -> None:
    """Whatever the bytes: a FileFormatError, or a header whose parts say what the bytes say."""
    file = tmp_path / "m.gguf"
    file.write_bytes(data)
    try:
        found = read_gguf(file)
    except FileFormatError as problem:
        assert str(problem).isprintable()
        return
    for key, value in found.metadata.items():
        assert data[value.offset :].startswith(value.wire), key
        assert value.type != "arr" or len(value.value) == value.count
    for name, entry in found.entries.items():
        assert 0 <= entry.start <= entry.stop <= len(data), name
        assert tensor_type(entry.type_name).nbytes(entry.shape) == entry.stop - entry.start
    for check in (lambda: check_model([found]), lambda: check_vocabulary(found)):
        try:
            check()
        except FileFormatError as problem:
            assert str(problem).isprintable()
    in_order = [entry.start for entry in found.entries.values()]
    assert in_order == sorted(in_order)


@fuzz(100)
@given(METADATA, st.sampled_from([2, 3]))
def test_chance_is_written_back(tmp_path: Path, metadata: building.Metadata, version: int) -> None:
    file = tmp_path / "m.gguf"
    data = building.gguf(metadata, version=version)
    file.write_bytes(data)
    try:
        found = read_gguf(file)
    except FileFormatError:
        return
    if found.alignment == 32:
        assert rebuilt(found) == data[: found.data_start]
