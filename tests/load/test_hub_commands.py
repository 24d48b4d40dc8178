"""The commands on a hub id: the same work as on the folder, and what goes wrong in one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fake_hub import FakeHub

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def hub(bundled: Path) -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.add_folder("org/books", bundled)
        yield running


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_quantize_fetches_a_model_and_records_its_commit(
    hub: FakeHub, bundled: Path, run_cli: Cli, tmp_path: Path
) -> None:
    environment = hub.environment(tmp_path / "hf")
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    fetched = run_cli("quantize", "org/books", "-o", ours, env=environment)
    assert fetched.returncode == 0, fetched.stderr
    asked = len(hub.requests)
    local = run_cli("quantize", bundled, "-o", plain, env=environment)
    assert local.returncode == 0, local.stderr
    assert len(hub.requests) == asked
    assert weights(ours) == weights(plain) != {}
    manifest = json.loads((ours / "mlxquant.json").read_text())
    commit = hub.repositories["org/books"].main
    assert manifest["source"]["name"] == "org/books"
    assert manifest["source"]["revision"] == commit


def test_inspect_and_generate_take_a_hub_id_and_then_need_no_network(
    hub: FakeHub, run_cli: Cli, tmp_path: Path
) -> None:
    environment = hub.environment(tmp_path / "hf")
    shown = run_cli("inspect", "org/books", "--json", env=environment)
    assert shown.returncode == 0, shown.stderr
    hub.requests.clear()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    prompt = ("--prompt", "The sea was", "--max-tokens", "4", "--seed", "1")
    told = run_cli("generate", "org/books", *prompt, env=offline)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip()
    assert hub.requests == []


@pytest.mark.parametrize("command", ["quantize", "inspect", "generate"])
def test_a_model_that_is_nowhere_is_said_in_one_line(
    hub: FakeHub, run_cli: Cli, tmp_path: Path, command: str
) -> None:
    environment = hub.environment(tmp_path / "hf")
    arguments = {"quantize": ("-o", tmp_path / "out"), "generate": ("--prompt", "Hello")}
    for name, says in (("org/absent", "no such model on"), ("./absent", "no such folder")):
        done = run_cli(command, name, *arguments.get(command, ()), env=environment)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert f"{name}: " in done.stderr
        assert says in done.stderr
    assert not (tmp_path / "out").exists()
