"""The document as a page of Markdown, to be attached to an issue or read."""

from __future__ import annotations

import json
from typing import Any

from ..measure.tables import markdown_text
from . import tables

__all__ = ["page"]


def page(document: dict[str, Any]) -> str:
    """All of it: facts, problems, tables, and the document itself at the end."""
    parts = ["# mlxquant doctor\n", *(_pair(*each) for each in tables.facts(document)), ""]
    for title in ("problems", "notes"):
        parts.append(f"## {title.capitalize()}\n")
        parts += [
            f"- {markdown_text(each['what'])}" + _next(each["advice"]) for each in document[title]
        ] or ["none"]
        parts.append("")
    parts += ["## Backends\n", *_table(tables.backends(document)), ""]
    parts += ["## Kernels\n", markdown_text(tables.checked(document)), ""]
    if document["speeds"]:
        parts += [*_table(tables.speeds(document)), ""]
    text = json.dumps(document, indent=1, ensure_ascii=False)
    parts += ["<details><summary>everything</summary>\n", f"```json\n{text}\n```\n", "</details>"]
    return "\n".join(parts) + "\n"


def _pair(name: str, value: str) -> str:
    return f"- {name}: {markdown_text(value)}"


def _next(advice: str) -> str:
    return f". What to do: {markdown_text(advice)}" if advice else ""


def _table(rows: tables.Rows) -> list[str]:
    titles, cells = rows
    lines = [titles, ["---"] * len(titles)]
    lines += [[markdown_text(cell) for cell in row] for row in cells]
    return ["| " + " | ".join(line) + " |" for line in lines]
