"""The command as users run it: killed, interrupted, twice at once, on disks that are too small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_models
from save import large_models, small_disk
from save.faulty import Runner, tree
from support import run_cli, unchecked

from mlxquant import quantize
from mlxquant.assets import BUNDLED_MODEL
from mlxquant.save.partial import partial_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 130 MB: large enough for a run to be met at work."""
    folder = tmp_path_factory.mktemp("large") / "model"
    return large_models.llama(folder, layers=4, hidden=1024, inner=4096)


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files that an undisturbed run makes."""
    output = tmp_path_factory.mktemp("expected") / "out"
    result = quantize(model, output)
    files = tree(output)
    assert files is not None
    assert files == {name: entry["sha256"] for name, entry in result.files.items()}
    return files


def start(model: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    """The command, with the usual effect of Ctrl-C whatever started the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlxquant", "quantize", model, "-o", output, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], stage: Callable[[], bool]) -> None:
    """Until the run has come so far, or has ended."""
    while process.poll() is None and not stage():
        time.sleep(0.001)


def met_at_work(
    folder: Path, model: Path, stage: Callable[[Path], bool]
) -> tuple[subprocess.Popen[str], Path]:
    """A stopped run (SIGSTOP) that has come so far and has work left; and its output."""
    for attempt in range(20):
        output = folder / str(attempt) / "out"
        output.parent.mkdir()
        process = start(model, output, "--threads", "1")
        wait_for(process, lambda output=output: stage(output))
        process.send_signal(signal.SIGSTOP)
        if process.poll() is None and not (partial_of(output) / "model/config.json").exists():
            return process, output
        process.kill()  # a busy machine: it was done before we looked
        process.communicate()
    raise AssertionError("no run was met at work")


def has_journal(output: Path) -> bool:
    """The run holds its partial folder: it locks the journal before it writes to it."""
    journal = partial_of(output) / "journal"
    return journal.exists() and journal.stat().st_size > 0


def written(output: Path) -> int:
    """Bytes of weights that are in the partial folder."""
    total = 0
    for shard in partial_of(output).glob("model/*.safetensors"):
        try:
            total += 512 * shard.stat().st_blocks
        except FileNotFoundError:  # it was moved just now
            continue
    return total


@pytest.mark.slow
def test_the_command_killed_again_and_again(
    tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    output = tmp_path / "out"
    stages: list[Callable[[], bool]] = [
        lambda: partial_of(output).exists(),
        lambda: written(output) > 2e6,
        lambda: written(output) > 15e6,
        lambda: written(output) > 30e6,
        lambda: (partial_of(output) / "model" / "config.json").exists(),
    ]
    killed = 0
    for number, stage in enumerate(stages):
        process = start(model, output, "--resume", "--threads", str(1 + number % 3))
        wait_for(process, stage)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert tree(output) in (None, expected)
        if output.exists():
            break
    assert killed > 2
    if not output.exists():
        assert run_cli("quantize", model, "-o", output, "--resume").returncode == 0
    assert tree(output) == expected
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_the_command_gives_the_same_bytes_with_any_threads(
    tmp_path: Path, model: Path, expected: dict[str, str]
) -> None:
    for threads in ("1", "7"):
        result = run_cli("quantize", model, "-o", tmp_path / threads, "--threads", threads)
        assert result.returncode == 0
        assert tree(tmp_path / threads) == expected


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path, model: Path, expected: dict[str, str]) -> None:
    process, output = met_at_work(tmp_path, model, lambda output: written(output) > 2e6)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""
    lines = [line for line in errors.splitlines() if line]
    assert lines == [
        f"{output}.partial keeps what is done: --resume finishes it",
        "interrupted",
    ]
    assert tree(output) is None
    assert len((partial_of(output) / "journal").read_text().splitlines()) >= 2
    assert run_cli("quantize", model, "-o", output, "--resume").returncode == 0
    assert tree(output) == expected


