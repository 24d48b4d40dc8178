"""SentencePiece's tokenizer.model: the few fields of its protobuf message that matter here.

    ModelProto        1: piece (repeated)  2: trainer_spec  3: normalizer_spec
    SentencePiece     1: text              2: score, float  3: type
    TrainerSpec       3: model_type (1 unigram, 2 BPE)      24: treat_whitespace_as_suffix
                      35: byte_fallback
                      40 41 42 43: unk, bos, eos, pad id
    NormalizerSpec    2: precompiled_charsmap  3: add_dummy_prefix  4: remove_extra_whitespaces
                      5: escape_whitespaces

A field is a key, `number << 3 | wire type`, and a varint (0), 8 bytes (1), a length and as many
bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import FileFormatError
from .vocabulary import LONGEST_TOKEN, MOST_TOKENS

__all__ = ["Piece", "SentencePieceModel", "read_sentencepiece"]

#: the largest tokenizer.model that is read; the largest in use has 5 MB
_LIMIT = 64 << 20

UNIGRAM, BPE = 1, 2


@dataclass(frozen=True)
class Piece:
    """A token; `type` is 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says.

    Attributes:
        model_type: `UNIGRAM` or `BPE`.
        pieces: by id.
        ids: role to id, -1 where there is no such token.
        charsmap: the precompiled normalization.
        add_dummy_prefix, remove_extra_whitespaces, as_suffix: the normalizer's habits.
    """

    model_type: int
    pieces: tuple[Piece, ...]
    ids: dict[str, int]
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    as_suffix: bool


def read_sentencepiece(path: str | PathLike[str]) -> SentencePieceModel:
    """Read a tokenizer.model.

    Raises:
        FileFormatError: too large, cut short, or not such a message.
    """
    file = Path(path)
    if file.stat().st_size > _LIMIT:
        raise FileFormatError(file, "size", f"more than {_LIMIT} bytes")
    try:
        return _model(file.read_bytes())
    except (ValueError, struct.error) as problem:
        raise FileFormatError(
            file, "message", f"bad vocabulary: no SentencePiece model: {problem}"
        ) from problem


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if isinstance(value, bytes):
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    if not 0 < len(pieces) <= MOST_TOKENS:
        raise ValueError(f"{len(pieces)} pieces")
    charsmap = normalizer.get(2, b"")
    defaults = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    return SentencePieceModel(
        model_type=_number(trainer.get(3, UNIGRAM)),
        pieces=tuple(pieces),
        ids={role: _number(trainer.get(n, default)) for role, (n, default) in defaults.items()},
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        as_suffix=bool(trainer.get(24, 0)),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text = fields.get(1, b"")
    score = fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
        raise ValueError("a piece without text")
    if len(text) > 4 * LONGEST_TOKEN:
        raise ValueError(f"a piece of {len(text)} bytes")
    (number,) = struct.unpack("<f", score)
    if not math.isfinite(number):
        raise ValueError("a score that is no number")
    kind = _number(fields.get(3, 1))
    if not 1 <= kind <= 6:
        raise ValueError(f"a piece of type {kind}")
    return Piece(text.decode(), number, kind)


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is expected")
    number = value & (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: numbers as they are, everything else as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(data) - at:
            raise ValueError("cut short")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("cut short")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 10 bytes")
