"""What a GGUF file says of itself, beside the files of the folder that it becomes.

    general_gguf.json   {"general.name": ["str", "…"], "general.tags": ["[str]", […]], …}

`general.*` are the model's name, authors, licence and the like, which config.json has no place for;
`general.file_type` is how the file was quantized. A folder that has the file is written back with
the same words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..files.gguf_values import Value
from ..files.json_file import read_json_object
from ..files.quote import quote, show

__all__ = ["IDENTITY", "identity_text", "read_identity"]

IDENTITY = "general_gguf.json"

#: what follows from the tensors and the file, whatever it was
_FOLLOWS = ("general.architecture", "general.quantization_version", "general.alignment")
#: a value's bytes at most; a licence's text is some 40,000
_LARGEST = 1 << 18


def identity_text(metadata: Mapping[str, Value]) -> str:
    """The text of the file."""
    found = {
        key: [value.kind, value.value]
        for key, value in metadata.items()
        if key.startswith("general.") and key not in _FOLLOWS and len(value.wire) <= _LARGEST
    }
    return json.dumps({key: each for key, each in found.items() if _is_json(each)}) + "\n"


def read_identity(folder: Path) -> dict[str, Value]:
    """What the file in a folder says, in order; nothing where there is none.

    Raises:
        FileFormatError: it is no such file.
    """
    file = folder / IDENTITY
    if not file.exists():
        return {}
    found = {}
    for key, given in read_json_object(file).items():
        if not key.startswith("general.") or key in _FOLLOWS:
            raise FileFormatError(file, quote(key), "not one of the keys that this file has")
        try:
            kind, value = given
            if kind[:1] == "[":
                found[key] = Value.array(kind[1:-1], value)
            else:
                found[key] = Value.of(kind, value)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            reason = f"{show(given)}: a type of GGUF and a value of it expected"
            raise FileFormatError(file, quote(key), reason) from problem
    return found


def _is_json(value: Any) -> bool:
    """Whether JSON has the value: no NaN, no bytes that are no text."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True
