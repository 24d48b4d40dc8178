"""Compiled libraries in the user's cache, each with a record of what is known about it.

    <cache>/kernels/<name>-<key>.so      the library
    <cache>/kernels/<name>-<key>.json    {"sha256": of the library,
                                          "answer": null, "" or what is wrong}

<cache> is MLXQUANT_CACHE, or `mlxquant` in the system's folder for caches. The key is the SHA-256
of the source, the compiler's version and options, and the processor. Both files appear whole: each
is written under another name and renamed, so that processes may build at the same time. What is
executed was written by this user: the folder is made for this user alone, and one that others can
write is refused. A library that is not what its record says is built anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .compiler import Compiler, Unavailable, cpu

__all__ = ["Stored", "Survey", "folder", "stored", "survey", "write"]


@dataclass
class Stored:
    """A library on disk.

    Attributes:
        path: of the library.
        sha256: of its bytes.
        answer: what the known-answer check found: empty where all was right, None before it.
        fresh: built by this call.
    """

    path: Path
    sha256: str
    answer: str | None
    fresh: bool

    def record(self, answer: str) -> None:
        """Keep what the check found; where that fails it will be made again."""
        self.answer = answer
        try:
            write(self.path.with_suffix(".json"), self._as_json())
        except OSError:
            return

    def _as_json(self) -> bytes:
        return json.dumps({"sha256": self.sha256, "answer": self.answer}).encode()


def stored(name: str, text: str, compiler: Compiler, anew: bool = False) -> Stored:
    """The library of a translation unit, compiled where there is none yet.

    Args:
        name: starts the file's name.
        text: C++.
        anew: compile even if it is there.

    Raises:
        Unavailable: the compiler failed, or the folder cannot be used.
    """
    described = "\0".join((text, compiler.version, *compiler.flags, cpu()))
    key = hashlib.sha256(described.encode()).hexdigest()
    try:
        path = folder() / f"{name}-{key}.so"
        found = None if anew else _found(path)
        return found or _build(path, text, compiler)
    except OSError as error:
        raise Unavailable(f"{error.filename or 'cache'}: {error.strerror or error}") from None


def folder() -> Path:
    """The folder of the libraries, made if it is not there.

    Raises:
        Unavailable: it belongs to someone else, or others can write into it.
        OSError: it cannot be made.
    """
    path = _cache() / "kernels"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise Unavailable(f"{path} is not a folder; remove it, or set MLXQUANT_CACHE to another")
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise Unavailable(
            f"{path} can be written by others, and what is in it would be executed; make it yours "
            "alone (chmod 700), or set MLXQUANT_CACHE to another folder"
        )
    return path


def _cache() -> Path:
    named = os.environ.get("MLXQUANT_CACHE")
    try:
        if named:
            return Path(named).expanduser().absolute()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "mlxquant"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxquant"
    except RuntimeError:
        # HOME is not set, and the system does not know the user
        whose = f"{named}: its user has no home folder" if named else "there is no home folder"
        raise Unavailable(f"{whose}; set MLXQUANT_CACHE to a folder for kernels") from None


def _found(path: Path) -> Stored | None:
    """The library and its record, if both are there and belong together."""
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        sha256, answer = record["sha256"], record["answer"]
        data = path.read_bytes()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if sha256 != hashlib.sha256(data).hexdigest() or not isinstance(answer, str | None):
        return None
    return Stored(path, sha256, answer, fresh=False)


def _build(path: Path, text: str, compiler: Compiler) -> Stored:
    with tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as private:
        made = Path(private) / "library"
        compiler.compile(text, made)
        made.chmod(0o600)
        built = Stored(path, hashlib.sha256(made.read_bytes()).hexdigest(), None, fresh=True)
        made.replace(path)
    write(path.with_suffix(".json"), built._as_json())
    return built


def write(path: Path, data: bytes) -> None:
    """A whole file or none."""
    handle, name = tempfile.mkstemp(prefix=".record-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Survey:
    """What is in a folder of libraries.

    Attributes:
        libraries: how many are what their records say.
        damaged: how many are not.
        size: bytes of all files.
        writable: whether this process may add one.
    """

    libraries: int
    damaged: int
    size: int
    writable: bool


def survey(path: Path) -> Survey:
    """Look at every library of a folder; what goes away meanwhile is not counted."""
    good = bad = size = 0
    for each in path.iterdir():
        with suppress(OSError):
            size += each.lstat().st_size
        if each.suffix == ".so":
            whole = _found(each) is not None
            good, bad = good + whole, bad + (not whole and each.exists())
    try:
        with tempfile.TemporaryFile(dir=path):
            writable = True
    except OSError:
        writable = False
    return Survey(good, bad, size, writable)
