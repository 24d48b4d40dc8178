"""Every planted NaN and Inf is found, named and placed; nothing else is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant import quantize
from mlxquant.files.safetensors import build_header
from mlxquant.inspection.facts import open_path, verify
from mlxquant.inspection.problems import Problem
from mlxquant.inspection.verification import SHOWN, scan
from mlxquant.load.checkpoint import Checkpoint

#: element type → (bytes, finite codes of every kind of extreme, NaN codes, Inf codes), written
#: down from the formats' specifications
CODES: dict[str, tuple[int, list[int], list[int], list[int]]] = {
    "F16": (2, [0, 0x8000, 1, 0x7BFF, 0xFBFF], [0x7C01, 0x7FFF, 0xFE00], [0x7C00, 0xFC00]),
    "BF16": (2, [0, 0x8000, 1, 0x7F7F, 0xFF7F], [0x7F81, 0x7FFF, 0xFFC0], [0x7F80, 0xFF80]),
    "F32": (
        4,
        [0, 1 << 31, 1, 0x7F7FFFFF, 0xFF7FFFFF],
        [0x7F800001, 0x7FFFFFFF, 0xFFC00000],
        [0x7F800000, 0xFF800000],
    ),
    "F64": (
        8,
        [0, 1 << 63, 1, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF],
        [0x7FF0000000000001, 0x7FFFFFFFFFFFFFFF, 0xFFF8000000000000],
        [0x7FF0000000000000, 0xFFF0000000000000],
    ),
    "F8_E5M2": (1, [0, 0x80, 1, 0x7B, 0xFB], [0x7D, 0x7F, 0xFE], [0x7C, 0xFC]),
    "F8_E4M3": (1, [0, 0x80, 1, 0x7E, 0xFE], [0x7F, 0xFF], []),
    "F8_E8M0": (1, [0, 0x80, 1, 0x7F, 0xFE], [0xFF], []),
    "F8_E4M3FNUZ": (1, [0, 1, 0x7F, 0xFF], [0x80], []),
    "F8_E5M2FNUZ": (1, [0, 1, 0x7F, 0xFF], [0x80], []),
}

Array = np.ndarray[Any, Any]


def write(file: Path, tensors: Sequence[tuple[str, str, tuple[int, ...], Array]]) -> Path:
    """A safetensors file of these arrays, given as codes."""
    header, _ = build_header([(name, dtype, shape) for name, dtype, shape, _ in tensors], {})
    file.write_bytes(header + b"".join(codes.tobytes() for *_, codes in tensors))
    return file


def bad(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if not problem.note]


@st.composite
def planted(draw: st.DrawFn) -> tuple[str, tuple[int, ...], list[int], dict[int, str]]:
    """An element type, a shape, codes, and where among them is NaN or Inf."""
    dtype = draw(st.sampled_from(list(CODES)))
    _, finite, nan, infinite = CODES[dtype]
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=0, max_size=3)))
    size = int(np.prod(shape, dtype=int))
    codes = draw(st.lists(st.sampled_from(finite), min_size=size, max_size=size))
    places = draw(st.sets(st.integers(0, size - 1), max_size=SHOWN))
    kinds = {}
    for place in places:
        kinds[place] = draw(st.sampled_from(["nan", "inf"] if infinite else ["nan"]))
        codes[place] = draw(st.sampled_from(nan if kinds[place] == "nan" else infinite))
    return dtype, shape, codes, kinds


@settings(max_examples=60, deadline=None)
@given(st.lists(planted(), min_size=1, max_size=4))
def test_what_is_planted_is_found_with_its_index(
    tmp_path_factory: pytest.TempPathFactory, arrays: list[Any]
) -> None:
    tensors = [
        (f"t{number}", dtype, shape, np.array(codes, dtype=f"<u{CODES[dtype][0]}"))
        for number, (dtype, shape, codes, _) in enumerate(arrays)
    ]
    checkpoint = open_path(write(tmp_path_factory.mktemp("f") / "w.safetensors", tensors))
    expected = {}
    for number, (_, shape, _, kinds) in enumerate(arrays):
        for kind in ("nan", "inf"):
            places = sorted(place for place, what in kinds.items() if what == kind)
            if places:
                indices = tuple(tuple(map(int, np.unravel_index(p, shape))) for p in places)
                expected[f"t{number}", kind] = (len(places), indices)
    found = {(p.tensor, p.kind): (p.count, p.indices) for p in bad(scan(checkpoint))}
    assert found == expected


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_edges_of_what_is_read_and_examined_at_once(tmp_path: Path, dtype: str) -> None:
    """A value that is bad at each edge of a block and of a chunk, in a tensor of several chunks."""
    width, _, nan, infinite = CODES[dtype]
    chunk, block = (8 << 20) // width, (512 << 10) // width
    size = 2 * chunk + block + 3
    edges = [0, block - 1, block, chunk - 1, chunk, 2 * chunk - 1, 2 * chunk, size - 1]
    codes = np.ones(size, dtype=f"<u{width}")
    codes[edges[::2]] = nan[0]
    codes[edges[1::2]] = infinite[1]
    tensors = [("odd", "U8", (3,), np.zeros(3, "u1")), ("w", dtype, (size,), codes)]
    first, second = bad(scan(open_path(write(tmp_path / "w.safetensors", tensors))))
    assert (first.kind, second.kind) == ("nan", "inf")
    assert first.indices == tuple((place,) for place in edges[::2])
    assert second.indices == tuple((place,) for place in edges[1::2])


def test_many_are_counted_and_the_first_told(tmp_path: Path) -> None:
    codes = np.full((100, 50), 0x7FC0, dtype="<u2")
    codes[3:] = 0xFF80
    file = write(tmp_path / "w.safetensors", [("w", "BF16", (100, 50), codes)])
    nan, infinite = scan(open_path(file))
    assert (nan.count, infinite.count) == (150, 97 * 50)
    assert nan.indices == tuple((0, column) for column in range(SHOWN))
    assert str(nan).startswith("w.safetensors: tensor 'w': 150 NaN at [0, 0], [0, 1]")
    assert str(nan).endswith("and 142 more")
    assert str(infinite) == "w.safetensors: tensor 'w': 4850 Inf"


def test_integers_are_never_bad(tmp_path: Path) -> None:
    codes = np.full(64, 0xFF, dtype="u1")
    tensors = [(dtype, dtype, (64 // width,), codes) for dtype, width in [("U8", 1), ("I32", 4)]]
    assert scan(open_path(write(tmp_path / "w.safetensors", tensors))) == []


@pytest.mark.parametrize("codes", [[0, 0], [0x8000, 0], [0x8000, 0x8000]])
def test_zeros_are_noted(tmp_path: Path, codes: list[int]) -> None:
    array = np.array([codes], dtype="<u2")
    tensors = [("w", "BF16", (1, 2), array), ("bias", "BF16", (2,), array)]
    (problem,) = scan(open_path(write(tmp_path / "w.safetensors", tensors)))
    assert (problem.kind, problem.tensor, problem.note) == ("zeros", "w", True)
    array[0, 1] = 1
    assert scan(open_path(write(tmp_path / "w.safetensors", tensors))) == []


def patch(folder: Path, name: str, byte: int, value: bytes) -> Checkpoint:
    """Overwrite bytes of a stored array of a model folder."""
    tensor = open_path(folder).stored[name]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.start + byte)
        file.write(value)
    return open_path(folder)


LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("options", "part", "byte", "value", "kind", "index"),
    [
        ({"bits": 4}, "scales", 2 * 5, b"\xc0\x7f", "nan", (1, 1)),
        ({"bits": 4}, "biases", 2 * 4, b"\x80\xff", "inf", (1, 0)),
        ({"mode": "mxfp4"}, "scales", 8 + 3, b"\xff", "nan", (1, 3)),
        ({"mode": "mxfp8"}, "scales", 7, b"\xff", "nan", (0, 7)),
        ({"mode": "mxfp8"}, "weight", 256 + 77, b"\x7f", "nan", (1, 77)),
        ({"mode": "nvfp4"}, "scales", 16 * 2 + 1, b"\xff", "nan", (2, 1)),
    ],
)
def test_bad_parts_of_quantized_weights(
    tmp_path: Path,
    options: dict[str, Any],
    part: str,
    byte: int,
    value: bytes,
    kind: str,
    index: tuple[int, ...],
) -> None:
    folder = tmp_path / "model"
    quantize(output=folder, **options)
    (folder / "mlxquant.json").unlink()
    assert verify(open_path(folder)) == []
    (problem,) = verify(patch(folder, f"{LAYER}.{part}", byte, value))
    assert (problem.kind, problem.tensor) == (kind, f"{LAYER}.{part}")
    assert (problem.count, problem.indices) == (1, (index,))


def test_any_changed_byte_differs_from_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    quantize(output=folder, bits=4)
    assert verify(open_path(folder)) == []
    listed = json.loads((folder / "mlxquant.json").read_text())["files"]
    assert len(listed) > 5
    for name in listed:
        data = (folder / name).read_bytes()
        weights = name.endswith(".safetensors")
        changed = data[:-1] + bytes([data[-1] ^ 1]) if weights else data + b"\n"
        (folder / name).write_bytes(changed)
        problems = verify(open_path(folder))
        assert [(p.kind, p.file) for p in problems] == [("hash", name)]
        assert listed[name]["sha256"] in problems[0].message
        (folder / name).write_bytes(data)
    assert verify(open_path(folder)) == []


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    codes = np.array([0x7FC0] + [1] * 99, dtype="<u2")
    tensors = [("a", "BF16", (100,), codes), ("b", "BF16", (10, 10), codes)]
    file = write(tmp_path / "w.safetensors", tensors)
    checkpoint = open_path(file)
    file.write_bytes(file.read_bytes()[:-50])
    unreadable, nan = scan(checkpoint)
    assert unreadable.kind == "unreadable"
    assert "changed while it was read" in unreadable.message
    assert (nan.tensor, nan.count) == ("a", 1)
    file.unlink()
    (missing,) = scan(checkpoint)
    assert missing.kind == "unreadable"


def test_progress_ends_at_the_size_of_the_files(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    checkpoint = open_path()
    scan(checkpoint, progress=lambda *call: calls.append(call))
    size = checkpoint.shards[0].stat().st_size
    assert calls[-1] == (size, size, "model.safetensors")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
