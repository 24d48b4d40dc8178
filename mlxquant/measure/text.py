"""What models are measured on: a text, and how it is cut into windows."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..assets import BUNDLED_TEXT
from ..errors import FileFormatError, RequestError
from ..files.sniff import PREFIX, open_regular, sniff
from .windows import WINDOW, Tokens, Windows, added_bos, cut, like_llama_cpp, like_mlx_lm, tokenize

__all__ = ["STYLES", "TEXT_LIMIT", "Cutting", "Text", "read_text"]

#: whose way of cutting
STYLES = ("mlx-lm", "llama.cpp")

#: the largest text that is read, bytes
TEXT_LIMIT = 256 << 20

#: tokens of a window at most
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Text:
    """A text.

    Attributes:
        name: its file's.
        content: all of it, as the file has it.
        sha256: of the file's bytes, hexadecimal.
    """

    name: str
    content: str
    sha256: str


def read_text(path: str | os.PathLike[str] | None = None) -> Text:
    """Read a text.

    Args:
        path: a file of UTF-8 text; None for the text that comes with mlxquant.

    Raises:
        FileFormatError: no such file, empty, larger than TEXT_LIMIT, or no text in UTF-8.
    """
    file = Path(BUNDLED_TEXT if path is None else path)
    with open_regular(file) as (_, size):
        if size > TEXT_LIMIT:
            reason = f"{size} bytes, at most {TEXT_LIMIT} are read; measure on a part of it"
            raise FileFormatError(file, "text", reason)
        try:
            data = file.read_bytes()
        except OSError as problem:
            raise FileFormatError(file, "text", f"cannot be read: {problem.strerror}") from problem
    if not data.strip():
        raise FileFormatError(file, "text", "is empty; there is nothing to measure")
    try:
        content = data.decode()
    except UnicodeDecodeError as problem:
        what = sniff(data[:PREFIX])
        reason = f"not UTF-8: {problem.reason}; give plain text (iconv -t utf-8 makes it of others)"
        reason = f"this is {what}" if what else reason
        raise FileFormatError(file, "text", reason, problem.start) from problem
    if (at := data.find(0)) >= 0:
        reason = "a zero byte, which no text has: give plain text (iconv makes it of UTF-16)"
        raise FileFormatError(file, "text", reason, at)
    return Text(file.name, content, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Cutting:
    """How a text's tokens are cut into windows (see windows.py).

    Attributes:
        style: one of STYLES.
        length: tokens of a window.
        stride: from one window's beginning to the next's; None for `length`. With a smaller one
            every window but its first `length - stride` tokens is scored, so that none is twice.
        most: windows at most; None for all.

    Raises:
        RequestError: another style, one that goes with no stride, or numbers that make no windows.
    """

    style: str = "mlx-lm"
    length: int = WINDOW
    stride: int | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise RequestError(f"windows like {self.style!r}: one of {', '.join(STYLES)}")
        if self.style == "llama.cpp" and self.stride not in (None, self.length):
            raise RequestError(
                f"stride {self.stride}: llama-perplexity's windows lie side by side; leave it out"
            )
        if self.length > _LONGEST:
            raise RequestError(f"window length {self.length}: at most {_LONGEST} is possible")
        self._cut(np.zeros(2 * max(1, self.length), np.int32), None)

    def windows(self, tokenizer: Any, text: Text) -> Windows:
        """The windows of a text.

        Raises:
            RequestError: the text is shorter than a window (of llama.cpp's: than two).
        """
        bos = added_bos(tokenizer) if self.style == "llama.cpp" else None
        return self._cut(tokenize(tokenizer, text.content), bos)

    def _cut(self, tokens: Tokens, bos: int | None) -> Windows:
        if self.style == "llama.cpp":
            return like_llama_cpp(tokens, self.length, bos=bos, most=self.most)
        if self.stride in (None, self.length):
            return like_mlx_lm(tokens, self.length, most=self.most)
        # `cut` says what is wrong with a stride that is none
        first = min(max(1, self.length - (self.stride or 0)), max(1, self.length - 1))
        return cut(tokens, self.length, stride=self.stride, first=first, most=self.most)

    def __str__(self) -> str:
        """In a line that differs wherever the windows may."""
        most = "all" if self.most is None else self.most
        return f"{self.style} {self.length} {self.stride or self.length} {most}"
