"""From importance data to rows of a GGUF file's tensors, and what a user should know of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError, one_line
from ..files.quote import quote
from .imatrix import Imatrix
from .llama_rules import EMBEDDINGS

__all__ = ["Weighed", "importance_notes", "weigh"]

#: names that a note spells out
_NAMED = 6


@dataclass(frozen=True, eq=False)
class Weighed:
    """The importance of one tensor's columns.

    Attributes:
        columns: float32 [matrices, columns]; a stack of experts has a row for each.
        unseen: how many of the matrices saw no input, so that their columns count alike.
    """

    columns: NDArray[np.float32]
    unseen: int = 0


def weigh(imatrix: Imatrix, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, Weighed]:
    """The importance of each tensor that there are data for.

    Args:
        tensors: name and shape of each, rows first.

    Raises:
        RequestError: data of another number of columns than the tensor has, or of experts; those
            of the token embedding are left out, as llama-quantize does.
    """
    found: dict[str, Weighed] = {}
    for name, shape in tensors:
        entry = imatrix.entries.get(name)
        if entry is None:
            continue
        matrices = math.prod(shape[:-2])
        if entry.sums.size != matrices * shape[-1]:
            if name in EMBEDDINGS:
                continue
            of = f"{matrices} matrices of {shape[-1]}" if matrices > 1 else f"{shape[-1]}"
            raise RequestError(
                one_line(
                    f"{imatrix.name or 'importance data'}: {quote(name)} has {entry.sums.size} "
                    f"columns, the model's has {of}; they are another model's, or leave them out "
                    "with --exclude-weights"
                )
            )
        found[name] = Weighed(entry.of_columns(shape[-1]), entry.unseen)
    return found


def importance_notes(
    imatrix: Imatrix,
    weighed: Mapping[str, Weighed],
    quantized: Sequence[str],
    needed: Sequence[str],
    tensors: Sequence[str],
) -> list[str]:
    """What a user should know.

    Args:
        weighed: by name, the tensors that there are data for.
        quantized: names of the tensors whose encoding data would better.
        needed: those of them whose type is so small that without data the loss is large.
        tensors: names of the whole model.
    """
    notes = []
    blind = [name for name in needed if name not in weighed]
    if blind:
        notes.append(
            f"{_count(blind)} a type so small that without importance data the loss is large, and "
            f"there are none: {_listed(blind)}"
        )
    missing = [name for name in quantized if name not in weighed and name not in blind]
    if missing:
        notes.append(f"no importance data for {_listed(missing)}: all columns count alike")
    for name in quantized:
        unseen = weighed[name].unseen if name in weighed else 0
        if unseen:
            notes.append(
                f"{name}: {unseen} of {len(weighed[name].columns)} experts saw no input; their "
                "columns count alike"
            )
    strangers = sorted(imatrix.entries.keys() - set(tensors))
    if strangers:
        notes.append(f"the model has no {_listed(strangers)}, which importance data are given for")
    return notes


def _count(names: Sequence[str]) -> str:
    return "a tensor gets" if len(names) == 1 else f"{len(names)} tensors get"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 80) for name in names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown
