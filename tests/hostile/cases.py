"""Hostile and broken models: each builds a model under a folder and says what it must get.

    for name, case in cases.ALL.items():
        path = case.build(tmp_path)        # what to open
        case.says                          # what the one-line error must contain

The same cases go through the library and through the command line. Every model here is a few
kilobytes; where a file claims to be huge, it is sparse or lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hostile.building import Builder, plain, write
from hostile.folders import FOLDERS
from hostile.headers import HEADERS
from hostile.settings import SETTINGS

__all__ = ["ALL", "Case"]


@dataclass(frozen=True)
class Case:
    """A model to open, and what the error must contain."""

    builder: Builder
    says: tuple[str, ...]

    def build(self, tmp: Path) -> Path:
        """Make the model under `tmp`; returns the path to open."""
        folder = tmp / "model"
        folder.mkdir()
        return self.builder(folder) or folder


def _with_weights(content: Callable[[], bytes]) -> Builder:
    """A model whose only weight file is this one."""

    def build(folder: Path) -> None:
        plain(folder)
        write(folder, "model.safetensors", content())

    return build


_BUILDERS = FOLDERS | SETTINGS
_BUILDERS |= {
    f"header: {name}": (_with_weights(get), says) for name, (get, says) in HEADERS.items()
}

ALL = {name: Case(builder, says) for name, (builder, says) in _BUILDERS.items()}
