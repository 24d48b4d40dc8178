"""Names from outside in messages: quoted, and too short to push the reason out of the line."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["quote", "show"]


def quote(name: str, limit: int = 120) -> str:
    """`name` in quotes, its middle left out beyond `limit` characters."""
    half = limit // 2
    return repr(name if len(name) <= limit else f"{name[:half]}…{name[-half:]}")


def show(value: Any, limit: int = 120) -> str:
    """A JSON value as JSON, cut at `limit` characters."""
    text = json.dumps(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
