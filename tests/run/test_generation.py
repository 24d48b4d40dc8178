"""Generation is mlx-lm's, token by token; options are checked before anything is generated."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from generating import GREEDY, MAMBA, PROMPT, small, stock, text, tokens

from mlxquant.errors import FileFormatError, ModelError, RequestError, WorkError
from mlxquant.load.from_hf import open_folder
from mlxquant.run.cache import make_layers
from mlxquant.run.generate import (
    Stats,
    check,
    encode_prompt,
    make_cache,
    stream,
)
from mlxquant.run.options import Options, with_model_defaults


def test_greedy_is_stock_mlx_lm(pair: tuple[Any, Any]) -> None:
    assert text(pair, GREEDY) == stock(pair)
    assert len(text(pair, GREEDY)) > 20


def test_sampling_is_stock_mlx_lm(pair: tuple[Any, Any]) -> None:
    import mlx.core as mx
    from mlx_lm.sample_utils import make_logits_processors, make_sampler

    options = Options(
        max_tokens=16, seed=5, temp=0.9, top_p=0.9, min_p=0.01, top_k=50, repetition_penalty=1.2
    )
    mx.random.seed(5)
    expected = stock(
        pair,
        sampler=make_sampler(temp=0.9, top_p=0.9, min_p=0.01, top_k=50),
        logits_processors=make_logits_processors(repetition_penalty=1.2),
    )
    assert text(pair, options) == expected


def test_the_same_seed_the_same_text(pair: tuple[Any, Any]) -> None:
    options = Options(temp=1.0, max_tokens=12, seed=1)
    first = tokens(pair, options)
    assert tokens(pair, options) == first
    others = [tokens(pair, dataclasses.replace(options, seed=seed)) for seed in (2, 3)]
    assert first not in others
    unseeded = [tokens(pair, dataclasses.replace(options, seed=None)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_chunks_say_why_it_ended(pair: tuple[Any, Any]) -> None:
    chunks = list(stream(*pair, encode_prompt(pair[1], PROMPT), GREEDY))
    assert [chunk.finish_reason for chunk in chunks] == [None] * 15 + ["length"]
    last = chunks[-1].stats
    assert (last.generated_tokens, last.reused_tokens, last.drafted_tokens) == (16, 0, 0)
    assert last.prompt_tokens == len(encode_prompt(pair[1], PROMPT))
    assert last.first_token_seconds is not None
    assert last.first_token_seconds > 0
    assert last.prefill_rate == pytest.approx(last.prompt_tokens / last.first_token_seconds)
    assert last.decode_rate == pytest.approx(15 / last.decode_seconds)
    assert last.peak_memory is not None
    assert last.peak_memory > 10 << 20
    assert chunks[0].stats.decode_rate is None


def test_an_end_of_sequence_token_ends_it_and_is_not_in_the_text(pair: tuple[Any, Any]) -> None:
    whole = tokens(pair, GREEDY)
    model, tokenizer = pair[0], copy.copy(pair[1])
    tokenizer.eos_token_ids = {whole[5]}
    chunks = list(stream(model, tokenizer, encode_prompt(tokenizer, PROMPT), GREEDY))
    assert [chunk.token for chunk in chunks] == whole[: whole.index(whole[5]) + 1]
    assert chunks[-1].finish_reason == "stop"
    said = "".join(chunk.text for chunk in chunks)
    assert said == tokenizer.decode(whole[: whole.index(whole[5])]).lstrip()


def test_no_limit_goes_on_until_the_model_stops(pair: tuple[Any, Any]) -> None:
    from mlxquant.run.template import encode_chat

    prompt = encode_chat(pair[1], [{"role": "user", "content": "The old house stood on the hill."}])
    options = Options(temp=0.0, max_tokens=-1)
    for draft in (None, pair):
        last = list(stream(*pair, prompt, options, draft=draft))[-1]
        assert last.finish_reason == "stop"
        assert last.token in pair[1].eos_token_ids


def test_a_draft_model_changes_nothing_but_the_speed(
    precise: tuple[Any, Any], expected: list[int | None]
) -> None:
    """Greedy, with the model as its own draft: every proposal is accepted."""
    chunks = list(stream(*precise, encode_prompt(precise[1], PROMPT), GREEDY, draft=precise))
    assert [chunk.token for chunk in chunks] == expected
    assert chunks[-1].stats.drafted_tokens >= 8


def test_a_poor_draft_model_changes_nothing_either(
    precise: tuple[Any, Any], expected: list[int | None]
) -> None:
    """A draft whose proposals are mostly refused: its caches are rewound again and again."""
    import mlx.core as mx

    from mlxquant.run.model import load

    poor, tokenizer = load()
    weight = poor.model.layers[7].mlp.down_proj.weight
    poor.model.layers[7].mlp.down_proj.weight = weight * 40
    mx.eval(poor.parameters())
    options = dataclasses.replace(GREEDY, num_draft_tokens=4)
    prompt = encode_prompt(precise[1], PROMPT)
    chunks = list(stream(*precise, prompt, options, draft=(poor, tokenizer)))
    assert [chunk.token for chunk in chunks] == expected
    assert chunks[-1].stats.drafted_tokens < 12


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_a_quantized_cache_is_stock_mlx_lm(pair: tuple[Any, Any], bits: int) -> None:
    options = dataclasses.replace(GREEDY, kv_bits=bits, kv_group_size=32)
    check(*pair, options, None)
    expected = stock(pair, kv_bits=bits, kv_group_size=32, quantized_kv_start=0)
    assert text(pair, options) == expected


def test_a_quantized_cache_takes_effect(pair: tuple[Any, Any]) -> None:
    cache = make_cache(pair[0], GREEDY)
    tokens(pair, dataclasses.replace(GREEDY, kv_bits=2), cache=cache)
    assert {type(layer).__name__ for layer in cache.layers} == {"QuantizedKVCache"}
    assert tokens(pair, dataclasses.replace(GREEDY, kv_bits=1)) != tokens(pair, GREEDY)
    late = dataclasses.replace(GREEDY, kv_bits=1, quantized_kv_start=1000)
    assert tokens(pair, late) == tokens(pair, GREEDY)


def test_a_bounded_cache_is_bounded_for_architectures_that_make_their_own(
    pair: tuple[Any, Any],
) -> None:
    """mlx-lm's make_prompt_cache would ignore the size for this one."""
    from mlx_lm.models.cache import make_prompt_cache

    unbounded = make_prompt_cache(pair[0], max_kv_size=16)
    assert {type(layer).__name__ for layer in unbounded} == {"KVCache"}
    options = dataclasses.replace(GREEDY, max_kv_size=16, max_tokens=40)
    cache = make_cache(pair[0], options)
    bounded = tokens(pair, options, cache=cache)
    assert all(layer.size() == 16 for layer in cache.layers)
    assert all(layer.keys.shape[2] <= 16 for layer in cache.layers)
    assert bounded != tokens(pair, dataclasses.replace(GREEDY, max_tokens=40))
    roomy = dataclasses.replace(GREEDY, max_kv_size=400)
    assert tokens(pair, roomy) == tokens(pair, GREEDY)


