"""Multiple-choice questions from a file of JSON lines.

    {"question": "Who wrote it?", "choices": ["Austen", "Stevenson"], "answer": 0}

`question` is asked as `Question: …`, a line break, `Answer:`; `prompt` in its place is taken as it
is. A choice is what may follow, behind a space. `answer` is the number of the right one, from 0, or
its text. Other keys are not looked at.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FileFormatError
from ..files.quote import show
from .text import read_text

__all__ = ["Question", "read_questions"]

#: choices of a question at most
_CHOICES = 1000


class Question(NamedTuple):
    """A question: what stands before the choices, the choices, and the number of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """Read a file of questions; empty lines are passed over.

    Raises:
        FileFormatError: names the line, what is wrong with it and what is expected.
    """
    file = Path(path)
    found = []
    for number, line in enumerate(read_text(file).content.splitlines(), 1):
        if line.strip():
            try:
                found.append(_question(line))
            except ValueError as problem:
                raise FileFormatError(file, f"line {number}", str(problem)) from problem
    return found


def _question(line: str) -> Question:
    """A line's question; ValueError says why it is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"is no JSON object: {problem}") from problem
    if not isinstance(entry, dict):
        raise ValueError(f"an object {{…}} expected, found {show(entry)}")
    asked = [key for key in ("question", "prompt") if isinstance(entry.get(key), str)]
    if len(asked) != 1:
        raise ValueError('"question" or "prompt" expected, one of them and a text')
    text = entry[asked[0]]
    choices = entry.get("choices")
    if not isinstance(choices, list) or not 2 <= len(choices) <= _CHOICES:
        raise ValueError(f'"choices": a list of 2 to {_CHOICES} texts expected')
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise ValueError('"choices": every one must be a text')
    prompt = text if asked == ["prompt"] else f"Question: {text}\nAnswer:"
    question = Question(prompt, tuple(choices), _answer(entry.get("answer"), choices))
    json.dumps(question, ensure_ascii=False).encode()  # a lone surrogate is a ValueError
    return question


def _answer(answer: Any, choices: list[str]) -> int:
    if isinstance(answer, str) and choices.count(answer) == 1:
        return choices.index(answer)
    if type(answer) is int and 0 <= answer < len(choices):
        return answer
    raise ValueError(
        f'"answer": {show(answer)}; the number of a choice (0 to {len(choices) - 1}) or its text '
        "expected"
    )
