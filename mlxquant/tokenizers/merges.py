"""Scores of tokens and ranks of merges: the two ways to say what BPE joins first.

SentencePiece-style BPE in llama.cpp joins the two neighbours whose joint text is the token of the
highest score, whatever the two are. The `tokenizers` library joins the pair of the lowest rank.
They agree when every way to put a token together from two tokens is a merge, and the merges stand
in the order of the scores of what they make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["loose_characters", "merges_from_scores", "pairs_of", "scores_from_merges"]


def pairs_of(token: str, tokens: Mapping[str, int], longest: int) -> Iterator[tuple[str, str]]:
    """Every two tokens that make `token`; `longest` is the length of the longest of `tokens`."""
    for cut in range(max(1, len(token) - longest), min(len(token), longest + 1)):
        left, right = token[:cut], token[cut:]
        if left in tokens and right in tokens:
            yield left, right


def merges_from_scores(tokens: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All merges of a scored vocabulary, the most urgent first.

    Args:
        tokens: text to id.
        scores: by id.
    """
    longest = max(map(len, tokens))
    merges: list[tuple[str, str]] = []
    for token in sorted(tokens, key=lambda token: (-scores[tokens[token]], tokens[token])):
        pairs = pairs_of(token, tokens, longest)
        merges += sorted(pairs, key=lambda pair: (tokens[pair[0]], tokens[pair[1]]))
    return merges


def loose_characters(tokens: Iterable[str], known: Mapping[str, int]) -> Iterator[str]:
    """Tokens that llama.cpp can join from a character which is itself no token.

    The library turns such a character into bytes before it merges, so it never gets there.
    """
    for token in tokens:
        if len(token) > 1:
            for side, rest in ((token[0], token[1:]), (token[-1], token[:-1])):
                if side not in known and (rest in known or len(rest) == 1):
                    yield token
                    break


def scores_from_merges(
    tokens: Mapping[str, int], merges: Sequence[tuple[str, str]], split_off: frozenset[str]
) -> tuple[list[float], str]:
    """Scores under which llama.cpp merges as `merges` do.

    Args:
        tokens: text to id; every token that a neighbourly pair might make.
        merges: in the order of their ranks.
        split_off: tokens that are cut out of the text before anything is merged.
    Returns:
        a score a token, by id; and why they do not say the same, empty where they do.
    """
    scores = [0.0] * (max(tokens.values()) + 1)
    order: dict[str, int] = {}
    problem = ""
    latest = ""
    for left, right in merges:
        made = left + right
        if made in order and made != latest and not problem:
            problem = f"the merges that make {made!r} do not stand together"
        order.setdefault(made, len(order))
        latest = made
    for token, id_ in tokens.items():
        scores[id_] = -float(order.get(token, len(order)))
    ranked = set(merges)
    longest = max(map(len, tokens))
    for token in tokens:
        if problem or token in split_off:
            continue
        for pair in pairs_of(token, tokens, longest):
            if pair not in ranked:
                problem = f"{pair[0]!r} and {pair[1]!r} make the token {token!r} but are no merge"
                break
    return scores, problem