def test_layers_that_are_bounded_anyway_stay_as_they_are() -> None:
    layers = make_layers(small("gemma3_text"), max_kv_size=100)
    assert [layer.max_size for layer in layers] == [64, 100]
    layers = make_layers(small("mamba", **MAMBA), max_kv_size=100)
    assert {type(layer).__name__ for layer in layers} == {"ArraysCache"}


def test_small_prefill_steps_change_nothing(
    precise: tuple[Any, Any], expected: list[int | None]
) -> None:
    steps: list[tuple[int, int]] = []
    options = dataclasses.replace(GREEDY, prefill_step_size=3)
    found = tokens(precise, options, on_prefill=lambda done, total: steps.append((done, total)))
    assert found == expected
    total = len(encode_prompt(precise[1], PROMPT))
    assert steps == [
        *((n, total) for n in range(0, total - 1, 3)),
        (total - 1, total),
        (total, total),
    ]


# What mlx-lm would fail at, or do wrong in silence


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "--max-tokens 0: at least 1"),
    ({"max_tokens": -2}, "--max-tokens -2: at least 1, or -1"),
    ({"temp": -0.1}, "--temp -0.1: a number from 0"),
    ({"temp": float("nan")}, "--temp nan"),
    ({"temp": float("inf")}, "--temp inf"),
    ({"top_p": 1.5}, "--top-p 1.5: a probability"),
    ({"min_p": -1}, "--min-p -1: a probability"),
    ({"top_k": -1}, "--top-k -1"),
    ({"repetition_penalty": 0}, "--repetition-penalty 0: more than 0"),
    ({"seed": -1}, "--seed -1: a number from 0 to 2^64 - 1"),
    ({"seed": 1 << 64}, "--seed 18446744073709551616"),
    ({"kv_bits": 7}, "--kv-bits 7: one of 1, 2, 3, 4, 5, 6 or 8"),
    ({"kv_bits": 0}, "--kv-bits 0"),
    ({"kv_group_size": 16}, "--kv-group-size 16: one of 32, 64 or 128"),
    ({"max_kv_size": 7}, "--max-kv-size 7: at least 8 tokens"),
    ({"kv_bits": 4, "max_kv_size": 64}, "--kv-bits with --max-kv-size"),
    ({"num_draft_tokens": 0}, "--num-draft-tokens 0: from 1"),
    ({"prefill_step_size": 0}, "--prefill-step-size 0: at least 1"),
    ({"quantized_kv_start": -1}, "--quantized-kv-start -1"),
]


