"""Questions answered through lm-evaluation-harness, held against log-likelihoods by hand."""

from __future__ import annotations

import json
import math
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_models
from scipy.special import log_softmax

from mlxquant import ModelError, RequestError, open_checkpoint
from mlxquant.errors import FileFormatError, WorkError
from mlxquant.measure import continuations
from mlxquant.measure.continuations import Continuations
from mlxquant.measure.questions import read_questions
from mlxquant.measure.tasks import TaskReport, measure_tasks
from mlxquant.run.model import load

QUESTIONS = [
    {"question": "Who came to the house?", "choices": ["Mr. Bingley", "the of and"], "answer": 0},
    {"question": "What was it?", "choices": ["a ship", "a very long letter from her", "no"]},
    {"prompt": "The old man looked at the", "choices": ["sea", "sea and the sky", "s"]},
    {"question": "And then?", "choices": ["She laughed.", "She wept.", "Zyx!"], "answer": "Zyx!"},
    {"prompt": "It was ", "choices": ["late", "q"], "answer": 1},
]

#: (text, continuation): with a space at the end, one alone, and several of one length
PAIRS = [
    ("It was a truth universally", " acknowledged"),
    ("It was ", "late, and the fire was out."),
    ("", "Once upon a time"),
    ("Who?", " I"),
    ("Who?", " You"),
    (" ".join(["long"] * 60), " and longer"),
]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128}
    folder = tmp_path_factory.mktemp("models") / "model"
    return tiny_models.make(folder, "llama", lively=True, **config)


@pytest.fixture(scope="module")
def loaded(model_path: Path) -> tuple[Any, Any]:
    return load(model_path, dtype="float32")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "tiny.jsonl"
    lines = [json.dumps({"answer": 0, **question}) for question in QUESTIONS]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def by_hand(model: Any, tokenizer: Any, text: str, more: str) -> tuple[float, bool]:
    """The continuation's log-likelihood from one run of the model, and whether it is greedy."""
    bos = tokenizer.bos_token_id
    bare = text.rstrip(" ")
    start = 1 + len(tokenizer.encode(bare, add_special_tokens=False))
    tokens = [bos, *tokenizer.encode(text + more, add_special_tokens=False)]
    logits = np.array(model(mx.array([tokens[:-1]]))[0].astype(mx.float32)).astype(np.float64)
    rows = log_softmax(logits, axis=-1)[start - 1 :]
    targets = np.array(tokens[start:])
    value = float(rows[np.arange(len(targets)), targets].sum())
    return value, bool((rows.argmax(-1) == targets).all())


