"""A text's tokens, cut into the windows that a model is measured on.

    tokens   t0 t1 t2 t3 t4 t5 t6 t7 t8 …
    window 0 [t0 t1 t2 t3]                   stride = length: one window begins where the last ends
    window 1             [t4 t5 t6 t7]
    scored      t1 t2 t3    t5 t6 t7         first = 1: every token that has something before it

A model sees one window at a time, and every scored token is predicted from all before it in its
window. Perplexities can be compared where tokens, length, stride, `first` and `bos` are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError

__all__ = [
    "WINDOW",
    "Windows",
    "added_bos",
    "cut",
    "like_llama_cpp",
    "like_mlx_lm",
    "tokenize",
]

Tokens = NDArray[np.int32]

#: tokens of a window where nobody says otherwise, as for mlx_lm.perplexity and llama-perplexity
WINDOW = 512


@dataclass(frozen=True, eq=False)
class Windows:
    """Tokens cut into windows, and which of them are scored.

    Attributes:
        tokens: int32 [count, length], as the model sees them.
        first: where in a window the first scored token is; 1 is the earliest that can be.
        stride: tokens from the beginning of a window to the beginning of the next.
        bos: the id that took the place of every window's first token, or None.
        given: tokens of the whole text; what is behind the last window is not used.
    """

    tokens: Tokens
    first: int
    stride: int
    bos: int | None
    given: int

    @property
    def count(self) -> int:
        """Number of windows."""
        return int(self.tokens.shape[0])

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return int(self.tokens.shape[1])

    @property
    def scored(self) -> int:
        """Scored tokens of a window."""
        return self.length - self.first

    @property
    def total(self) -> int:
        """Scored tokens of all windows."""
        return self.count * self.scored

    @property
    def inputs(self) -> Tokens:
        """int32 [count, length - 1]: what the model is given. Nothing follows the last token."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tokens:
        """int32 [count, scored]: the tokens that are to be predicted."""
        return self.tokens[:, self.first :]

    @property
    def predictions(self) -> slice:
        """The positions of `inputs` whose logits predict `targets`."""
        return slice(self.first - 1, self.length - 1)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that the same windows of the same tokens have, and no others."""
        digest = hashlib.sha256(f"{self.tokens.shape} {self.first}".encode())
        digest.update(self.tokens.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """What a reader of a result has to know, in plain values."""
        return {
            "windows": self.count,
            "length": self.length,
            "stride": self.stride,
            "first_scored": self.first,
            "bos": self.bos,
            "scored_tokens": self.total,
            "tokens_of_text": self.given,
            "fingerprint": self.fingerprint,
        }

    def __str__(self) -> str:
        """E.g. `3 windows of 512 tokens, stride 512, BOS first; 765 of 1,600 tokens scored`."""
        bos = "" if self.bos is None else ", BOS first"
        return (
            f"{self.count} window{'s' * (self.count != 1)} of {self.length} tokens, stride "
            f"{self.stride}{bos}; {self.total:,} of {self.given:,} tokens scored"
        )


def cut(
    tokens: Sequence[int] | Tokens,
    length: int = WINDOW,
    *,
    stride: int | None = None,
    first: int = 1,
    bos: int | None = None,
    most: int | None = None,
    least: int | None = None,
) -> Windows:
    """Cut tokens into windows; what does not fill one at the end is left out.

    Args:
        tokens: ids [n] of a text.
        length: tokens of a window.
        stride: from one window's beginning to the next's; None for `length`. With a smaller one
            windows overlap, and `first = length - stride` scores no token twice.
        first: where in a window the first scored token is.
        bos: an id to put in the place of every window's first token, or None.
        most: windows at most; None for all.
        least: tokens that the text must have at least; None for one window.

    Raises:
        RequestError: fewer tokens, or numbers that make no windows.
    """
    stride = length if stride is None else stride
    for name, value, low, high in (
        ("window length", length, 2, None),
        ("stride", stride, 1, length),
        ("first scored token", first, 1, length - 1),
        ("number of windows", 1 if most is None else most, 1, None),
    ):
        if value < low or (high is not None and value > high):
            limit = f"at least {low}" if high is None else f"{low} to {high}"
            raise RequestError(f"{name} {value}: {limit} is possible")
    ids = np.asarray(tokens, dtype=np.int32)
    need = length if least is None else max(least, length)
    if not len(ids):
        raise RequestError(f"the text is empty; at least {need} tokens are needed")
    if len(ids) < need:
        raise RequestError(
            f"the text has {len(ids)} tokens, at least {need} are needed for windows of {length}; "
            "give a longer text or take shorter windows"
        )
    starts = np.arange(0, len(ids) - length + 1, stride)[:most]
    found = ids[starts[:, None] + np.arange(length)]
    if bos is not None:
        found[:, 0] = bos
    return Windows(found, first, stride, bos, len(ids))


def like_mlx_lm(
    tokens: Sequence[int] | Tokens, length: int = WINDOW, *, most: int | None = None
) -> Windows:
    """mlx_lm.perplexity's windows: side by side, every token but a window's first is scored.

    Raises:
        RequestError: not one window.
    """
    return cut(tokens, length, most=most)


def like_llama_cpp(
    tokens: Sequence[int] | Tokens,
    length: int = WINDOW,
    *,
    bos: int | None,
    most: int | None = None,
) -> Windows:
    """llama-perplexity's windows: side by side, of each the second half but its first is scored.

    Args:
        tokens: with the BOS at the beginning, if the vocabulary adds one.
        length: llama-perplexity's `--ctx-size`.
        bos: the vocabulary's BOS if it adds one, else None. It takes the place of each window's
            first token.
        most: llama-perplexity's `--chunks`.

    Raises:
        RequestError: fewer than two windows, which llama-perplexity refuses too.
    """
    return cut(tokens, length, first=length // 2 + 1, bos=bos, most=most, least=2 * length)


def added_bos(tokenizer: Any) -> int | None:
    """The BOS that a tokenizer puts before every text, or None if it puts none."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    with_special = tokenizer.encode("a")
    plain = tokenizer.encode("a", add_special_tokens=False)
    return int(bos) if with_special[:1] == [bos] and plain[:1] != [bos] else None


def tokenize(tokenizer: Any, text: str) -> Tokens:
    """A text's ids, int32 [n], behind the BOS if the tokenizer adds one; without an EOS.

    Args:
        tokenizer: Hugging Face's, or mlx-lm's wrapper around it.

    Raises:
        RequestError: the text is empty.
    """
    if not text:
        raise RequestError("the text is empty; there is nothing to measure")
    # verbose: a text longer than the model's context is what windows are for, no cause to warn
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    bos = added_bos(tokenizer)
    return np.array(ids if bos is None else [bos, *ids], dtype=np.int32)
