"""F32 F16 BF16 F64 I8 I16 I32 I64: ggml's numbers and bytes, and NumPy's where ggml has none."""

import numpy as np
import pytest
from formats.ggml_checks import IgnoresImportance, Rounds, edge_rows, sample_rows
from formats.ggml_golden import ggml_format, random_blocks, same_floats
from interop import ggml

from mlxquant.errors import RequestError

WHOLE = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64}
NUMPY = {"F32": np.float32, "F64": np.float64, **WHOLE}


class TestF16(Rounds, IgnoresImportance):
    name = "F16"

    def test_every_value_decodes_like_ggml_nan_and_all(self) -> None:
        wire = np.arange(1 << 16, dtype="<u2").view(np.uint8)
        ours = self.fmt.decode((wire[None],))[0]
        theirs = ggml.to_float(self.fmt.ggml_type, wire.tobytes(), 1 << 16)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))

    def test_nan_keeps_sign_and_payload_and_is_quiet(self) -> None:
        wire = np.array([[0x7C01, 0xFE03, 0x7C00]], "<u2").view(np.uint8)
        bits = self.fmt.decode((wire,)).view(np.uint32)
        assert bits.tolist() == [[0x7FC02000, 0xFFC06000, 0x7F800000]]


class TestBF16(Rounds, IgnoresImportance):
    name = "BF16"

    def test_every_value_decodes_like_ggml_nan_and_all(self) -> None:
        wire = np.arange(1 << 16, dtype="<u2").view(np.uint8)
        ours = self.fmt.decode((wire[None],))[0]
        theirs = ggml.to_float(self.fmt.ggml_type, wire.tobytes(), 1 << 16)
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", NUMPY)
def test_is_ggml_s_type(name: str) -> None:
    fmt = ggml_format(name)
    assert ggml.type_name(fmt.ggml_type).upper() == name
    assert ggml.block_size(fmt.ggml_type) == fmt.block_size == 1
    assert ggml.block_bytes(fmt.ggml_type) == fmt.block_bytes == np.dtype(NUMPY[name]).itemsize


@pytest.mark.parametrize("name", NUMPY)
def test_decodes_any_bytes(name: str) -> None:
    fmt = ggml_format(name)
    wire = random_blocks(fmt, 4096, seed=5)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = wire.view(NUMPY[name]).astype(np.float32)
    same_floats(fmt.decode((wire,)), expected, name)


@pytest.mark.parametrize("name", ["F32", "F64"])
def test_floats_come_back_as_they_were(name: str) -> None:
    fmt = ggml_format(name)
    for rows in (*edge_rows().values(), *sample_rows().values()):
        (wire,) = fmt.encode(rows)
        assert np.array_equal(wire.view(NUMPY[name]), rows)
        assert np.array_equal(fmt.decode((wire,)).view(np.uint32), rows.view(np.uint32))


def test_f32_is_the_bytes_that_ggml_writes() -> None:
    rows = sample_rows()["normal"]
    (wire,) = ggml_format("F32").encode(rows)
    assert np.array_equal(wire, ggml.quantize_chunk(0, rows))


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_come_back_as_they_were(name: str) -> None:
    fmt = ggml_format(name)
    rows = np.array([[-(2.0 ** (fmt.bits - 1)), -1, 0, 5, 127]], np.float32)
    (wire,) = fmt.encode(rows)
    assert wire.view(WHOLE[name]).tolist() == [[int(value) for value in rows[0]]]
    assert np.array_equal(fmt.decode((wire,)), rows)


@pytest.mark.parametrize("name", WHOLE)
def test_other_numbers_are_refused(name: str) -> None:
    fmt = ggml_format(name)
    for value in (0.5, 2.0 ** (fmt.bits - 1), -(2.0 ** (fmt.bits - 1)) * 1.25):
        with pytest.raises(RequestError, match=f"is no {name}: whole numbers from"):
            fmt.encode(np.array([[0, value]], np.float32))
