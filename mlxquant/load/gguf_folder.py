"""A folder that holds a GGUF model: what `export --to swift` makes of a GGUF file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ModelError, one_line

__all__ = ["exported_gguf", "gguf_in"]

_MANIFEST = "mlxquant.json"

_PART = re.compile(r"(?P<prefix>.*)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def gguf_in(folder: str | os.PathLike[str]) -> Path | None:
    """The GGUF file of a folder without a config.json; of a split model its first part.

    Files named `mmproj…`, which hold what turns pictures into tokens, are passed over.

    Returns: None where this is no such folder.

    Raises:
        ModelError: there are several models in it.
    """
    path = Path(folder)
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError:
        return None
    if "config.json" in names:
        return None
    found: dict[tuple[str, str], Path] = {}
    for name in names:
        if name.lower().endswith(".gguf") and not name.startswith("mmproj"):
            part = _PART.fullmatch(name)
            found.setdefault((part["prefix"], part["count"]) if part else (name, ""), path / name)
    if len(found) > 1:
        shown = ", ".join(file.name for file in list(found.values())[:3])
        reason = f"{len(found)} GGUF models ({shown}, …); give one of them"
        raise ModelError(one_line(f"{path}: {reason}"))
    return next(iter(found.values()), None)


def exported_gguf(folder: Path) -> Path | None:
    """As `gguf_in`, of a folder that mlxquant wrote: one with a manifest."""
    return gguf_in(folder) if (folder / _MANIFEST).is_file() else None
