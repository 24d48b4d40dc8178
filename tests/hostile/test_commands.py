"""Every broken model through the command line: status 2, one line, nothing written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostile.cases import ALL
from mlxquant.cli import main
from support import run_cli

#: where the command line's own words are others than the folder reader's
OWN_WORDS = {
    "a path with a NUL": ("no such folder",),
    "a file": ("model.gguf", "truncated header: 4 bytes"),
    "inspect: tokenizer.json is a list": ("tokenizer.json", "'{' expected"),
}

#: a model whose tokenizer is broken can still be looked at: `inspect` lists it as a problem
SHOWN = {"tokenizer.json is cut short", "tokenizer.json 10^5 deep"}


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """The command line in this process: status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["mlxquant", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    streams = capsys.readouterr()
    return int(stop.value.code or 0), streams.out, streams.err


def assert_refused(result: tuple[int, str, str], says: tuple[str, ...]) -> None:
    """One line that says what is wrong, and nothing else."""
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    for words in says:
        assert words in err


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, name)
        for command in ("inspect", "quantize")
        for name in ALL
        if not (command == "inspect" and name in SHOWN)
    ],
)
def test_broken_models(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = ALL[name]
    model = case.build(tmp_path)
    output = ["-o", tmp_path / "out"] if command == "quantize" else []
    says = OWN_WORDS.get(f"{command}: {name}", OWN_WORDS.get(name, case.says))
    assert_refused(call(monkeypatch, capsys, command, model, *output), says)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_inspect_lists_a_broken_tokenizer(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = call(monkeypatch, capsys, "inspect", ALL[name].build(tmp_path))
    assert status == 0
    problems = out[out.index("Problems") :]
    for words in ALL[name].says:
        assert words in problems


@pytest.mark.parametrize("command", ["inspect", "quantize", "generate", "chat"])
def test_as_processes(command: str, tmp_path: Path) -> None:
    """A few through real processes."""
    for number, name in enumerate(list(ALL)[:: len(ALL) // 4]):
        (tmp_path / str(number)).mkdir()
        model = ALL[name].build(tmp_path / str(number))
        done = run_cli(command, model, input="Hello.\n", cwd=tmp_path)
        assert done.returncode == 2, (name, done.stderr)
        assert done.stdout == "" and done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
