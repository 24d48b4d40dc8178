"""Where format files enter themselves; the table behind `formats.get` and `formats.names`."""

from __future__ import annotations

from .base import Format

__all__ = ["FORMATS", "register"]

#: every format by name, in the order of registration
FORMATS: dict[str, Format] = {}


def register(*members: Format) -> None:
    """Enter formats under their names; each format file calls this once, at its end."""
    for member in members:
        assert member.name not in FORMATS, f"two formats are called {member.name}"
        FORMATS[member.name] = member
