"""Windows: what is in them, what is scored, and what cannot be cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlxquant import RequestError, load
from mlxquant.measure.windows import (
    Windows,
    added_bos,
    cut,
    like_llama_cpp,
    like_mlx_lm,
    tokenize,
)


def test_side_by_side_as_mlx_lm_cuts_them() -> None:
    windows = like_mlx_lm(range(100, 114), 4)
    assert windows.tokens.tolist() == [
        [100, 101, 102, 103],
        [104, 105, 106, 107],
        [108, 109, 110, 111],
    ]
    assert windows.inputs.tolist()[0] == [100, 101, 102]
    assert windows.targets.tolist()[1] == [105, 106, 107]
    assert (windows.count, windows.length, windows.scored, windows.total) == (3, 4, 3, 9)
    assert like_mlx_lm(range(14), 4, most=2).count == 2
    assert str(windows) == "3 windows of 4 tokens, stride 4; 9 of 14 tokens scored"


@pytest.mark.parametrize("length", [8, 9])
def test_second_halves_as_llama_perplexity_scores_them(length: int) -> None:
    """The loop of llama-perplexity, written out: logits behind tokens `first` to n_ctx - 2."""
    tokens = list(range(100, 100 + 3 * length + 5))
    windows = like_llama_cpp(tokens, length, bos=7)
    first = length // 2
    for chunk in range(3):
        start = chunk * length
        seen = [7, *tokens[start + 1 : start + length]]
        assert windows.tokens[chunk].tolist() == seen
        scored = [(seen[: j + 1], tokens[start + j + 1]) for j in range(first, length - 1)]
        inputs = windows.inputs[chunk].tolist()
        positions = range(length)[windows.predictions]
        found = [
            (inputs[: at + 1], target)
            for at, target in zip(positions, windows.targets[chunk].tolist(), strict=True)
        ]
        assert found == scored
    assert windows.count == 3
    assert like_llama_cpp(tokens, length, bos=None).tokens[1, 0] == tokens[length]


def test_overlapping_windows_score_each_token_once() -> None:
    windows = cut(range(30), 8, stride=3, first=5)
    assert windows.targets.ravel().tolist() == list(range(5, 29))
    assert str(windows) == "8 windows of 8 tokens, stride 3; 24 of 30 tokens scored"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: like_mlx_lm([], 512), "empty; at least 512 tokens"),
        (lambda: like_mlx_lm(range(511), 512), "has 511 tokens, at least 512 are needed"),
        (lambda: like_llama_cpp(range(1023), bos=None), "1023 tokens, at least 1024 are needed"),
        (lambda: cut(range(9), 1), "window length 1: at least 2"),
        (lambda: cut(range(9), 4, stride=5), "stride 5: 1 to 4"),
        (lambda: cut(range(9), 4, first=4), "first scored token 4: 1 to 3"),
        (lambda: cut(range(9), 4, most=0), "number of windows 0: at least 1"),
    ],
)
def test_what_cannot_be_cut(call: Callable[[], Windows], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call()


def test_fingerprint_is_of_what_is_measured() -> None:
    base = cut(range(20), 4)
    assert base.fingerprint == cut([*range(20), 99], 4).fingerprint
    others = [cut(range(1, 21), 4), cut(range(20), 5), cut(range(20), 4, first=2)]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_the_bundled_tokenizer(bundled: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, tokenizer = load(bundled)
    assert added_bos(tokenizer) == 4090
    text = "It is a truth universally acknowledged. " * 100
    ids = tokenize(tokenizer, text)
    assert ids.dtype == np.int32
    assert "longer than" not in caplog.text
    assert ids.tolist() == tokenizer.encode(text)
    tokenizer.bos_token = None
    assert added_bos(tokenizer) is None
    assert tokenize(tokenizer, text).tolist() == tokenizer.encode(text, add_special_tokens=False)
    with pytest.raises(RequestError, match="the text is empty"):
        tokenize(tokenizer, "")
