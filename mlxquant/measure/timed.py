"""One timed generation: mlx-lm's own steps and caches, one sequence or a batch.

    context   tokens that are in the cache before the clock starts
    prompt    tokens that are read on the clock; the first new token ends the time to first token
    generate  new tokens; those after the first make the decode speed

One sequence goes through `generate_step`, a batch through `BatchGenerator`, as in mlx-lm's own
commands. Both compute the next token while this one is handed over, and neither stops at an end of
sequence here.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generate_step, generation_stream, wired_limit
from mlx_lm.models.cache import make_prompt_cache

__all__ = ["Timed", "can_batch", "timed_run"]


class Timed(NamedTuple):
    """Readings of `time.perf_counter`, in seconds, and of MLX's memory.

    Attributes:
        begin: when the prompt began; first, last: when the first and the last token were known.
        peak_memory: most bytes that MLX held at a time, model, context and prompt included.
    """

    begin: float
    first: float
    last: float
    peak_memory: int


def can_batch(model: Any) -> bool:
    """Whether mlx-lm can run several sequences of this model at a time."""
    return all(hasattr(layer, "merge") for layer in make_prompt_cache(model))


def timed_run(
    model: Any, sequences: Sequence[Sequence[int]], *, context: int, generate: int, step: int = 2048
) -> Timed:
    """Generate and keep time.

    Args:
        model: mlx-lm's.
        sequences: token ids of each sequence of the batch, context and prompt, all equally long.
        context: how many of them are context.
        generate: new tokens of each sequence, at least 1.
        step: tokens of a prompt in one pass.
    """
    mx.clear_cache()
    mx.reset_peak_memory()
    run = _single if len(sequences) == 1 else _batched
    with contextlib.redirect_stdout(sys.stderr):  # mlx-lm warns there of models that hardly fit
        begin, times = run(model, sequences, context, generate, step)
    return Timed(begin, times[0], times[-1], int(mx.get_peak_memory()))


def _single(
    model: Any, sequences: Sequence[Sequence[int]], context: int, generate: int, step: int
) -> tuple[float, list[float]]:
    tokens = mx.array(list(sequences[0]))
    options: dict[str, Any] = {
        "prompt_cache": make_prompt_cache(model),
        "prefill_step_size": step,
    }
    with wired_limit(model, [generation_stream]):
        if context:
            for _ in generate_step(tokens[:context], model, max_tokens=0, **options):
                pass
            mx.synchronize(generation_stream)
        begin = time.perf_counter()
        steps = generate_step(tokens[context:], model, max_tokens=generate, **options)
        times = [time.perf_counter() for _ in steps]
        mx.synchronize(generation_stream)  # the token after the last is under way
    return begin, times


def _batched(
    model: Any, sequences: Sequence[Sequence[int]], context: int, generate: int, step: int
) -> tuple[float, list[float]]:
    batch = len(sequences)
    generator = BatchGenerator(
        model,
        max_tokens=generate,
        completion_batch_size=batch,
        prefill_batch_size=batch,
        prefill_step_size=step,
    )
    with contextlib.closing(generator):
        parts = [[list(ids[:context]), list(ids[context:])] for ids in sequences]
        generator.insert_segments([[part for part in pair if part] for pair in parts])
        if context:
            # A segment is computed to its end before the next begins.
            while not all(each.end_of_segment for each in generator.next()[0]):
                pass
        begin = time.perf_counter()
        times = list(_ticks(generator, generate))
        mx.synchronize(generation_stream)
    return begin, times


def _ticks(generator: BatchGenerator, count: int) -> Iterator[float]:
    """When each of `count` tokens, of all sequences at once, was known."""
    for _ in range(count):
        generator.next_generated()
        yield time.perf_counter()