@pytest.mark.parametrize(("options", "said"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as problem:
        Options(**options)
    assert str(problem.value).startswith(said)


def test_a_group_that_does_not_divide_the_head_is_refused(pair: tuple[Any, Any]) -> None:
    options = Options(kv_bits=4, kv_group_size=128)
    with pytest.raises(RequestError, match=r"--kv-bits 4 --kv-group-size 128: .*divisible"):
        check(*pair, options, None)


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("gemma3_text", {}, "RotatingKVCache Quantization NYI"),
        ("gpt_oss", {"num_local_experts": 4}, "sliding|Rotating|sinks"),
        ("mamba", MAMBA, "no layer of it has a cache to quantize: ArraysCache"),
    ],
)
def test_caches_that_cannot_be_quantized_are_refused(
    pair: tuple[Any, Any], family: str, config: dict[str, Any], said: str
) -> None:
    model = small(family, **config)
    with pytest.raises(RequestError, match=f"--kv-bits 4 .*({said})"):
        check(model, pair[1], Options(kv_bits=4, kv_group_size=32), None)


def test_a_bounded_cache_cannot_be_rewound_for_a_draft(pair: tuple[Any, Any]) -> None:
    with pytest.raises(RequestError, match="--max-kv-size with --draft-model"):
        check(*pair, Options(max_kv_size=64), pair)


def test_a_draft_of_another_family_is_refused(
    pair: tuple[Any, Any], tmp_path: Path, variant: Callable[..., Path]
) -> None:
    from mlxquant.run.model import load

    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    other = load(variant(tokenizer_json=swap))
    with pytest.raises(RequestError, match="--draft-model: another vocabulary: token .* is '[ab]'"):
        check(*pair, GREEDY, other)
    with pytest.raises(RequestError, match="the draft model cannot take a proposal back: .*Arrays"):
        check(*pair, GREEDY, (small("mamba", **MAMBA), pair[1]))
    with pytest.raises(RequestError, match="the model cannot take a proposal back: .*ArraysCache"):
        check(small("mamba", **MAMBA), pair[1], GREEDY, pair)
    check(*pair, GREEDY, pair)


def test_a_draft_of_half_the_vocabulary_is_refused(
    pair: tuple[Any, Any], variant: Callable[..., Path]
) -> None:
    from mlxquant.run.model import load

    def halve(content: dict[str, Any]) -> None:
        kept = {text: token for text, token in content["model"]["vocab"].items() if token < 2000}
        content["model"] |= {"vocab": kept, "merges": []}
        content |= {"added_tokens": [], "post_processor": None}

    special = ("bos_token", "eos_token", "pad_token")
    folder = variant(
        tokenizer_json=halve,
        tokenizer_config_json=lambda c: {k: v for k, v in c.items() if k not in special},
        special_tokens_map_json=None,
    )
    with pytest.raises(RequestError, match="another vocabulary: 2000 tokens there, 4096 here"):
        check(*pair, GREEDY, load(folder))