@pytest.mark.slow
def test_ctrl_c_while_a_text_goes_through(tmp_path: Path) -> None:
    output, kept = tmp_path / "out", tmp_path / "out.calibration"
    options = ("--calibrate", "bundled", "--calibrate-windows", "8", "--method", "search")
    process = start(BUNDLED_MODEL, output, *options)
    wait_for(process, lambda: any(kept.glob("float-*")))
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert [line for line in errors.splitlines() if line] == [
        f"{kept} keeps what is done: --resume finishes it",
        "interrupted",
    ]
    assert run_cli("quantize", "-o", output, *options, "--resume").returncode == 0
    assert run_cli("quantize", "-o", tmp_path / "whole", *options).returncode == 0
    assert tree(output) == tree(tmp_path / "whole")
    assert not kept.exists()


@pytest.mark.slow
def test_two_runs_at_once(tmp_path: Path, model: Path, expected: dict[str, str]) -> None:
    first, output = met_at_work(tmp_path, model, has_journal)
    try:
        before = tree(partial_of(output))
        for flags in (["--resume"], ["--force"], ["--force", "--resume"]):
            second = run_cli("quantize", model, "-o", output, *flags)
            assert second.returncode == 2
            assert second.stderr == f"error: {output}.partial: another run is writing here\n"
        assert tree(partial_of(output)) == before
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert tree(output) == expected


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}], ids=str)
def test_runs_that_race_for_one_output(tmp_path: Path, flags: dict[str, bool]) -> None:
    """Whoever is second is refused, or comes when the first is done; the bytes are always right."""
    source = tiny_models.make(tmp_path / "model", "llama", num_hidden_layers=1)
    runners = [Runner(), Runner()]
    files = None
    won = []
    with ThreadPoolExecutor(2) as pool:
        for delay in range(8):
            output = tmp_path / str(delay) / "out"
            output.parent.mkdir()
            first = pool.submit(runners[0], source, output, threads=1, **flags)
            time.sleep(0.03 * delay)
            second = pool.submit(runners[1], source, output, threads=1, **flags)
            outcomes = [first.result(), second.result()]
            files = files or tree(output)
            assert files is not None
            assert tree(output) == files
            assert list(output.parent.iterdir()) == [output]
            assert {outcome.status for outcome in outcomes} <= {0, 2}, outcomes
            won.append([outcome.status for outcome in outcomes].count(0))
            # with force the second may come when the first is done, and replace its output
            assert won[-1] in ((1, 2) if flags.get("force") else (1,)), outcomes
    for runner in runners:
        runner.close()


@pytest.fixture(scope="module")
def namespace() -> list[str]:
    """A command that runs another where it may mount file systems."""
    command = ["unshare", "-m" if os.geteuid() == 0 else "-rm"]
    try:
        trial = subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/tmp"], check=False)
        allowed = trial.returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        unchecked("unshare", "disks that are really full or read-only")
    return command


@pytest.mark.slow
def test_disks_that_are_full_or_read_only(
    tmp_path: Path, model: Path, expected: dict[str, str], namespace: list[str]
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [*namespace, sys.executable, small_disk.__file__, model, folder],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    report = json.loads(done.stdout)
    status, said = report["too small"]
    assert status == 2
    assert said.startswith(
        f"error: {folder}: the output takes 0.04 GB, 0.01 GB are free; free some"
    )
    assert report["left by that"] == []
    assert report["expected"] == expected
    for case, outcome in zip(small_disk.FULL, report["full"], strict=True):
        assert outcome["left"] == ["filler", "out.partial"], case
        assert outcome["error"] == (
            f"{folder}/out.partial/model: the disk is full; free some space, then run the same "
            "command with --resume"
        ), case
        assert outcome["files"] == expected, case
    status, said = report["read-only"]
    assert status == 2
    assert said == (
        f"error: {folder}/out: the folder {folder} is read-only; choose another output\n"
    )
    assert report["left at last"] == []
