"""Weights multiplied by what is folded into them: nodes that compute the rows that are asked for.

    scaled          diag(r) W diag(c)      a row from the same row
    turned_columns  W R                    a row from the same row
    turned_rows     Rᵀ W                   a row from all rows of the same block of R

All are F32 and take stacks [..., n, k] as well. Where a block of R has many rows, Rᵀ W is computed
once, a panel of columns at a time, into a file without a name (`Scratch`), and rows come from
there: memory stays bounded, and no weight is read once for every unit of its rows.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError, WriteError
from ..formats.base import Array
from ..load.blocks import floats_of
from ..load.lazy import Node, Region
from ..models.header_model import text_settings
from ..models.roles import role_of
from ..models.source_model import SourceModel
from .orthogonal import Rotation

__all__ = ["Scratch", "replaced", "scaled", "turned_columns", "turned_rows", "untied"]

Float32 = NDArray[np.float32]

#: a block of rows of at most this many bytes is computed again for each request that touches it
_DIRECT_BYTES = 4 << 20
#: bytes of the columns that are turned at a time, and of the rows that are read at a time
_PANEL_BYTES = 16 << 20
#: matrices in scratch files at a time: at least two, further ones up to so many bytes
_KEPT_BYTES = 2 << 30


def scaled(node: Node, *, rows: Float32 | None = None, columns: Float32 | None = None) -> Node:
    """diag(rows) W diag(columns), F32, of a weight [..., n, k] or, with `columns`, a vector [k].

    Args:
        rows: float32, one a row: [n], or [..., n] with a stack's leading axes.
        columns: float32, one a column: [k], or [..., k] with a stack's leading axes; or one a
            number of any array, of its whole shape.
    """
    floats = floats_of(node)

    def compute(region: Region) -> Array:
        values = np.array(floats.compute(region), dtype=np.float32)
        if rows is not None:
            values *= _picked(rows, region[:-1])[..., None]
        if columns is not None:
            if columns.ndim in (1, len(region)):
                values *= _picked(columns, region)
            else:
                values *= _picked(columns, (*region[:-2], region[-1]))[..., None, :]
        return values

    return Node(node.shape, "F32", compute, "Scaled", node.origin)


def _picked(values: Float32, region: tuple[range, ...]) -> Float32:
    used = region[len(region) - values.ndim :]
    return values[tuple(slice(r[0], r[-1] + 1, r.step) for r in used)]


def turned_columns(
    node: Node, rotation: Rotation, gains: Float32 | None = None, first: int = 0
) -> Node:
    """W diag(gains) R, F32, along the last axis of any array.

    Args:
        gains: float32 [k]; None for ones.
        first: where R begins, if it turns only columns [first, first + n).
    """
    floats = floats_of(node)
    width = node.shape[-1]
    assert first + rotation.size <= width

    def compute(region: Region) -> Array:
        values = np.array(floats.compute((*region[:-1], range(width))), dtype=np.float32)
        if gains is not None:
            values *= gains
        last = first + rotation.size
        values[..., first:last] = rotation.columns(values[..., first:last])
        columns = region[-1]
        return values[..., columns[0] : columns[-1] + 1 : columns.step]

    return Node(node.shape, "F32", compute, "Turned", node.origin)


def turned_rows(node: Node, rotation: Rotation, scratch: Scratch, first: int = 0) -> Node:
    """Rᵀ W, F32, of every matrix [n, k] of a weight [..., n, k].

    Args:
        scratch: where matrices are kept that are too large to be computed for every request.
        first: where R begins, if it turns only rows [first, first + rotation.size).
    """
    floats = floats_of(node)
    *_, n, k = node.shape
    block = rotation.block
    assert first + rotation.size <= n

    def direct(region: Region) -> Array:
        rows, columns = region[-2], region[-1]
        low, high = rows[0], rows[-1] + 1
        # whole blocks of R that the rows lie in
        begin = first + max(0, (low - first) // block * block)
        end = first + min(rotation.size, -(-(high - first) // block) * block)
        if begin < end:
            low, high = min(low, begin), max(high, end)
        values = floats.compute((*region[:-2], range(low, high), columns))
        if begin < end:
            values = np.array(values, dtype=np.float32)
            part = values[..., begin - low : end - low, :]
            values[..., begin - low : end - low, :] = rotation.rows(part, (begin - first) // block)
        return values[..., rows[0] - low : rows[-1] + 1 - low : rows.step, :]

    turned = Node(node.shape, "F32", direct, "Turned", node.origin)
    if block * k * 4 <= _DIRECT_BYTES:
        return turned

    def kept(region: Region) -> Array:
        out = np.empty([len(each) for each in region], dtype=np.float32)
        for at in np.ndindex(*out.shape[:-2]):
            place = tuple(axis[i] for axis, i in zip(region[:-2], at, strict=True))
            matrix = scratch.matrix((id(turned), place), partial(_filled, place))
            rows, columns = region[-2], region[-1]
            found = matrix.rows(rows[0], rows[-1] + 1)
            out[at] = found[:: rows.step, columns[0] : columns[-1] + 1 : columns.step]
        return out

    def _filled(place: tuple[int, ...]) -> _Matrix:
        matrix = _Matrix(scratch.folder, n, k)
        step = max(1, _PANEL_BYTES // (4 * k))
        lead = tuple(range(i, i + 1) for i in place)
        for begin in range(0, n, step):
            rows = range(begin, min(begin + step, n))
            values = floats.compute((*lead, rows, range(k)))
            matrix.put(begin, np.ascontiguousarray(values, np.float32).reshape(len(rows), k))
        matrix.turn(rotation, first)
        return matrix

    return Node(node.shape, "F32", kept, "Turned", node.origin)


class _Matrix:
    """A float32 matrix [n, k] in a file without a name, panel of columns behind panel of columns.

    Raises:
        WriteError: the file cannot be written.
    """

    def __init__(self, folder: Path | None, n: int, k: int) -> None:
        self.shape = (n, k)
        self.nbytes = 4 * n * k
        step = max(1, _PANEL_BYTES // (4 * n))
        self._panels = [(c, min(c + step, k)) for c in range(0, k, step)]
        self._folder = folder
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115 - it lives with this
                dir=folder, prefix="mlxquant-"
            )
        except OSError as problem:
            raise self._failed(problem) from problem

    def put(self, begin: int, rows: Float32) -> None:
        """Write rows [begin, begin + len(rows))."""
        for first, last in self._panels:
            self._write(np.ascontiguousarray(rows[:, first:last]), first, last, begin)

    def turn(self, rotation: Rotation, first: int) -> None:
        """Rotate rows [first, first + rotation.size)."""
        for begin, end in self._panels:
            panel = self._read(begin, end, first, first + rotation.size)
            self._write(rotation.rows(panel), begin, end, first)

    def rows(self, begin: int, end: int) -> Float32:
        """Rows [begin, end)."""
        out = np.empty((end - begin, self.shape[1]), dtype=np.float32)
        for first, last in self._panels:
            out[:, first:last] = self._read(first, last, begin, end)
        return out

    def _place(self, first: int, last: int, row: int) -> int:
        return 4 * (self.shape[0] * first + row * (last - first))

    def _read(self, first: int, last: int, begin: int, end: int) -> Float32:
        out = np.empty((end - begin, last - first), dtype=np.float32)
        view, at = out.data.cast("B"), self._place(first, last, begin)
        done = 0
        while done < len(view):
            got = os.preadv(self._file.fileno(), [view[done:]], at + done)
            if not got:
                raise WriteError(f"{self._where()}: a scratch file became shorter; run again")
            done += got
        return out

    def _write(self, values: Float32, first: int, last: int, row: int) -> None:
        view, at = values.data.cast("B"), self._place(first, last, row)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], at + done)
        except OSError as problem:
            raise self._failed(problem) from problem

    def _where(self) -> str:
        return str(self._folder or tempfile.gettempdir())

    def _failed(self, problem: OSError) -> WriteError:
        return WriteError(
            f"{self._where()}: a scratch file of {self.nbytes} bytes cannot be written: "
            f"{problem.strerror}; make room there, or set TMPDIR to a folder with room"
        )


@dataclass
class _Slot:
    lock: threading.Lock = field(default_factory=threading.Lock)
    matrix: _Matrix | None = None


class Scratch:
    """Matrices in files without names, the least lately used dropped first.

    Args:
        folder: on the disk that they are to take room of; None for the system's temporary folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._slots: OrderedDict[object, _Slot] = OrderedDict()

    def matrix(self, key: object, make: Callable[[], _Matrix]) -> _Matrix:
        """The matrix of a key, made at the first call; a dropped one lives while it is held."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.matrix is None:
                slot.matrix = make()
            matrix: _Matrix = slot.matrix
        with self._lock:
            total = sum(each.matrix.nbytes for each in self._slots.values() if each.matrix)
            for old in list(self._slots):
                held = self._slots[old].matrix
                if total <= _KEPT_BYTES or len(self._slots) <= 2:
                    break
                if held is not None and held is not matrix:
                    total -= held.nbytes
                    del self._slots[old]
        return matrix


def replaced(source: SourceModel, nodes: Mapping[str, Node], notes: tuple[str, ...]) -> SourceModel:
    """The model with other nodes for some of its parameters, and lines for its user."""
    checkpoint = source.checkpoint
    stored = {name: source.parameters[name].dtype for name in nodes if name not in source.stored}
    return replace(
        source,
        checkpoint=replace(checkpoint, notes=(*checkpoint.notes, *notes)),
        parameters={name: nodes.get(name, node) for name, node in source.parameters.items()},
        blocks={name: node for name, node in source.blocks.items() if name not in nodes},
        stored={**source.stored, **stored},
    )


def untied(source: SourceModel) -> SourceModel:
    """The model with a head of its own, equal to its embedding, where it shared that.

    Raises:
        RequestError: the architecture has no such variant.
    """
    from ..models.mlx_lm import build_model, describe_model

    names = {role: [n for n in source.parameters if role_of(n) == role] for role in _ENDS}
    if names["head"]:
        return source
    config = _with_setting(source.config, "tie_word_embeddings", False)
    model = build_model(source.checkpoint, config)
    described = describe_model(source.checkpoint, config, model, {}, {})
    heads = [path for path in described.modules if role_of(path) == "head"]
    embedding = names["embedding"][0] if len(names["embedding"]) == 1 else None
    shape = None if embedding is None else source.parameters[embedding].shape
    if embedding is None or len(heads) != 1 or described.modules[heads[0]].shape != shape:
        raise RequestError(
            f"{source.checkpoint.path}: {source.config.get('model_type')} always shares its head "
            "with its embedding, and a rotation must change them in different ways; leave the "
            "rotation of the residual stream out"
        )
    parameters = dict(source.parameters)
    parameters[f"{heads[0]}.weight"] = parameters[embedding]
    return describe_model(source.checkpoint, config, model, parameters, dict(source.blocks))


_ENDS = ("embedding", "head")


def _with_setting(config: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    """A config with a setting at every level that mlx-lm may read it from."""
    changed = {**config, key: value}
    for name, inner in config.items():
        if isinstance(inner, Mapping) and "hidden_size" in inner and "vocab_size" in inner:
            changed[name] = {**inner, key: value}
    assert text_settings(changed)[key] == value
    return changed
