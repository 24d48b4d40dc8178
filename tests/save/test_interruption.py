"""A run that dies, is interrupted or runs out of disk at any point is resumed to the same bytes.

What holds after every one of them: there is nothing incomplete under the output's name, and a
resumed run, with any number of threads, ends in the SHA-256 of an undisturbed run for every file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from save.faulty import Fault, Outcome, Runner, tree

from mlxquant import OutputError
from mlxquant.save.partial import check_output, partial_of

THREADS = (1, 2, 3, 7)

#: death when nothing is left to do but the small files and the name
ALL_UNITS_DONE = Fault(1, "kill", only="open out.partial/model/config.json")

Tree = dict[str, str]


@dataclass
class Job:
    """A small model, what an undisturbed run makes of it, and how it got there."""

    runner: Runner
    model: Path
    folder: Path
    expected: Tree
    calls: list[tuple[str, str]]
    written: int

    def output(self) -> Path:
        """A path for an output in an empty folder of its own."""
        self.folder.mkdir(exist_ok=True)
        place = self.folder / str(sum(1 for _ in self.folder.iterdir()))
        place.mkdir()
        return place / "out"

    def run(self, output: Path, fault: Fault | None = None, **options: object) -> Outcome:
        """One run of the job."""
        return self.runner(self.model, output, fault, **options)

    def check_resumed(self, output: Path, **options: object) -> None:
        """A resumed run ends in the expected bytes and leaves nothing else."""
        if tree(output) is None or options.get("force"):
            outcome = self.run(output, resume=True, **options)
            assert (outcome.status, outcome.error) == (0, "")
            assert list(output.parent.iterdir()) == [output]
        assert tree(output) == self.expected


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def job(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    model = tiny_models.make(folder / "model", "llama", num_hidden_layers=1, shards=2)
    output = folder / "undisturbed" / "out"
    output.parent.mkdir()
    outcome = runner(model, output, threads=2)
    assert (outcome.status, outcome.error) == (0, "")
    expected = tree(output)
    assert expected is not None
    assert sum(name.endswith(".safetensors") for name in expected) == 2
    kinds = [what for what, _ in outcome.calls]
    assert kinds.count("pwrite") > 40
    assert outcome.calls.count(("fsync", "out.partial/journal")) > 2
    return Job(runner, model, folder / "runs", expected, outcome.calls, outcome.written)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "model"
    return tiny_models.make(folder, "llama", num_hidden_layers=1, vocab_size=64)


@pytest.mark.parametrize("threads", THREADS)
def test_any_number_of_threads_gives_the_same_bytes(job: Job, threads: int) -> None:
    output = job.output()
    assert job.run(output, threads=threads).status == 0
    assert tree(output) == job.expected


@pytest.mark.slow
@pytest.mark.parametrize(("what", "start"), [("kill", 1), ("kill", 4), ("power", 2), ("power", 5)])
def test_death_at_any_change_of_the_disk(job: Job, what: str, start: int) -> None:
    died = 0
    for call in range(start, len(job.calls) + 1, 6):
        output = job.output()
        outcome = job.run(output, Fault(call, what), threads=1 + call % 3)
        died += outcome.status == -9
        assert outcome.status in (0, -9), f"{what} {call}: {outcome}"
        assert tree(output) in (None, job.expected), f"{what} {call}: {outcome.calls[-1]}"
        job.check_resumed(output, threads=THREADS[call % 4])
    assert died > 10


def test_death_in_the_middle_of_a_write(job: Job) -> None:
    for call in range(1, 44, 6):
        output = job.output()
        outcome = job.run(output, Fault(call, "half", only="pwrite"), threads=1 + call % 3)
        assert outcome.status == -9
        assert tree(output) is None
        job.check_resumed(output, threads=THREADS[call % 4])


@pytest.mark.slow
def test_death_while_an_old_model_is_replaced(job: Job, other_model: Path) -> None:
    """At every point the old model is there, or the new one, or the next run brings one back."""
    output = job.output()
    assert job.runner(other_model, output).status == 0
    old = tree(output)
    undisturbed = job.run(output, force=True)
    first = undisturbed.calls.index(("open", "out.partial/model/mlxquant.json"))
    for call in range(first, len(undisturbed.calls)):
        output = job.output()
        assert job.runner(other_model, output).status == 0
        what = ("kill", "power")[call % 2]
        outcome = job.run(output, Fault(call, what), force=True)
        assert outcome.status in (0, -9)
        now = tree(output)
        assert now in (old, None, job.expected), f"{what} {call}: {outcome.calls[-1]}"
        if now is None:
            assert tree(partial_of(output) / "replaced") == old
        job.check_resumed(output, force=True)


@pytest.mark.parametrize("flags", [{"resume": True}, {"resume": True, "force": True}])
def test_death_between_the_two_names_is_finished_by_resuming(
    job: Job, other_model: Path, flags: dict[str, bool]
) -> None:
    output = job.output()
    assert job.runner(other_model, output).status == 0
    assert job.run(output, Fault(2, only="os.rename out"), force=True).status == -9
    assert tree(output) is None
    assert job.run(output, threads=3, **flags).status == 0
    assert tree(output) == job.expected
    assert list(output.parent.iterdir()) == [output]


def test_death_between_the_two_names_loses_no_old_model(job: Job, other_model: Path) -> None:
    """A run that starts over, and fails, has brought the old model back."""
    output = job.output()
    assert job.runner(other_model, output).status == 0
    old = tree(output)
    assert job.run(output, Fault(2, only="os.rename out"), force=True).status == -9
    assert tree(output) is None
    assert job.run(output, Fault(room=2000), force=True).status == 1
    assert tree(output) == old


def test_a_name_that_cannot_be_given_leaves_the_old_one(job: Job, other_model: Path) -> None:
    output = job.output()
    assert job.runner(other_model, output).status == 0
    old = tree(output)
    for number in (1, 2):
        fault = Fault(number, "EACCES", only="os.rename out")
        outcome = job.run(output, fault, force=True, resume=number == 2)
        assert outcome.status == 1
        assert "writing failed: Permission denied" in outcome.error
        assert tree(output) == old
    job.check_resumed(output, force=True)


@pytest.mark.parametrize("seed", range(3))
def test_many_deaths_of_one_job(job: Job, seed: int) -> None:
    chance = random.Random(seed)
    output = job.output()
    deaths = 0
    for _ in range(60):
        fault = Fault(chance.randint(1, 50), chance.choice(["kill", "half", "power"]))
        outcome = job.run(output, fault, threads=chance.choice(THREADS), resume=True)
        if outcome.status == 0:
            break
        deaths += 1
        assert outcome.status == -9
        assert tree(output) is None
    assert deaths > 1
    job.check_resumed(output, threads=2)


def test_a_resumed_run_does_only_what_is_left(job: Job) -> None:
    """Killed when all units are in the journal, it writes no weights again, only the headers."""
    output = job.output()
    assert job.run(output, ALL_UNITS_DONE, threads=2).status == -9
    outcome = job.run(output, resume=True)
    assert tree(output) == job.expected
    weights = [call for call in outcome.calls if call[0] == "pwrite" and "model-0" in call[1]]
    assert len(weights) == 2


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2))
def test_ctrl_c_at_any_change_of_the_disk(job: Job, start: int) -> None:
    for call in range(1 + start * 4, len(job.calls), 12):
        output = job.output()
        outcome = job.run(output, Fault(call, "interrupt"), threads=1 + call % 3)
        assert outcome.status == 130 or call >= len(outcome.calls), f"call {call}: {outcome}"
        assert tree(output) in (None, job.expected)
        job.check_resumed(output)


@pytest.mark.slow
def test_ctrl_c_again_and_again(job: Job) -> None:
    """No thread is left to write to files that are closed."""
    for call in range(14, 74, 6):
        output = job.output()
        outcome = job.run(output, Fault(call, "interrupts"), threads=1 + call % 3)
        assert outcome.status == 130, f"call {call}: {outcome}"
        job.check_resumed(output)


def test_what_was_done_before_ctrl_c_is_kept(job: Job) -> None:
    output = job.output()
    fault = Fault(1, "interrupt", only="fsync out.partial/journal")
    assert job.run(output, fault, threads=1).status == 130
    journal = (partial_of(output) / "journal").read_text()
    assert len(journal.splitlines()) > 1


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "EROFS"])
def test_failure_of_any_change_of_the_disk(job: Job, error: str) -> None:
    begun = job.calls.index(("open", "out.partial/model/model-00001-of-00002.safetensors")) + 1
    first = 1 + ["ENOSPC", "EIO", "EDQUOT", "EROFS"].index(error) * 2
    for call in range(first, len(job.calls), 12):
        output = job.output()
        outcome = job.run(output, Fault(call, error), threads=1 + call % 3)
        where = f"{error} {call} {outcome}"
        if ("os.rename", "out") in outcome.calls[: call - 1]:
            assert tree(output) == job.expected, where
            continue
        assert tree(output) is None, where
        assert "\n" not in outcome.error, where
        if call < begun:
            assert outcome.status == 2, where
            assert outcome.error.startswith("OutputError: "), where
            assert "cannot be written" in outcome.error, where
        else:
            assert outcome.status == 1, where
            assert outcome.error.startswith(f"WriteError: {partial_of(output)}"), where
            assert outcome.error.endswith("run the same command with --resume"), where
            full = error in ("ENOSPC", "EDQUOT")
            assert ("the disk is full; free some space" in outcome.error) == full, where
        job.check_resumed(output)


@given(data=st.data())
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_disk_full_at_any_byte(job: Job, data: st.DataObject) -> None:
    room = data.draw(st.integers(200, job.written - 1), "room")
    output = job.output()
    outcome = job.run(output, Fault(room=room), threads=2)
    assert outcome.status == 1
    assert "the disk is full; free some space" in outcome.error
    assert outcome.written <= room
    assert tree(output) is None
    job.check_resumed(output, threads=data.draw(st.sampled_from(THREADS), "threads"))


def test_writes_that_take_less_than_asked_for(job: Job) -> None:
    output = job.output()
    outcome = job.run(output, Fault(1, "short"), threads=2)
    assert outcome.status == 0
    assert len(outcome.calls) > len(job.calls) + 20
    assert tree(output) == job.expected


def test_a_failed_sync_leaves_nothing_noted(job: Job) -> None:
    """The kernel reports a failed sync once; the next succeeds, but the bytes may be lost."""
    output = job.output()
    fault = Fault(1, "EIO", only="fsync out.partial/model/model-00001")
    assert job.run(output, fault, threads=1).status == 1
    journal = (partial_of(output) / "journal").read_text()
    assert len(journal.splitlines()) == 1


def test_what_another_run_left_is_refused(job: Job, other_model: Path) -> None:
    """Another model, another request; `force` starts over."""
    output = job.output()
    assert job.run(output, Fault(40)).status == -9
    before = tree(partial_of(output))
    other = job.runner(other_model, output, resume=True)
    assert other.status == 2
    assert other.error.endswith("belongs to another model, request or version; --force starts over")
    request = job.run(output, resume=True, bits=8)
    assert (request.status, request.error) == (other.status, other.error)
    assert tree(partial_of(output)) == before
    assert job.run(output).error.endswith("--resume finishes it, --force starts over")
    assert tree(partial_of(output)) == before
    assert job.runner(other_model, output, force=True).status == 0
    assert list(output.parent.iterdir()) == [output]


def test_another_version_is_refused(job: Job) -> None:
    output = job.output()
    assert job.run(output, Fault(40)).status == -9
    journal = partial_of(output) / "journal"
    head, _, rest = journal.read_text().partition("\n")
    journal.write_text(head.replace(head[10:18], "0" * 8) + "\n" + rest)
    outcome = job.run(output, resume=True)
    assert outcome.status == 2
    assert "belongs to another model, request or version" in outcome.error


@pytest.mark.parametrize("lost", ["model", "model/model-00002-of-00002.safetensors"])
def test_a_journal_without_its_files_counts_for_nothing(job: Job, lost: str) -> None:
    """Units that the journal calls finished must not become zeros."""
    output = job.output()
    assert job.run(output, ALL_UNITS_DONE).status == -9
    path = partial_of(output) / lost
    path.rename(job.output())
    job.check_resumed(output)


def test_stray_files_do_not_get_into_the_model(job: Job) -> None:
    output = job.output()
    assert job.run(output, ALL_UNITS_DONE).status == -9
    folder = partial_of(output) / "model"
    (folder / "inside").mkdir()
    for stray in (folder / "stray.safetensors", folder / "inside" / "stray.txt"):
        stray.write_text("stray")
    (folder / "link").symlink_to(job.model)
    job.check_resumed(output)
    assert (job.model / "config.json").exists()


def test_starting_over_forgets_what_was_written(job: Job) -> None:
    output = job.output()
    assert job.run(output, Fault(40), bits=8).status == -9
    assert job.run(output, force=True).status == 0
    assert tree(output) == job.expected


def test_nothing_is_replaced_that_came_meanwhile(job: Job) -> None:
    """Another program makes the output while the run is at work."""
    output = job.output()
    assert job.run(output, ALL_UNITS_DONE).status == -9
    output.mkdir()
    (output / "precious").write_text("mine")
    outcome = job.run(output, resume=True)
    assert outcome.status == 2
    assert outcome.error.endswith("exists already; --force --resume replaces it")
    assert [path.name for path in output.iterdir()] == ["precious"]


def test_after_death_behind_the_rename_the_output_is_called_complete(job: Job) -> None:
    output = job.output()
    assert job.run(output, Fault(1, only="os.remove out.partial/journal")).status == -9
    assert tree(output) == job.expected
    with pytest.raises(OutputError, match=r"is complete already; .*out\.partial is left over"):
        check_output(output, resume=True)
