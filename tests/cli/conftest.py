"""The command line in this process, where mlx is imported once; and a model that never stops."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Ran(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`mlxquant ARGS…` through its real entry point; standard input is `input`, UTF-8 or bytes."""

    def run(*args: str | Path, input: str | bytes = b"") -> Ran:
        from mlxquant.cli import main

        data = input.encode() if isinstance(input, str) else input
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["mlxquant", *map(str, args)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
            with pytest.raises(SystemExit) as ended:
                main()
        status = ended.value.code
        return Ran(status if isinstance(status, int) else int(bool(status)), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory, bundled: Path) -> Path:
    """The bundled model with other names for its ends of sequence: it goes on and on."""
    folder = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(bundled, folder)
    for name, changes in {
        "config.json": {"eos_token_id": 4095, "max_position_embeddings": 100_000},
        "generation_config.json": {"eos_token_id": 4095},
        "tokenizer_config.json": {"eos_token": "<|pad|>"},
        "special_tokens_map.json": {"eos_token": "<|pad|>"},
    }.items():
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text()
        text = text.replace("<|end|>", "<|over|>").replace("<|end_of_text|>", "<|text_over|>")
        (folder / name).write_text(text)
    return folder
