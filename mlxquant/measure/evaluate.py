"""Quality: models on a text, and how far each is from a reference; a record of results for each.

    reference ──▶ its predictions, in a file ──┐
    model 1 ──────────────────────────────────┴▶ record
    model 2 ──▶ …

One model is in memory at a time. The reference runs once, whatever the number of models; a file of
its predictions (reference.py) does instead of it, made on another machine perhaps.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..errors import FileFormatError, ModelError, OutputError, RequestError, one_line
from ..load.checkpoint import Checkpoint
from .blame import first_non_finite
from .describe import describe
from .divergence import Divergence, measure_divergence
from .fingerprint import fingerprint
from .perplexity import Perplexity, measure_perplexity
from .reference import ReferenceFile, open_reference, write_reference
from .session import free, load_to_measure, settled, usual_dtype
from .statistics import Estimate
from .text import STYLES, Cutting, Text
from .windows import Windows

__all__ = ["Record", "evaluate", "is_reference"]

Record = dict[str, Any]

#: called with (what is going on, windows done, windows in all; 0 before that is known)
Progress = Callable[[str, int, int], None]

#: what a file of predictions has to say of itself
_ORIGIN = ("model", "base", "tokenizer", "text", "sha256", "windows", "dtype")

#: the largest perplexity that results can hold
_LARGEST = 1e300


def is_reference(path: str | Path) -> bool:
    """Whether a path is a file of predictions, by its first bytes."""
    try:
        with Path(path).open("rb") as file:
            return file.read(7) == b"MLXQREF"
    except (OSError, ValueError):
        return False


def evaluate(
    models: Sequence[Checkpoint],
    text: Text,
    cutting: Cutting | None = None,
    *,
    reference: Checkpoint | ReferenceFile | None = None,
    cache: Path | None = None,
    dtype: str | None = None,
    known: Iterable[Record] = (),
    progress: Progress | None = None,
) -> Iterator[Record]:
    """Measure models, one after the other; a record each, as results.py declares them.

    Args:
        models: those to measure; none, to make only the file of the reference's predictions.
        text, cutting: what on. Not looked at where `reference` is a file, which has its own.
        reference: what to compare with: a model, which gets a record of its own before the others,
            or a file of its predictions.
        cache: where to keep the reference model's predictions; a file of the same is used again,
            an interrupted one continued. None for a temporary file.
        dtype: what the models compute in: `float16`, `bfloat16` or `float32`; None for
            `usual_dtype`.
        known: records of an interrupted run of the same; they are not measured again.
        progress: called with (what is going on, windows done, windows in all or 0).

    Raises:
        RequestError: a text that is too short, or models of different vocabularies.
        ModelError: a model that cannot be run, or whose logits are no finite numbers.
        FileFormatError: a file of predictions that is damaged.
        OutputError: `cache` is something else.
    """
    run = _Run(text, cutting or Cutting(), dtype or usual_dtype(), progress or _silent)
    subjects = [run.described(model) for model in models]
    own: dict[str, Any] | None = None
    if isinstance(reference, ReferenceFile):
        run.take(reference)
    elif reference is not None:
        own = run.described(reference)
        run.name_reference(own["name"], own["base"])
    done = {_key(record["model"]): record for record in known}
    waiting = [subject for subject in subjects if _key(run.based(subject)) not in done]
    with settled(), ExitStack() as stack:
        if isinstance(reference, Checkpoint) and own and (waiting or not models):
            if cache is None:
                folder = stack.enter_context(TemporaryDirectory(prefix="mlxquant-"))
                cache = Path(folder, "reference")
            began = time.perf_counter()
            run.against = run.predictions(reference, own, cache)
            free()
            if not any(model.path == reference.path for model in models):
                yield run.record(_of_file(run.against), own, began)
        elif own and _key(own) in done:
            yield done[_key(own)]
        for model, subject in zip(models, subjects, strict=True):
            found = done.get(_key(run.based(subject)))
            yield found or run.measured(model, subject)
            free()


@dataclass
class _Run:
    """One evaluation.

    Attributes:
        against: the reference's predictions, once they are there.
        given: their windows, where a file of them came from outside.
        reference: the reference's name, and what it was made of.
        vocabulary: the first model's name and fingerprint.
    """

    text: Text
    cutting: Cutting
    dtype: str | None
    progress: Progress
    against: ReferenceFile | None = None
    given: Windows | None = None
    reference: tuple[str, str | None] | None = None
    vocabulary: tuple[str, str] | None = None

    def described(self, model: Checkpoint) -> dict[str, Any]:
        """A model's description, its vocabulary held against the others'."""
        found = describe(model)
        self.one_vocabulary(found)
        return found

    def one_vocabulary(self, subject: dict[str, Any]) -> None:
        """Refuse a vocabulary that is not that of the models before; unknown ones pass.

        Raises:
            RequestError: names both, with their fingerprints.
        """
        name, tokenizer = subject["name"], subject["tokenizer"]
        if not tokenizer:
            return
        first, theirs = self.vocabulary = self.vocabulary or (name, tokenizer)
        if tokenizer != theirs:
            raise RequestError(
                one_line(
                    f"{name} has another vocabulary (fingerprint {tokenizer}) than {first} "
                    f"({theirs}); perplexity and divergence compare models of one tokenizer"
                )
            )

    def take(self, file: ReferenceFile) -> None:
        """A file of predictions from outside: its text and windows are those of this run."""
        origin = file.origin
        for key in _ORIGIN:
            if key not in origin:
                raise _not_ours(file.path, f"origin says nothing of {key!r}")
        style = origin["windows"].partition(" ")[0]
        if style not in STYLES or not re.fullmatch("[0-9a-f]{64}", origin["sha256"]):
            raise _not_ours(file.path, "origin names no text or no windows")
        self.one_vocabulary({"name": origin["model"], "tokenizer": origin["tokenizer"]})
        self.text = Text(origin["text"], "", origin["sha256"])
        self.cutting = Cutting(style, file.windows.length)
        self.against, self.given = file, file.windows
        self.name_reference(origin["model"], origin["base"])

    def name_reference(self, name: str, base: str | None) -> None:
        """What the reference is called, and what it was made of."""
        self.reference = name, base or None

    def loaded(self, model: Checkpoint, subject: dict[str, Any]) -> tuple[Any, Windows]:
        """A model, and its windows; the fingerprint is filled in where headers do not tell."""
        self.progress(f"loading {subject['name']}", 0, 0)
        loaded, tokenizer = load_to_measure(model, self.dtype)
        if subject["tokenizer"] is None:
            pieces = {int(i): str(piece) for piece, i in tokenizer.get_vocab().items()}
            subject["tokenizer"] = fingerprint(pieces)
            self.one_vocabulary(subject)
        return loaded, self.given or self.cutting.windows(tokenizer, self.text)

    def predictions(self, model: Checkpoint, subject: dict[str, Any], cache: Path) -> ReferenceFile:
        """A reference model's predictions, run now if the file does not have them."""
        origin = {
            "model": subject["name"],
            "base": subject["base"] or "",
            "format": f"{subject['format']}, {subject['bytes']} bytes",
            "tokenizer": subject["tokenizer"] or "",
            "text": self.text.name,
            "sha256": self.text.sha256,
            "windows": str(self.cutting),
            "dtype": self.dtype or "",
        }
        if cache.exists():
            found = open_reference(cache)
            if found.origin != origin:
                raise _other_origin(cache, found.origin, origin)
            return found
        if not cache.absolute().parent.is_dir():
            raise OutputError(f"{cache}: there is no folder {cache.parent}: make it first")
        loaded, windows = self.loaded(model, subject)
        return write_reference(
            cache,
            loaded,
            windows,
            origin,
            blame=partial(first_non_finite, loaded),
            progress=partial(self.progress, subject["name"]),
        )

    def measured(self, model: Checkpoint, subject: dict[str, Any]) -> Record:
        """A model's record."""
        began = time.perf_counter()
        loaded, windows = self.loaded(model, subject)
        how: dict[str, Any] = {
            "blame": partial(first_non_finite, loaded),
            "progress": partial(self.progress, subject["name"]),
        }
        if self.against is None:
            return self.record(measure_perplexity(loaded, windows, **how), subject, began)
        compared = measure_divergence(loaded, windows, self.against, **how)
        return self.record(compared, subject, began)

    def based(self, subject: dict[str, Any]) -> dict[str, Any]:
        """The `model` of a record; where nobody says what it was made of, of the reference."""
        if subject["base"] is None and self.reference is not None:
            name, base = self.reference
            return {**subject, "base": (base or name) if name != subject["name"] else None}
        return dict(subject)

    def record(
        self, found: Perplexity | Divergence, subject: dict[str, Any], began: float
    ) -> Record:
        """The record of what was found."""
        perplexity = found.perplexity if isinstance(found, Divergence) else found
        record: Record = {
            "model": self.based(subject),
            "text": {
                "name": self.text.name,
                "sha256": self.text.sha256,
                "tokens": found.windows.given,
            },
            "windows": _windows(found.windows, self.cutting.style),
            "perplexity": _perplexity(subject["name"], perplexity),
            "reference": None,
            "kl": None,
            "top1": None,
            "top5": None,
        }
        if isinstance(found, Divergence) and self.reference:
            name, _ = self.reference
            theirs = _perplexity(name, found.reference_perplexity)
            kl = {key: _estimate(value) for key, value in found.kl_summary.items()}
            record["reference"] = {"name": name, "perplexity": theirs}
            record["kl"] = {**kl, "max": kl["max"]["value"]}
            record |= {key: _estimate(value) for key, value in found.agreement.items()}
        return {**record, "seconds": time.perf_counter() - began}


