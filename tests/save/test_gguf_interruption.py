"""A GGUF file, or all parts of a split one, is there whole or not at all, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from interop.family_models import export
from save.faulty import Fault, Outcome, Runner, tree

from mlxquant import quantize_gguf

OPTIONS = {
    "one file": {"work": "quantize_gguf", "request": "Q8_0"},
    "parts": {"work": "quantize_gguf", "request": "Q8_0", "split_bytes": 60_000},
}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    model = tiny_models.make(folder / "model", "llama", num_hidden_layers=1, dtype="float32")
    return export(model, folder / "source.gguf")


def undisturbed(runner: Runner, source: Path, folder: Path, kind: str) -> tuple[dict, Outcome]:
    folder.mkdir()
    outcome = runner(source, folder / "out.gguf", **OPTIONS[kind])
    assert (outcome.status, outcome.error) == (0, "")
    expected = tree(folder)
    assert expected is not None and len(expected) == (1 if kind == "one file" else 5), expected
    return expected, outcome


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize(("what", "first"), [("kill", 1), ("power", 4)])
def test_death_at_any_change_of_the_disk(
    runner: Runner, source: Path, tmp_path: Path, kind: str, what: str, first: int
) -> None:
    expected, whole = undisturbed(runner, source, tmp_path / "whole", kind)
    died = 0
    last = len(whole.calls)
    for call in sorted({*range(first, last, 6), *range(last - 8, last + 1)}):
        folder = tmp_path / str(call)
        folder.mkdir()
        output = folder / "out.gguf"
        died += runner(source, output, Fault(call, what), **OPTIONS[kind]).status == -9
        there = {n: h for n, h in (tree(folder) or {}).items() if "partial" not in n}
        assert there.items() <= expected.items(), whole.calls[call - 1]
        if there != expected:
            # only a run that was killed between the names of two parts has to begin again
            begun = bool(there)
            outcome = runner(source, output, resume=True, force=begun, threads=3, **OPTIONS[kind])
            assert (outcome.status, outcome.error) == (0, ""), whole.calls[call - 1]
            assert tree(folder) == expected
    assert died > 8


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_full_disk(runner: Runner, source: Path, tmp_path: Path, kind: str) -> None:
    expected, whole = undisturbed(runner, source, tmp_path / "whole", kind)
    for part in (2, 3, 10):
        folder = tmp_path / f"full-{part}"
        folder.mkdir()
        room = whole.written // part
        outcome = runner(source, folder / "out.gguf", Fault(room=room), **OPTIONS[kind])
        assert outcome.status == 1 and "the disk is full" in outcome.error
        assert [path.name for path in folder.iterdir()] == ["out.gguf.partial"]
        outcome = runner(source, folder / "out.gguf", resume=True, **OPTIONS[kind])
        assert (outcome.status, outcome.error) == (0, "")
        assert tree(folder) == expected


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_old_files_stay_until_the_new_ones_are_there(
    runner: Runner, source: Path, tmp_path: Path, kind: str
) -> None:
    split = OPTIONS[kind].get("split_bytes")
    quantize_gguf(source, tmp_path / "out.gguf", "Q4_0", split_bytes=split)
    old = tree(tmp_path)
    assert old is not None
    fault = Fault(1, "EIO", only="fsync out.gguf.partial/model")
    outcome = runner(source, tmp_path / "out.gguf", fault, force=True, **OPTIONS[kind])
    assert outcome.status == 1
    assert {n: h for n, h in (tree(tmp_path) or {}).items() if "partial" not in n} == old
    outcome = runner(source, tmp_path / "out.gguf", force=True, resume=True, **OPTIONS[kind])
    assert (outcome.status, outcome.error) == (0, "")
    now = tree(tmp_path)
    assert now is not None and not any("partial" in name for name in now) and now != old
