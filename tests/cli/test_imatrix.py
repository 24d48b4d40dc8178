"""`mlxquant imatrix`, and `quantize --type --calibrate`, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from mlxquant.files.gguf import read_gguf
from mlxquant.quantize.imatrix import read_imatrix

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("imatrix") / "model"
    return tiny_models.make(place, "llama", lively=True, vocab_size=4096, num_hidden_layers=1)


def test_a_matrix_is_measured_and_taken(run: Run, folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "i.gguf", tmp_path / "o.gguf"
    ran = run("imatrix", folder, "-o", file, "--windows", "1")
    assert ran.status == 0, ran.err
    assert "8 matrices measured on 1 windows of 512 tokens" in ran.out
    assert len(read_imatrix(file).entries) == 8
    assert run("quantize", folder, "-o", out, "--type", "Q4_0", "--imatrix", file).status == 0
    ran = run("imatrix", folder, "-o", file, "--windows", "1")
    assert (ran.status, ran.err) == (2, f"error: {file}: exists already; --force replaces it\n")
    ran = run("imatrix", folder, "-o", file, "--windows", "2", "--force", "--json")
    assert json.loads(ran.out) == {
        "output": str(file),
        "tensors": 8,
        "datasets": ["calibration.txt"],
        "chunks": 2,
        "chunk_size": 512,
        "unseen_experts": {},
    }
    ran = run("imatrix", folder, "-o", out, "--force")
    assert ran.status == 2
    assert "is not an importance matrix; --force replaces only those" in ran.err
    assert run("imatrix", folder, "-o", tmp_path / "i.txt").status == 2


def test_a_text_and_a_type(run: Run, folder: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "mine.txt", tmp_path / "o.gguf"
    text.write_text("The old house stood on the hill, and nobody had lived in it. " * 80)
    words = ("quantize", folder, "-o", out, "--type", "Q4_0", "--calibrate", text)
    ran = run(*words, "--calibrate-windows", "1", "--json")
    assert ran.status == 0, ran.err
    request = json.loads(ran.out)["request"]
    assert request["method"] == "gptq"
    assert request["calibration"]["text"] == "mine.txt"
    assert read_gguf(out).get("quantize.imatrix.dataset") == "mine.txt"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.txt", "o.gguf"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "gptq"), "needs a text: --calibrate FILE"),
        (("--calibrate", "bundled", "--method", "rtn"), "is for MLX's formats"),
        (("--calibrate", "bundled", "--imatrix", "i.gguf"), "leave one of them out"),
        (("--include-weights", "attn"), "give --imatrix FILE or --calibrate TEXT"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    ran = run("quantize", "-o", tmp_path / "o.gguf", "--type", "Q4_0", *words)
    assert ran.status == 2
    assert said in ran.err
    assert not list(tmp_path.iterdir())
