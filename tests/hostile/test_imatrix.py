"""Every broken importance matrix gets one line that says why, and costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile.gguf_building import gguf
from hostile.gguf_cases import Case
from hostile.imatrix_cases import DAT, GGUF, HEAD, NAME, dat, entry, tensors
from hostile.test_commands import assert_refused, call

from mlxquant.errors import FileFormatError
from mlxquant.quantize.imatrix import read_imatrix

CASES = {f"dat: {name}": case for name, case in DAT.items()}
CASES |= {f"gguf: {name}": case for name, case in GGUF.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_files_that_cannot_be_read(case: Case, tmp_path: Path) -> None:
    build, says = case
    file = tmp_path / "m.imatrix"
    file.write_bytes(build())
    with pytest.raises(FileFormatError) as caught:
        read_imatrix(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and message.isprintable() and len(message) <= 600
    for words in says:
        assert words in message


@pytest.mark.parametrize("name", ["dat: NaN", "dat: HTML", "gguf: a model", "gguf: no counts"])
def test_the_command_says_so_before_it_begins(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, says = CASES[name]
    file = tmp_path / "m.imatrix"
    file.write_bytes(build())
    words = ["--type", "Q4_K_M", "--imatrix", file, "-o", tmp_path / "out.gguf"]
    assert_refused(call(monkeypatch, capsys, "quantize", *words), says)
    assert [path.name for path in tmp_path.iterdir()] == ["m.imatrix"]


def test_the_files_that_the_cases_break_are_whole(tmp_path: Path) -> None:
    for data, count in ((dat(entry()), 3), (gguf(HEAD, tensors()), 7)):
        (tmp_path / "whole").write_bytes(data)
        found = read_imatrix(tmp_path / "whole")
        assert (found.datasets, found.chunks, list(found.entries)) == (("some text",), 3, [NAME])
        assert found.entries[NAME].counts.tolist() == [count]


def test_every_length_of_a_file_cut_short(tmp_path: Path) -> None:
    """A `.dat` file may end behind its entries, or behind the number of chunks."""
    file = tmp_path / "m.imatrix"
    whole = dat(entry())
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        if length in (43, 47):
            assert read_imatrix(file).datasets == ()
        else:
            with pytest.raises(FileFormatError):
                read_imatrix(file)
    whole = gguf(HEAD, tensors())
    for length in range(len(whole) - 28):  # the last tensor has 4 bytes, and 28 of padding
        file.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            read_imatrix(file)


LIMITED = """
import resource, sys
from mlxquant.errors import FileFormatError
from mlxquant.quantize.imatrix import read_imatrix
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_imatrix(path)
    except FileFormatError as problem:
        assert str(problem).isprintable()
    else:
        raise SystemExit(f"{path} was read")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_lies_about_size_allocate_nothing(tmp_path: Path) -> None:
    paths = []
    for number, (build, _) in enumerate(CASES.values()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(build())
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 20


@pytest.mark.parametrize("kind", ["directory", "pipe", "nothing"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.imatrix"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(FileFormatError):
        read_imatrix(path)
