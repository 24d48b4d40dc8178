"""Speed: time to first token, prefill and decode over prompts, contexts and batches.

Repetitions are interleaved: every configuration once, then every configuration once more, in turn
forwards and backwards, so that a machine that heats up, or a neighbour that wakes, slows all of
them alike and not the last one. Beside each decode figure stands what memory allows:

    limit = batch · bandwidth / bytes of a step          share = decode / limit
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, RequestError, WorkError, one_line
from ..load.checkpoint import Checkpoint
from .conditions import THERMAL, load, thermal_pressure
from .describe import describe
from .results import header

if TYPE_CHECKING:
    from .bytes_per_token import CacheBytes, WeightBytes
    from .energy import PowerMeter
    from .timed import Timed

__all__ = ["Configuration", "Settings", "fall", "run", "timing"]

#: a decode speed that falls by more than this was throttled, or disturbed
FALL = 0.10

#: runnable processes a core, before the runs, from which on others are in the way
BUSY = 0.5

#: new tokens of a warm-up
_WARM = 4

#: called with (runs done, runs in all, what comes next)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often.

    Attributes:
        prompts: lengths, tokens, each at least 1. contexts: tokens in the cache before the prompt.
        batches: sequences at a time. Every combination of the three is measured.
        generate: new tokens of a sequence, at least 2: the first ends the prompt.
        repeat: runs that count. warmup: runs before them that do not.
    """

    prompts: tuple[int, ...] = (512,)
    contexts: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = (1,)
    generate: int = 64
    repeat: int = 5
    warmup: int = 1

    def check(self) -> None:
        """Refuse numbers that measure nothing.

        Raises:
            RequestError: names the option, its value and the least that is possible.
        """
        for option, values, least in (
            ("--prompt-lengths", self.prompts, 1),
            ("--context-lengths", self.contexts, 0),
            ("--batch-sizes", self.batches, 1),
            ("--generate", (self.generate,), 2),
            ("--repeat", (self.repeat,), 1),
            ("--warmup", (self.warmup,), 0),
        ):
            if not values:
                raise RequestError(f"{option}: at least one number is needed")
            for value in values:
                if value < least:
                    raise RequestError(f"{option} {value}: at least {least} is possible")

    def configurations(self) -> list[Configuration]:
        """Every combination, the small ones first; each once."""
        every = product(sorted(set(self.batches)), sorted(set(self.contexts)), set(self.prompts))
        return sorted(
            (Configuration(prompt, context, batch) for batch, context, prompt in every),
            key=lambda each: (each.batch, each.context, each.prompt),
        )


@dataclass(frozen=True)
class Configuration:
    """One row of the result: tokens of the prompt, tokens before it, sequences."""

    prompt: int
    context: int
    batch: int

    def __str__(self) -> str:
        """E.g. `prompt 512, context 4096, batch 2`."""
        context = f", context {self.context}" if self.context else ""
        return f"prompt {self.prompt}{context}" + (f", batch {self.batch}" * (self.batch > 1))


@dataclass
class _Runs:
    """What the repetitions of one configuration gave."""

    timed: list[Timed] = field(default_factory=list)
    thermal: list[str] = field(default_factory=list)