def _key(subject: dict[str, Any]) -> tuple[Any, ...]:
    """What a model is told from others by; its vocabulary may not be known yet."""
    return tuple(value for key, value in sorted(subject.items()) if key != "tokenizer")


def _of_file(file: ReferenceFile) -> Perplexity:
    """The reference's own perplexity, from the losses in its file."""
    scored = file.windows.scored
    losses = [
        [file.read(i, begin).losses for begin in range(0, scored, file.rows)]
        for i in range(file.windows.count)
    ]
    return Perplexity(file.windows, np.array([np.concatenate(parts) for parts in losses]))


def _windows(windows: Windows, style: str) -> dict[str, Any]:
    return {
        "style": style,
        "length": windows.length,
        "stride": windows.stride,
        "count": windows.count,
        "scored": windows.total,
    }


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _perplexity(name: str, found: Perplexity) -> dict[str, float | None]:
    estimate = _estimate(found.estimate)
    if not max(value for value in estimate.values() if value is not None) < _LARGEST:
        raise ModelError(
            f"{name}: its perplexity is beyond {_LARGEST:g}: these are not the weights of a "
            "language model, or not of this tokenizer; mlxquant inspect --verify looks at them"
        )
    return estimate


def _other_origin(cache: Path, found: dict[str, str], wanted: dict[str, str]) -> OutputError:
    key = next((key for key in wanted if found.get(key) != wanted[key]), "origin")
    return OutputError(
        one_line(
            f"{cache}: holds predictions of something else: {key} is "
            f"{found.get(key, 'not said')!r}, {wanted.get(key, 'nothing')!r} is asked for; name "
            "another file, or delete it"
        )
    )


def _not_ours(path: Path, what: str) -> FileFormatError:
    reason = f"{what}; make it again with mlxquant eval --reference MODEL --reference-cache FILE"
    return FileFormatError(path, "header", reason)


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""
