"""The bundled model, loaded once, and folders that differ from it in one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture(scope="session")
def pair() -> tuple[Any, Any]:
    """(model, tokenizer) of the bundled model."""
    from mlxquant.run.model import load

    return load()


@pytest.fixture(scope="session")
def precise() -> tuple[Any, Any]:
    """The same in float32, where two ways to compute a score do not end in different tokens."""
    import mlx.core as mx

    from mlxquant.run.model import load

    model, tokenizer = load()
    model.set_dtype(mx.float32)
    return model, tokenizer


@pytest.fixture(scope="session")
def expected(precise: tuple[Any, Any]) -> list[int | None]:
    """What the float32 model says to PROMPT, greedily."""
    from generating import GREEDY, tokens

    return tokens(precise, GREEDY)


@pytest.fixture
def variant(tmp_path: Path, bundled: Path) -> Callable[..., Path]:
    """Makes a copy of the bundled model; each keyword argument `config_json=edit` changes a file.

    An edit gets the file's object and changes it, or returns another; None removes the file.
    """

    def make(**edits: Edit | None) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(bundled, folder)
        for key, edit in edits.items():
            stem, _, suffix = key.rpartition("_")
            file = folder / f"{stem}.{suffix}"
            if edit is None:
                file.unlink()
                continue
            content = json.loads(file.read_text())
            file.write_text(json.dumps(edit(content) or content))
        return folder

    return make
