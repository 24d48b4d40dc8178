"""Files that ship with mlxquant: the bundled model, used wherever no MODEL is named."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUNDLED_MODEL"]

#: `books-7m`, a 7.3 M-parameter Llama-architecture model; its README.md is the model card
BUNDLED_MODEL = Path(__file__).parent / "books-7m"