def test_an_empty_prompt_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        next(stream(*pair, [], GREEDY))


def test_a_token_that_the_model_lacks_is_refused(pair: tuple[Any, Any]) -> None:
    """MLX does not check: it would read whatever is behind the embedding."""
    with pytest.raises(ModelError, match="the tokenizer makes token 4096, but the model has only"):
        next(stream(*pair, [1, 4096], GREEDY))


def test_what_mlx_fails_at_is_one_line(pair: tuple[Any, Any]) -> None:
    model = small("llama", num_key_value_heads=3, vocab_size=4096)
    with pytest.raises(WorkError, match="^generation failed: .") as problem:
        tokens((model, pair[1]), GREEDY)
    assert "\n" not in str(problem.value)


# What the model itself recommends


def test_unset_sampling_is_the_models_own(variant: Callable[..., Path], bundled: Path) -> None:
    options = with_model_defaults(Options(), open_folder(bundled))
    assert (options.temp, options.top_p, options.top_k) == (0.8, 0.95, None)
    assert options.sampling == {"temp": 0.8, "top_p": 0.95}
    mine = with_model_defaults(Options(temp=0.2, top_k=7), open_folder(bundled))
    assert mine.sampling == {"temp": 0.2, "top_p": 0.95, "top_k": 7}
    assert with_model_defaults(Options(temp=0.0), open_folder(bundled)).sampling == {"temp": 0.0}


@pytest.mark.parametrize(
    ("recommended", "sampling"),
    [
        ({}, {"temp": 0.0}),
        ({"do_sample": False, "temperature": 0.6}, {"temp": 0.0}),
        ({"do_sample": True}, {"temp": 1.0}),
        ({"temperature": 0.6, "top_k": 20}, {"temp": 0.6, "top_k": 20}),
        ({"temperature": None, "top_p": 0.9}, {"temp": 0.0}),
        (
            {"do_sample": True, "min_p": 0.1, "repetition_penalty": 1.1},
            {"temp": 1.0, "min_p": 0.1, "repetition_penalty": 1.1},
        ),
    ],
)
def test_recommendations(
    variant: Callable[..., Path], recommended: dict[str, Any], sampling: dict[str, Any]
) -> None:
    folder = variant(generation_config_json=lambda c: recommended or {"x": 1})
    assert with_model_defaults(Options(), open_folder(folder)).sampling == sampling


def test_without_recommendations_it_is_greedy(variant: Callable[..., Path]) -> None:
    folder = variant(generation_config_json=None)
    assert with_model_defaults(Options(), open_folder(folder)).sampling == {"temp": 0.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", "hot"), ("temperature", True), ("top_p", 2), ("top_k", 1.5), ("min_p", [1])],
)
def test_bad_recommendations_are_named(variant: Callable[..., Path], key: str, value: Any) -> None:
    folder = variant(generation_config_json=lambda c: c.update({key: value}))
    with pytest.raises(FileFormatError, match=rf"generation_config\.json: {key}: .* is not "):
        with_model_defaults(Options(), open_folder(folder))


def test_lines_for_people() -> None:
    stats = Stats(20, 4, 11, 3, 0.5, 2.0, 1_500_000_000)
    assert (
        stats.line() == "11 tokens, 5.0 tokens/s, first token after 0.50 s, 3 from the draft model"
    )
    assert stats.prompt_line() == (
        "prompt of 20 tokens (4 cached), 32.0 tokens/s, peak memory 1.50 GB"
    )
    assert Stats(3).line() == "0 tokens"
    assert Stats(3, generated_tokens=1).line() == "1 token"


def test_nothing_is_printed(pair: tuple[Any, Any], capfd: pytest.CaptureFixture[str]) -> None:
    tokens(pair, GREEDY)
    assert capfd.readouterr().out == ""
