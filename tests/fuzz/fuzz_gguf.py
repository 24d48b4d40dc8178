"""Coverage-guided fuzzing of what opens GGUF files: nothing but FileFormatError comes out.

    python tests/fuzz/fuzz_gguf.py -runs=20000 -seed=1 CORPUS

CORPUS is a folder of files to begin with; tests/fuzz/test_fuzz.py makes one. Whatever else is
raised ends the run with the input in a file `crash-…` and a status other than 0.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mlxquant.files", "mlxquant.load", "mlxquant.inspection"]):
    from mlxquant.errors import FileFormatError
    from mlxquant.files.gguf import build_gguf
    from mlxquant.inspection import gguf as inspection

#: holds one input after the other; opened by name like any file
FILE = Path(tempfile.mkdtemp()) / "m.gguf"


def one_input(data: bytes) -> None:
    """Open a file of these bytes; what can be opened must be what it says, and be shown."""
    FILE.write_bytes(data)
    try:
        model = inspection.open_gguf(FILE)
    except FileFormatError as problem:
        if not str(problem).isprintable():
            raise ValueError("a message of several lines") from problem
        return
    (header,) = model.parts
    for entry in header.entries.values():
        if not header.data_start <= entry.start <= entry.stop <= len(data):
            raise ValueError(f"{entry} lies outside of the file")
    for key, value in header.metadata.items():
        if value.type == "arr" and len(value.value) != value.count:
            raise ValueError(f"{key} is not of its length")
    tensors = [(entry.name, entry.type_name, entry.shape) for entry in header.entries.values()]
    if all(len(name.encode()) < 64 for name, _, _ in tensors):
        again, _ = build_gguf(header.metadata, tensors, header.alignment, header.version)
        if len(again) != header.data_start and tensors:
            raise ValueError("a header of another length is written back")
    inspection.check(model)
    inspection.rows_of(model)
    inspection.metadata_rows(model)
    inspection.architecture_of(model)
    inspection.tokenizer_of(model)
    inspection.template_of(model)
    inspection.eos_of(model)
    inspection.notes_of(model)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    try:
        atheris.Fuzz()
    finally:
        FILE.unlink(missing_ok=True)
        FILE.parent.rmdir()
