"""Multiple-choice tasks through lm-evaluation-harness, which decides how answers are counted.

    FILE.jsonl   questions (questions.py); no code, no network
    FILE.yaml    a task file of the harness; it can run code
    NAME         a task that the harness knows; its questions come from the hub's cache or the hub

    acc          share of questions whose right choice is the likeliest
    acc_norm     the same with log-likelihoods divided by the choices' lengths

The harness asks for log-likelihoods of continuations (continuations.py) and for nothing else: tasks
that have the model write are refused.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, MlxquantError, RequestError, WorkError, one_line
from ..load.checkpoint import Checkpoint
from ..run.model import context_length
from .blame import first_non_finite
from .continuations import Continuations
from .describe import describe
from .questions import Question, read_questions
from .session import free, load_to_measure, settled, usual_dtype

__all__ = ["Score", "TaskReport", "measure_tasks"]

#: called with (what is going on, continuations done, in all; 0 before that is known)
Progress = Callable[[str, int, int], None]

_SCORED = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")

#: draws behind standard errors that have no formula
_DRAWS = 1000

#: of the choice of worked examples, the harness's own
_SEED = 1234


@dataclass(frozen=True)
class Score:
    """A figure of a task.

    Attributes:
        task, metric: names, e.g. `arc_easy` and `acc`.
        value: as the harness reports it; stderr: its standard error, None where it has none.
        questions: how many were asked; 0 for a group of tasks.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    questions: int

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "task": self.task,
            "metric": self.metric,
            "value": self.value,
            "stderr": self.stderr,
            "questions": self.questions,
        }


