"""What mlxquant raises, and the exit status that the command line gives for it.

    MlxquantError                  catch this to catch everything
    ├── InputError          (2)    what was given cannot be used; nothing was written
    │   ├── FileFormatError        a file's bytes lie: `file: field @offset: reason`
    │   ├── ModelError             a model folder that does not add up, or an unknown architecture
    │   ├── RequestError           options that contradict each other, or the model
    │   ├── OutputError            the output exists, or its folder cannot be written
    │   └── TemplateError          a chat template that fails, or that does what templates must not
    └── WorkError           (1)    the work began and failed
        ├── WriteError             disk full, I/O error; a later --resume finishes the same bytes
        └── HubError               the model could not be fetched

Every message is one line that tells the user what to do next.
"""

from __future__ import annotations

from os import PathLike

__all__ = [
    "FileFormatError",
    "HubError",
    "InputError",
    "MlxquantError",
    "ModelError",
    "OutputError",
    "RequestError",
    "TemplateError",
    "WorkError",
    "WriteError",
]


class MlxquantError(Exception):
    """Base of every error that mlxquant raises on purpose.

    `exit_status` is the command line's.
    """

    exit_status = 1


class InputError(MlxquantError):
    """The input or the request is wrong; nothing was written."""

    exit_status = 2


class FileFormatError(InputError):
    """A file from outside is not what it claims to be.

    Args:
        file: the file's path.
        field: the part of it that is wrong, e.g. `header length` or `tensor 'lm_head.weight'`.
        reason: what is wrong and, where it helps, the value, the limit and what to do next.
        offset: byte offset of the field in the file; None where no single place is to blame.
    """

    def __init__(
        self, file: str | PathLike[str], field: str, reason: str, offset: int | None = None
    ) -> None:
        self.file = str(file)
        self.field = field
        self.offset = offset
        self.reason = reason
        where = field if offset is None else f"{field} @{offset}"
        super().__init__(one_line(f"{self.file}: {where}: {reason}"))


class ModelError(InputError):
    """A model folder whose parts contradict each other, or an architecture that is not known."""


class RequestError(InputError):
    """Options that contradict each other or the model."""


class OutputError(InputError):
    """The output cannot be put where it was asked for; said before work starts."""


class TemplateError(InputError):
    """A chat template that fails, exceeds its budget, or reaches where templates must not."""


class WorkError(MlxquantError):
    """The work began and could not be finished."""


class WriteError(WorkError):
    """Writing failed (disk full, I/O error); nothing is under the final name."""


class HubError(WorkError):
    """A model could not be fetched from the hub."""


def one_line(text: str, limit: int = 600) -> str:
    """`text` with control characters escaped and its length bounded, so that hostile names cannot
    break a terminal or a log line."""
    safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
