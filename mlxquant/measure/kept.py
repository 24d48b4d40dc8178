"""Results on their way to a file: what is finished is kept, so that a run can be resumed.

    OUT.partial   {"request": {…}, "document": {…}}      a record more with each finished model
    OUT           the document, when all are there

Beside them OUT.reference, the reference's predictions; it goes when OUT is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, OutputError
from ..files.atomic import write_file
from ..files.json_file import read_json_object
from ..save.partial import write_error
from . import results

__all__ = ["Kept"]


class Kept:
    """A file of results that is being made.

    Args:
        output: OUT.
        request: what is asked for; an interrupted run of something else is not continued.
        resume: continue an interrupted run; force: discard one.

    Attributes:
        records: of the interrupted run.
        reference: where the reference's predictions can be until the end.

    Raises:
        OutputError: OUT is something else than results, or cannot be written; an interrupted run is
            there and nobody said what to do with it, or it is one of another request.
        FileFormatError: what the interrupted run left is damaged.
    """

    def __init__(
        self, output: Path, request: dict[str, Any], *, resume: bool = False, force: bool = False
    ) -> None:
        self.output, self._request = output, request
        self._partial = output.with_name(output.name + ".partial")
        self.reference = output.with_name(output.name + ".reference")
        self.records: list[dict[str, Any]] = []
        _check(output)
        if self._partial.exists():
            if force:
                self._discard()
            elif not resume:
                raise OutputError(
                    f"{self._partial}: an interrupted run is here; --resume finishes it, --force "
                    "starts over"
                )
            else:
                self.records = self._interrupted()

    def keep(self, document: dict[str, Any]) -> None:
        """Write what there is so far.

        Raises:
            WriteError: it cannot be written.
        """
        results.validate(document, self.output)
        data = json.dumps({"request": self._request, "document": document}).encode()
        making = self._partial.with_name(f"{self._partial.name}.{os.getpid()}")
        try:
            try:
                write_file(making, data)
                making.replace(self._partial)
            finally:
                making.unlink(missing_ok=True)
        except OSError as problem:
            raise write_error(self._partial, problem) from problem

    def finish(self, document: dict[str, Any]) -> None:
        """Give the results their name; nothing else stays.

        Raises:
            WriteError: they cannot be written.
        """
        results.save(self.output, document)
        self._discard()

    def _interrupted(self) -> list[dict[str, Any]]:
        found = read_json_object(self._partial, limit=results.SIZE_LIMIT)
        if found.get("request") != self._request:
            raise OutputError(
                f"{self._partial}: is an interrupted run of another request; --force starts over, "
                "or name another output"
            )
        document = found.get("document")
        results.validate(document, self._partial)
        assert isinstance(document, dict)
        records: list[dict[str, Any]] = document["records"]
        return records

    def _discard(self) -> None:
        unfinished = self.reference.with_name(self.reference.name + ".partial")
        for path in (self._partial, self.reference, unfinished):
            path.unlink(missing_ok=True)


def _check(output: Path) -> None:
    """Refuse before any work what cannot become a file of results."""
    folder = output.absolute().parent
    if output.is_dir():
        raise OutputError(f"{output}: is a folder; name a file in it")
    if not folder.is_dir():
        raise OutputError(f"{output}: there is no folder {output.parent}: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{output}: the folder {folder} is read-only; choose another output")
    if output.exists():
        try:
            results.load(output)
        except FileFormatError as problem:
            raise OutputError(
                f"{output}: exists and is no file of results; name another"
            ) from problem
