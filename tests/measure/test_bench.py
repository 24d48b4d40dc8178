"""Speed: what is counted, and in which order it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tiny_models import make

from mlxquant import ModelError, RequestError, WorkError, load
from mlxquant.measure import bandwidth, bench, results
from mlxquant.measure.energy import PowerMeter, Sample, joules, parse_samples
from mlxquant.measure.timed import Timed, can_batch, timed_run
from mlxquant.pipeline import open_checkpoint

#: macOS 15, two blocks; the power of the second is printed in watts, as some versions do
POWERMETRICS = """\
Machine model: Mac14,2
OS version: 24C101

*** Sampled system activity (Fri Sep 12 13:41:46 2025 -0700) (1000.00ms elapsed) ***

**** Processor usage ****

CPU Power: 823 mW
GPU Power: 26 mW
ANE Power: 323 mW
Combined Power (CPU + GPU + ANE): 2000 mW

*** Sampled system activity (Fri Sep 12 13:41:47 2025 -0700) (500.00ms elapsed) ***

Combined Power (CPU + GPU + ANE): 4.00 W
"""


# One timed generation.


class Watched:
    """A model that keeps what it is called with."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, tokens: mx.array, **given: Any) -> mx.array:
        self.shapes.append(tuple(tokens.shape))
        return self.model(tokens, **given)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("context", "prompt"), [(0, 9), (20, 9), (20, 1), (0, 1)])
def test_every_token_is_computed_once(bundled: Path, batch: int, context: int, prompt: int) -> None:
    """Context and prompt in steps of at most 8, then one token at a time: four that are handed
    over, of which the first belongs to the prompt, and one that is under way at the end."""
    model = Watched(load(bundled)[0])
    ids = [[100 + i for i in range(context + prompt)] for _ in range(batch)]
    timed = timed_run(model, ids, context=context, generate=4, step=8)
    assert {shape[0] for shape in model.shapes} == {batch}
    assert max(shape[1] for shape in model.shapes) <= 8
    assert sum(shape[1] for shape in model.shapes) == context + prompt + 4
    assert [shape[1] for shape in model.shapes[-4:]] == [1] * 4
    assert timed.begin < timed.first < timed.last
    assert timed.peak_memory > 14_000_000


def test_one_new_token_ends_where_it_began(bundled: Path) -> None:
    timed = timed_run(load(bundled)[0], [[100, 101]], context=0, generate=1)
    assert timed.first == timed.last


def test_the_bundled_model_can_be_batched(bundled: Path) -> None:
    assert can_batch(load(bundled)[0])


# Figures.


def test_timing_is_the_median_and_the_quartiles() -> None:
    assert bench.timing([5.0]) == {"median": 5.0, "low": 5.0, "high": 5.0, "runs": [5.0]}
    found = bench.timing([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found["low"], found["median"], found["high"]) == (2.0, 3.0, 4.0)
    assert found["runs"] == [4.0, 1.0, 3.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("rates", "share"),
    [
        ([10.0], 0),
        ([10.0, 8.0], 0.2),
        ([10.0, 8.0, 8.0], 0.2),
        ([10.0, 10.0, 9.0, 7.0], 0.2),
        ([8.0, 10.0], -0.25),
    ],
)
def test_the_fall_of_a_speed(rates: list[float], share: float) -> None:
    assert bench.fall(rates) == pytest.approx(share)


@pytest.mark.parametrize(
    ("rates", "thermal", "throttled", "said"),
    [
        ([10.0, 9.1], ["nominal", "nominal"], False, []),
        (
            [10.0, 8.8],
            [],
            True,
            ["decode fell by 12% from the first repetitions to the last, for "],
        ),
        ([10.0, 10.0], ["nominal", "serious", "fair"], True, ["thermal pressure: serious"]),
        ([10.0, 5.0], ["fair"], True, ["thermal pressure: fair", "decode fell by 50% from the "]),
    ],
)
def test_what_is_flagged(
    rates: list[float], thermal: list[str], throttled: bool, said: list[str]
) -> None:
    flagged, notes = bench._throttled(rates, thermal)
    assert flagged is throttled
    assert len(notes) == len(said)
    assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))


