"""Where an output is while it is not complete, and how it gets its name.

    OUT.partial/
      journal     what is finished, and the lock of the run at work
      model/      becomes OUT when it is complete and synced
      replaced/   the old OUT, from just before model/ becomes OUT until just after

Nothing else is touched. The journal is made first and removed last, so that a folder without one is
nobody's interrupted run. Where OUT is a file, or several, they are in model/ and replaced/ under
their own names; of several the first gets its name last.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import OutputError, RequestError, WriteError
from ..files.atomic import sync_folder
from .journal import Journal

__all__ = [
    "Partial",
    "check_apart",
    "check_output",
    "check_space",
    "cannot_write",
    "partial_of",
    "write_error",
]

JOURNAL, MODEL, REPLACED = "journal", "model", "replaced"


def partial_of(output: Path) -> Path:
    """Where an output is while it is not complete."""
    return output.with_name(output.name + ".partial")


def check_output(
    output: str | PathLike[str] | None,
    *,
    force: bool = False,
    resume: bool = False,
    file: bool = False,
) -> None:
    """Say before any work what stands in the way of an output folder, or of a GGUF `file`.

    Raises:
        OutputError: it exists, its parent is missing or read-only, or an interrupted run is there.
    """
    if output is None:
        raise RequestError(f"no output {'file' if file else 'folder'}: name one with -o")
    final = Path(output)
    if final.name in ("", ".."):
        raise OutputError(f"{final}: is no name for a new folder; choose another output")
    try:
        _check_final(final, force, resume, file)
        _check_partial(partial_of(final), force or resume)
    except OSError as problem:
        raise OutputError(f"{final}: cannot be written: {problem.strerror}") from problem


def check_apart(final: Path, model: Path) -> None:
    """Neither the output nor its partial folder may hold the model that is read, or lie in it.

    Raises:
        OutputError: one does.
    """
    for output in (final, partial_of(final)):
        if _is_inside(model, output):
            raise OutputError(f"{output}: the model itself lies there; choose another output")
        if _is_inside(output, model):
            raise OutputError(f"{final}: lies in the model's folder {model}; choose another output")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is the folder or lies in it; either may not exist, or be spelt differently."""
    if not folder.exists():
        return False
    real = path.resolve()
    return any(place.exists() and place.samefile(folder) for place in (real, *real.parents))


def check_space(output: Path, need: int, what: str = "the output takes") -> None:
    """Refuse to begin what cannot end; what an interrupted run has written counts as free.

    Args:
        need: bytes of the output; what: they are.

    Raises:
        OutputError: there is less room.
    """
    folder = output.absolute().parent
    written = [path for path in (partial_of(output) / MODEL).glob("*") if path.is_file()]
    free = shutil.disk_usage(folder).free + sum(512 * path.stat().st_blocks for path in written)
    if free < need:
        raise OutputError(
            f"{folder}: {what} {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; free "
            "some space or choose another output"
        )


def _check_final(final: Path, force: bool, resume: bool, file: bool) -> None:
    parent = final.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"{final}: the folder {parent} does not exist; create it first")
    if not _is_writable(parent):
        raise OutputError(f"{final}: the folder {parent} is read-only; choose another output")
    if not _is_there(final):
        return
    if not force:
        raise _exists(final, partial_of(final), resume)
    if file:
        if final.is_symlink() or not _is_gguf(final):
            raise OutputError(f"{final}: is not a GGUF file; --force replaces only those")
        return
    if final.is_symlink() or not _is_replaceable(final):
        raise OutputError(f"{final}: is not a model folder; --force replaces only those")
    if not _is_writable(final):
        raise OutputError(f"{final}: is read-only; --force cannot replace it")
    if final.is_mount():
        raise OutputError(f"{final}: is a mount point; choose a folder inside it")


def _check_partial(partial: Path, expected: bool) -> None:
    if not _is_there(partial):
        return
    if partial.is_symlink() or not _is_interrupted_run(partial):
        raise OutputError(
            f"{partial}: is in the way and no interrupted run; move it, or choose another output"
        )
    if not expected:
        raise OutputError(
            f"{partial}: an interrupted run is here; --resume finishes it, --force starts over"
        )
    if not _is_writable(partial):
        raise OutputError(f"{partial}: is read-only; choose another output")


def _exists(final: Path, partial: Path, resume: bool) -> OutputError:
    if resume and partial.is_dir() and not (partial / MODEL).exists():
        return OutputError(f"{final}: is complete already; {partial} is left over, delete it")
    return OutputError(f"{final}: exists already; --force {'--resume ' * resume}replaces it")


