"""Steps of a long calculation are there whole or not at all, and belong to one calculation."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mlxquant.errors import OutputError, WriteError
from mlxquant.quantize.workspace import Workspace, check_workspace, workspace_of


def opened(output: Path, identity: object = "a", **how: bool) -> Workspace:
    return Workspace(output, identity, **{"force": False, "resume": False, **how})


def test_what_was_put_is_there_again(tmp_path: Path) -> None:
    arrays = {
        "h": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
        "none": np.zeros((0, 5), np.uint8),
        "one": np.array(7, np.int64),
    }
    with opened(tmp_path / "out") as work:
        work.put("step", arrays, {"why": "Łódź", "n": [1, 2.5, None]})
    with opened(tmp_path / "out", resume=True) as work:
        assert work.has("step") and not work.has("other")
        assert work.facts("step") == {"why": "Łódź", "n": [1, 2.5, None]}
        for name, found in work.arrays("step").items():
            assert found.dtype == arrays[name].dtype
            assert np.array_equal(found, arrays[name])
        assert np.array_equal(work.rows("step", "h", 1, 3), arrays["h"][1:3])
        work.drop("step")
        assert not work.has("step")


def test_pieces_in_any_order(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    with opened(tmp_path / "out") as work:
        with work.writing("step", {"x": (np.float32, rows.shape)}) as write:
            for begin in (6, 0, 3):
                write("x", begin, rows[begin : min(begin + 4, 10)])
                assert not work.has("step")
        assert np.array_equal(work.rows("step", "x"), rows)


def test_what_was_broken_off_is_not_there(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as work:
        with (
            pytest.raises(ZeroDivisionError),
            work.writing("step", {"x": (np.float32, (2,))}) as write,
        ):
            write("x", 0, np.ones(1, np.float32))
            raise ZeroDivisionError
        assert not work.has("step")


def test_one_calculation(tmp_path: Path) -> None:
    output = tmp_path / "out"
    check_workspace(output, force=False, resume=False)
    with opened(output) as work:
        work.put("step", {})
        with pytest.raises(OutputError, match="another run is writing here"):
            opened(output, resume=True)
    with pytest.raises(OutputError, match="--resume finishes it, --force starts over"):
        check_workspace(output, force=False, resume=False)
    with pytest.raises(OutputError, match="another model, request or version"):
        opened(output, "b", resume=True)
    with opened(output, "b", force=True) as work:
        assert not work.has("step")
        work.remove()
    assert not workspace_of(output).exists()


def test_what_is_no_interrupted_run_is_left_alone(tmp_path: Path) -> None:
    folder = workspace_of(tmp_path / "out")
    folder.mkdir()
    (folder / "diary").write_text("mine")
    with pytest.raises(OutputError, match="is in the way and no interrupted run"):
        check_workspace(tmp_path / "out", force=True, resume=True)


@pytest.mark.parametrize("writes", range(3))
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    left = writes
    real = os.pwrite

    def pwrite(handle: int, data: bytes, offset: int) -> int:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= 1
        return real(handle, data, offset)

    arrays = {"a": np.ones(3), "b": np.ones(4)}
    with opened(tmp_path / "out") as work:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(WriteError, match=r"the disk is full; .* --resume"):
            work.put("step", arrays)
        monkeypatch.undo()
        assert not work.has("step")
        work.put("step", arrays)
        assert work.has("step")
