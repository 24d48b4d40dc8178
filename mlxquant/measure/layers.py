"""What each tensor's quantization does alone: the reference with one weight of the quantized model.

    for each weight whose numbers differ:
        reference ──[this weight's numbers]──▶ divergence from the reference as it is

A pass over the windows for every weight, so few windows. In memory are the reference and, of the
quantized model, one weight in float32 (twice, while it is read).

Divergences of single weights do not add up to that of all together: errors add and cancel. Beside
each other they say where bits are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..errors import ModelError, RequestError, one_line
from ..load.checkpoint import Checkpoint
from ..models.mlx_lm import resolve_model
from .blame import first_non_finite
from .describe import describe
from .divergence import Divergence, measure_divergence
from .reference import ReferenceFile, write_reference
from .replaced import can_replace, replaced
from .session import free, load_to_measure, settled, usual_dtype
from .statistics import Estimate, mean
from .text import Cutting, Text
from .weights import CHUNK, Floats

if TYPE_CHECKING:
    from ..models.source_model import SourceModel
    from ..quantize.policy import Item

__all__ = ["Damage", "LayersReport", "RoleDamage", "measure_layers"]

#: called with (what is going on, weights done, weights in all; 0 before that is known)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Damage:
    """What one weight does, or all of them.

    Attributes:
        name, role, layer: of the weight; of all together the model's name, an empty role and None.
        format: what it is stored as; size: number of weights; nbytes: stored, scales included.
        relative_error: ‖w - ŵ‖ / ‖w‖ of its numbers; None for all together.
        kl: mean divergence from the reference, nats a token.
        perplexity_ratio: perplexity over the reference's.
        top1: share of tokens whose likeliest is the reference's.
    """

    name: str
    role: str
    layer: int | None
    format: str
    size: int
    nbytes: int
    relative_error: float | None
    kl: Estimate
    perplexity_ratio: Estimate
    top1: Estimate

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        estimates = {"kl": self.kl, "perplexity_ratio": self.perplexity_ratio, "top1": self.top1}
        return {
            "name": self.name,
            "role": self.role,
            "layer": self.layer,
            "format": self.format,
            "size": self.size,
            "bytes": self.nbytes,
            "relative_error": self.relative_error,
            **{
                key: {"value": value.value, "low": value.low, "high": value.high}
                for key, value in estimates.items()
            },
        }


@dataclass(frozen=True)
class RoleDamage:
    """What the weights of one role do, one at a time.

    Attributes:
        role: as models.roles has them; tensors: how many; size: their weights.
        kl: the sum of their divergences; worst: the name of the one with the largest.
    """

    role: str
    tensors: int
    size: int
    kl: float
    worst: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "role": self.role,
            "tensors": self.tensors,
            "size": self.size,
            "kl_sum": self.kl,
            "worst": self.worst,
        }


@dataclass(frozen=True)
class LayersReport:
    """What was found.

    Attributes:
        model, reference: descriptions (describe.py).
        text: what was measured on; windows: how, in plain values.
        tensors: those with the largest divergence first.
        together: the quantized model itself.
        unchanged: how many weights have the same numbers in both.
        skipped: names of weights that could not be replaced.
    """

    model: dict[str, Any]
    reference: dict[str, Any]
    text: Text
    windows: dict[str, Any]
    tensors: tuple[Damage, ...]
    together: Damage
    unchanged: int
    skipped: tuple[str, ...]

    @property
    def roles(self) -> tuple[RoleDamage, ...]:
        """The same by role, the role with the largest sum first."""
        groups: dict[str, list[Damage]] = {}
        for tensor in self.tensors:
            groups.setdefault(tensor.role, []).append(tensor)
        found = [
            RoleDamage(
                role,
                len(members),
                sum(tensor.size for tensor in members),
                sum(tensor.kl.value for tensor in members),
                members[0].name,
            )
            for role, members in groups.items()
        ]
        return tuple(sorted(found, key=lambda role: (-role.kl, role.role)))

    def to_json(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {
            "model": self.model,
            "reference": self.reference,
            "text": {"name": self.text.name, "sha256": self.text.sha256},
            "windows": self.windows,
            "together": self.together.to_json(),
            "kl_sum": sum(tensor.kl.value for tensor in self.tensors),
            "roles": [role.to_json() for role in self.roles],
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "unchanged": self.unchanged,
            "skipped": list(self.skipped),
        }


def measure_layers(
    model: Checkpoint,
    reference: Checkpoint,
    text: Text,
    cutting: Cutting | None = None,
    *,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> LayersReport:
    """Measure what the quantization of each of a model's weights does alone.

    Args:
        model: the quantized model: a folder, a GGUF file, or a folder with ggml's blocks.
        reference: what it was made of.
        text, cutting: what on; of windows, few.
        dtype: what is computed in; None for `session.usual_dtype`.
        progress: called with (what is going on, weights done, weights in all or 0).

    Raises:
        RequestError: different vocabularies, or a text that is too short.
        ModelError: different weights, or logits that are no finite numbers.
    """
    subject, original = describe(model), describe(reference)
    if None not in (a := subject["tokenizer"], b := original["tokenizer"]) and a != b:
        raise RequestError(
            f"{subject['name']} has another vocabulary (fingerprint {a}) than {original['name']} "
            f"({b}); compare a model with what it was made of"
        )
    dtype = dtype or usual_dtype()
    show = progress or _silent
    with settled(), TemporaryDirectory(prefix="mlxquant-") as folder:
        show(f"loading {original['name']}", 0, 0)
        weights = _Weights(reference, model)
        loaded, tokenizer = load_to_measure(reference, dtype)
        windows = (cutting or Cutting()).windows(tokenizer, text)
        show(f"{original['name']} as it is", 0, 0)
        blame = partial(first_non_finite, loaded)
        own = {"name": original["name"]}
        against = write_reference(Path(folder, "reference"), loaded, windows, own, blame=blame)
        tensors, unchanged, skipped = [], 0, []
        for done, (item, nbytes, fmt) in enumerate(weights):
            show(item.name, done, len(weights))
            values, error = weights.read(item)
            if not error:
                unchanged += 1
            elif not can_replace(loaded, item.name):
                skipped.append(item.name)
            else:
                with replaced(loaded, item.name, mx.array(values)):
                    del values
                    found = measure_divergence(loaded, windows, against, blame=blame)
                facts = (item.name, item.role, item.layer, fmt, item.size, nbytes, error)
                tensors.append(Damage(*facts, *_figures(found)))
        del loaded, blame
        free()
        show(f"{subject['name']} as it is", 0, 0)
        together = _together(model, subject, windows, against, dtype)
        free()
    return LayersReport(
        model=subject,
        reference=original,
        text=text,
        windows={"style": (cutting or Cutting()).style, **windows.facts()},
        tensors=tuple(sorted(tensors, key=lambda tensor: -tensor.kl.value)),
        together=together,
        unchanged=unchanged,
        skipped=tuple(skipped),
    )


class _Weights:
    """The weights of a reference and of a quantized model, as numbers.

    Raises:
        ModelError: they are not the same model's.
    """

    def __init__(self, reference: Checkpoint, model: Checkpoint) -> None:
        self._source: SourceModel = resolve_model(model)
        self._before = Floats(resolve_model(reference), "float32")
        self._after = Floats(self._source, "float32")
        before, after = self._before.items, self._after.items
        odd = sorted(before.keys() ^ after.keys())
        odd += [name for name in before if not odd and before[name].shape != after[name].shape]
        if odd:
            raise ModelError(
                one_line(
                    f"{model.path} is another model than {reference.path}: only one of them has "
                    f"{odd[0]!r} in its shape; name what it was made of with --reference"
                )
            )

    def __len__(self) -> int:
        return len(self._after.items)

    def __iter__(self) -> Iterator[tuple[Item, int, str]]:
        """Each weight, its stored bytes and its format, in the model's order."""
        for name, item in self._after.items.items():
            block = self._source.blocks.get(name)
            if block is not None:
                yield item, block.nbytes, block.dtype
            else:
                yield item, self._after.nbytes(item), item.source

    def read(self, item: Item) -> tuple[np.ndarray[Any, np.dtype[np.float32]], float]:
        """The quantized weight's numbers, and their relative error; 0 where they are the same."""
        values = np.empty((item.size // item.shape[-1] if item.shape else 1, _width(item)), "<f4")
        error = norm = 0.0
        step = max(1, CHUNK // _width(item))
        for begin in range(0, len(values), step):
            end = min(begin + step, len(values))
            rows = self._after.rows(item, begin, end)
            before = self._before.rows(self._before.items[item.name], begin, end)
            values[begin:end] = rows
            error += float(np.square(rows - before, dtype=np.float64).sum())
            norm += float(np.square(before, dtype=np.float64).sum())
        relative = (error / norm) ** 0.5 if norm else float(error > 0)
        return values.reshape(item.shape), relative


def _width(item: Item) -> int:
    return item.shape[-1] if item.shape else 1


def _figures(found: Divergence) -> tuple[Estimate, Estimate, Estimate]:
    """The last three of a Damage."""
    return mean(found.kl), found.perplexity_ratio, found.agreement["top1"]


def _together(
    model: Checkpoint,
    subject: dict[str, Any],
    windows: Any,
    against: ReferenceFile,
    dtype: str | None,
) -> Damage:
    """The quantized model itself."""
    loaded, _ = load_to_measure(model, dtype)
    blame = partial(first_non_finite, loaded)
    found = measure_divergence(loaded, windows, against, blame=blame)
    facts = (subject["format"], subject["parameters"], subject["bytes"], None)
    return Damage(subject["name"], "", None, *facts, *_figures(found))


def _silent(what: str, done: int, total: int) -> None:
    """No progress."""
