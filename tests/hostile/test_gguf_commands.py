"""Every broken GGUF file through every command: status 2, one line, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hostile.gguf_cases import FILES, MODELS, SPLITS, VOCABULARIES, Case
from hostile.test_commands import assert_refused, call

WORDS: dict[str, Callable[[Path], list[object]]] = {
    "inspect": lambda out: [],
    "quantize": lambda out: ["-o", out],
    "quantize --type": lambda out: ["--type", "Q8_0", "-o", out],
    "import": lambda out: ["-o", out],
    "export": lambda out: ["-o", out],
    "generate": lambda out: ["--prompt", "x"],
}
#: a model whose vocabulary is broken can still be looked at: `inspect` lists it as a problem
CASES: dict[str, Case] = {
    **{f"file: {name}": case for name, case in FILES.items()},
    **{f"model: {name}": case for name, case in MODELS.items()},
    **{f"vocabulary: {name}": case for name, case in VOCABULARIES.items()},
}


@pytest.mark.parametrize("command", WORDS)
@pytest.mark.parametrize("name", CASES)
def test_broken_files(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, says = CASES[name]
    model = tmp_path / "m.gguf"
    model.write_bytes(build())
    out = tmp_path / "out"
    result = call(monkeypatch, capsys, command.split()[0], model, *WORDS[command](out))
    if command == "inspect" and not name.startswith("file: "):
        assert result[0] in (0, 2) and "Traceback" not in result[2]
        told = result[1] + result[2]
        assert all(words in " ".join(told.split()) for words in says[-1:]), told
    else:
        assert_refused(result, says)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("command", [name for name in WORDS if name != "inspect"])
@pytest.mark.parametrize("name", SPLITS)
def test_parts_that_are_no_set(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build, says = SPLITS[name]
    files = build()
    for part, data in files.items():
        (tmp_path / part).write_bytes(data)
    words = WORDS[command](tmp_path / "out")
    opened = tmp_path / next(iter(files))
    assert_refused(call(monkeypatch, capsys, command.split()[0], opened, *words), says)
    assert {path.name for path in tmp_path.iterdir()} == set(files)
