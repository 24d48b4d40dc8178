"""How likely a model finds continuations of texts: what multiple-choice questions are scored by.

    log-likelihood of a continuation   = Σ log p(token | everything before it), nats
    greedy                               every token of it is the likeliest, of equals the first

A text and its continuation are cut into tokens together; the tokens behind those of the text alone
are the continuation's. Spaces at the end of the text count as the beginning of the continuation,
which is where tokenizers have them. What a model was made for is not exceeded: the beginning of a
long text is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .perplexity import token_losses
from .scoring import Blame, Logits, each_window
from .windows import Windows, added_bos

__all__ = ["Continuation", "Continuations"]

#: sequences of about one length that are scored in one go
_GROUP = 64


class Continuation(NamedTuple):
    """What was found.

    Attributes:
        loglikelihood: nats, 0 or below.
        greedy: whether the model would have said just this.
    """

    loglikelihood: float
    greedy: bool


class _Sequence(NamedTuple):
    """Token ids, and where in them the continuation begins, 1 at the earliest."""

    tokens: list[int]
    start: int


@dataclass(frozen=True)
class Continuations:
    """A model and its tokenizer, to score continuations by.

    Attributes:
        model: token ids [b, t] → logits [b, t, vocabulary].
        tokenizer: Hugging Face's, or mlx-lm's wrapper around it.
        longest: tokens that the model is given at once; None for any number.
        blame: as of `scoring.each_window`.
        progress: called with (sequences done, sequences in all).
    """

    model: Any
    tokenizer: Any
    longest: int | None = None
    blame: Blame | None = None
    progress: Callable[[int, int], None] | None = None

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """Each continuation behind its text; the text may be empty, the continuation not.

        Raises:
            RequestError: a continuation that is empty, or longer than the model was made for.
            ModelError: logits that are no finite numbers.
        """
        bos = added_bos(self.tokenizer)
        return self._score([self._cut(text, more, bos) for text, more in pairs])

    def whole(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood of whole texts, nats; of long ones piece by piece."""
        found = []
        for text in texts:
            ids = self._encode(text)
            step = self.longest or len(ids) or 1
            before = [self._first(), *ids]
            pieces = [_Sequence(before[at : at + step + 1], 1) for at in range(0, len(ids), step)]
            found.append(sum(piece.loglikelihood for piece in self._score(pieces)))
        return found

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _first(self) -> int:
        """What stands before a text that has nothing before it."""
        tokenizer = self.tokenizer
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        found = next((i for i in ids if i is not None), None)
        if found is None:
            raise RequestError("the tokenizer has neither a BOS nor an EOS to begin a text with")
        return int(found)

    def _cut(self, text: str, more: str, bos: int | None) -> _Sequence:
        bare = text.rstrip()
        text, more = bare, text[len(bare) :] + more
        begin = [] if bos is None else [bos]
        before = begin + self._encode(text)
        tokens = begin + self._encode(text + more)
        if len(tokens) == len(begin):
            raise RequestError("an empty continuation; every choice needs a text")
        if not before:
            before = [self._first()]
            tokens = before + tokens
        start = min(len(before), len(tokens) - 1)
        if self.longest is not None and len(tokens) - 1 > self.longest:
            out = len(tokens) - 1 - self.longest
            if start <= out:
                raise RequestError(
                    f"a continuation of {len(tokens) - start} tokens; the model was made for "
                    f"{self.longest}"
                )
            tokens, start = tokens[out:], start - out
        return _Sequence(tokens, start)

    def _score(self, sequences: list[_Sequence]) -> list[Continuation]:
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i].tokens))
        found: dict[int, Continuation] = {}
        for begin in range(0, len(order), _GROUP):
            group = order[begin : begin + _GROUP]
            results = self._group([sequences[i] for i in group])
            for i, result in zip(group, results, strict=True):
                found[i] = result
                if self.progress:
                    self.progress(len(found), len(order))
        return [found[i] for i in range(len(sequences))]

    def _group(self, sequences: list[_Sequence]) -> Iterator[Continuation]:
        """Sequences side by side, short ones filled up at the end, where nobody looks."""
        length = max(len(sequence.tokens) for sequence in sequences)
        first = min(sequence.start for sequence in sequences)
        tokens = np.zeros((len(sequences), length), np.int32)
        for row, sequence in zip(tokens, sequences, strict=True):
            row[: len(sequence.tokens)] = sequence.tokens
        windows = Windows(tokens, first, length, None, tokens.size)
        scored = each_window(self.model, windows, blame=self.blame)
        for logits, sequence in zip(scored, sequences, strict=True):
            yield _sum(logits, sequence, first)
            del logits


def _sum(logits: Logits, sequence: _Sequence, first: int) -> Continuation:
    """One sequence's logits, of its tokens from `first` → the sum over its continuation."""
    targets = np.array(sequence.tokens[sequence.start :], np.int32)
    begin = sequence.start - first
    own = replace(logits, stored=logits.stored[begin : begin + len(targets)])

    def work(a: int, b: int, rows: NDArray[np.float64]) -> tuple[float, bool]:
        losses = token_losses(rows, targets[a:b])
        return float(losses.sum()), bool((rows.argmax(axis=1) == targets[a:b]).all())

    losses, greedy = zip(*own.each(work), strict=True)
    return Continuation(-sum(losses), all(greedy))
