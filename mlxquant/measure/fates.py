"""What an import did to each tensor of a GGUF file: nothing, or how far off its numbers are now."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..quantize.exact import ImportRequest, stored_tensors
from ..save.to_mlx import Result

if TYPE_CHECKING:
    from ..models.mlx_lm import SourceModel
    from ..quantize.policy import Item, Plan

__all__ = ["Fate", "ImportResult", "imported", "measured_fates", "planned_fates"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Fate:
    """What became of one tensor.

    Attributes:
        item: as planned.
        stored: its type in the file.
        how: `repacked`, `kept`, `plain`, … (see quantize/exact.py); `requantized` or `cast`.
        error: relative error of its numbers (see measure/weights.py), 0 if they are the same; None
            before it is measured.
    """

    item: Item
    stored: str
    how: str
    error: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        error = self.error
        return {
            "name": self.item.name,
            "source": self.stored,
            "format": self.item.target.name if self.item.target else self.item.kept_format,
            "how": self.how,
            "exact": None if error is None else error == 0,
            "relative_error": error if error is None or math.isfinite(error) else str(error),
        }


@dataclass(frozen=True)
class ImportResult(Result):
    """A Result, and what became of each tensor.

    Attributes:
        fates: in the model's order.
    """

    fates: tuple[Fate, ...] = field(default=())

    @property
    def exact(self) -> int:
        """How many tensors have the file's own numbers."""
        return sum(fate.error == 0 for fate in self.fates)

    @property
    def worst(self) -> Fate | None:
        """The tensor with the largest error; None if nothing was measured or all is exact."""
        off = [fate for fate in self.fates if fate.error]
        return max(off, key=lambda fate: fate.error or 0.0, default=None)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        worst = self.worst.to_json() if self.worst else None
        return {
            **super().to_json(),
            "tensors": [fate.to_json() for fate in self.fates],
            "exact_tensors": self.exact,
            "largest_relative_error": worst["relative_error"] if worst else None,
        }


def imported(result: Result, fates: tuple[Fate, ...]) -> ImportResult:
    """A result with the tensors' fates."""
    return ImportResult(
        **{each.name: getattr(result, each.name) for each in fields(result)}, fates=fates
    )


def planned_fates(plan: Plan, source: SourceModel) -> tuple[Fate, ...]:
    """What will become of each tensor; the error is known of an exact import only."""
    owners = stored_tensors(source)
    exact = isinstance(plan.request, ImportRequest)  # make_plan's have a request of their own
    fates = []
    for item in plan.items:
        owner = owners.get(item.name)
        how = item.chosen if exact else "requantized" if item.target else "cast"
        stored = owner.dtype if owner else item.source
        fates.append(Fate(item, stored, how, 0.0 if exact else None))
    return tuple(fates)


def measured_fates(
    fates: tuple[Fate, ...],
    source: SourceModel,
    output: Path,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Fate, ...]:
    """The same with errors: the numbers in the folder against those in the file.

    Args:
        threads: that compare; None for one a core.
        progress: called with (weights done, weights in all, name of the tensor).
    """
    from ..load.from_hf import open_folder
    from .weights import weight_errors

    planned = {fate.item.name: fate for fate in fates}
    total, done = sum(fate.item.size for fate in fates), 0
    found = []
    for error in weight_errors(source.checkpoint, open_folder(output), threads=threads):
        relative = error.relative if math.isfinite(error.relative) else math.inf
        found.append(replace(planned[error.name], error=relative))
        done += error.size
        if progress is not None:
            progress(done, total, error.name)
    return tuple(found)
