"""Finished steps of a long calculation, kept beside its output until that is complete.

    OUT.calibration/
      journal     whose calculation this is, and the lock of the run at work
      <step>      a file a step, there whole or not at all

Every step is a function of those before it, so that a run that was stopped goes on after the last
file that is there and ends in the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import InputError, OutputError
from ..files.atomic import sync_folder
from ..formats.base import Array
from ..save.journal import Journal
from ..save.partial import cannot_write, write_error

__all__ = ["Workspace", "check_workspace", "workspace_of"]

_JOURNAL = "journal"
_ALIGN = 64


def workspace_of(output: Path) -> Path:
    """Where an output's calculation is kept."""
    return output.with_name(output.name + ".calibration")


def check_workspace(output: Path, *, force: bool, resume: bool) -> None:
    """Say before any work that an interrupted calculation is in the way.

    Raises:
        OutputError: there is one, and neither `force` nor `resume`; or something else is there.
    """
    folder = workspace_of(output)
    if not folder.exists():
        return
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {"?"}
    if folder.is_symlink() or not (not names or _JOURNAL in names):
        raise OutputError(
            f"{folder}: is in the way and no interrupted run; move it, or choose another output"
        )
    if not (force or resume):
        raise OutputError(
            f"{folder}: an interrupted run is here; --resume finishes it, --force starts over"
        )


class Workspace:
    """The folder of one calculation, locked from here to `close`.

    Args:
        output: the output that it is for.
        identity: all that the steps depend on; what another calculation left is refused.
        force: without `resume`, discard what is there.

    Raises:
        OutputError: it cannot be made, another run is at work there, or it is another run's.
    """

    def __init__(self, output: Path, identity: Any, *, force: bool, resume: bool) -> None:
        self.folder = workspace_of(output)
        try:
            self._journal = Journal(self.folder / _JOURNAL)
            try:
                if force and not resume:
                    self._journal.forget()
                    self._clear()
                self._journal.begin(json.dumps(identity, sort_keys=True, default=str))
            except BaseException:
                self._journal.close()
                raise
        except OSError as problem:
            raise cannot_write(self.folder, problem) from problem

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # what is wrong with the model would only be found again
        if isinstance(problem, InputError) and not isinstance(problem, OutputError):
            self.remove()
        self.close()

    def has(self, step: str) -> bool:
        """Whether a step is finished."""
        return (self.folder / step).is_file()

    def put(self, step: str, arrays: Mapping[str, Array], facts: Any = None) -> None:
        """Keep a step's arrays, and whatever JSON can hold, under its name.

        Raises:
            WriteError: the disk is full or failed; a resumed run goes on from here.
        """
        with self.writing(step, {k: (a.dtype, a.shape) for k, a in arrays.items()}, facts) as out:
            for key, array in arrays.items():
                out(key, 0, array)

    @contextmanager
    def writing(
        self, step: str, specs: Mapping[str, tuple[Any, tuple[int, ...]]], facts: Any = None
    ) -> Iterator[Any]:
        """Write a step's arrays piece by piece; it is finished when the block ends.

        Args:
            specs: (dtype, shape) by name.

        Yields: `write(name, first row, rows)`.
        """
        head, places = _layout(specs, facts)
        path, partial = self.folder / step, self.folder / f"{step}.tmp"
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.pwrite(handle, head, 0)

                def write(name: str, row: int, rows: Array) -> None:
                    dtype, shape, start = places[name]
                    data = np.ascontiguousarray(rows, dtype=dtype).reshape(-1).view(np.uint8)
                    at = start + row * (_nbytes(dtype, shape[1:]) if len(shape) > 0 else 0)
                    view = data.data
                    while view:
                        done = os.pwrite(handle, view, at)
                        view, at = view[done:], at + done

                yield write
                os.fsync(handle)
            finally:
                os.close(handle)
            partial.rename(path)
            sync_folder(self.folder)
        except OSError as problem:
            raise write_error(self.folder, problem) from problem

    def facts(self, step: str) -> Any:
        """What JSON held."""
        return self._head(step)["facts"]

    def arrays(self, step: str) -> dict[str, Array]:
        """All of a step's arrays."""
        return {name: self.rows(step, name) for name in self._head(step)["arrays"]}

    def rows(self, step: str, name: str, begin: int = 0, end: int | None = None) -> Array:
        """Rows [begin, end) of one array; all of it if nothing is said."""
        head = self._head(step)
        spec = head["arrays"][name]
        dtype, shape = np.dtype(spec["dtype"]), tuple(spec["shape"])
        if not shape:
            return np.fromfile(self.folder / step, dtype, 1, offset=spec["start"]).reshape(())
        end = shape[0] if end is None else end
        width = int(np.prod(shape[1:], dtype=np.int64))
        offset = spec["start"] + begin * width * dtype.itemsize
        flat = np.fromfile(self.folder / step, dtype, (end - begin) * width, offset=offset)
        return flat.reshape(end - begin, *shape[1:])

    def drop(self, step: str) -> None:
        """Forget a step that no later one needs."""
        (self.folder / step).unlink(missing_ok=True)

    def drop_all(self, *prefixes: str) -> None:
        """Forget every step whose name begins so."""
        for path in self.folder.iterdir():
            if path.name.startswith(prefixes):
                path.unlink()

    def remove(self) -> None:
        """The output is complete: nothing here is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Release the lock."""
        self._journal.close()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != _JOURNAL and path.is_file():
                path.unlink()

    def _head(self, step: str) -> dict[str, Any]:
        with (self.folder / step).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            head: dict[str, Any] = json.loads(file.read(size))
        return head


def _nbytes(dtype: Any, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * int(np.dtype(dtype).itemsize)


def _layout(
    specs: Mapping[str, tuple[Any, tuple[int, ...]]], facts: Any
) -> tuple[bytes, dict[str, tuple[Any, tuple[int, ...], int]]]:
    """A step's header and where its arrays begin."""
    entries = {
        name: {"dtype": np.dtype(dtype).str, "shape": list(shape), "start": 0}
        for name, (dtype, shape) in specs.items()
    }
    # the header's length depends on its numbers: room for the longest
    room = len(json.dumps({"facts": facts, "arrays": entries})) + 24 * len(entries)
    at = -(-(8 + room) // _ALIGN) * _ALIGN
    places = {}
    for name, (dtype, shape) in specs.items():
        entries[name]["start"] = at
        places[name] = (dtype, tuple(shape), at)
        at += -(-_nbytes(dtype, tuple(shape)) // _ALIGN) * _ALIGN
    text = json.dumps({"facts": facts, "arrays": entries}).encode()
    assert len(text) <= room
    return len(text).to_bytes(8, "little") + text, places
