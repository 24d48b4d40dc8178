"""Every broken GGUF file gets one line that says why, and costs nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile.gguf_building import gguf
from hostile.gguf_cases import (
    FILES,
    MODELS,
    PARTS,
    SPLITS,
    VOCABULARIES,
    Case,
    array,
    key,
    part,
    parts,
)

from mlxquant.errors import FileFormatError
from mlxquant.files.gguf import read_gguf
from mlxquant.files.gguf_split import open_split
from mlxquant.load.gguf_checks import check_model, check_vocabulary


def assert_refused(call: Callable[[], object], file: Path, says: tuple[str, ...]) -> None:
    """One printable line of `file: field: reason` with these words."""
    with pytest.raises(FileFormatError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{file}: " if file.is_file() else f"{file}")
    assert message.isprintable()
    assert len(message) <= 600
    for words in says:
        assert words in message


@pytest.mark.parametrize("case", FILES.values(), ids=FILES.keys())
def test_files_that_cannot_be_opened(case: Case, tmp_path: Path) -> None:
    build, says = case
    file = tmp_path / "m.gguf"
    file.write_bytes(build())
    assert_refused(lambda: read_gguf(file), file, says)


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())
def test_models_that_cannot_be(case: Case, tmp_path: Path) -> None:
    build, says = case
    file = tmp_path / "m.gguf"
    file.write_bytes(build())
    header = read_gguf(file)
    assert_refused(lambda: check_model([header]), file, says)


@pytest.mark.parametrize("case", VOCABULARIES.values(), ids=VOCABULARIES.keys())
def test_vocabularies_that_cannot_be(case: Case, tmp_path: Path) -> None:
    build, says = case
    file = tmp_path / "m.gguf"
    file.write_bytes(build())
    header = read_gguf(file)
    assert_refused(lambda: check_vocabulary(header), file, says)


@pytest.mark.parametrize("name", SPLITS)
def test_parts_that_are_no_set(name: str, tmp_path: Path) -> None:
    build, says = SPLITS[name]
    files = build()
    for part_name, data in files.items():
        (tmp_path / part_name).write_bytes(data)
    # Whichever part is opened, it is another one's fault that is told, or its own.
    assert_refused(lambda: open_split(tmp_path / next(iter(files))), tmp_path, says)
    for part_name in files:
        with pytest.raises(FileFormatError):
            open_split(tmp_path / part_name)


def test_the_files_that_the_cases_break_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf())
    header = read_gguf(file)
    assert list(header.entries) == ["token_embd.weight", "blk.0.attn_q.weight"]
    check_model([header])
    check_vocabulary(header)
    for name, data in parts()().items():
        (tmp_path / name).write_bytes(data)
    for name in PARTS:
        assert [found.path.name for found in open_split(tmp_path / name)] == PARTS
    check_model(open_split(tmp_path / PARTS[0]))


@pytest.mark.parametrize("kind", ["directory", "pipe", "nothing", "loop", "NUL"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "NUL":
        path = tmp_path / "a\0b"
    with pytest.raises(FileFormatError):
        read_gguf(path)


def test_every_length_of_a_file_cut_short(tmp_path: Path) -> None:
    whole = gguf()
    file = tmp_path / "m.gguf"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            read_gguf(file)


LIMITED = """
import resource, sys
from mlxquant.errors import FileFormatError
from mlxquant.files.gguf import read_gguf
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_gguf(path)
    except FileFormatError as problem:
        assert str(problem).isprintable()
    else:
        raise SystemExit(f"{path} was read")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_lies_about_size_allocate_nothing(tmp_path: Path) -> None:
    """Files that claim 2^61 things, and sparse ones that really have room for many."""
    paths = []
    for number, (build, _) in enumerate(FILES.values()):
        data = build()
        if len(data) < 1 << 20:
            paths.append(tmp_path / f"{number}.gguf")
            paths[-1].write_bytes(data)
    for number, raw in enumerate((array(8, 2**38), array(0, 2**41), array(9, 2**38))):
        paths.append(tmp_path / f"sparse-{number}.gguf")
        paths[-1].write_bytes(key("k", raw))
        os.truncate(paths[-1], 1 << 42)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 20


def test_a_large_sparse_file_costs_its_header(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    rows = 1 << 30  # of 1024 bytes each
    data = gguf(tensors=[("token_embd.weight", (256, rows), 0, 0, b"")])
    file.write_bytes(data)
    os.truncate(file, len(data) + 1024 * rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    header = read_gguf(file)
    assert header.entries["token_embd.weight"].shape == (rows, 256)
    assert header.stop == header.size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_a_part_that_is_opened_may_be_the_broken_one(tmp_path: Path) -> None:
    for name, data in parts(p2=part(3))().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        open_split(tmp_path / PARTS[1])
    assert caught.value.file == str(tmp_path / PARTS[1])