def test_continuations(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    found = Continuations(model, tokenizer).score(PAIRS)
    for (text, more), result in zip(PAIRS, found, strict=True):
        value, greedy = by_hand(model, tokenizer, text, more)
        assert result.loglikelihood == pytest.approx(value, rel=1e-5), (text, more)
        assert result.greedy == greedy


def test_what_the_model_would_say_is_greedy(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    ids = [tokenizer.bos_token_id, *tokenizer.encode("It was", add_special_tokens=False)]
    said = int(mx.argmax(model(mx.array([ids]))[0, -1]).item())
    text = tokenizer.decode([said])
    assert tokenizer.encode(f"It was{text}", add_special_tokens=False) == [*ids[1:], said]
    (best, other) = Continuations(model, tokenizer).score([("It was", text), ("It was", " Zyx")])
    assert (best.greedy, other.greedy) == (True, False)
    assert best.loglikelihood > other.loglikelihood


def test_groups_and_progress(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Continuations(*loaded).score(PAIRS)
    monkeypatch.setattr(continuations, "_GROUP", 2)
    seen: list[tuple[int, int]] = []
    found = Continuations(*loaded, progress=lambda *at: seen.append(at)).score(PAIRS)
    for one, other in zip(whole, found, strict=True):
        assert one.loglikelihood == pytest.approx(other.loglikelihood, rel=1e-6)
    assert seen == [(done, len(PAIRS)) for done in range(1, len(PAIRS) + 1)]


def test_long_texts_lose_their_beginning(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    scorer = Continuations(model, tokenizer, longest=12)
    text = " ".join(f"word {i}" for i in range(30))
    (found,) = scorer.score([(text, " and more")])
    tokens = tokenizer.encode(f"{text} and more", add_special_tokens=False)
    count = len(tokens) - len(tokenizer.encode(text, add_special_tokens=False))
    logits = np.array(model(mx.array([tokens[-13:-1]]))[0].astype(mx.float32))
    rows = log_softmax(logits.astype(np.float64), axis=-1)[-count:]
    expected = rows[np.arange(count), tokens[-count:]].sum()
    assert found.loglikelihood == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(RequestError, match="the model was made for 12"):
        scorer.score([("Why?", text)])
    with pytest.raises(RequestError, match="empty continuation"):
        scorer.score([("", "")])


def test_whole_texts(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    text = "It was late, and the fire was out; nobody came."
    (found,) = Continuations(model, tokenizer).whole([text])
    assert found == pytest.approx(by_hand(model, tokenizer, "", text)[0], rel=1e-5)
    pieces = Continuations(model, tokenizer, longest=4).whole([text])[0]
    assert pieces < 0
    assert pieces != pytest.approx(found, rel=1e-6)
    assert Continuations(model, tokenizer).whole([""]) == [0]


def test_questions(file: Path) -> None:
    found = read_questions(file)
    assert [question.answer for question in found] == [0, 0, 0, 2, 1]
    assert found[0].prompt == "Question: Who came to the house?\nAnswer:"
    assert found[2].prompt == "The old man looked at the"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nothing", "is no JSON object"),
        ("[" * 100_000, "is no JSON object"),
        ("[1]", "an object"),
        ('{"choices": ["a", "b"], "answer": 0}', '"question" or "prompt"'),
        ('{"question": "a", "prompt": "b", "choices": ["a", "b"], "answer": 0}', "one of them"),
        ('{"question": "a", "answer": 0}', '"choices"'),
        ('{"question": "a", "choices": ["a"], "answer": 0}', "2 to 1000"),
        ('{"question": "a", "choices": ["a", 3], "answer": 0}', "every one must be a text"),
        ('{"question": "a", "choices": ["a", " "], "answer": 0}', "every one must be a text"),
        ('{"question": "a", "choices": ["a", "b"]}', '"answer": null'),
        ('{"question": "a", "choices": ["a", "b"], "answer": 2}', "0 to 1"),
        ('{"question": "a", "choices": ["a", "b"], "answer": true}', "0 to 1"),
        ('{"question": "a", "choices": ["a", "a"], "answer": "a"}', "0 to 1"),
        ('{"question": "\\ud800", "choices": ["a", "b"], "answer": 0}', "surrogate"),
    ],
)
def test_questions_that_are_none(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(f"{json.dumps({'answer': 0, **QUESTIONS[0]})}\n{line}\n")
    with pytest.raises(FileFormatError) as refused:
        read_questions(path)
    assert "line 2" in str(refused.value)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 700


def answered(model_path: Path, *tasks: Path | str, **how: Any) -> TaskReport:
    names = [str(task) for task in tasks]
    return measure_tasks(open_checkpoint(model_path), names, dtype="float32", **how)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.mark.usefixtures("no_network")
def test_a_task_by_hand(model_path: Path, loaded: tuple[Any, Any], file: Path) -> None:
    report = answered(model_path, file)
    right: dict[str, list[bool]] = {"acc": [], "acc_norm": []}
    for question in read_questions(file):
        values = np.array(
            [by_hand(*loaded, question.prompt, f" {choice}")[0] for choice in question.choices]
        )
        lengths = np.array([len(choice) for choice in question.choices])
        right["acc"].append(values.argmax() == question.answer)
        right["acc_norm"].append((values / lengths).argmax() == question.answer)
    assert {score.metric for score in report.scores} == set(right)
    for score in report.scores:
        hits = np.array(right[score.metric], float)
        assert score.value == hits.mean()
        assert score.stderr == pytest.approx(hits.std(ddof=1) / math.sqrt(len(hits)))
        assert (score.task, score.questions) == ("tiny", len(QUESTIONS))
    assert report.to_json()["model"]["name"] == "model"


@pytest.mark.usefixtures("no_network")
def test_limit_and_worked_examples(
    model_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    score = Continuations.score

    def watched(self: Continuations, pairs: Any) -> Any:
        asked.extend(pairs)
        return score(self, pairs)

    monkeypatch.setattr(Continuations, "score", watched)
    report = answered(model_path, file, limit=2, shots=1)
    assert {score.questions for score in report.scores} == {2}
    assert len(asked) == sum(len(question["choices"]) for question in QUESTIONS[:2])
    texts = {text for text, _ in asked}
    examples = [text.removesuffix("Question: What was it?\nAnswer:") for text in texts]
    assert len(texts) == 2
    assert all("\n\n" in text for text in texts)
    assert any(len(example) < len(max(texts, key=len)) for example in examples)


TASK_FILE = """
task: from_yaml
dataset_path: json
dataset_kwargs:
  data_files:
    test: questions.jsonl
test_split: test
output_type: {kind}
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""


@pytest.mark.usefixtures("no_network")
def test_a_task_file(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lines = [json.dumps({"answer": 0, **QUESTIONS[i]}) for i in (0, 1)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    task = tmp_path / "task.yaml"
    task.write_text(TASK_FILE.format(kind="multiple_choice", metric="acc"))
    with pytest.raises(RequestError, match="--trust-remote-code accepts it"):
        answered(model_path, task)
    (score,) = answered(model_path, task, trust_remote_code=True).scores
    plain = answered(model_path, tmp_path / "questions.jsonl").scores[0]
    assert (score.task, score.metric, score.questions) == ("from_yaml", "acc", 2)
    assert (score.value, score.stderr) == (plain.value, plain.stderr)
    task.write_text(TASK_FILE.format(kind="generate_until", metric="exact_match"))
    with pytest.raises(RequestError, match="has the model write"):
        answered(model_path, task, trust_remote_code=True)
    task.write_text("task: [")
    with pytest.raises(WorkError, match="task.yaml"):
        answered(model_path, task, trust_remote_code=True)


def test_what_is_no_task(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not know it"):
        answered(model_path, "no_such_task_anywhere")
    for name in (tmp_path, tmp_path / "none"):
        with pytest.raises(RequestError, match="or a name, is possible"):
            answered(model_path, name)
    for name in ("none.yaml", "none.jsonl"):
        with pytest.raises(FileFormatError, match="none"):
            answered(model_path, tmp_path / name)


def test_without_the_harness(model_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RequestError, match=r"pip install 'mlxquant\[tasks\]'"):
        answered(model_path, file)


def test_nan_is_traced_through_the_harness(model_path: Path, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_path, broken)
    weights: Any = mx.load(str(broken / "model.safetensors"))
    weights["model.layers.1.self_attn.o_proj.weight"][0, 0] = math.nan
    mx.save_safetensors(str(broken / "model.safetensors"), weights, {"format": "pt"})
    with pytest.raises(ModelError, match="first in the output of model.layers.1.self_attn.o_proj"):
        answered(broken, file)


def test_the_command(model_path: Path, file: Path, run_cli: Callable[..., Any]) -> None:
    options = ("--limit", "3", "--dtype", "float32")
    done = run_cli("eval", model_path, "--tasks", file, *options, env={"TQDM_DISABLE": None})
    assert (done.returncode, done.stderr) == (0, "")
    title, *rows = done.stdout.splitlines()
    assert title.split() == ["model", "task", "questions", "metric", "value", "standard", "error"]
    assert [row.split()[:4] for row in rows] == [
        ["model", "tiny", "3", "acc"],
        ["model", "tiny", "3", "acc_norm"],
    ]
