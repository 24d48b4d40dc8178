"""NaN and infinity in the scales of a tensor of ggml's blocks: counted, and the first ones told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..files.gguf_types import tensor_type
from .problems import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BadBlocks", "index_of"]

#: positions of bad blocks that are told, a tensor; all are counted
_SHOWN = 8


class BadBlocks:
    """What was seen of one tensor: by kind, the number of bad blocks and the first of them.

    Args:
        type_name: ggml's, e.g. `Q4_K`, or a plain float's, whose blocks are of one weight.
        shape: of the weights.
    """

    def __init__(self, type_name: str, shape: tuple[int, ...]) -> None:
        self._type, self._shape = tensor_type(type_name), shape
        self._counts = {"nan": 0, "inf": 0}
        self._first: dict[str, list[int]] = {"nan": [], "inf": []}

    def examine(self, blocks: NDArray[np.uint8], start: int) -> None:
        """Look at blocks, uint8 [n, block_bytes], the first of which is the tensor's `start`-th."""
        import numpy as np

        from ..files.gguf_scales import bad_blocks

        for kind, bad in zip(("nan", "inf"), bad_blocks(self._type.name, blocks), strict=True):
            count = int(np.count_nonzero(bad))
            if count:
                self._counts[kind] += count
                room = _SHOWN - len(self._first[kind])
                self._first[kind] += (start + np.flatnonzero(bad)[:room]).tolist()

    def problems(self, file: str, tensor: str) -> Iterator[Problem]:
        """What there is to say, of a tensor of this name in a file of this name."""
        size = self._type.block_size
        for kind, name in (("nan", "NaN"), ("inf", "Inf")):
            count, first = self._counts[kind], self._first[kind]
            if not count:
                continue
            places = tuple(index_of(block * size, self._shape) for block in first)
            shown = ", ".join(str(list(place)) for place in places)
            more = f" and {count - len(places)} more" if count > len(places) else ""
            blocks = f"block{'s' * (count != 1)} of {size} weights"
            what = f"{count} {name}" if size == 1 else f"{name} in the scales of {count} {blocks}"
            message = f"{what}, at {shown}{more}"
            yield Problem(kind, file, tensor, message, count=count, indices=places)


def index_of(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The coordinates of the flat-th weight in row-major order."""
    index: list[int] = []
    for length in reversed(shape):
        flat, rest = divmod(flat, length)
        index.append(rest)
    return tuple(reversed(index))