def _is_there(path: Path) -> bool:
    """Whether a name exists, be it a link to nowhere; a name that cannot exist is an error."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _is_replaceable(folder: Path) -> bool:
    """An empty folder, or one that holds a model and nothing that looks like a project."""
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    return not names or ("config.json" in names and ".git" not in names)


def _is_gguf(path: Path) -> bool:
    """A file with GGUF's magic, or an empty one."""
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        return opened.read(4) in (b"GGUF", b"")


def _is_interrupted_run(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {entry.name for entry in folder.iterdir()}
    return not names or JOURNAL in names


@dataclass(frozen=True)
class _Place:
    """Where a folder or a file is written, where it goes, and where what was there is set aside."""

    made: Path
    final: Path
    replaced: Path


class Partial:
    """The partial folder of one run, locked from here to `close`.

    Args:
        final: the output.
        identity: what this run is; an interrupted run with another identity is refused.
        sizes: of the files that units are written to, by name; an interrupted run that did not
            leave all of them is worth nothing, whatever its journal says.
        files: where the output is files and not a folder, their names, beside `final`.
        force: replace what is there; without `resume`, also discard what an interrupted run left.
        resume: continue what an interrupted run left.

    Attributes:
        folder: where to write; becomes `final`, or its files do.
        journal: what is in there already.

    Raises:
        OutputError: it cannot be made, another run is at work there, or it is another run's.
    """

    def __init__(
        self,
        final: Path,
        identity: str,
        sizes: Mapping[str, int],
        *,
        files: Sequence[str] | None = None,
        force: bool,
        resume: bool,
    ) -> None:
        self._final, self._force = final, force
        self._root = partial_of(final)
        self._replaced = self._root / REPLACED
        self.folder = self._root / MODEL
        self._places = [_Place(self.folder, final, self._replaced)]
        if files is not None:
            self._places = [
                _Place(self.folder / name, final.with_name(name), self._replaced / name)
                for name in files
            ]
        try:
            self.journal = Journal(self._root / JOURNAL)
            try:
                self._refuse_to_replace(resume)  # another run was faster
                if force and not resume:
                    self.journal.forget()
                    self._restore()
                    _remove(self.folder)
                self.journal.begin(identity)
                if not all(_has_size(self.folder / name, sizes[name]) for name in sizes):
                    self.journal.forget()
                self.folder.mkdir(exist_ok=True)
            except BaseException:
                self.close()
                raise
        except OSError as problem:
            raise cannot_write(self._root, problem) from problem

    def publish(self) -> None:
        """Give what is complete its name.

        Raises:
            OutputError: somebody else made the output meanwhile.
            WriteError: it cannot be renamed. In both cases a resumed run has little left to do.
        """
        self._refuse_to_replace(resume=True)
        try:
            try:
                for place in reversed(self._places):
                    if _is_there(place.final):
                        _remove(place.replaced)
                        place.replaced.parent.mkdir(exist_ok=True)
                        place.final.rename(place.replaced)
                for place in reversed(self._places):
                    place.made.rename(place.final)
            except BaseException:
                self._take_back()
                self._restore()
                raise
            sync_folder(self._final.absolute().parent)
        except OSError as problem:
            raise write_error(self._root, problem) from problem
        _remove(self.folder)

    def discard(self) -> None:
        """Give up what was written."""
        with suppress(OSError):
            self.journal.forget()
            self._restore()
        _remove(self.folder)

    def close(self) -> None:
        """Release the lock; a partial folder that holds nothing of worth any more goes away."""
        try:
            if not self.folder.exists():
                if all(_is_there(place.final) for place in self._places):
                    _remove(self._replaced)
                if not self._replaced.exists():
                    _remove(self._root)
        finally:
            self.journal.close()

    def _refuse_to_replace(self, resume: bool) -> None:
        for place in self._places:
            if _is_there(place.final) and not self._force:
                raise _exists(place.final, self._root, resume)

    def _take_back(self) -> None:
        """Of several files, those that have their names lose them again."""
        for place in self._places:
            if not place.made.exists() and _is_there(place.final):
                place.final.rename(place.made)

    def _restore(self) -> None:
        """What was set aside gets its name back, unless something new has it."""
        for place in self._places:
            if place.replaced.exists() and not _is_there(place.final):
                place.replaced.rename(place.final)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _remove(path: Path) -> None:
    """Delete a folder or a file as far as possible, if it is there."""
    if path.is_file():
        with suppress(OSError):
            path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def cannot_write(path: Path, problem: OSError) -> OutputError:
    """Of a place where nothing can be begun."""
    what = "free some space or " if problem.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return OutputError(
        f"{path}: cannot be written: {problem.strerror}; {what}choose another output"
    )


def write_error(folder: Path, problem: OSError) -> WriteError:
    """What a user can do about a failed write."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full; free some space"
    else:
        what = f"writing failed: {problem.strerror}; see to that"
    return WriteError(f"{folder}: {what}, then run the same command with --resume")
