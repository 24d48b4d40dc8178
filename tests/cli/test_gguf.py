"""`mlxquant generate` and `chat` on a GGUF file, as on any model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop import family_models

from mlxquant import quantize_gguf
from mlxquant.quantize.llama_types import TypeRequest
from mlxquant.run.model import load

SAY = "The old house stood on the hill."
GREEDY = ("--temp", "0", "-m", "12")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in blocks that MLX's own layers hold."""
    file = tmp_path_factory.mktemp("gguf") / "books.gguf"
    quantize_gguf(None, file, TypeRequest("Q8_0", pure=True))
    return file


def test_a_prompt_is_answered(run: Run, file: Path) -> None:
    import mlx_lm

    model, tokenizer = load(file)
    said = [{"role": "user", "content": SAY}]
    prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True)
    expected = mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=12)
    ran = run("generate", file, "-p", SAY, *GREEDY)
    assert (ran.status, ran.out) == (0, expected + "\n")
    assert "12 tokens, " in ran.err


def test_json_names_the_file(run: Run, file: Path) -> None:
    found = json.loads(run("generate", file, "-p", SAY, "-m", "3", "--json").out)
    assert found["model"] == str(file)
    assert found["generated_tokens"] == 3


def test_chat_stops_at_the_end_of_the_turn(run: Run, file: Path) -> None:
    ran = run("chat", file, "--temp", "0", "-m", "200", input=f"{SAY}\nAnd then?\n")
    assert ran.status == 0
    assert len(ran.out.splitlines()) >= 2
    assert "<|" not in ran.out
    assert "stopped at" not in ran.err


def test_any_part_of_a_split_model(run: Run, file: Path, tmp_path: Path) -> None:
    quantize_gguf(file, tmp_path / "part.gguf", TypeRequest("COPY"), split_bytes=3_000_000)
    parts = sorted(tmp_path.glob("part-*.gguf"))
    expected = run("generate", file, "-p", SAY, *GREEDY).out
    assert len(parts) > 1
    for part in (parts[0], parts[-1]):
        assert run("generate", part, "-p", SAY, *GREEDY).out == expected
    parts[0].unlink()
    ran = run("generate", parts[-1], "-p", SAY)
    assert (ran.status, ran.out) == (2, "")
    assert "part 1 of" in ran.err


def test_one_speculates_for_a_folder(run: Run, bundled: Path, file: Path) -> None:
    ran = run("generate", bundled, "--draft-model", file, "-p", SAY, *GREEDY)
    assert ran.status == 0
    assert "from the draft model" in ran.err


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_what_cannot_run_is_one_line(run: Run, file: Path, tmp_path: Path, command: str) -> None:
    whole = file.read_bytes()
    cut, foreign, mute = (tmp_path / f"{name}.gguf" for name in ("cut", "foreign", "mute"))
    cut.write_bytes(whole[:-1000])
    foreign.write_bytes(whole.replace(b"llama", b"lhama"))
    family_models.export(family_models.make_case(tmp_path / "model", "llama"), mute, ("Q8_0",))
    for path, said in (
        (cut, "cut.gguf: tensor "),
        (foreign, "foreign.gguf: GGUF architecture 'lhama'"),
        (mute, "the file has no vocabulary"),
        (tmp_path / "missing.gguf", "no such file"),
    ):
        ran = run(command, path, input=SAY)
        assert (ran.status, ran.out) == (2, "")
        assert said in ran.err
        assert ran.err.startswith("error: ")
        assert ran.err.count("\n") == 1
