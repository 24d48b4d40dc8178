"""The manifest beside a model that mlxquant made: by what, and whether the files still match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, ModelError
from ..files.json_file import INDEX_LIMIT, read_json_object
from ..load.folder import Folder
from .problems import Problem

__all__ = ["MANIFEST", "ManifestFacts", "check_manifest", "manifest_hashes", "read_manifest"]

MANIFEST = "mlxquant.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ManifestFacts:
    """What mlxquant.json says.

    Attributes:
        version: of the mlxquant that made the model.
        source, revision: what it was made from.
        request: what was asked for: bits, group size, mode, method, ….
        files: how many files it lists.
        same_sizes: whether all of them are there and as long as it says.
    """

    version: str | None
    source: str | None
    revision: str | None
    request: dict[str, Any]
    files: int
    same_sizes: bool


def read_manifest(model: Path, problems: list[Problem]) -> ManifestFacts | None:
    """What made a model; None where there is no manifest. What is wrong is added to `problems`."""
    content = _content(model, problems)
    if content is None:
        return None
    files = _files(content)
    folder, wrong = Folder(model), list[Problem]()
    for name, entry in files.items():
        path = _member(folder, name, wrong)
        if path is None:
            continue
        size, found = entry.get("bytes"), path.stat().st_size
        if type(size) is int and size != found:
            message = f"{found} bytes, the manifest says {size}"
            wrong.append(Problem("size", name, None, message))
    problems.extend(wrong)
    versions, source, request = (
        value if isinstance(value := content.get(key), dict) else {}
        for key in ("versions", "source", "request")
    )
    return ManifestFacts(
        version=_text(versions.get("mlxquant")),
        source=_text(source.get("name")),
        revision=_text(source.get("revision")),
        request={key: value for key, value in request.items() if value not in (None, [], False)},
        files=len(files),
        same_sizes=not wrong,
    )


def manifest_hashes(model: Path, problems: list[Problem]) -> dict[str, str]:
    """Each file's SHA-256 in hexadecimal, as the manifest says; empty without one. What is wrong
    with the manifest is added to `problems`."""
    content = _content(model, problems)
    hashes = {name: entry.get("sha256") for name, entry in _files(content or {}).items()}
    return {
        name: value
        for name, value in hashes.items()
        if isinstance(value, str) and _SHA256.fullmatch(value)
    }


def check_manifest(model: Path, hashes: dict[str, str]) -> list[Problem]:
    """Read files whole and compare their SHA-256 with what the manifest says."""
    from .verification import sha256_of

    folder, problems = Folder(model), list[Problem]()
    for name, wanted in hashes.items():
        path = _member(folder, name, problems)
        if path is None:
            continue
        try:
            found = sha256_of(path)
        except FileFormatError as problem:
            problems.append(Problem("unreadable", name, None, problem.reason))
            continue
        if found != wanted:
            message = f"its SHA-256 is {found}, the manifest says {wanted}"
            problems.append(Problem("hash", name, None, message))
    return problems


def _content(model: Path, problems: list[Problem]) -> dict[str, Any] | None:
    if not (model / MANIFEST).exists():
        return None
    try:
        found = _member(Folder(model), MANIFEST, problems)
        return read_json_object(found, limit=INDEX_LIMIT) if found else None
    except FileFormatError as problem:
        message = f"{problem.field}: {problem.reason}"
        problems.append(Problem("manifest", MANIFEST, None, message))
        return None


def _files(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    files = content.get("files")
    return {
        name: entry
        for name, entry in (files.items() if isinstance(files, dict) else ())
        if isinstance(entry, dict) and name != MANIFEST
    }


def _member(folder: Folder, name: str, problems: list[Problem]) -> Path | None:
    """A regular file inside the model's folder; else what is wrong with the name."""
    try:
        path = folder.member(name, folder.path / MANIFEST, "files")
    except ModelError as problem:
        problems.append(Problem("manifest", MANIFEST, None, str(problem)))
        return None
    if not path.is_file():
        problems.append(Problem("missing", name, None, "listed in the manifest, and missing"))
        return None
    return path


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
