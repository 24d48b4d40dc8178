"""The hostile files of tests/hostile, for the Swift package to refuse as Python refuses them.

    python tests/swift_package/hostile_cases.py --regenerate

writes swift-bridge/Tests/Golden/hostile.bin; test_generated.py fails where that file is not what is
made here. Numbers are little-endian; a text is its length as u16, then UTF-8; `count` is a u32:

    magic       8 bytes, "MQHOST1\\0"
    contents    count, then of each file's content its pieces: count, then of each piece
                    0 u32 n, n bytes            as they are
                    1 u8 n, n bytes, u32 times  repeated
    cases       count, then of each: group, name, what to open (texts), the class of Python's error
                (a text: `file`, `model`, or empty where it opens), what the error's line must
                contain (count, texts), the files (count, then of each: its path, a text; a byte: 0
                a file, with the place of its content, u32, and its size where it is sparse, u64;
                1 a link, with its target, a text; 2 a pipe; 3 a folder)

Paths are relative to an empty folder; in links `@` at the beginning stands for it.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hostile import building, cases, gguf_building, gguf_cases

from mlxquant.errors import MlxquantError, ModelError
from mlxquant.inspection.gguf import open_gguf
from mlxquant.load.from_hf import open_folder
from mlxquant.load.gguf_checks import check_model, check_vocabulary

TARGET = Path(__file__).resolve().parents[2] / "swift-bridge/Tests/Golden/hostile.bin"

#: what a byte sequence that repeats itself is: at most 16 bytes, 32 times or more
_REPEATED = re.compile(rb"(?s)(.{1,16}?)\1{31,}")
#: beyond this a file is sparse, and only its beginning counts
_SPARSE = 1 << 26


@dataclass(frozen=True)
class Made:
    """A case that lies in a folder: what to open, and what the error must contain."""

    group: str
    name: str
    build: Callable[[Path], Path]
    says: tuple[str, ...]


def _alone(name: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return build


def _together(files: Callable[[], dict[str, bytes]]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        written = files()
        for name, data in written.items():
            (folder / name).write_bytes(data)
        return folder / next(iter(written))

    return build


def _folder(build: building.Builder) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        (folder / "model").mkdir()
        return build(folder / "model") or folder / "model"

    return made


def _moe(folder: Path) -> None:
    """Packed experts, a layer of its own scheme, one that is not packed, and one by default."""
    tensors = building.packed_weights(4, 32) | {
        "model.layers.0.experts.weight": building.tensor("U32", 2, 128, 64 * 8 // 32),
        "model.layers.0.experts.scales": building.tensor("BF16", 2, 128, 2),
        "model.layers.0.experts.biases": building.tensor("BF16", 2, 128, 2),
        "model.layers.0.mx.weight": building.tensor("U32", 128, 64 * 4 // 32),
        "model.layers.0.mx.scales": building.tensor("U8", 128, 64 // 32),
    }
    entries = {
        "model.layers.0.experts": {"group_size": 32, "bits": 8},
        "model.layers.0.mx": {"mode": "mxfp4", "bits": None, "group_size": None},
        building.LAYER: True,
        "model.embed_tokens": False,
        "model.layers.7.gone": None,
    }
    building.packed(folder, building.AFFINE | entries, tensors)


def every_case() -> Iterator[Made]:
    """Every case, and models that open."""
    for name, case in cases.ALL.items():
        yield Made("folder", name, lambda tmp, case=case: case.build(tmp), case.says)
    groups = {"gguf": gguf_cases.FILES, "gguf model": gguf_cases.MODELS}
    groups["gguf vocabulary"] = gguf_cases.VOCABULARIES
    for group, members in groups.items():
        for name, (content, says) in members.items():
            yield Made(group, name, _alone("m.gguf", content), says)
    for name, (files, says) in gguf_cases.SPLITS.items():
        yield Made("gguf split", name, _together(files), says)
    valid = {
        "a folder": _folder(lambda folder: building.plain(folder)),
        "a folder of packed weights": _folder(lambda folder: building.packed(folder)),
        "a folder of several schemes": _folder(_moe),
        "a folder of shards": _folder(lambda folder: building.sharded(folder)),
        "a GGUF file": _alone("m.gguf", gguf_building.gguf),
        "a GGUF file of version 2": _alone("m.gguf", lambda: gguf_building.gguf(version=2)),
        "a GGUF file of no tensors": _alone(
            "m.gguf", lambda: gguf_building.gguf(gguf_building.MODEL, [])
        ),
        "a GGUF file of nothing": _alone("m.gguf", lambda: gguf_building.gguf({}, [])),
        "a split model": _together(gguf_cases.parts()),
    }
    for name, build in valid.items():
        yield Made("valid", name, build, ())


def error_of(group: str, path: Path) -> MlxquantError | None:
    """What Python says of a model; None where nothing is wrong with it."""
    try:
        if path.is_dir() or group == "folder":
            open_folder(path)
        else:
            model = open_gguf(path)
            if group != "valid":  # some of those have no model in them
                check_model(model.parts)
                check_vocabulary(model.parts[0])
    except MlxquantError as problem:
        return problem
    return None


def _kind(case: Made, path: Path) -> str:
    problem = error_of(case.group, path)
    if problem is None:
        return ""
    return "model" if isinstance(problem, ModelError) else "file"


class _Contents:
    """Contents of files, each once."""

    def __init__(self) -> None:
        self.places: dict[bytes, int] = {}

    def place(self, data: bytes) -> int:
        return self.places.setdefault(data, len(self.places))

    def packed(self) -> bytes:
        return struct.pack("<I", len(self.places)) + b"".join(map(_pieces, self.places))


def _pieces(data: bytes) -> bytes:
    pieces, end = [], 0
    for found in _REPEATED.finditer(data):
        if found.start() > end:
            pieces.append(_literal(data[end : found.start()]))
        unit = found[1]
        times = len(found[0]) // len(unit)
        pieces.append(struct.pack("<BB", 1, len(unit)) + unit + struct.pack("<I", times))
        end = found.end()
    if end < len(data):
        pieces.append(_literal(data[end:]))
    return struct.pack("<I", len(pieces)) + b"".join(pieces)


def _literal(data: bytes) -> bytes:
    return struct.pack("<BI", 0, len(data)) + data


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<H", len(raw)) + raw


def _case(case: Made, tmp: Path, contents: _Contents) -> bytes:
    path = case.build(tmp)
    kind = _kind(case, path)
    assert (kind == "") == (case.group == "valid"), f"{case.group}: {case.name}: {kind!r}"
    texts = (case.group, case.name, os.path.relpath(path, tmp), kind)
    parts = [*map(_text, texts), struct.pack("<I", len(case.says)), *map(_text, case.says)]
    files = []
    for where in sorted(tmp.rglob("*")):
        status = where.lstat()
        head = _text(str(where.relative_to(tmp)))
        if stat.S_ISLNK(status.st_mode):
            target = str(where.readlink()).replace(str(tmp), "@")
            files.append(head + b"\1" + _text(target))
        elif stat.S_ISFIFO(status.st_mode):
            files.append(head + b"\2")
        elif stat.S_ISDIR(status.st_mode):
            files.append(head + b"\3")
        else:
            with where.open("rb") as file:
                data = file.read(1 if status.st_size > _SPARSE else status.st_size)
            if where.suffix == ".bin":
                data = data[:10]  # of an archive; the time follows, and nobody may look at either
            place = contents.place(data.replace(str(tmp).encode(), b"/outside"))
            size = status.st_size if status.st_size > _SPARSE else 0
            files.append(head + b"\0" + struct.pack("<IQ", place, size))
    return b"".join(parts) + struct.pack("<I", len(files)) + b"".join(files)


def content() -> bytes:
    """The whole file."""
    contents = _Contents()
    written = []
    for case in every_case():
        with tempfile.TemporaryDirectory() as folder:
            written.append(_case(case, Path(folder).resolve(), contents))
    return b"".join((b"MQHOST1\0", contents.packed(), struct.pack("<I", len(written)), *written))


if __name__ == "__main__":
    if sys.argv[1:] != ["--regenerate"]:
        sys.exit(__doc__)
    TARGET.write_bytes(content())