def run(
    checkpoint: Checkpoint,
    settings: Settings | None = None,
    *,
    loaded: tuple[Any, Any] | None = None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Measure a model's speed on this machine.

    Args:
        checkpoint: any model. loaded: its (model, tokenizer), if they are there already.

    Returns: a document of results of kind `bench`, a record a configuration.

    Raises:
        RequestError: settings that measure nothing, or that this model cannot do.
        ModelError: the model cannot be loaded, or its tokenizer is another's.
        WorkError: MLX failed, for example for want of memory.
    """
    settings = settings or Settings()
    settings.check()
    document = header("bench")  # before the work: what load it says is everybody else's
    progress(0, 0, f"loading {checkpoint.source}")
    from ..run.model import load_checkpoint

    model, tokenizer = loaded or load_checkpoint(checkpoint)
    bench = _Bench(checkpoint, settings, model, tokenizer, progress)
    progress(0, 0, "measuring memory")
    from .machine import machine

    document["machine"] = machine(measure=True)
    bandwidth = document["machine"]["bandwidth"]
    document["records"] = bench.records(bandwidth["bytes_per_s"] if bandwidth else None)
    document["conditions"]["notes"] += [*_busy(document), *bench.notes]
    return document


def _busy(document: Mapping[str, Any]) -> Iterator[str]:
    """A warning, if others were at work."""
    before = document["conditions"]["load"]
    if before is not None and before > BUSY:
        bandwidth = document["machine"]["bandwidth"]
        measured = bandwidth is not None and bandwidth["source"] == "measured"
        what = "speeds and bandwidth" if measured else "speeds"
        yield f"others were at work (load {before:.2f} a core before the runs): {what} are too low"


class _Bench:
    """A model under measurement."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings,
        model: Any,
        tokenizer: Any,
        progress: Progress,
    ) -> None:
        from .bytes_per_token import cache_bytes, weight_bytes
        from .timed import can_batch

        self.settings, self.model, self.progress = settings, model, progress
        self.config: Mapping[str, Any] = checkpoint.config
        self.configurations = settings.configurations()
        if self.configurations[-1].batch > 1 and not can_batch(model):
            raise RequestError(
                "--batch-sizes: mlx-lm cannot run several sequences of this model at a time; "
                "leave the option out"
            )
        self.prose = _prose(model, tokenizer)
        self.subject = describe(checkpoint)
        with _failures("the first token"):
            self.weights: WeightBytes = weight_bytes(model, checkpoint.config)
            self.cache: CacheBytes = cache_bytes(model)
        self.notes: list[str] = []

    def records(self, bandwidth: float | None) -> list[dict[str, Any]]:
        """Run everything; a record a configuration, in order."""
        from .energy import PowerMeter

        with PowerMeter() as meter:
            runs = self._repeat()
            self.notes += _notes_after(meter)
            return [
                self._record(each, runs[each], bandwidth, meter) for each in self.configurations
            ]

    def _repeat(self) -> dict[Configuration, _Runs]:
        """Warm up, then every configuration in turn, `repeat` times."""
        found = {each: _Runs() for each in self.configurations}
        rounds = self.settings.warmup + self.settings.repeat
        total, done = rounds * len(found), 0
        for number in range(rounds):
            warm = number < self.settings.warmup
            order = self.configurations if number % 2 == 0 else self.configurations[::-1]
            for each in order:
                self.progress(done, total, f"{'warming up: ' if warm else ''}{each}")
                timed = self._once(each, _WARM if warm else self.settings.generate)
                done += 1
                if not warm:
                    found[each].timed.append(timed)
                    level = thermal_pressure()
                    found[each].thermal += [level] if level else []
        self.progress(total, total, "")
        return found

    def _once(self, each: Configuration, generate: int) -> Timed:
        from .timed import timed_run

        sequences = _sequences(self.prose, each.context + each.prompt, each.batch)
        with _failures(str(each)):
            return timed_run(self.model, sequences, context=each.context, generate=generate)

    def _record(
        self, each: Configuration, runs: _Runs, bandwidth: float | None, meter: PowerMeter
    ) -> dict[str, Any]:
        batch, new = each.batch, self.settings.generate
        first = [timed.first - timed.begin for timed in runs.timed]
        rates = [batch * (new - 1) / (timed.last - timed.first) for timed in runs.timed]
        decode = timing(rates)
        step = self.weights.of_step(batch)
        # A step in the middle of the generation stands for all of them.
        step += batch * self.cache.at(each.context + each.prompt + new // 2)
        limit = batch * bandwidth / step if bandwidth else None
        throttled, notes = _throttled(rates, runs.thermal)
        notes += self._notes(each, decode["median"], limit)
        return {
            "model": self.subject,
            "prompt": each.prompt,
            "context": each.context,
            "batch": batch,
            "generated": new,
            "ttft": timing(first),
            "prefill": timing([batch * each.prompt / seconds for seconds in first]),
            "decode": decode,
            "peak_memory": max(timed.peak_memory for timed in runs.timed),
            "energy": _energy(runs.timed, batch * (new - 1), meter),
            "bytes_per_token": step,
            "limit": limit,
            "share": decode["median"] / limit if limit else None,
            "throttled": throttled,
            "notes": notes,
        }

    def _notes(self, each: Configuration, decode: float, limit: float | None) -> Iterator[str]:
        from ..run.model import context_length

        tokens = each.context + each.prompt + self.settings.generate
        made_for = context_length(self.config)
        if made_for is not None and tokens > made_for:
            yield f"{tokens} tokens, the model was made for {made_for}: speed only"
        if self.weights.experts and each.batch > 1:
            yield "bytes of a step: as many experts as evenly routed tokens would read"
        if limit and decode > limit:
            yield "faster than memory allows: part of the weights stays in the processor's caches"


def timing(runs: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and all runs, as results have them."""
    low, median, high = runs[0], runs[0], runs[0]
    if len(runs) > 1:
        low, median, high = statistics.quantiles(runs, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "runs": list(runs)}


def fall(rates: Sequence[float]) -> float:
    """By what share a speed fell: the later half's median against the earlier half's.

    The middle one of an odd number belongs to the later half; a single run falls by nothing.
    """
    half = len(rates) // 2
    if not half:
        return 0.0
    return 1 - statistics.median(rates[half:]) / statistics.median(rates[:half])


def _throttled(rates: Sequence[float], thermal: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether the machine slowed down, and why that is said."""
    notes = []
    worst = max(thermal, key=THERMAL.index, default=THERMAL[0])
    if worst != THERMAL[0]:
        notes.append(f"thermal pressure: {worst}")
    fallen = fall(rates)
    if fallen > FALL:
        cause = "" if notes else ", for heat or for something else that ran"
        notes.append(f"decode fell by {fallen:.0%} from the first repetitions to the last{cause}")
    return bool(notes), notes


def _energy(runs: Sequence[Timed], tokens: int, meter: PowerMeter) -> float | None:
    """Joules a generated token, over all runs that were metered."""
    from .energy import joules

    samples = meter.samples()
    known = [joules(samples, timed.first, timed.last) for timed in runs]
    found = [energy for energy in known if energy]
    return sum(found) / (len(found) * tokens) if found else None


def _notes_after(meter: PowerMeter) -> Iterator[str]:
    """What is to be said of the circumstances once the work is done."""
    import sys

    from .energy import NEEDS_ROOT

    after = load()
    if after is not None:
        yield f"load after the runs, their own included: {after:.2f} a core"
    if sys.platform == "darwin" and not meter.samples():
        yield NEEDS_ROOT


def _prose(model: Any, tokenizer: Any) -> list[int]:
    """The bundled text's tokens.

    Raises:
        ModelError: the tokenizer makes tokens that the model does not have.
    """
    from ..assets import BUNDLED_TEXT
    from ..run.generate import vocabulary_size
    from .windows import tokenize

    ids = [int(token) for token in tokenize(tokenizer, BUNDLED_TEXT.read_text(encoding="utf-8"))]
    size = vocabulary_size(model)
    if size is not None and max(ids) >= size:
        raise ModelError(
            f"the tokenizer makes token {max(ids)}, but the model has only {size}: config.json and "
            "tokenizer.json are not of one model"
        )
    return ids


def _sequences(prose: Sequence[int], length: int, batch: int) -> list[list[int]]:
    """`batch` stretches of prose, each from another place; a text that ends begins anew."""
    starts = (len(prose) * number // batch for number in range(batch))
    return [[prose[(start + i) % len(prose)] for i in range(length)] for start in starts]


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """What MLX raises, as a WorkError that says what was being measured."""
    try:
        yield
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as bug:
        raise WorkError(one_line(f"{what}: MLX failed: {bug or type(bug).__name__}")) from bug
