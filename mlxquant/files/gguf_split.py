"""Split GGUF models: `NAME-00001-of-00003.gguf` and its kin, opened through any one of them.

Each part is a GGUF file with tensors of its own and these keys; the first one has all others too.

    split.no              its place, from 0
    split.count           parts in all
    split.tensors.count   tensors in all
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

from ..errors import FileFormatError
from .gguf import GgufHeader, read_gguf
from .quote import quote

__all__ = ["open_split"]

_NAME = re.compile(r"(?P<prefix>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def open_split(path: str | os.PathLike[str]) -> list[GgufHeader]:
    """The headers of all parts of a model, in order; of a file that is no part, its own.

    Args:
        path: any part.

    Raises:
        FileFormatError: a part is missing, doubled, at another part's place or of another model;
            the error's `file` is that part. Or one of them is broken; see `read_gguf`.
    """
    file = Path(path)
    named = _NAME.fullmatch(file.name)
    parts = int(named["count"]) if named else 1
    opened = read_gguf(file)
    count = _number(opened, "split.count") if "split.count" in opened.metadata else 1
    if parts <= 1 and count <= 1:
        return [opened]
    if named is None or parts != count:
        expected = f"its name says it is one of {parts}" if named else "its name does not say which"
        reason = f"this is a part of {count}, but {expected}; give it the name it was made with"
        if "split.count" not in opened.metadata:
            reason = f"missing, though the file is named as one of {parts}; give it another name"
        _fail(opened, "split.count", reason)
    siblings = [
        file.with_name(f"{named['prefix']}-{index:05d}-of-{count:05d}.gguf")
        for index in range(1, count + 1)
    ]
    for index, sibling in enumerate(siblings, 1):
        if not sibling.exists():
            reason = f"part {index} of {count} is missing; put it beside the others"
            raise FileFormatError(sibling, "file", reason)
    headers = [opened if sibling == file else read_gguf(sibling) for sibling in siblings]
    _check(headers)
    return headers


def _check(headers: list[GgufHeader]) -> None:
    """Raise for the first part that does not belong where it is."""
    first, count = headers[0], len(headers)
    total = _number(first, "split.tensors.count")
    architecture = first.get("general.architecture")
    owners: dict[str, GgufHeader] = {}
    for index, header in enumerate(headers):
        for key, wanted, what in (
            ("split.count", count, "another model's"),
            ("split.no", index, "doubled or shuffled"),
            ("split.tensors.count", total, "another model's"),
        ):
            found = _number(header, key)
            if found != wanted:
                reason = f"{found} in part {index + 1} of {count}, {wanted} expected: this part is"
                _fail(header, key, f"{reason} {what}; download it again")
        own = header.get("general.architecture", architecture)
        if own != architecture:
            reason = f"{quote(str(own))}, but {quote(str(architecture))} in part 1: this part is "
            _fail(header, "general.architecture", f"{reason}another model's; download it again")
        for name, entry in header.entries.items():
            if name in owners:
                reason = f"also in {owners[name].path.name}: this part is doubled or another "
                reason += "model's; download it again"
                raise FileFormatError(header.path, f"tensor {quote(name)}", reason, entry.start)
            owners[name] = header
    if len(owners) != total:
        reason = f"{total}, but the {count} parts hold {len(owners)}: a part is another model's"
        _fail(headers[-1], "split.tensors.count", f"{reason}; download them again")


def _number(header: GgufHeader, key: str) -> int:
    """The integer of a key.

    Raises:
        FileFormatError: it is missing or of another type.
    """
    found = header.get(key)
    if type(found) is not int:
        what = "missing" if found is None else f"of type {header.metadata[key].kind}"
        _fail(header, key, f"{what}, an integer expected: this is no part of a split model")
    return int(found)


def _fail(header: GgufHeader, key: str, reason: str) -> NoReturn:
    value = header.metadata.get(key)
    raise FileFormatError(header.path, key, reason, value.offset if value else None)
