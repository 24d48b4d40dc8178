"""What is wrong with a model, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or with `note` set one that is only unusual.

    Attributes:
        kind: `nan`, `inf`, `zeros`, `hash`, `size`, `missing`, `unreadable`, `manifest`, `config`,
            `tokenizer` or `template`.
        file: the file it is in, relative to the model's folder.
        tensor: the stored array it is in; None where none is to blame.
        message: one line; what it says comes from the file and is to be escaped before it is shown.
        note: nothing to worry about by itself.
        count: how many values are bad; 0 where nothing is counted.
        indices: where the first of them are, in the array's own coordinates.
    """

    kind: str
    file: str
    tensor: str | None
    message: str
    note: bool = False
    count: int = 0
    indices: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        from ..errors import one_line

        where = f"{self.file}: tensor '{self.tensor}'" if self.tensor else self.file
        return one_line(f"{where}: {self.message}")