@dataclass(frozen=True)
class TaskReport:
    """A model's scores.

    Attributes:
        model: its description (describe.py).
        scores: in the order of the tasks.
        seconds: wall time.
    """

    model: dict[str, Any]
    scores: tuple[Score, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        scores = [score.to_json() for score in self.scores]
        return {"model": self.model, "scores": scores, "seconds": self.seconds}


def measure_tasks(
    model: Checkpoint,
    tasks: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> TaskReport:
    """Have a model answer questions.

    Args:
        model: of any kind.
        tasks: files of questions (`.jsonl`), files of tasks (`.yaml`), or names.
        shots: worked examples before each question; None for what the task says.
        limit: questions of each task at most, the first of them; None for all.
        dtype: what is computed in; None for `session.usual_dtype`.
        trust_remote_code: accept task files, which can run code.
        progress: called with (what is going on, continuations done, in all or 0).

    Raises:
        RequestError: no such task, one that has the model write, or lm-evaluation-harness is not
            installed.
        FileFormatError: a broken file of questions.
        ModelError: a model that cannot be run, or whose logits are no finite numbers.
        WorkError: the harness failed.
    """
    harness = _Harness(trust_remote_code)
    specs = [harness.spec(task) for task in tasks]
    show = progress or _silent
    subject = describe(model)
    began = time.perf_counter()
    with settled():
        show(f"loading {subject['name']}", 0, 0)
        loaded, tokenizer = load_to_measure(model, dtype or usual_dtype())
        scorer = Continuations(
            loaded,
            tokenizer,
            context_length(model.config),
            blame=partial(first_non_finite, loaded),
            progress=partial(show, subject["name"]),
        )
        scores = harness.run(scorer, specs, shots, limit)
        del loaded, scorer
        free()
    return TaskReport(subject, tuple(scores), time.perf_counter() - began)


class _Harness:
    """lm-evaluation-harness, imported and quiet.

    Raises:
        RequestError: it is not installed.
        WorkError: it cannot be imported.
    """

    def __init__(self, trusted: bool) -> None:
        self._trusted = trusted
        try:
            import datasets
            import lm_eval
            import lm_eval.tasks
        except ModuleNotFoundError as problem:
            raise RequestError(
                f"--tasks needs lm-evaluation-harness ({problem.name} is missing): "
                "pip install 'mlxquant[tasks]'"
            ) from problem
        except (ImportError, OSError) as problem:
            said = f"lm-evaluation-harness cannot be imported: {problem}"
            raise WorkError(one_line(f"{said}; pip install -U lm-eval")) from problem
        self._datasets: Any = datasets
        self._lm_eval: Any = lm_eval
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        datasets.disable_progress_bars()

    def spec(self, task: str) -> str | dict[str, Any]:
        """What the harness takes for a task: a name, or a configuration."""
        path = Path(task)
        if path.suffix in (".yaml", ".yml"):
            return self._file(path)
        if path.suffix in (".jsonl", ".json") or path.is_file():
            return self._questions(path.stem, read_questions(path))
        if "/" in task or path.exists():
            raise RequestError(f"task {task!r}: a .jsonl or .yaml file, or a name, is possible")
        return task

    def _questions(self, name: str, questions: Iterable[Question]) -> dict[str, Any]:
        rows = [
            {"prompt": q.prompt, "choices": list(q.choices), "answer": q.answer} for q in questions
        ]
        return {
            "task": name,
            "custom_dataset": lambda **_: {"test": self._datasets.Dataset.from_list(rows)},
            "test_split": "test",
            "fewshot_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in ("acc", "acc_norm")
            ],
        }

    def _file(self, path: Path) -> dict[str, Any]:
        """A task file; files that it names lie beside it."""
        if not path.is_file():
            raise FileFormatError(path, "file", "there is no such file")
        if not self._trusted:
            raise RequestError(
                f"{path}: a task file can run code; --trust-remote-code accepts it, and questions "
                "in a .jsonl file need none"
            )
        from lm_eval.tasks._yaml_loader import load_yaml

        with _failures(f"{path}"):
            config: dict[str, Any] = load_yaml(path)
        files = config.get("dataset_kwargs", {}).get("data_files")
        if files is not None:
            config["dataset_kwargs"]["data_files"] = _beside(path.parent.absolute(), files)
        return config

    def run(
        self,
        scorer: Continuations,
        specs: Sequence[str | dict[str, Any]],
        shots: int | None,
        limit: int | None,
    ) -> list[Score]:
        """The scores of a model on tasks."""
        named = any(isinstance(spec, str) for spec in specs)
        with redirect_stdout(sys.stderr), _no_bars():
            with _failures("tasks"):
                manager = self._lm_eval.tasks.TaskManager(include_defaults=named)
                unknown = [s for s in specs if isinstance(s, str) and s not in manager.all_tasks]
                if unknown:
                    raise RequestError(
                        f"task {unknown[0]!r}: lm-evaluation-harness does not know it, and there "
                        "is no such file"
                    )
                loaded = manager.load(list(specs))
            for name, task in loaded["tasks"].items():
                if task.OUTPUT_TYPE not in _SCORED:
                    raise RequestError(
                        f"task {name!r} has the model write; only questions with choices and "
                        "texts to score can be taken"
                    )
            with _failures("lm-evaluation-harness"):
                for task in loaded["tasks"].values():
                    own = task.get_config("num_fewshot")  # 0 is meant: no examples make sense
                    asked = shots if shots is not None and own != 0 else own
                    task.set_config(key="num_fewshot", value=asked or 0)
                    task.set_fewshot_seed(seed=_SEED)
                results = self._lm_eval.evaluate(
                    lm=_as_lm(scorer),
                    task_dict=loaded,
                    limit=limit,
                    bootstrap_iters=_DRAWS,
                    log_samples=False,
                )
        return list(_scores(results))


def _as_lm(scorer: Continuations) -> Any:
    """A model as the harness wants one."""
    from lm_eval.api.model import LM

    class MlxquantLM(LM):  # type: ignore[misc]
        """Scores; does not write."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [tuple(found) for found in scorer.score([r.args for r in requests])]  # type: ignore[misc]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return scorer.whole([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise RequestError("a task that has the model write cannot be taken")

    return MlxquantLM()


def _scores(results: dict[str, Any]) -> Iterator[Score]:
    """The harness's results, a figure at a time."""
    asked = results.get("n-samples", {})
    for task, figures in results["results"].items():
        for key, value in figures.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{filtered}")
            stderr = float(error) if isinstance(error, int | float) else None
            questions = asked.get(task, {}).get("effective", 0)
            yield Score(task, metric, float(value), stderr, questions)


def _beside(folder: Path, files: Any) -> Any:
    """Relative paths of data files, from the folder of the file that names them."""
    if isinstance(files, str):
        return files if "://" in files else str(folder / files)
    if isinstance(files, dict):
        return {key: _beside(folder, value) for key, value in files.items()}
    return [_beside(folder, value) for value in files] if isinstance(files, list) else files


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Within, errors that are not ours become a WorkError in one line."""
    try:
        yield
    except (MlxquantError, MemoryError):
        raise
    except Exception as problem:  # whatever a harness with a hundred authors raises
        said = " ".join(str(problem).split()) or type(problem).__name__
        raise WorkError(one_line(f"{what}: {said}")) from problem


@contextmanager
def _no_bars() -> Iterator[None]:
    """Within, tqdm draws nothing: the progress is ours."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    shown: Any = tqdm.__init__

    def hidden(self: Any, *args: Any, **given: Any) -> None:
        shown(self, *args, **{**given, "disable": True})

    tqdm.__init__ = hidden
    try:
        yield
    finally:
        tqdm.__init__ = shown


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""
