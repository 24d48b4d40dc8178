"""Find a model: the bundled one, a folder, or a hub id that huggingface_hub fetches into its cache.

huggingface_hub does the fetching, so HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what
they mean everywhere. A branch is looked up on every use, as mlx-lm does; where the hub cannot be
reached, the cached model is used. A commit hash that is cached needs no look-up. A download that
was cut short goes on where it was: broken connections from the byte, broken-off runs from the file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..assets import BUNDLED_MODEL
from ..errors import HubError, InputError, MlxquantError, RequestError, one_line

__all__ = ["ResolvedSource", "local_source", "resolve"]

#: the files of a hub repository that a conversion needs; weights in other formats stay there
_WANTED = (
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "tiktoken.model",
    "*.tiktoken",
    "*.txt",
    "*.jsonl",
    "LICENSE*",
)
#: chat templates, also those in `additional_chat_templates/`
_TEMPLATES = ("*.jinja",)
_CODE = ("*.py",)

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHA1, _SHA256 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ResolvedSource:
    """Where a model is.

    Attributes:
        path: the folder that holds it.
        source: what the user typed, or `books-7m (bundled)`.
        revision: the hub commit; None for a folder.
    """

    path: Path
    source: str
    revision: str | None = None


def resolve(
    model: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool | None = None,
) -> ResolvedSource:
    """Find a model on this machine, or fetch it from the hub.

    Args:
        model: None for the bundled model; a folder; or a hub id, `org/name`. What exists as a path
            is a path: it never touches the network.
        revision: branch, tag or commit on the hub.
        trust_remote_code: fetch the repository's Python files as well.
        progress: show the download on stderr; None for only where stderr is a terminal.

    Raises:
        InputError: no such folder, no such model on the hub, or not a name of either.
        HubError: the model could not be fetched.
    """
    here = local_source(model, revision=revision)
    if here is not None:
        return here
    name = str(model)
    folder = _fetch(name, revision, trust_remote_code, progress)
    if not any(folder.glob("model*.safetensors")):
        raise InputError(
            f"{name}: no model*.safetensors among its files ({folder}); mlxquant reads safetensors "
            "weights: choose a repository that has them (or, if it does, fetch it again online)"
        )
    return ResolvedSource(folder, name, folder.name)


def local_source(
    model: str | os.PathLike[str] | None = None, *, revision: str | None = None
) -> ResolvedSource | None:
    """Where a model is that is no hub id; None for what is one.

    Raises:
        InputError: no such folder, and not a name of a model on the hub either.
    """
    if model is None:
        _no_revision(revision, "the bundled model")
        return ResolvedSource(BUNDLED_MODEL, "books-7m (bundled)")
    name = os.fspath(model)
    try:
        path = Path(name).expanduser()
    except RuntimeError as problem:  # ~name, for a user that is not here
        raise InputError(one_line(f"{name}: no such folder: {problem}")) from problem
    if not name.strip():
        raise InputError("the model's name is empty; give a folder or a hub id, org/name")
    if _exists(path):
        _no_revision(revision, name)
        return ResolvedSource(path, name)
    if path.suffix == ".gguf":
        raise InputError(f"{_shown(name)}: no such file")
    if isinstance(model, os.PathLike) or not _HUB_ID.fullmatch(name):
        raise InputError(f"{_shown(name)}: {_why_no_hub_id(name)}")
    return None


def _no_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise RequestError(
            f"revision {revision!r}: {_shown(what)} is not on the hub; leave the revision out"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as problem:
        raise InputError(f"{_shown(str(path))}: {problem.strerror}") from problem


def _shown(name: str) -> str:
    return one_line(name, 200)


def _why_no_hub_id(name: str) -> str:
    if re.match(r"(?i)(https?|hf)://", name):
        return "a web address; give the folder, or the model's hub id as org/name"
    if "/" not in name and "\\" not in name:
        return "no such folder here; a model on the hub is named org/name"
    return "no such folder"


def _fetch(name: str, revision: str | None, code: bool, progress: bool | None) -> Path:
    """The snapshot folder of a hub model, fetched where it is not in the cache."""
    from huggingface_hub import constants, snapshot_download

    blobs = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "blobs"
    before = {blob.name for blob in blobs.glob("*")}
    code_files = _CODE if code else ()
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*_WANTED, *_TEMPLATES, *code_files],
            ignore_patterns=[f"*/{pattern}" for pattern in _WANTED],
            library_name="mlxquant",
            tqdm_class=_bar(sys.stderr.isatty() if progress is None else progress),
        )
    except Exception as problem:  # the HTTP library's exceptions differ between hub versions
        _check_hashes(name, blobs, before)
        raise _explain(name, revision, problem) from problem
    _check_hashes(name, blobs, before)
    return Path(folder)


def _bar(shown: bool) -> type[Any]:
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if not shown:
                kwargs["disable"] = True
            super().__init__(*args, **kwargs)

    return Bar


def _check_hashes(name: str, blobs: Path, before: set[str]) -> None:
    """Hash the files that this run fetched; delete damaged ones, so that a new run fetches them.

    The cache names a file's content by its hash (SHA-256 for large files, git's SHA-1 of a blob for
    the others), but the client compares only its length.
    """
    damaged = []
    for blob in sorted(blobs.glob("*")):
        if blob.name in before:
            continue
        if _SHA256.fullmatch(blob.name):
            digest = hashlib.sha256()
        elif _SHA1.fullmatch(blob.name):
            digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
        else:
            continue
        with blob.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if digest.hexdigest() != blob.name:
            blob.unlink()
            damaged.append(f"its hash is {digest.hexdigest()[:16]}…, not {blob.name[:16]}…")
    if damaged:
        raise HubError(
            f"{name}: a file arrived damaged and was deleted ({'; '.join(damaged)}); "
            "run the same command again"
        )


def _explain(name: str, revision: str | None, problem: Exception) -> MlxquantError:
    """One line that says what to do, for anything that huggingface_hub raises."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    cause: BaseException = problem
    if isinstance(problem, errors.LocalEntryNotFoundError) and problem.__cause__ is not None:
        cause = problem.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)

    def hub_error(text: str) -> HubError:
        return HubError(one_line(f"{name}: {text}"))

    if isinstance(cause, errors.OfflineModeIsEnabled):
        return hub_error(
            f"not complete in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; "
            "unset it to fetch the model"
        )
    if isinstance(cause, errors.GatedRepoError):
        return hub_error(
            f"access is restricted; accept its terms on {where}/{name}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return InputError(one_line(f"{name}: no revision {revision!r} on {where}"))
    if isinstance(cause, errors.RepositoryNotFoundError):
        return InputError(
            one_line(
                f"{name}: no such folder here and no such model on {where}; check the name, and if "
                "the model is private, log in with `hf auth login` or set HF_TOKEN"
            )
        )
    if status in (401, 403):
        return hub_error(
            f"{where} refused the access token (HTTP {status}); log in with `hf auth login` or "
            "set HF_TOKEN to a valid token"
        )
    if status is not None:
        return hub_error(f"{where} answered HTTP {status}; run the same command again later")
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return hub_error(
            f"no space left on the disk of {constants.HF_HUB_CACHE}; free some or set HF_HOME to a "
            "folder on another disk, then run the same command again"
        )
    if isinstance(cause, OSError) and cause.errno is not None and cause.filename is not None:
        return hub_error(
            f"cannot write {cause.filename} ({cause.strerror}); set HF_HOME to a folder that you "
            "can write"
        )
    said = str(cause).strip().partition("\n")[0] or "no reason given"
    return hub_error(
        f"fetching from {where} failed ({type(cause).__name__}: {said}); check the connection and "
        "run the same command again: files that arrived are kept"
    )