def test_settings_that_measure_nothing() -> None:
    for settings, option in (
        (bench.Settings(prompts=(0,)), "--prompt-lengths 0: at least 1"),
        (bench.Settings(prompts=()), "--prompt-lengths: at least one"),
        (bench.Settings(contexts=(-1,)), "--context-lengths -1: at least 0"),
        (bench.Settings(batches=(2, 0)), "--batch-sizes 0: at least 1"),
        (bench.Settings(generate=1), "--generate 1: at least 2"),
        (bench.Settings(repeat=0), "--repeat 0: at least 1"),
        (bench.Settings(warmup=-1), "--warmup -1: at least 0"),
    ):
        with pytest.raises(RequestError) as problem:
            settings.check()
        assert str(problem.value).startswith(option)


def test_every_combination_once() -> None:
    settings = bench.Settings(prompts=(8, 4, 8), contexts=(0, 2), batches=(2, 1))
    assert [(each.batch, each.context, each.prompt) for each in settings.configurations()] == [
        (batch, context, prompt) for batch in (1, 2) for context in (0, 2) for prompt in (4, 8)
    ]


# The whole.


@pytest.fixture(autouse=True, scope="module")
def small_memory() -> Iterator[None]:
    """Bandwidth in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "SIZE", 8 << 20)
        yield
    bandwidth.measure_bandwidth.cache_clear()


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], list[str]]:
    """A bench of the bundled model, and what it said that it was doing."""
    said: list[str] = []
    settings = bench.Settings(prompts=(4,), contexts=(0, 7), batches=(1, 2), generate=3, repeat=2)
    document = bench.run(
        open_checkpoint(None), settings, progress=lambda done, total, what: said.append(what)
    )
    return document, said


def test_the_document_is_one_of_results(measured: tuple[dict[str, Any], list[str]]) -> None:
    document, _ = measured
    results.validate(document)
    machine = document["machine"]
    assert machine["kind"] == "cpu" or machine["chip_id"] is not None
    assert machine["bandwidth"] is not None
    assert len(document["records"]) == 4


def test_figures_that_follow_from_others(measured: tuple[dict[str, Any], list[str]]) -> None:
    document, _ = measured
    bandwidth = document["machine"]["bandwidth"]["bytes_per_s"]
    for record in document["records"]:
        batch, prompt = record["batch"], record["prompt"]
        assert record["generated"] == 3
        assert len(record["decode"]["runs"]) == 2
        middle = record["context"] + prompt + 1
        step = 14_688_768 + batch * 8 * 512 * middle
        assert record["bytes_per_token"] == step
        assert record["limit"] == pytest.approx(batch * bandwidth / step)
        assert record["share"] == pytest.approx(record["decode"]["median"] / record["limit"])
        for seconds, rate in zip(record["ttft"]["runs"], record["prefill"]["runs"], strict=True):
            assert rate == pytest.approx(batch * prompt / seconds)
        assert record["peak_memory"] > 14_000_000


def test_repetitions_take_turns(measured: tuple[dict[str, Any], list[str]]) -> None:
    """Warm-up forwards, then backwards, then forwards: every configuration before any again."""
    _, said = measured
    runs = [what for what in said if "prompt" in what]
    assert len(runs) == 12
    warm, first, second = runs[:4], runs[4:8], runs[8:]
    assert all(what.startswith("warming up: ") for what in warm)
    assert len(set(first)) == 4
    assert first[::-1] == second == [what.removeprefix("warming up: ") for what in warm]


def test_beyond_what_the_model_was_made_for(bundled: Path) -> None:
    checkpoint = open_checkpoint(None)
    short = replace(checkpoint, config={**checkpoint.config, "max_position_embeddings": 8})
    settings = bench.Settings(prompts=(4, 5), generate=4, repeat=1, warmup=0)
    one, two = bench.run(short, settings, loaded=load(bundled))["records"]
    assert not any("speed only" in note for note in one["notes"])
    assert two["notes"][0] == "9 tokens, the model was made for 8: speed only"


def test_prompts_are_stretches_of_text(bundled: Path) -> None:
    prose = bench._prose(*load(bundled))
    one, two = bench._sequences(prose, 50, 2)
    assert one == prose[:50]
    assert two == prose[len(prose) // 2 :][:50]
    long = bench._sequences([1, 2, 3], 7, 1)
    assert long == [[1, 2, 3, 1, 2, 3, 1]]


def test_another_models_tokenizer(tmp_path: Path) -> None:
    """The tiny models have 320 tokens, the tokenizer beside them 4,096."""
    folder = make(tmp_path / "model", "llama")
    with pytest.raises(ModelError, match="but the model has only 320"):
        bench.run(open_checkpoint(folder), bench.Settings(prompts=(4,), repeat=1))


def test_a_model_that_cannot_be_batched(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.models.cache import ChunkedKVCache

    model, tokenizer = load(bundled)
    caches = lambda: [ChunkedKVCache(64) for _ in model.layers]  # noqa: E731
    monkeypatch.setattr(type(model), "make_cache", lambda self: caches(), raising=False)
    with pytest.raises(RequestError, match="--batch-sizes: mlx-lm cannot run several sequences"):
        bench.run(open_checkpoint(None), bench.Settings(batches=(1, 2)), loaded=(model, tokenizer))


def test_mlx_failing_is_one_line(bundled: Path) -> None:
    class Broken(Watched):
        def __call__(self, tokens: mx.array, **given: Any) -> mx.array:
            if tokens.shape[1] > 4:
                raise RuntimeError("[metal::malloc] Attempting to allocate\n too much")
            return super().__call__(tokens, **given)

    model, tokenizer = load(bundled)
    with pytest.raises(WorkError) as problem:
        bench.run(
            open_checkpoint(None),
            bench.Settings(prompts=(8,), repeat=1),
            loaded=(Broken(model), tokenizer),
        )
    assert str(problem.value).startswith("prompt 8: MLX failed: [metal::malloc]")
    assert "\n" not in str(problem.value)


# Energy.


def test_powermetrics_blocks() -> None:
    lines = [(10.0 + 0.5 * i, line) for i, line in enumerate(POWERMETRICS.splitlines())]
    first, second = parse_samples(lines)
    assert (first.seconds, first.watts) == (1.0, 2.0)
    assert (second.seconds, second.watts) == (0.5, 4.0)
    assert first.end == 10.0 + 0.5 * POWERMETRICS.splitlines().index(
        "Combined Power (CPU + GPU + ANE): 2000 mW"
    )


def test_older_words_and_no_words() -> None:
    text = "*** Sampled system activity (x) (200.5ms elapsed) ***\nPackage Power: 6100 mW\n"
    (sample,) = parse_samples((1.0, line) for line in text.splitlines())
    assert sample == Sample(1.0, 0.2005, 6.1)
    assert parse_samples([(1.0, "powermetrics must be invoked as the superuser")]) == []
    assert parse_samples([(1.0, "Combined Power (CPU + GPU + ANE): 5 mW")]) == []


def test_energy_between_two_times() -> None:
    """Two seconds at 3 W, then two at 5 W."""
    samples = [Sample(2.0, 2.0, 3.0), Sample(4.0, 2.0, 5.0)]
    assert joules(samples, 0.0, 4.0) == pytest.approx(16)
    assert joules(samples, 1.0, 3.0) == pytest.approx(8)
    # Nothing is known of the last second; it counts like those before.
    assert joules(samples, 2.0, 5.0) == pytest.approx(15)
    assert joules(samples, 3.0, 9.0) is None
    assert joules([], 0.0, 1.0) is None
    assert joules(samples, 3.0, 3.0) is None


def test_the_meter_reads_while_it_is_entered(tmp_path: Path) -> None:
    script = tmp_path / "meter.py"
    script.write_text(
        "import time\n"
        "while True:\n"
        "    print('*** Sampled system activity (x) (20.00ms elapsed) ***')\n"
        "    print('Combined Power (CPU + GPU + ANE): 1500 mW', flush=True)\n"
        "    time.sleep(0.02)\n"
    )
    with PowerMeter([sys.executable, str(script)]) as meter:
        while len(meter.samples()) < 3:
            pass
    assert {sample.watts for sample in meter.samples()} == {1.5}
    ends = [sample.end for sample in meter.samples()]
    assert ends == sorted(ends)


def test_energy_a_token() -> None:
    """A watt throughout: as many joules as seconds."""
    meter = PowerMeter()
    runs = [Timed(1.0, 2.0, 6.0, 1), Timed(11.0, 12.0, 14.0, 1)]
    assert bench._energy(runs, 6, meter) is None
    meter._lines = [
        (0.0, "*** Sampled system activity (x) (100000.00ms elapsed) ***"),
        (100.0, "Combined Power (CPU + GPU + ANE): 1000 mW"),
    ]
    assert bench._energy(runs, 6, meter) == pytest.approx((4 + 2) / (2 * 6))


def test_a_meter_that_is_not_there() -> None:
    with PowerMeter(["mlxquant-no-such-command"]) as meter:
        assert meter.samples() == []
