"""Text from a model: mlx-lm's generation, one chunk at a time, measured and stoppable."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

from ..errors import MlxquantError, ModelError, RequestError, WorkError, one_line
from .cache import PromptCache, check_draft, check_model, make_layers
from .options import Options

__all__ = ["Chunk", "Stats", "check", "encode_prompt", "make_cache", "stream"]

Reason = Literal["stop", "length", "interrupted"]


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a generation took.

    Attributes:
        prompt_tokens: tokens of the prompt, those found in the cache included.
        reused_tokens: of these, how many the cache held already.
        generated_tokens: the final end-of-sequence token included.
        drafted_tokens: of these, how many the draft model proposed.
        first_token_seconds: from the start until the first token was known.
        decode_seconds: from the first token until the last.
        peak_memory: MLX's peak in this process, bytes; None where MLX does not know.
    """

    prompt_tokens: int
    reused_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    first_token_seconds: float | None = None
    decode_seconds: float = 0.0
    peak_memory: int | None = None

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens per second, those in the cache not counted."""
        if not self.first_token_seconds:
            return None
        return (self.prompt_tokens - self.reused_tokens) / self.first_token_seconds

    @property
    def decode_rate(self) -> float | None:
        """Generated tokens per second after the first."""
        if self.generated_tokens < 2 or not self.decode_seconds:
            return None
        return (self.generated_tokens - 1) / self.decode_seconds

    def line(self) -> str:
        """For people: `48 tokens, 31.2 tokens/s, first token after 0.21 s`."""
        parts = [f"{self.generated_tokens} token{'' if self.generated_tokens == 1 else 's'}"]
        if self.decode_rate is not None:
            parts.append(f"{self.decode_rate:.1f} tokens/s")
        if self.first_token_seconds is not None:
            parts.append(f"first token after {self.first_token_seconds:.2f} s")
        if self.drafted_tokens:
            parts.append(f"{self.drafted_tokens} from the draft model")
        return ", ".join(parts)

    def prompt_line(self) -> str:
        """The rest of it: `prompt of 16 tokens, 52.3 tokens/s, peak memory 0.02 GB`."""
        cached = f" ({self.reused_tokens} cached)" if self.reused_tokens else ""
        parts = [f"prompt of {self.prompt_tokens} tokens{cached}"]
        if self.prefill_rate is not None:
            parts.append(f"{self.prefill_rate:.1f} tokens/s")
        if self.peak_memory:
            parts.append(f"peak memory {self.peak_memory / 1e9:.2f} GB")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One generated token.

    Attributes:
        text: what it adds to the text; often empty, as words are held back until they are whole.
        token: its id; None in the one chunk of a generation that was stopped before any token.
        finish_reason: None but in the last chunk: `stop` (an end-of-sequence token, which is not
            in the text), `length`, or `interrupted`.
        stats: up to this token.
    """

    text: str
    token: int | None
    finish_reason: Reason | None
    stats: Stats


def check(model: Any, tokenizer: Any, options: Options, draft: tuple[Any, Any] | None) -> None:
    """Refuse, before anything is generated, what would fail in the middle.

    Args:
        model, tokenizer: as `mlxquant.load` returns them.
        options: how to generate.
        draft: (model, tokenizer) of the draft model, or None.

    Raises:
        RequestError: the options ask for what the model, or the pair of models, cannot do.
    """
    check_model(model, options)
    if draft is None:
        return
    if options.max_kv_size is not None:
        raise RequestError(
            "--max-kv-size with --draft-model: proposals cannot be taken back out of a cache of "
            "bounded size; drop one of them"
        )
    check_draft(model, tokenizer, *draft)
    check_model(draft[0], options)


