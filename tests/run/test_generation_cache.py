"""Stopping at any moment, and what the cache holds then; reuse of the cache."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from generating import GREEDY, MAMBA, PROMPT, small, tokens

from mlxquant.run.cache import PromptCache, make_layers
from mlxquant.run.generate import Chunk, encode_prompt, make_cache, stream


def stop_after(count: int) -> Callable[[], bool]:
    asked = iter([*[False] * count])
    return lambda: next(asked, True)


def consistent(cache: PromptCache, expected: list[int | None]) -> None:
    """The caches hold as many tokens as they say, and these are the expected ones' beginning."""
    assert cache.tokens == expected[: len(cache.tokens)]
    assert {layer.offset for layer in cache.layers} == {len(cache.tokens)}


def same_contents(model: Any, cache: PromptCache) -> None:
    """The cache's keys and values are those that a fresh run over the same tokens gives."""
    import mlx.core as mx

    fresh = make_layers(model)
    mx.eval(model(mx.array([cache.tokens]), cache=fresh))
    for held, layer in zip(cache.layers[: len(fresh)], fresh, strict=True):
        for ours, theirs in zip(held.state[:2], layer.state[:2], strict=True):
            count = len(cache.tokens)
            assert mx.allclose(ours[..., :count, :], theirs[..., :count, :], atol=1e-3)


@pytest.mark.parametrize("drafting", [False, True])
@pytest.mark.parametrize("how", ["asked", "closed", "ended", "stopped by a token"])
def test_after_any_ending_the_cache_is_what_it_says(
    precise: tuple[Any, Any], expected: list[int | None], how: str, drafting: bool
) -> None:
    model, tokenizer = precise
    draft = precise if drafting else None
    prompt = encode_prompt(tokenizer, PROMPT)
    cache = make_cache(model, GREEDY, draft)
    stop = stop_after(len("xx") + 6) if how == "asked" else (lambda: False)
    if how == "stopped by a token":
        tokenizer = copy.copy(tokenizer)
        tokenizer.eos_token_ids = {expected[4]}
    chunks = stream(model, tokenizer, prompt, GREEDY, draft=draft, cache=cache, should_stop=stop)
    found: list[Chunk] = []
    for chunk in chunks:
        found.append(chunk)
        if how == "closed" and len(found) == 6:
            chunks.close()
    said = [chunk.token for chunk in found]
    assert said == expected[: len(said)]
    reasons = {"asked": "interrupted", "closed": None, "ended": "length"}
    assert found[-1].finish_reason == reasons.get(how, "stop")
    assert len(cache.tokens) > len(prompt)
    consistent(cache, [*prompt, *said])
    same_contents(model, cache)


def test_an_interrupted_prompt_leaves_what_was_computed(
    precise: tuple[Any, Any], expected: list[int | None]
) -> None:
    options = dataclasses.replace(GREEDY, prefill_step_size=4)
    cache = make_cache(precise[0], options)
    prompt = encode_prompt(precise[1], PROMPT)
    chunks = list(stream(*precise, prompt, options, cache=cache, should_stop=stop_after(2)))
    assert [(chunk.token, chunk.finish_reason) for chunk in chunks] == [(None, "interrupted")]
    assert cache.tokens == prompt[:8]
    consistent(cache, prompt)
    same_contents(precise[0], cache)
    assert tokens(precise, GREEDY, cache=cache) == expected


def test_text_held_back_is_shown_when_stopped(pair: tuple[Any, Any]) -> None:
    """A detokenizer keeps a word until the next one begins; stopping must not lose it."""
    prompt = encode_prompt(pair[1], PROMPT)
    in_prefill = 3
    for count in range(1, 6):
        stop = stop_after(in_prefill + count - 1)
        chunks = list(stream(*pair, prompt, GREEDY, should_stop=stop))
        said = [chunk.token for chunk in chunks]
        assert len(said) == count
        assert "".join(chunk.text for chunk in chunks) == pair[1].decode(said).lstrip()


def test_an_error_empties_the_cache(precise: tuple[Any, Any]) -> None:
    cache = make_cache(precise[0], GREEDY)

    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokens(precise, GREEDY, cache=cache, should_stop=interrupted)
    assert cache.tokens == []
    assert {layer.offset for layer in cache.layers} == {0}


@pytest.mark.parametrize("drafting", [False, True])
def test_a_cache_is_reused_as_far_as_the_prompts_agree(
    precise: tuple[Any, Any], drafting: bool
) -> None:
    draft = precise if drafting else None
    cache = make_cache(precise[0], GREEDY, draft)
    prompt = encode_prompt(precise[1], PROMPT)
    first = tokens(precise, GREEDY, cache=cache, draft=draft)
    longer = [*prompt, *(token for token in first if token is not None), *prompt[1:]]
    other = [*prompt[:6], *prompt[2:]]
    for next_prompt, least in ((longer, len(prompt) + 8), (other, 6), (prompt[:4], 3)):
        chunks = list(stream(*precise, next_prompt, GREEDY, cache=cache, draft=draft))
        assert chunks[-1].stats.reused_tokens >= least
        expected = tokens(precise, GREEDY, prompt=next_prompt)
        assert [chunk.token for chunk in chunks] == expected


def test_a_bounded_cache_that_slid_starts_anew(precise: tuple[Any, Any]) -> None:
    options = dataclasses.replace(GREEDY, max_kv_size=20)
    cache = make_cache(precise[0], options)
    prompt = encode_prompt(precise[1], PROMPT)
    tokens(precise, options, cache=cache)
    chunks = list(stream(*precise, prompt, options, cache=cache))
    assert chunks[-1].stats.reused_tokens == 0
    assert [chunk.token for chunk in chunks] == tokens(precise, options)


def test_recurrent_layers_are_reused_only_whole(pair: tuple[Any, Any]) -> None:
    """They cannot take back a token, and do not count what they saw."""
    import mlx.core as mx

    mx.random.seed(3)
    model = small("mamba", **MAMBA)
    mx.eval(model.parameters())
    both = (model, pair[1])
    prompt = encode_prompt(pair[1], PROMPT)
    cache = make_cache(model, GREEDY)
    first = tokens(both, GREEDY, cache=cache)
    longer = [*prompt, *(token for token in first if token is not None), 300, 301]
    chunks = list(stream(*both, longer, GREEDY, cache=cache))
    assert chunks[-1].stats.reused_tokens == len(prompt) + len(first)
    again = list(stream(*both, prompt, GREEDY, cache=cache))
    assert again[-1].stats.reused_tokens == 0
    assert [chunk.token for chunk in again] == first
    options = dataclasses.replace(GREEDY, prefill_step_size=3)
    cache.reset()
    list(stream(*both, prompt, options, cache=cache, should_stop=stop_after(2)))
    assert cache.tokens == []
    assert tokens(both, GREEDY, cache=cache) == first


def test_mixed_layers_are_settled_by_those_that_count() -> None:
    import mlx.core as mx
    from mlx_lm.models.cache import ArraysCache, KVCache

    def seen(count: int) -> PromptCache:
        cache = PromptCache(lambda: [KVCache(), ArraysCache(2)])
        part = mx.zeros((1, 1, count, 4))
        cache.layers[0].update_and_fetch(part, part)
        return cache

    cache = seen(3)
    cache.settle([7, 8, 9], whole=True)
    assert cache.tokens == [7, 8, 9]
    cache = seen(2)
    cache.settle([7, 8, 9], whole=True)
    assert cache.tokens == []
    assert cache.layers[0].offset == 0