def make_cache(model: Any, options: Options, draft: tuple[Any, Any] | None = None) -> PromptCache:
    """A cache for `stream` that one generation after another may use."""

    def make() -> list[Any]:
        layers = make_layers(model, options.max_kv_size)
        return layers if draft is None else layers + make_layers(draft[0])

    return PromptCache(make)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt without a chat template, with what the tokenizer puts before a text
    (unless it is there), exactly as `mlx_lm.generate` does with a string."""
    start = tokenizer.bos_token
    special = start is None or not text.startswith(start)
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=special)]


def stream(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    options: Options,
    *,
    draft: tuple[Any, Any] | None = None,
    cache: PromptCache | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_prefill: Callable[[int, int], None] = lambda done, total: None,
) -> Generator[Chunk, None, None]:
    """Generate, token by token.

    Args:
        model, tokenizer: as `mlxquant.load` returns them.
        prompt: token ids, at least one.
        options: how to generate; `check` them first.
        draft: (model, tokenizer) of the draft model, or None.
        cache: reused for what it holds of the prompt, and left holding prompt and answer.
        should_stop: asked after every token and every step of the prompt; true ends the
            generation with `interrupted`.
        on_prefill: called with (prompt tokens done, prompt tokens in all) while the prompt is
            computed; not with a draft model.

    Yields: a Chunk for each token. Closing the generator early is fine.

    Raises:
        RequestError: an empty prompt.
        ModelError: the tokenizer makes tokens that the model does not have.
        WorkError: MLX failed, for example for want of memory.
    """
    import mlx.core as mx

    _check_prompt(model, prompt)
    cache = cache or make_cache(model, options, draft)
    if options.seed is not None:
        mx.random.seed(options.seed)
    stats = Stats(len(prompt), reused_tokens=cache.reuse(prompt))
    seen = list(prompt)
    detokenizer = tokenizer.detokenizer
    start = time.perf_counter()
    first: float | None = None

    def progress(done: int, total: int) -> None:
        on_prefill(stats.reused_tokens + done, stats.reused_tokens + total)
        if first is None and should_stop():
            raise _StoppedError

    arguments = _arguments(model, options, draft, cache, progress)
    responses = _responses(model, tokenizer, prompt[stats.reused_tokens :], arguments)
    try:
        with contextlib.closing(responses):
            for response in responses:
                now = time.perf_counter()
                first = now if first is None else first
                seen.append(response.token)
                stats = dataclasses.replace(
                    stats,
                    generated_tokens=stats.generated_tokens + 1,
                    drafted_tokens=stats.drafted_tokens + bool(response.from_draft),
                    first_token_seconds=first - start,
                    decode_seconds=now - first,
                    peak_memory=int(mx.get_peak_memory()) or None,
                )
                reason: Reason | None = response.finish_reason
                if reason != "stop":
                    detokenizer.add_token(response.token)
                if reason is None and should_stop():
                    reason = "interrupted"
                if reason is not None:
                    detokenizer.finalize()
                yield Chunk(detokenizer.last_segment, response.token, reason, stats)
                if reason is not None:
                    break
    except _StoppedError:
        yield Chunk("", None, "interrupted", stats)
    except GeneratorExit:
        raise
    except MlxquantError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as bug:
        seen.clear()
        raise WorkError(one_line(f"generation failed: {bug or type(bug).__name__}")) from bug
    except BaseException:
        seen.clear()
        raise
    finally:
        if seen:
            cache.settle(seen, whole=first is not None)
        else:
            cache.reset()


class _StoppedError(Exception):
    """Raised through mlx-lm's prefill to end it between two steps."""


def _responses(
    model: Any, tokenizer: Any, prompt: Sequence[int], arguments: dict[str, Any]
) -> Generator[Any, None, None]:
    """stream_generate, closed for certain when we are: a draft model's caches are rewound then."""
    from mlx_lm.generate import stream_generate

    responses = stream_generate(model, tokenizer, list(prompt), **arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            # Where the model hardly fits the memory, mlx-lm prints a warning before it starts.
            first = next(responses)
        yield first
        yield from responses
    finally:
        responses.close()


def _arguments(
    model: Any,
    options: Options,
    draft: tuple[Any, Any] | None,
    cache: PromptCache,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """What stream_generate is called with."""
    from mlx_lm.sample_utils import make_logits_processors, make_sampler

    top_k = options.top_k or 0
    size = vocabulary_size(model)
    penalty = options.repetition_penalty
    found: dict[str, Any] = {
        "max_tokens": options.max_tokens if options.max_tokens > 0 else (1 << 31) - 1,
        "sampler": make_sampler(
            temp=options.temp or 0.0,
            top_p=options.top_p or 0.0,
            min_p=options.min_p or 0.0,
            top_k=top_k if size is None or top_k < size else 0,
        ),
        "logits_processors": make_logits_processors(
            repetition_penalty=None if penalty == 1 else penalty
        ),
        "prompt_cache": cache.layers,
        "prefill_step_size": options.prefill_step_size,
        "prompt_progress_callback": progress,
    }
    if options.kv_bits is not None:
        found |= {
            "kv_bits": options.kv_bits,
            "kv_group_size": options.kv_group_size,
            "quantized_kv_start": options.quantized_kv_start,
        }
    if draft is not None:
        found |= {"draft_model": draft[0], "num_draft_tokens": options.num_draft_tokens}
    return found


def vocabulary_size(model: Any) -> int | None:
    """How many tokens the model has scores for, where it says so."""
    size = getattr(getattr(model, "args", None), "vocab_size", None)
    return size if isinstance(size, int) and size > 0 else None


def _check_prompt(model: Any, prompt: Sequence[int]) -> None:
    """MLX does not check indices: a token that the model lacks would read foreign memory."""
    if not prompt:
        raise RequestError("the prompt is empty: there is nothing to go on from")
    size = vocabulary_size(model)
    if size is not None and max(prompt) >= size:
        raise ModelError(
            f"the tokenizer makes token {max(prompt)}, but the model has only {size}: "
            "config.json and tokenizer.json are not of one model"
        )
